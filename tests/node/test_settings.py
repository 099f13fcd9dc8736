"""A node's settings: the example file, the environment, and what is wrong with them."""

import os
import re
from pathlib import Path

import msgspec
import pytest

from contract.errors import SettingsError
from contract.release import MAX_FILE_BYTES
from node.settings import NodeSettings, load_settings

EXAMPLE = Path(__file__).parents[2] / "node/node.example.toml"


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("EARSHOT_"):
            monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text, "utf-8")
    return path


def test_example_loads() -> None:
    """The example file, as it is, gives the defaults and the two values that a node must have."""
    settings = load_settings(EXAMPLE, {})

    assert (settings.node.id, settings.model.folder) == ("press-07", "models/fan-synthetic")
    assert settings == NodeSettings(node=settings.node, model=settings.model)


def test_commented_lines_of_the_example_load(tmp_path: Path) -> None:
    """Each line that the example holds commented out works when it is not."""
    text = re.sub(r"(?m)^# (\w+ = )", r"\1", EXAMPLE.read_text("utf-8"))

    settings = load_settings(write(tmp_path, text), {"EARSHOT_MQTT_TLS": "true"})

    assert settings.node.group == "line-2"
    assert settings.mqtt.key_file == "/etc/earshot/press-07.key"


def test_defaults_in_the_example_are_the_defaults(tmp_path: Path) -> None:
    """What the example says, but for paths, names and choices, is what a node does without it."""
    kept = (
        r"(?m)^# ((?:spec|fast|host|tls|keepalive_seconds|\w+_windows|\w+_seconds|\w+_mb|threads"
        r"|max_trial_score|recalibrate|state_folder) = )"
    )
    text = re.sub(kept, r"\1", EXAMPLE.read_text("utf-8"))

    assert load_settings(write(tmp_path, text), {}) == load_settings(EXAMPLE, {})


def test_example_names_every_key() -> None:
    """No key is left for the user to find in the code, but the password: that one has a file."""
    text = EXAMPLE.read_text("utf-8")
    keys = {
        (section.name, key.name)
        for section in msgspec.structs.fields(NodeSettings)
        for key in msgspec.structs.fields(section.type)
    }

    named = set()
    for section, body in re.findall(r"(?ms)^\[(\w+)\]\n(.*?)(?=^\[|\Z)", text):
        named |= {(section, key) for key in re.findall(r"(?m)^(?:# )?(\w+) = ", body)}
    assert keys - named == {("mqtt", "password")}
    assert named <= keys


def test_environment_and_overrides_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node in a container needs no file; what the command line says wins."""
    monkeypatch.setenv("EARSHOT_NODE_ID", "press-07")
    monkeypatch.setenv("EARSHOT_MODEL_FOLDER", "models/a")
    monkeypatch.setenv("EARSHOT_MQTT_HOST", "broker")

    settings = load_settings(None, {"EARSHOT_MODEL_FOLDER": "models/b"})

    assert settings.model.folder == "models/b"
    assert settings.mqtt.address == "broker:1883"


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides the file's value."""
    monkeypatch.setenv("EARSHOT_NODE_ID", "press-08")

    assert load_settings(EXAMPLE, {}).node.id == "press-08"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    """File, environment and overrides are judged together, under the file's name."""
    path = write(
        tmp_path,
        """
        [node]
        id = "Press 7"
        [model]
        threads = 0
        [source]
        spec = ""
        channel = -1
        fast = "yes"
        [outbox]
        max_windows = 99
        receipts = "nobody"
        tail_seconds = 1
        drain_seconds = 0
        [helth]
        interval_seconds = 60
        [update]
        keys_file = ""
        trial_windows = 3601
        confirm_windows = 0
        max_release_mb = 65
        max_trial_score = nan
        recalibrate = 1
        """,
    )

    with pytest.raises(SettingsError) as error:
        load_settings(path, {"EARSHOT_HEALTH_INTERVAL_SECONDS": "1e9"})

    assert list(error.value.problems) == [
        "unknown section: helth (did you mean health?)",
        "node.id: Expected 1 to 32 lower case letters, digits or hyphens, a letter or digit first,"
        " got 'Press 7'",
        "model.folder is missing (or EARSHOT_MODEL_FOLDER)",
        "model.threads: Expected `int` >= 1, got '0'",
        "source.spec: Expected `str` of length >= 1, got ''",
        "source.channel: Expected `int` >= 0, got '-1'",
        "source.fast: Expected `bool`, got `str`, got 'yes'",
        "outbox.receipts: Invalid enum value 'nobody', got 'nobody'",
        "outbox.tail_seconds: Expected `float` >= 2.0, got '1'",
        "outbox.max_windows: Expected `int` >= 100, got '99'",
        "outbox.drain_seconds: Expected `float` > 0.0, got '0'",
        "EARSHOT_HEALTH_INTERVAL_SECONDS: Expected `float` <= 604800.0, got '1e9'",
        "update.keys_file: Expected `str` of length >= 1, got ''",
        "update.trial_windows: Expected `int` <= 3600, got '3601'",
        "update.confirm_windows: Expected `int` >= 1, got '0'",
        "update.max_release_mb: Expected `int` <= 64, got '65'",
        "update.max_trial_score: Expected `float` > 0.0, got 'nan'",
        "update.recalibrate: Expected `bool`, got `int`, got '1'",
    ]
    assert str(error.value).startswith(f"{path}: ")


def test_outbox_keeps_what_no_collector_has_receipted_unless_told() -> None:
    """A consumer that sends no receipts has to be named; all else has a default."""
    outbox = load_settings(EXAMPLE, {}).outbox
    told = load_settings(
        EXAMPLE, {"EARSHOT_OUTBOX_RECEIPTS": "broker", "EARSHOT_OUTBOX_DURABLE": "always"}
    ).outbox

    assert (outbox.receipts, outbox.durable, outbox.tail_seconds) == ("collector", "late", 5.0)
    assert (outbox.max_bytes, outbox.max_age_hours) == (128 * 1024 * 1024, 168.0)
    assert (told.receipts, told.durable) == ("broker", "always")


@pytest.mark.parametrize(
    ("source", "fast", "seconds"),
    [
        ("microphone:default", "false", 120.0),
        ("synthetic:fan", "false", 0.0),
        ("recordings", "false", 0.0),
        ("recordings", "true", 0.0),
    ],
)
def test_only_a_microphone_waits_for_the_clock(source: str, fast: str, seconds: float) -> None:
    """The time of calculated sound and of recordings matters to nobody."""
    settings = load_settings(EXAMPLE, {"EARSHOT_SOURCE_SPEC": source, "EARSHOT_SOURCE_FAST": fast})

    assert settings.clock_wait_seconds == seconds


def test_node_takes_no_updates_unless_told_whose() -> None:
    """Without public keys nobody's releases are obeyed; the rest of the section has defaults."""
    update = load_settings(EXAMPLE, {}).update

    assert update.keys_file is None
    assert (update.trial_windows, update.confirm_windows, update.confirm_seconds) == (30, 10, 600)
    assert update.max_release_bytes == MAX_FILE_BYTES
    assert update.disk_bytes == 4 * update.max_release_bytes
    assert (update.max_trial_score, update.chunk_seconds, update.retry_seconds) == (100, 60, 3600)
    assert update.recalibrate


def test_update_section_from_the_environment() -> None:
    """Each value can be overridden like those of any other section."""
    update = load_settings(
        EXAMPLE,
        {
            "EARSHOT_UPDATE_KEYS_FILE": "keys.pem",
            "EARSHOT_UPDATE_RECALIBRATE": "false",
            "EARSHOT_UPDATE_CHUNK_SECONDS": "0.5",
        },
    ).update

    assert (update.keys_file, update.recalibrate, update.chunk_seconds) == ("keys.pem", False, 0.5)


def test_disk_that_holds_no_release_is_told() -> None:
    """A budget below one release would refuse every one, much later and far away."""
    room = {"EARSHOT_UPDATE_MAX_RELEASE_MB": "32", "EARSHOT_UPDATE_DISK_MB": "32"}
    assert load_settings(EXAMPLE, room).update.disk_mb == 32

    with pytest.raises(SettingsError, match=r"\[update\]: disk_mb = 31 leaves no room"):
        load_settings(EXAMPLE, room | {"EARSHOT_UPDATE_DISK_MB": "31"})


def test_nothing_given_names_what_is_needed() -> None:
    """Without file and variables, the two values that have no default are asked for."""
    with pytest.raises(SettingsError) as error:
        load_settings(None, {})

    assert str(error.value) == (
        "settings from the environment: node.id is missing (or EARSHOT_NODE_ID);"
        " model.folder is missing (or EARSHOT_MODEL_FOLDER)"
    )


def test_line_break_after_the_id_is_refused() -> None:
    """An id read with its line's end is refused with the settings, not by the broker."""
    with pytest.raises(SettingsError, match=r"EARSHOT_NODE_ID"):
        load_settings(EXAMPLE, {"EARSHOT_NODE_ID": "press-07\n"})


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file is named, and so is the example."""
    with pytest.raises(SettingsError) as error:
        load_settings(tmp_path / "nowhere.toml", {})

    assert str(error.value) == (
        f"{tmp_path}/nowhere.toml: cannot read settings: No such file or directory;"
        " see node/node.example.toml"
    )


def test_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    """A folder, or a file in another encoding, is refused in one line."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[node]\nid = "müller"\n'.encode("latin-1"))

    with pytest.raises(SettingsError, match="cannot read settings: is not UTF-8 text"):
        load_settings(latin, {})
    with pytest.raises(SettingsError, match="cannot read settings: Is a directory"):
        load_settings(tmp_path, {})
