"""What detectors without a network say of the test clips, on the same windows as the release."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from contract.feature_params import FeatureParams
from training.judge.evaluation_report import DetectorFigures, detector_figures
from training.judge.intervals import draw_resamples
from training.judge.metrics import (
    BoolArray,
    Float64Array,
    ScoredClip,
    rescored,
)
from training.judge.yardsticks import (
    by_section,
    gmm_scores,
    level_oracle,
    nearest_neighbour_scores,
    pool,
    random_scores,
)
from training.made.harden import original_of
from training.sound.dataset import Clip, Dataset
from training.sound.feature_cache import ClipFeatures

YARDSTICK_FEATURES = FeatureParams(kind="logmel", n_fft=1024, frames=63)
"""Log-mel of 128 bands, as in TWFR-GMM and the official baselines; of windows of any length."""

_TWFR_R = 0.98
_FEWEST_TO_COMPARE_WITH = 2


class Yardsticks(msgspec.Struct, frozen=True):
    """What detectors without a network say of the test clips."""

    lines: dict[str, DetectorFigures]
    scores: dict[str, tuple[float, ...]]


ReadFeatures = Callable[[Sequence[Clip], FeatureParams], list[ClipFeatures]]


def yardstick_figures(
    dataset: Dataset, test_clips: Sequence[Clip], windows: FeatureParams, read: ReadFeatures
) -> Yardsticks:
    """What needs no network, on the same windows; see `training.judge.yardsticks`.

    Those that compare with normal clips are left out where a tested section has less than 2.
    """
    params = msgspec.structs.replace(
        YARDSTICK_FEATURES,
        sample_rate_hz=windows.sample_rate_hz,
        window_samples=windows.window_samples,
        frames=1 + windows.window_samples // YARDSTICK_FEATURES.frame_hop_samples,
    )
    train, test = (read(clips, params) for clips in (dataset.train, list(test_clips)))
    own = [clip.clip for clip in test]
    clips = [ScoredClip(clip.clip, np.array([0.0]), float(clip.level_dbfs.mean())) for clip in test]
    labels: BoolArray = np.array([clip.is_anomaly for clip in clips])
    level = level_oracle(labels, np.array([clip.level_dbfs for clip in clips]))
    found = {
        "random": (random_scores(len(clips), seed=0), "one draw"),
        "level": (level.scores, f"{level.direction} is anomalous, chosen with the test labels"),
    }

    def pooled(r: float) -> tuple[Float64Array, Float64Array]:
        frames = params.sound_frames
        train_and_test = [
            np.stack([pool(clip.features, sound_frames=frames, r=r) for clip in part])
            for part in (train, test)
        ]
        return train_and_test[0], train_and_test[1]

    to_compare_with = Counter(clip.clip.section for clip in train)
    if all(to_compare_with[clip.section] >= _FEWEST_TO_COMPARE_WITH for clip in own):
        heard = [clip.clip for clip in train]
        mean_train, mean_test = pooled(1.0)
        twfr_train, twfr_test = pooled(_TWFR_R)
        found |= {
            "mean_gmm": (
                by_section(gmm_scores, mean_train, heard, mean_test, own),
                "mean log-mel, 2 components",
            ),
            "twfr_gmm": (
                by_section(gmm_scores, twfr_train, heard, twfr_test, own),
                f"the same with r = {_TWFR_R:g}",
            ),
            "knn": (
                by_section(nearest_neighbour_scores, mean_train, heard, mean_test, own),
                "mean log-mel, k = 1",
            ),
        }
    resamples = draw_resamples(own, seed=0, group=original_of)
    return Yardsticks(
        {
            name: detector_figures(rescored(clips, scores), "mean", resamples, remark)
            for name, (scores, remark) in found.items()
        },
        {name: tuple(scores.tolist()) for name, (scores, _) in found.items()},
    )
