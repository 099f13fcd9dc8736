"""Settings are read from file and environment, and every problem is told at once."""

import tomllib
from pathlib import Path

import pytest

from collector.settings import CollectorSettings, InfluxDbSection, SinkKind, load, load_broker
from contract.errors import SettingsError

EXAMPLE = Path(__file__).parents[2] / "collector" / "collector.example.toml"


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "collector.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_a_local_sqlite() -> None:
    """Without a file and variables, the defaults hold."""
    settings = load(None, {})

    assert settings.collector.id == "collector"
    assert settings.collector.batch_points == 500
    assert settings.sink.kind is SinkKind.SQLITE


def test_example_shows_the_defaults() -> None:
    """The documented file changes nothing, so what it says of defaults is true."""
    assert load(EXAMPLE, {}) == load(None, {})


def test_example_names_every_key() -> None:
    """A key that the example does not mention would stay unknown."""
    text = EXAMPLE.read_text()
    sections = {name: set(table) for name, table in tomllib.loads(text).items()}

    assert sections.keys() == set(CollectorSettings.__struct_fields__)
    for section in ("mqtt", "collector", "sink", "sqlite", "influxdb"):
        fields = type(getattr(load(None, {}), section)).__struct_fields__
        assert [name for name in fields if name not in text] == []


def test_environment_wins(tmp_path: Path) -> None:
    """A variable beats the file."""
    path = file_of(tmp_path, '[sqlite]\npath = "a.db"\n')

    assert load(path, {"EARSHOT_SQLITE_PATH": "b.db"}).sqlite.path == "b.db"


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    """The line names the file."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "none.toml", {})

    assert str(caught.value) == (
        f"{tmp_path}/none.toml: cannot read the settings file: No such file or directory"
    )


def test_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a problem of the file."""
    path = tmp_path / "collector.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match="cannot read the settings file"):
        load(path, {})


def test_problems_of_all_sections_come_together(tmp_path: Path) -> None:
    """Nobody has to start five times to find five mistakes."""
    text = (
        '[collector]\nid = "Not OK"\nbatch_points = 0\n[sink]\nkind = "mysql"\n[sqlite]\npaht = ""'
    )

    with pytest.raises(SettingsError) as caught:
        load(file_of(tmp_path, text), {})

    assert len(caught.value.problems) == 4


def test_influxdb_s_url_and_token_are_checked_together(tmp_path: Path) -> None:
    """Across keys as well."""
    text = '[sink]\nkind = "influxdb"\n[influxdb]\nurl = "localhost:8086"\n'

    with pytest.raises(SettingsError) as caught:
        load(file_of(tmp_path, text), {})

    assert [problem.split()[0] for problem in caught.value.problems] == ["influxdb.url:", "give"]


def test_influxdb_is_not_checked_where_it_does_not_count(tmp_path: Path) -> None:
    """A section for later may be unfinished."""
    assert load(file_of(tmp_path, '[influxdb]\nurl = "?"\n'), {}).sink.kind is SinkKind.SQLITE


@pytest.mark.parametrize(
    "url", ["", "localhost:8086", "ftp://db", "http://", "http://db:99999", "http://db?x=1"]
)
def test_url_that_cannot_be_asked_is_refused(url: str) -> None:
    """It would only be found out at the first batch."""
    with pytest.raises(ValueError, match="url"):
        InfluxDbSection(url=url, token="t").check_url()


@pytest.mark.parametrize("token", ["", "two\nlines", "Zürich"])
def test_token_that_cannot_be_sent_is_refused_unseen(token: str) -> None:
    """The error does not show the secret."""
    with pytest.raises(ValueError, match="token") as caught:
        InfluxDbSection(token=token).read_token()

    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("content", [b"secret\n", b"secret\r\n", b"\xef\xbb\xbfsecret\r\n"])
def test_token_comes_from_a_file(tmp_path: Path, content: bytes) -> None:
    """Without the line end and the byte-order mark that editors add."""
    (tmp_path / "token").write_bytes(content)

    assert InfluxDbSection(token_file=str(tmp_path / "token")).read_token() == "secret"


@pytest.mark.parametrize(("token", "file"), [(None, None), ("a", "b"), (None, "none")])
def test_token_is_given_once(token: str | None, file: str | None) -> None:
    """None, both, or a file that is not there, is a problem."""
    with pytest.raises(ValueError, match="token_file"):
        InfluxDbSection(token=token, token_file=file).read_token()


def test_secrets_are_not_in_representations() -> None:
    """What is logged by accident gives nothing away."""
    environment = {
        "EARSHOT_INFLUXDB_TOKEN": "secret-1",
        "EARSHOT_MQTT_USERNAME": "u",
        "EARSHOT_MQTT_PASSWORD": "secret-2",
    }

    assert "secret" not in repr(load(None, environment))


def test_broker_alone_needs_no_usable_sink(tmp_path: Path) -> None:
    """`watch` works with the settings of a collector whose database is elsewhere."""
    path = file_of(tmp_path, '[mqtt]\nhost = "broker"\n[sink]\nkind = "influxdb"\n')

    assert load_broker(path, {}).host == "broker"
