"""What a node is told: one TOML file and `EARSHOT_...` environment variables, read once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from contract.errors import SettingsError
from contract.messages import NodeId
from contract.settings import MqttSettings, Seconds, decode_settings


class NodeSection(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is."""

    id: NodeId
    """Unique in the fleet; also its MQTT client id and, with a password, its user name."""
    group: NodeId | None = None
    state_folder: Annotated[str, msgspec.Meta(min_length=1)] = "state"
    """Below it, in a folder of its id, a node keeps what it has learnt of its machine; no sound."""


class SourceSection(msgspec.Struct, frozen=True, kw_only=True):
    """Where sound comes from."""

    spec: Annotated[str, msgspec.Meta(min_length=1)] = "microphone:default"
    """`microphone:KEY` (see `python -m node devices`), `synthetic:fan?fault=bearing`, or a path."""
    channel: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    """Which channel to hear, from 0; None mixes all of them."""
    fast: bool = False
    """Recordings and calculated sound as fast as they can be scored, not in real time."""


class ModelSection(msgspec.Struct, frozen=True, kw_only=True):
    """What to score with."""

    folder: Annotated[str, msgspec.Meta(min_length=1)]
    """A release folder: `manifest.json` and its files."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


class OutboxSection(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to windows while the broker is away."""

    max_windows: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 10_000
    """Kept in memory, some 0.5 kB each: 10 000 are 2.8 hours at a hop of one second."""
    drain_seconds: Seconds = 10.0
    """How long a node that is stopped tries to send what it still has."""


class CalibrationSection(msgspec.Struct, frozen=True, kw_only=True):
    """How the node learns what is normal where it hangs."""

    false_alarms_per_week: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """What the limits are set for; None is what the release says."""


class HealthSection(msgspec.Struct, frozen=True, kw_only=True):
    """What the node says of itself."""

    interval_seconds: Seconds = 60.0


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of a node's settings."""

    node: NodeSection
    model: ModelSection
    mqtt: MqttSettings = MqttSettings()
    source: SourceSection = SourceSection()
    outbox: OutboxSection = OutboxSection()
    calibration: CalibrationSection = CalibrationSection()
    health: HealthSection = HealthSection()

    @property
    def state_folder(self) -> Path:
        """Where this node keeps what it has learnt."""
        return Path(self.node.state_folder) / self.node.id


def load_settings(path: Path | None, overrides: Mapping[str, str]) -> NodeSettings:
    """Settings from a file (None: from the environment alone), the environment, and overrides.

    Args:
        path: TOML file.
        overrides: as environment variables, for example `{"EARSHOT_MODEL_FOLDER": "models/fan"}`;
            they win over both.

    Raises:
        SettingsError: with every problem found.
    """
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise SettingsError(
                str(path), [f"cannot read settings: {reason}; see node/node.example.toml"]
            ) from error
    origin = str(path) if path is not None else "settings from the environment"
    return decode_settings(NodeSettings, text, {**os.environ, **overrides}, origin=origin)
