"""The bootstrap over recordings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.errors import DataError, TrainingError
from training.judge.intervals import (
    Difference,
    draw_resamples,
    mean_and_spread,
    paired_difference_over_sets,
)
from training.judge.metrics import (
    Figure,
    ScoredClip,
    evaluate_scores,
    percentile_interval,
    resampled_figure,
    rescored,
)
from training.sound.dataset import Clip, Domain, Label


def make_clip(index: int, label: Label, *, section: str = "00", domain: Domain = "source") -> Clip:
    """Make a clip with a name of its own."""
    return Clip(
        path=Path(f"section_{section}_{domain}_test_{label}_{index:04d}.wav"),
        section=section,
        domain=domain,
        split="test",
        label=label,
        session=None,
    )


def scored_set(
    *, clips: int, separation: float, seed: int, domains: tuple[Domain, ...] = ("source",)
) -> list[ScoredClip]:
    """Make clips of both labels in each domain, scores normal with anomalies this much higher."""
    rng = np.random.default_rng(seed)
    labels: tuple[Label, ...] = ("normal", "anomaly")
    return [
        ScoredClip(
            make_clip(index, label, domain=domain),
            rng.normal(separation if label == "anomaly" else 0.0, 1.0, 1),
            -20.0,
        )
        for domain in domains
        for label in labels
        for index in range(clips)
    ]


def worse(clips: list[ScoredClip], *, noise: float, seed: int) -> list[ScoredClip]:
    """Blur the scores of the same clips."""
    scores = np.array([clip.statistics[0] for clip in clips])
    return rescored(clips, scores + np.random.default_rng(seed).normal(0, noise, len(clips)))


def interval(clips: list[ScoredClip], figure: Figure, *, seed: int, **options: Any) -> Any:
    """95 % interval of one figure, as `evaluate_scores` makes it."""
    resamples = draw_resamples(
        [clip.clip for clip in clips], seed=seed, group=options.pop("group", None)
    )
    values = resampled_figure(clips, figure, resamples=resamples, **options)
    return None if values is None else percentile_interval(values[1:])


def paired_difference(
    first: list[ScoredClip], second: list[ScoredClip], **options: Any
) -> Difference | None:
    """Compare two detectors on one data set, one run each."""
    return paired_difference_over_sets([([first], [second])], **options)


def test_resamples_keep_every_section_domain_and_label() -> None:
    """Each resample holds as many clips of each section, domain and label as there are."""
    clips = [
        *(make_clip(index, "normal") for index in range(5)),
        *(make_clip(index, "anomaly") for index in range(3)),
        make_clip(0, "normal", domain="target"),
        *(make_clip(index, "anomaly", section="01") for index in range(2)),
    ]

    found = draw_resamples(clips, seed=0, count=300)

    assert found.shape == (300, 11)
    for start, end in ((0, 5), (5, 8), (8, 9), (9, 11)):
        assert (found[:, start:end].sum(axis=1) == end - start).all()
    assert (found[:, :5].max(axis=1) > 1).any()
    # A clip is drawn once on average.
    assert found.mean(axis=0) == pytest.approx(np.ones(11), abs=0.2)


def test_resamples_are_seeded_and_know_clips_by_name() -> None:
    """The same seed draws the same clips, in whatever order they are given; another does not."""
    clips = [make_clip(index, label) for label in ("normal", "anomaly") for index in range(8)]
    order = np.random.default_rng(1).permutation(len(clips))

    found = draw_resamples(clips, seed=7, count=20)

    shuffled = draw_resamples([clips[index] for index in order], seed=7, count=20)
    assert (shuffled == found[:, order]).all()
    assert (draw_resamples(clips, seed=8, count=20) != found).any()


def test_grouped_clips_are_drawn_together() -> None:
    """A recording and its faulty copies are in a resample equally often, and no label is lost."""
    normals = [make_clip(index, "normal") for index in range(6)]
    faulty = [make_clip(index, "anomaly") for index in range(6)]

    found = draw_resamples(
        [*normals, *faulty], seed=0, count=100, group=lambda clip: clip.path.stem[-4:]
    )

    assert (found[:, :6] == found[:, 6:]).all()
    assert (found.sum(axis=1) == 12).all()
    assert (found[:, :6].max(axis=1) > 1).any()


def test_groups_of_other_contents_do_not_cost_a_class() -> None:
    """Recordings with a faulty copy and such without are drawn apart, so that both stay."""
    clips = [*(make_clip(index, "normal") for index in range(9)), make_clip(0, "anomaly")]

    found = draw_resamples(clips, seed=0, count=200, group=lambda clip: clip.path.stem[-4:])

    assert (found[:, 9] == 1).all()


def test_interval_is_about_as_wide_as_theory_says() -> None:
    """The AUC's interval has the width of Hanley and McNeil's standard error, and holds the AUC."""
    clips = scored_set(clips=100, separation=0.742, seed=3)  # AUC 0.70 in the long run

    found = interval(clips, "auc", how="mean", seed=0)

    auc = evaluate_scores(clips, how="mean").overall.auc
    assert found is not None
    assert auc is not None
    assert found[0] < auc < found[1]
    # 2 * 1.96 * 0.037
    assert found[1] - found[0] == pytest.approx(0.145, rel=0.15)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Over many sets of clips, the 95 % interval holds the true AUC in about 95 %."""
    truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)

    found = [
        interval(scored_set(clips=40, separation=1.0, seed=seed), "auc", how="mean", seed=seed)
        for seed in range(200)
    ]

    covered = np.mean([edges is not None and edges[0] <= truth <= edges[1] for edges in found])
    assert 0.90 <= covered <= 0.99


def test_interval_of_one_label() -> None:
    """Without anomalies there is no figure to be sure of."""
    clips = [clip for clip in scored_set(clips=5, separation=1, seed=0) if not clip.is_anomaly]

    assert interval(clips, "official", how="mean", seed=0) is None


def test_evaluation_shows_the_same_interval() -> None:
    """The interval beside the official score is that of the same resamples."""
    clips = scored_set(clips=20, separation=1.0, seed=0, domains=("source", "target"))
    resamples = draw_resamples([clip.clip for clip in clips], seed=5)

    found = evaluate_scores(clips, how="mean", resamples=resamples)

    assert found.official_interval == interval(clips, "official", how="mean", seed=5)


def test_difference_of_a_detector_to_itself_is_nothing() -> None:
    """The same scores on the same resamples differ by nothing, in any order of clips."""
    clips = scored_set(clips=20, separation=1.0, seed=0)

    found = paired_difference(clips, clips[::-1], seed=0)

    assert found is not None
    assert (found.point, found.low, found.high, found.share_above_zero) == (0, 0, 0, 0)


def test_difference_is_told_apart_better_in_pairs() -> None:
    """A slightly blurred detector is found worse, though the two intervals overlap."""
    clips = scored_set(clips=100, separation=1.0, seed=0, domains=("source", "target"))
    blurred = worse(clips, noise=0.8, seed=1)

    found = paired_difference(clips, blurred, figure="auc", seed=0)

    first = interval(clips, "auc", how="mean", seed=0)
    second = interval(blurred, "auc", how="mean", seed=0)
    assert found is not None
    assert first is not None
    assert second is not None
    assert first[0] < second[1]
    assert 0 < found.low < found.point < found.high
    assert found.share_above_zero > 0.97


def test_difference_turns_round() -> None:
    """The second minus the first is the first minus the second, negative."""
    clips = scored_set(clips=30, separation=1.0, seed=0)
    blurred = worse(clips, noise=1.0, seed=1)

    there = paired_difference(clips, blurred, seed=3)
    back = paired_difference(blurred, clips, seed=3)

    assert there is not None
    assert back is not None
    assert (back.point, back.low, back.high) == pytest.approx(
        (-there.point, -there.high, -there.low)
    )


def test_each_detector_has_its_own_clip_score() -> None:
    """The two may score a clip in different ways."""
    labels: tuple[Label, ...] = ("normal", "anomaly")
    clips = [
        # The anomaly has the lower mean and the higher maximum.
        ScoredClip(
            make_clip(index, label),
            np.array([2.0, 2.0, 2.0] if label == "normal" else [0.0, 0.0, 5.0]),
            -20.0,
        )
        for label in labels
        for index in range(3)
    ]

    found = paired_difference(clips, clips, figure="auc", how=("max", "mean"), seed=0)

    assert found is not None
    assert (found.point, found.share_above_zero) == (1, 1)


def test_mean_over_sets() -> None:
    """Over several sets the point is the mean of their differences, and surer than each."""
    sets = [scored_set(clips=40, separation=1.0, seed=seed) for seed in range(4)]
    pairs = [(clips, worse(clips, noise=1.0, seed=9)) for clips in sets]

    found = paired_difference_over_sets([([a], [b]) for a, b in pairs], seed=0)
    singles = [paired_difference(*pair, seed=0) for pair in pairs]

    assert found is not None
    points = [single.point for single in singles if single is not None]
    widths = [single.high - single.low for single in singles if single is not None]
    assert found.point == pytest.approx(np.mean(points))
    # Independent sets: half as wide as one of four.
    assert found.high - found.low == pytest.approx(np.mean(widths) / 2, rel=0.25)


def test_no_difference_where_a_label_is_missing() -> None:
    """One set without anomalies, or no set at all, leaves no difference of the means."""
    clips = scored_set(clips=5, separation=1.0, seed=0)
    normal = [clip for clip in clips if not clip.is_anomaly]

    assert paired_difference_over_sets([([clips], [clips]), ([normal], [normal])], seed=0) is None
    assert paired_difference_over_sets([], seed=0) is None


def test_other_clips_are_refused() -> None:
    """Detectors that have not scored the same clips are not compared."""
    clips = scored_set(clips=5, separation=1.0, seed=0)

    with pytest.raises(DataError, match=r"got 10 and 9; only one has section_00_.*_anomaly_0004"):
        paired_difference(clips, clips[:-1], seed=0)
    with pytest.raises(DataError, match="got 10 and 11; one has a clip twice"):
        paired_difference(clips, [*clips, clips[0]], seed=0)


def test_mean_and_spread_over_seeds() -> None:
    """The mean, and the standard deviation with n - 1; of one seed there is none."""
    found = mean_and_spread([0.5, 0.6, 0.7])

    assert (found.mean, found.sd, found.count) == pytest.approx((0.6, 0.1, 3))
    assert mean_and_spread([0.5]).sd is None


@pytest.mark.parametrize("values", [[], [0.5, float("nan")]])
def test_no_spread_of_what_is_no_number(values: list[float]) -> None:
    """Without a figure for each seed there is no mean."""
    with pytest.raises(TrainingError, match="a finite figure for each seed"):
        mean_and_spread(values)


def test_runs_of_several_seeds_count_as_their_mean() -> None:
    """A detector's figure is the mean over its runs, and its resamples are the same for all."""
    first = scored_set(clips=20, separation=1.0, seed=1)
    second = list(first)
    other = worse(second, noise=1.0, seed=9)

    both = paired_difference_over_sets([([first], [second, other])], seed=0)
    same = paired_difference_over_sets([([first], [second])], seed=0)
    alone = paired_difference_over_sets([([first], [other])], seed=0)

    assert both is not None
    assert same is not None
    assert alone is not None
    assert both.point == pytest.approx((same.point + alone.point) / 2)
    assert both.low == pytest.approx(alone.low / 2)
