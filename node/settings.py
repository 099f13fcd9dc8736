"""What a node is told: one TOML file and `EARSHOT_...` environment variables, read once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from contract.errors import SettingsError
from contract.messages import NodeId
from contract.settings import MqttSettings, Seconds, decode_settings

_BYTES_PER_MB = 1024 * 1024
"""As `contract.release.MAX_FILE_BYTES` counts: the largest file fits into 16."""


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
    """`microphone:KEY` (see `earshot node devices`), `synthetic:fan?fault=bearing`, or a path."""
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
    """What happens to windows until they are known to be stored."""

    receipts: Literal["collector", "broker"] = "collector"
    """Whose word lets go of a window: a collector's receipt, or the broker's confirmation, where
    what stores the windows sends no receipts."""
    durable: Literal["late", "always"] = "late"
    """When a window is written to the disk: once it is late, or each before it goes out."""
    tail_seconds: Annotated[float, msgspec.Meta(ge=2.0, le=60.0)] = 5.0
    """So much sound at most is in memory alone, and lost when the power goes. A receipt takes
    about two seconds: below that every window is written."""
    max_mb: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 128
    """Of windows on the disk, in 1024 x 1024 bytes: some 200 000, two days at a hop of 1 s."""
    max_age_hours: Annotated[float, msgspec.Meta(gt=0.0, le=87_600.0)] = 168.0
    """Windows that have waited for longer are given up."""
    resend_seconds: Seconds = 600.0
    """A window that the broker has taken and nobody has receipted for so long is sent again."""
    max_windows: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 10_000
    """Kept in memory where the disk cannot be written, some 0.5 kB each: 2.8 hours at a hop of one
    second."""
    drain_seconds: Seconds = 10.0
    """How long a node that is stopped tries to send what it still has."""

    @property
    def max_bytes(self) -> int:
        """Bytes that windows may take on the disk."""
        return self.max_mb * _BYTES_PER_MB


class ClockSection(msgspec.Struct, frozen=True, kw_only=True):
    """How much the time of a window matters."""

    wait_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 120.0
    """Windows of a microphone wait for a synchronised clock after the start, at most so long."""


class CalibrationSection(msgspec.Struct, frozen=True, kw_only=True):
    """How the node learns what is normal where it hangs."""

    false_alarms_per_week: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None
    """What the limits are set for; None is what the release says."""


class HealthSection(msgspec.Struct, frozen=True, kw_only=True):
    """What the node says of itself."""

    interval_seconds: Seconds = 60.0


class UpdateSection(msgspec.Struct, frozen=True, kw_only=True):
    """Which releases the node takes over the network, and what one has to show first.

    Raises:
        ValueError: settings that contradict each other.
    """

    keys_file: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """One or two public keys (Ed25519 in PEM, one after the other) of those whose releases and
    orders are obeyed; None: this node takes no updates."""
    trial_windows: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 30
    """Live windows that a new model scores beside the one that runs, before it takes its place."""
    confirm_windows: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 10
    """Windows that it then has to score alone before it counts as committed."""
    confirm_seconds: Seconds = 600.0
    """Within which the broker must be reached again; otherwise the model before comes back."""
    max_release_mb: Annotated[int, msgspec.Meta(ge=1, le=64)] = 16
    """All files of one release together, in 1024 x 1024 bytes."""
    disk_mb: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 64
    """Releases and downloads together: at most four releases are there for a moment (the one that
    runs, the one before, the new one, and the download that it is made of)."""
    max_trial_score: Annotated[float, msgspec.Meta(gt=0.0)] = 100.0
    """A median score of the trial above this says that the model does not know this sound. Far
    above 1: the threshold of another place flags most of what is normal here."""
    chunk_seconds: Seconds = 60.0
    """A part of a file that has not come after so long is given up; what came is kept."""
    retry_seconds: Seconds = 3600.0
    """After passing trouble (a full disk, a part that is missing) it is tried again."""
    recalibrate: bool = True
    """A node that was calibrated calibrates anew by itself as it goes over to another release."""

    def __post_init__(self) -> None:
        if self.disk_mb < self.max_release_mb:
            raise ValueError(
                f"disk_mb = {self.disk_mb} leaves no room for a release of"
                f" max_release_mb = {self.max_release_mb}"
            )

    @property
    def max_release_bytes(self) -> int:
        """Bytes that all files of one release may take."""
        return self.max_release_mb * _BYTES_PER_MB

    @property
    def disk_bytes(self) -> int:
        """Bytes that releases and downloads may take together."""
        return self.disk_mb * _BYTES_PER_MB


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of a node's settings."""

    node: NodeSection
    model: ModelSection
    mqtt: MqttSettings = MqttSettings()
    source: SourceSection = SourceSection()
    outbox: OutboxSection = OutboxSection()
    clock: ClockSection = ClockSection()
    calibration: CalibrationSection = CalibrationSection()
    health: HealthSection = HealthSection()
    update: UpdateSection = UpdateSection()

    @property
    def clock_wait_seconds(self) -> float:
        """How long windows wait for a synchronised clock: only a microphone's need one."""
        live = self.source.spec.startswith("microphone:") and not self.source.fast
        return self.clock.wait_seconds if live else 0.0

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
