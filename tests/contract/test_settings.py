"""Settings: the file, the environment over it, and every problem told at once."""

from typing import Annotated, Any

import msgspec
import pytest

from contract.errors import EarshotError, SettingsError
from contract.settings import MqttSettings, Seconds, decode_settings

SECRET = "hunter2-🔑"


class Tank(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    litres: float = 10.0
    valves: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    heated: bool = False
    api_token: str | None = None


class Pump(msgspec.Struct, frozen=True, kw_only=True):
    interval_seconds: Seconds = 60.0
    spare: int | None = None


class Plant(msgspec.Struct, frozen=True, kw_only=True):
    tank: Tank
    pump: Pump = Pump()
    mqtt: MqttSettings = MqttSettings()


def decode(toml: str = '[tank]\nname = "north"\n', **environment: str) -> Plant:
    return decode_settings(Plant, toml, environment, origin="plant.toml")


def problems(toml: str = '[tank]\nname = "north"\n', **environment: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        decode(toml, **environment)

    assert str(error.value) == "plant.toml: " + "; ".join(error.value.problems)
    return list(error.value.problems)


def test_defaults_fill_what_is_not_said() -> None:
    """Sections and keys that are left out have their defaults."""
    assert decode() == Plant(tank=Tank(name="north"))


def test_file_is_read() -> None:
    """Values of the file come as their types, a whole number also where a float is due."""
    plant = decode(
        '[tank]\nname = "north"\nlitres = 45\nvalves = 3\nheated = true\n'
        "[pump]\ninterval_seconds = 0.5\nspare = 4\n"
    )

    assert plant == Plant(
        tank=Tank(name="north", litres=45.0, valves=3, heated=True),
        pump=Pump(interval_seconds=0.5, spare=4),
    )
    assert type(plant.tank.litres) is float


def test_environment_wins_over_the_file() -> None:
    """A variable overrides its key, and leaves the others of its section alone."""
    plant = decode(
        '[tank]\nname = "north"\nvalves = 3\n', EARSHOT_TANK_NAME="south", EARSHOT_TANK_HEATED="1"
    )

    assert plant.tank == Tank(name="south", valves=3, heated=True)


def test_environment_alone_is_enough() -> None:
    """Without a file, variables give everything, as text of the right kind."""
    plant = decode(
        "",
        EARSHOT_TANK_NAME="north",
        EARSHOT_TANK_LITRES="45",
        EARSHOT_TANK_VALVES="3",
        EARSHOT_TANK_HEATED="true",
        EARSHOT_PUMP_INTERVAL_SECONDS="0.5",
        EARSHOT_PUMP_SPARE="4",
    )

    assert plant == Plant(
        tank=Tank(name="north", litres=45.0, valves=3, heated=True),
        pump=Pump(interval_seconds=0.5, spare=4),
    )


def test_text_that_reads_like_a_number_stays_text() -> None:
    """A password of digits, or the word null, is not taken for anything else."""
    mqtt = decode(EARSHOT_MQTT_USERNAME="null", EARSHOT_MQTT_PASSWORD="0123").mqtt

    assert (mqtt.username, mqtt.password) == ("null", "0123")


def test_bad_variable_hides_the_good_key() -> None:
    """A variable wins also when it is wrong: the file's value does not silently come back."""
    assert problems('[tank]\nname = "north"\nvalves = 3\n', EARSHOT_TANK_VALVES="many") == [
        "EARSHOT_TANK_VALVES: Expected `int`, got `str`, got 'many'"
    ]


def test_other_programs_variables_are_not_ours() -> None:
    """A variable without the prefix, or of a section with a longer name, is left alone."""
    plant = decode(PATH="/bin", EARSHOTTANK_NAME="x", TANK_NAME="y")

    assert plant == decode()


def test_every_problem_is_told_at_once() -> None:
    """Problems of file and environment come in one list: name, expectation and value of each."""
    found = problems(
        """
        [tank]
        litres = "full"
        valves = 9
        heatd = true
        [pump]
        interval_seconds = 0
        spare = 1.5
        [mqtt]
        port = 70000
        host = ""
        [pmup]
        spare = 1
        """,
        EARSHOT_TANK_HEATED="maybe",
        EARSHOT_PUMP_SPAER="1",
    )

    assert found == [
        "unknown section: pmup (did you mean pump?)",
        "unknown key in [tank]: heatd (did you mean heated?)",
        "tank.name is missing (or EARSHOT_TANK_NAME)",
        "tank.litres: Expected `float`, got `str`, got 'full'",
        "tank.valves: Expected `int` <= 8, got '9'",
        "EARSHOT_TANK_HEATED: Expected `bool`, got `str`, got 'maybe'",
        "unknown environment variable: EARSHOT_PUMP_SPAER (did you mean EARSHOT_PUMP_SPARE?)",
        "pump.interval_seconds: Expected `float` > 0.0, got '0'",
        "pump.spare: Expected `int | null`, got `float`, got '1.5'",
        "mqtt.host: Expected `str` of length >= 1, got ''",
        "mqtt.port: Expected `int` <= 65535, got '70000'",
    ]


def test_required_section_is_asked_for_by_key() -> None:
    """An empty file is told what it needs."""
    assert problems("") == ["tank.name is missing (or EARSHOT_TANK_NAME)"]


def test_unknown_name_without_likeness_lists_the_known() -> None:
    """Where no name is close, all are listed."""
    found = problems('[tank]\nname = "north"\nzzz = 1\n[qqq]\n')

    assert found == [
        "unknown section: qqq (known are mqtt, pump, tank)",
        "unknown key in [tank]: zzz (known are api_token, heated, litres, name, valves)",
    ]


def test_variable_of_an_unknown_section_is_told() -> None:
    """A mistyped section in a variable's name is told, as in a file."""
    (found,) = problems(EARSHOT_PMUP_SPARE="1")

    assert "EARSHOT_PMUP_SPARE" in found


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_number_that_is_not_finite_is_refused(number: str) -> None:
    """TOML and Python know NaN and infinity; a time span does not."""
    (in_file,) = problems(f'[tank]\nname = "north"\n[pump]\ninterval_seconds = {number}\n')
    (in_environment,) = problems(EARSHOT_PUMP_INTERVAL_SECONDS=number)

    assert in_file.startswith("pump.interval_seconds: Expected `float` ")
    assert in_environment.startswith("EARSHOT_PUMP_INTERVAL_SECONDS: Expected `float` ")


@pytest.mark.parametrize("toml", ["[tank", "tank.name = ", 'name = "a', "[tank]\n[tank]\n", "\x00"])
def test_malformed_toml_is_told(toml: str) -> None:
    """What is no TOML is one problem, with its place."""
    (found,) = problems(toml)

    assert found.startswith("not valid TOML: ")
    assert "(at " in found


@pytest.mark.parametrize("value", ['"north"', "3", "[1, 2]", "true"])
def test_value_where_a_section_belongs_is_told(value: str) -> None:
    """A section that is no table is told, and the others are still looked at."""
    found = problems(f'tank = {value}\n[pump]\nspare = "x"\n')

    assert len(found) == 2
    assert found[0].startswith("tank: expected a section [tank], got ")
    assert found[1] == "pump.spare: Expected `int | null`, got `str`, got 'x'"


def test_long_value_is_cut_short() -> None:
    """A value of any length leaves a message that fits a screen."""
    (found,) = problems(f'[tank]\nname = "north"\nvalves = "{"9" * 5000}"\n')

    assert len(found) < 200


def test_error_is_one_that_main_reports() -> None:
    """Bad settings are the user's to mend, not a bug: the root of errors catches them."""
    with pytest.raises(EarshotError):
        decode("[tank")


BROKEN_SECRETS: list[tuple[str, dict[str, str]]] = [
    (f'[mqtt]\npassword = ["{SECRET}"]\n', {}),
    (f'[tank]\napi_token = {{ is = "{SECRET}" }}\n', {}),
    (f'[mqtt]\npassword = "{SECRET}\n', {}),
    (f'[mqtt]\npassword = "{SECRET}"\npassword = "{SECRET}"\n', {}),
    (f'[mqtt]\npasword = "{SECRET}"\n', {}),
    (f'[mqtt]\npassword = "{SECRET}"\npassword_file = "x"\n', {}),
    (f'[mqtt]\npassword = "{SECRET}"\n', {}),
    ("", {"EARSHOT_MQTT_PASWORD": SECRET}),
    ("", {"EARSHOT_MQTT_PASSWORD": SECRET}),
    ("[mqtt]\nport = 0\n", {"EARSHOT_MQTT_PASSWORD": SECRET, "EARSHOT_MQTT_USERNAME": "u"}),
]


@pytest.mark.parametrize(("toml", "environment"), BROKEN_SECRETS)
def test_secret_is_not_in_an_error(toml: str, environment: dict[str, str]) -> None:
    """Whatever is wrong with a password or token, its value is not told."""
    for problem in problems(toml, **environment):
        assert "hunter2" not in problem


@pytest.mark.parametrize(
    "toml", [f'[[mqtt]]\npassword = "{SECRET}"\n', f'mqtt = [{{ password = "{SECRET}" }}]\n']
)
def test_secret_is_not_in_an_error_about_its_section(toml: str) -> None:
    """Brackets doubled by mistake do not print the password that follows."""
    for problem in problems(toml):
        assert "hunter2" not in problem


def test_secret_is_not_in_a_repr() -> None:
    """Neither the section nor the settings that hold it print the password."""
    plant = decode(EARSHOT_MQTT_USERNAME="press-07", EARSHOT_MQTT_PASSWORD=SECRET)

    assert plant.mqtt.password == SECRET
    for text in (repr(plant), str(plant), repr(plant.mqtt), f"{plant.mqtt}"):
        assert "hunter2" not in text
        assert "press-07" in text


@pytest.mark.parametrize(
    ("values", "port", "address"),
    [
        ({}, 1883, "localhost:1883"),
        ({"tls": True}, 8883, "localhost:8883"),
        ({"tls": True, "port": 1884, "host": "broker.example"}, 1884, "broker.example:1884"),
    ],
)
def test_port_follows_tls_unless_given(values: dict[str, Any], port: int, address: str) -> None:
    """Without a port it is 1883, with TLS 8883; a given one stays."""
    settings = MqttSettings(**values)

    assert (settings.port_in_use, settings.address) == (port, address)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"ca_file": "ca.crt"}, "ca_file and certificate_file need tls = true"),
        (
            {"certificate_file": "a.crt", "key_file": "a.key"},
            "ca_file and certificate_file need tls = true",
        ),
        ({"tls": True, "certificate_file": "a.crt"}, "certificate_file and key_file go together"),
        ({"tls": True, "key_file": "a.key"}, "certificate_file and key_file go together"),
        (
            {"username": "u", "password": "p", "password_file": "f"},
            "give password or password_file, not both",
        ),
        ({"password": "p"}, "a password needs a username"),
        ({"password_file": "f"}, "a password needs a username"),
    ],
)
def test_contradiction_is_refused(values: dict[str, Any], problem: str) -> None:
    """Settings of the broker that contradict each other are told with their section."""
    environment = {f"EARSHOT_MQTT_{key.upper()}": str(value) for key, value in values.items()}

    assert problems(**environment) == [f"[mqtt]: {problem}"]


def test_every_contradiction_is_told() -> None:
    """Contradictions do not hide each other."""
    text = " ".join(
        problems(
            '[tank]\nname = "north"\n[mqtt]\nca_file = "ca.crt"\nkey_file = "a.key"\n'
            'password = "p"\npassword_file = "f"\n'
        )
    )

    for expected in ("need tls = true", "go together", "not both", "needs a username"):
        assert expected in text


@pytest.mark.parametrize(
    "values",
    [
        {"tls": True},
        {"tls": True, "ca_file": "ca.crt"},
        {"tls": True, "certificate_file": "a.crt", "key_file": "a.key"},
        {"username": "u"},
        {"username": "u", "password": "p"},
        {"username": "u", "password_file": "f"},
    ],
)
def test_settings_that_agree_are_taken(values: dict[str, Any]) -> None:
    """Each way to be let in is taken as it is given."""
    assert msgspec.structs.asdict(MqttSettings(**values)) | values == msgspec.structs.asdict(
        MqttSettings(**values)
    )
