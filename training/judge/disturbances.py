"""Room noise that is no fault: how often it makes a detector ring.

Held-out normal clips are scored with a recording of the room mixed in: a voice, a dog, rain. Each
clip's threshold comes from the other held-out clips of its session, as a calibration on site would
set it, so that only the noise is new.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from contract.features import FeatureExtractor, Float32Array
from node.scoring.detector import Detector
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from training.errors import DataError
from training.judge.metrics import BoolArray, Float64Array
from training.judge.stream import alarms
from training.judge.thresholds import conformal_quantile
from training.made.room_noise import NoiseLibrary, mix
from training.progress import Progress
from training.release.runtime_trial import statistics
from training.sound.dataset import Clip
from training.sound.recordings import cut, read_recording

RATIOS_DB = (10.0, 0.0)
FALSE_ALARM_RATE = 0.01
_DRAWS = 3
# With fewer, one clip's threshold would rest on a single other.
_FEWEST_CLIPS = 3


class Disturbance(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of noise does at one ratio."""

    kind: str
    """`none` is the clean sound."""
    ratio_db: float | None
    """Machine to noise, by RMS over the clip."""
    windows: int
    windows_flagged: float
    """Share above the threshold."""
    clips: int
    """Each clip counts once for every recording of noise drawn for it."""
    clips_flagged: float
    """Share with at least one window above it."""
    clips_alarmed: float
    """Share in which the node's vote over windows rings."""


def disturb(
    release: Path,
    held_out: Sequence[Clip],
    noise: Path,
    *,
    channel: int | None,
    progress: Progress,
) -> tuple[Disturbance, ...]:
    """Score held-out normal clips, clean and with every kind of noise at every ratio.

    Args:
        release: folder of the release.
        held_out: normal clips that it was not trained on.
        noise: folder with one folder of recordings for each kind.
        channel: which to hear of several; None mixes them.
        progress: shown while scoring.

    Raises:
        DataError: fewer than 3 held-out clips of any section, or no noise.
    """
    library = NoiseLibrary(noise)
    listener = _Listener(release, channel)
    heard = [
        [_HeardClip(clip.path.name, *listener.hear(clip)) for clip in session]
        for session in _sessions(held_out)
    ]
    clips = [
        (clip, _threshold([other.statistics for other in session if other is not clip]))
        for session in heard
        for clip in session
    ]
    found = [_count("none", None, [clip.statistics > threshold for clip, threshold in clips])]
    conditions = [(kind, ratio) for ratio in RATIOS_DB for kind in library.kinds]
    for kind, ratio_db in progress(conditions, "disturbing"):
        flags = [
            listener.judge(_mixed(clip, library, kind, ratio_db, draw)) > threshold
            for clip, threshold in clips
            for draw in range(_DRAWS)
        ]
        found.append(_count(kind, ratio_db, flags))
    return tuple(found)


class _HeardClip(msgspec.Struct, frozen=True):
    name: str
    sound: Float32Array
    sample_rate_hz: int
    statistics: Float64Array
    """Of the clean windows."""


class _Listener:
    """Reads clips and judges all their windows with a release."""

    def __init__(self, release: Path, channel: int | None) -> None:
        found = read_release(release)
        self._hop_samples = found.manifest.window_hop_samples
        self._params = found.manifest.features
        self._channel = channel
        self._extract = FeatureExtractor(self._params)
        self._detector = Detector(found, find_runtime())

    def hear(self, clip: Clip) -> tuple[Float32Array, int, Float64Array]:
        rate_hz = self._params.sample_rate_hz
        sound = read_recording(clip.path, sample_rate_hz=rate_hz, channel=self._channel).samples
        return sound, rate_hz, self.judge(sound)

    def judge(self, sound: Float32Array) -> Float64Array:
        windows = cut(sound, self._params, hop_samples=self._hop_samples)
        features = np.stack([self._extract(np.ascontiguousarray(window)) for window in windows])
        return statistics(self._detector, features)


def _sessions(clips: Sequence[Clip]) -> list[list[Clip]]:
    by_session: dict[tuple[str, str | None], list[Clip]] = {}
    for clip in clips:
        by_session.setdefault((clip.section, clip.session), []).append(clip)
    enough = [session for session in by_session.values() if len(session) >= _FEWEST_CLIPS]
    if not enough:
        # Where a name says the machine's state, a "session" may be a clip or two.
        by_section: dict[str, list[Clip]] = {}
        for clip in clips:
            by_section.setdefault(clip.section, []).append(clip)
        enough = [section for section in by_section.values() if len(section) >= _FEWEST_CLIPS]
    if not enough:
        raise DataError(
            f"expected at least {_FEWEST_CLIPS} held-out clips of a section to mix noise into, got"
            f" {len(clips)}"
        )
    return enough


def _mixed(
    clip: _HeardClip, library: NoiseLibrary, kind: str, ratio_db: float, draw: int
) -> Float32Array:
    # By name: another kind or clip leaves the draws of this one as they are.
    words = [draw, *f"{kind} {clip.name}".encode()]
    noise = library.draw(
        np.random.default_rng(words),
        kind,
        half="test",
        samples=len(clip.sound),
        sample_rate_hz=clip.sample_rate_hz,
    )
    return mix(clip.sound, noise.samples, ratio_db=ratio_db)


def _threshold(others: Sequence[Float64Array]) -> float:
    return conformal_quantile(np.concatenate(others), false_alarm_rate=FALSE_ALARM_RATE).value


def _count(kind: str, ratio_db: float | None, flags: Sequence[BoolArray]) -> Disturbance:
    return Disturbance(
        kind=kind,
        ratio_db=ratio_db,
        windows=sum(len(clip) for clip in flags),
        windows_flagged=float(np.mean(np.concatenate(flags))),
        clips=len(flags),
        clips_flagged=float(np.mean([clip.any() for clip in flags])),
        clips_alarmed=float(np.mean([alarms(clip).any() for clip in flags])),
    )
