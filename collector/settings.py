"""Settings of the collector: one TOML file plus `EARSHOT_...` variables, read once at the start.

`collector.example.toml` shows every key. Nothing else in this package reads a settings file or the
environment.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import msgspec

from contract.errors import SettingsError
from contract.messages import NodeId
from contract.settings import MqttSettings, decode_settings

_ENVIRONMENT = "environment"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Listen = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):[0-9]{1,5}\Z",
        description="host:port, for example 127.0.0.1:8088",
    ),
]


class SinkKind(StrEnum):
    """Where points are stored."""

    SQLITE = "sqlite"
    INFLUXDB = "influxdb"


class CollectorSection(msgspec.Struct, frozen=True, kw_only=True):
    """Who this collector is, and how much it writes at once."""

    id: NodeId = "collector"
    """Its MQTT client id as well: two collectors on one broker need two ids."""
    batch_points: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    """A batch is written when it holds this many; so many messages may be unacknowledged.

    Of windows that come late, fifty to a message, up to ten times as many are written at once.
    """
    batch_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=60.0)] = 1.0
    """A batch is written as well when its first message has waited this long."""
    state_folder: Name = "collector-state"
    """The folder of its ledger and its dead letters, of this collector alone; made if absent."""
    receipt_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=60.0)] = 1.0
    """A node is told what is stored of its windows at most this often."""
    figures_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=3600.0)] = 60.0
    """How often ledgers and figures of our own are stored."""
    gap_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=86_400.0)] = 600.0
    """Windows that nobody accounts for are missing after this; nodes send again after 600 s."""
    dead_letter_mb: Annotated[float, msgspec.Meta(ge=0.01, le=10_000.0)] = 16.0
    """Size of the file of dead letters before it is put aside; two are kept."""
    health_listen: Listen | None = None
    """Where `GET /health` is answered; None is nowhere, port 0 any free port."""
    stall_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=86_400.0)] = 60.0
    """Without a broker, or with messages that cannot be stored, for longer is not healthy."""


class SinkSection(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the stores below is used."""

    kind: SinkKind = SinkKind.SQLITE


class SqliteSection(msgspec.Struct, frozen=True, kw_only=True):
    """The embedded store, which is one file."""

    path: Name = "earshot.db"


class InfluxDbSection(msgspec.Struct, frozen=True, kw_only=True):
    """An InfluxDB with the v2 write API."""

    url: Name = "http://localhost:8086"
    org: Name = "earshot"
    bucket: Name = "earshot"
    hourly_bucket: Name | None = None
    """For hourly figures, which are worth keeping for longer than windows; None is `bucket`."""
    token: str | None = None
    token_file: str | None = None
    """A file that holds nothing but the token; keeps it out of settings and environment."""
    timeout_seconds: Annotated[float, msgspec.Meta(ge=0.1, le=300.0)] = 10.0
    """How long one write may take; also the longest that a stop waits for a database that hangs."""

    def __repr__(self) -> str:
        # The generated one would print the token.
        return f"InfluxDbSection({self.url}, org={self.org!r}, bucket={self.bucket!r})"

    def read_token(self) -> str:
        """The token itself, from the settings or from its file.

        Raises:
            ValueError: there is none, or it cannot be sent in a header.
        """
        if (self.token is None) == (self.token_file is None):
            raise ValueError("give influxdb.token or influxdb.token_file, one of the two")
        token, origin = self.token or "", "influxdb.token"
        if self.token_file is not None:
            origin = f"influxdb.token_file {self.token_file}"
            try:
                token = Path(self.token_file).read_text("utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{origin}: {_reason(error)}") from error
        if not token:
            raise ValueError(f"{origin} is empty")
        if not (token.isascii() and token.isprintable()):
            raise ValueError(f"{origin}: expected printable ASCII, got other characters")
        return token

    def check_url(self) -> None:
        """Whether a request could be sent there at all.

        Raises:
            ValueError: it could not.
        """
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or parts.username:
            raise ValueError(
                f"influxdb.url: expected something like http://localhost:8086, got {self.url!r}"
            )


class CollectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `run` needs to know."""

    mqtt: MqttSettings
    collector: CollectorSection
    sink: SinkSection
    sqlite: SqliteSection
    influxdb: InfluxDbSection


def load(path: Path | None, environ: Mapping[str, str]) -> CollectorSettings:
    """The settings of `run`.

    Args:
        path: the TOML file; None takes the environment alone.
        environ: for example `os.environ`.

    Raises:
        SettingsError: with every problem found.
    """
    settings = _decode(CollectorSettings, path, environ)
    problems = []
    if settings.sink.kind is SinkKind.INFLUXDB:
        for check in (settings.influxdb.check_url, settings.influxdb.read_token):
            try:
                check()
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise SettingsError(_origin(path), problems)
    return settings


def load_broker(path: Path | None, environ: Mapping[str, str]) -> MqttSettings:
    """Where the broker is, from the same file; the sink's sections need not be usable.

    Raises:
        SettingsError: with every problem found.
    """
    return _decode(CollectorSettings, path, environ).mqtt


def load_section(path: Path | None, environ: Mapping[str, str]) -> CollectorSection:
    """The collector's own section, from the same file; the sink's need not be usable.

    Raises:
        SettingsError: with every problem found.
    """
    return _decode(CollectorSettings, path, environ).collector


Settings = TypeVar("Settings", bound=msgspec.Struct)


def _decode(kind: type[Settings], path: Path | None, environ: Mapping[str, str]) -> Settings:
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                str(path), [f"cannot read the settings file: {_reason(error)}"]
            ) from error
    return decode_settings(kind, text, environ, origin=_origin(path))


def _origin(path: Path | None) -> str:
    return _ENVIRONMENT if path is None else str(path)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
