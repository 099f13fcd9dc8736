"""The least and the most anomalous window: what the models see, and what they fail to repeat."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from contract.feature_params import FeatureParams
from contract.features import Float32Array
from contract.release import squeezed
from node.scoring.detector import Detector
from node.scoring.release_store import Release
from node.scoring.runtime import Runtime
from training.judge.scoring import stacked
from training.pages import charts
from training.pages.blocks import (
    Drawing,
    Drawings,
    Section,
    section,
)
from training.release.runtime_trial import statistics
from training.sound.dataset import Clip
from training.sound.feature_cache import ClipFeatures

if TYPE_CHECKING:
    from training.detector.outcome import Outcome


_MFCC_SPREADS = 3.0


class ShownWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One window, as the models see it and as they fail to repeat it."""

    clip: Clip
    number: int
    """Among the windows of the clip, from 1."""
    statistic: float
    features: Float32Array
    """Shape (coefficients, frames)."""
    residuals: tuple[Float32Array, ...]
    """What each model leaves over; see `node.scoring.detector.Detector.residuals`."""


def extreme_windows(
    release: Release, runtime: Runtime, clips: Sequence[ClipFeatures]
) -> tuple[ShownWindow, ...]:
    """The least and the most anomalous window, or the only one.

    Args:
        release: that judges.
        runtime: inference library.
        clips: with features of the release, of one window or more.
    """
    detector = Detector(release, runtime)
    of_windows = statistics(detector, stacked(clips))
    owners = [(clip, index) for clip in clips for index in range(len(clip.features))]
    shown = []
    for row in dict.fromkeys((int(np.argmin(of_windows)), int(np.argmax(of_windows)))):
        clip, index = owners[row]
        shown.append(
            ShownWindow(
                clip=clip.clip,
                number=index + 1,
                statistic=float(of_windows[row]),
                features=clip.features[index],
                residuals=detector.residuals(clip.features[index]),
            )
        )
    return tuple(shown)


def windows_section(windows: Sequence[ShownWindow], outcome: "Outcome") -> Section | None:
    """The windows as pictures, with what the models leave over; None without windows."""
    if not windows:
        return None
    params = outcome.manifest.features
    features = [window.features for window in windows]
    names = ("least anomalous", "most anomalous")[: len(windows)]
    heads = [name.capitalize() for name in names]
    full = [
        f"{head}: {_where(window)}, statistic {window.statistic:.4g}"
        for head, window in zip(heads, windows, strict=True)
    ]
    rows = [_pictures("features", full, _as_features(features, features, params), params)]
    profiles = []
    for index, model in enumerate(outcome.manifest.models):
        raw = [window.residuals[index] for window in windows]
        if model.output == "reconstruction":
            rebuilt = [heard - residual for heard, residual in zip(features, raw, strict=True)]
            shown = _as_features(rebuilt, features, params)
            rows.append(_pictures(f"reconstruction by {model.file}", heads, shown, params))
        residuals = [residual.reshape(squeezed(residual.shape)) for residual in raw]
        title = f"residual of {model.file}"
        flat = residuals[0].ndim != 2
        if not flat:
            rows.append(_pictures(title, heads, _about_zero(residuals), params))
        if flat or model.error == "time_mean_mse":
            profiles.append(
                _profile(
                    title if flat else f"{title}, mean over time",
                    names,
                    [each.ravel() if flat else each.mean(axis=-1) for each in residuals],
                )
            )
    where = "held-out" if outcome.report is None else "test"
    return section(
        f"The least and the most anomalous {where} window",
        "What a model cannot repeat is left over as its residual. Both windows share one scale, so"
        " a pale picture is a small residual.",
        *rows,
        Drawings(profiles),
    )


def _where(window: ShownWindow) -> str:
    clip = window.clip
    label = "not labelled" if clip.label is None else clip.label
    return f"{clip.path.name}, window {window.number} ({label}, {clip.domain})"


class _Shown(msgspec.Struct, frozen=True):
    """Arrays to show as pictures on one scale."""

    arrays: Sequence[Float32Array]
    scale: charts.ColourScale
    note: str


def _as_features(
    arrays: Sequence[Float32Array], features: Sequence[Float32Array], params: FeatureParams
) -> _Shown:
    """Features, or what a model makes of them, on the scale of the features."""
    heard = np.stack(features)
    if params.kind == "mfcc":
        # The first coefficients are a hundred times the last: only differences can be seen.
        centre = heard.mean(axis=(0, 2))[:, np.newaxis]
        spread = heard.std(axis=(0, 2))[:, np.newaxis] + 1e-9
        return _Shown(
            [(each - centre) / spread for each in arrays],
            charts.ColourScale(low=-_MFCC_SPREADS, high=_MFCC_SPREADS, diverging=True),
            "each coefficient about its mean over both windows,"
            f" ±{_MFCC_SPREADS:g} standard deviations",
        )
    low, high = float(heard.min()), float(heard.max())
    scale = charts.ColourScale(low=low, high=high, diverging=False)
    return _Shown(arrays, scale, f"{low:.0f} to {high:.0f} dB")


def _about_zero(arrays: Sequence[Float32Array]) -> _Shown:
    limit = float(np.percentile(np.abs(np.concatenate(arrays, axis=None)), 99)) or 1.0
    scale = charts.ColourScale(low=-limit, high=limit, diverging=True)
    return _Shown(arrays, scale, f"±{limit:.3g}")


def _pictures(
    title: str, captions: Sequence[str], shown: _Shown, params: FeatureParams
) -> Drawings:
    figures = []
    for caption, array in zip(captions, shown.arrays, strict=True):
        rows, what, columns = "Row", "column", float(array.shape[1])
        if array.shape == params.shape:
            rows = "Coefficient" if params.kind == "mfcc" else "Mel band"
            what = "seconds"
            columns *= params.frame_hop_samples / params.sample_rate_hz
        plot = charts.picture(
            title,
            array,
            shown.scale,
            columns=columns,
            what=what,
            told=f"{title}, {caption}; colours: {shown.note}",
        )
        legend = f"{caption}. {rows} upwards; {shown.note}."
        figures.append(msgspec.structs.replace(plot, caption=legend))
    return Drawings(figures)


def _profile(title: str, names: Sequence[str], profiles: Sequence[Float32Array]) -> Drawing:
    largest = ", ".join(f"{float(np.abs(profile).max()):.3g}" for profile in profiles)
    return charts.curves(
        title,
        [(name, profile.tolist()) for name, profile in zip(names, profiles, strict=True)],
        what="coefficient or band",
        first=0,
        around_zero=True,
        told=f"{title}; largest of the least and the most anomalous window: {largest}",
    )
