"""AUC, pAUC, the official rules and decisions, against scikit-learn and by hand."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_score,
    roc_auc_score,
)

from training.errors import DataError, TrainingError
from training.judge.metrics import (
    ScoredClip,
    auc,
    clip_score,
    evaluate_scores,
    harmonic_mean,
    pauc,
    percentile_interval,
    resampled_figure,
    rescored,
    roc_areas,
)
from training.judge.threshold_figures import decisions, flag_all_f1, votes
from training.sound.dataset import Clip, Domain, Label


def clip(
    label: Label | None,
    *statistics: float,
    section: str = "00",
    domain: Domain = "source",
    level: float = -20.0,
) -> ScoredClip:
    """Make a scored clip."""
    return ScoredClip(
        Clip(
            path=Path(f"section_{section}_{domain}_test_{label}_0000.wav"),
            section=section,
            domain=domain,
            split="test",
            label=label,
            session=None,
        ),
        np.array(statistics, dtype=np.float64),
        level,
    )


def group(
    section: str, domain: Domain, normals: tuple[float, ...], anomalies: tuple[float, ...]
) -> list[ScoredClip]:
    """Make clips of one window each."""
    return [
        *(clip("normal", score, section=section, domain=domain) for score in normals),
        *(clip("anomaly", score, section=section, domain=domain) for score in anomalies),
    ]


HAND_MADE = [
    # AUC 1, pAUC 1.
    *group("00", "source", (1, 2), (3, 4)),
    # Pairs won: 4>3, 6>3, 6>5 of 4. Curve: up to 1/2 at rate 0, so an area of 0.05 below 0.1;
    # pAUC (1 + (0.05 - 0.005) / (0.1 - 0.005)) / 2 = (1 + 9/19) / 2.
    *group("00", "target", (3, 5), (4, 6)),
    # 3>2 twice of 4. The largest score is normal: no area below 0.1, (1 - 1/19) / 2.
    *group("01", "source", (2, 4), (3, 3)),
    # 2>1, 3>1 and half of 3=3. The tie is a slope of 1 from the origin: that of chance.
    *group("01", "target", (1, 3), (2, 3)),
]


@st.composite
def labels_and_scores(
    draw: st.DrawFn,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Labels of both kinds and scores with many ties."""
    labels = [True, False, *draw(st.lists(st.booleans(), max_size=60))]
    levels = draw(st.integers(1, 12))
    scores = draw(
        st.lists(st.integers(-levels, levels), min_size=len(labels), max_size=len(labels))
    )
    return np.array(labels), np.array(scores, dtype=np.float64) / 7


@pytest.mark.parametrize(
    ("how", "wanted"),
    # Of 21 windows the largest ceil(2.1) = 3 are 18, 19 and 20.
    [("mean", 10.0), ("top10", 19.0), ("max", 20.0)],
)
def test_clip_score(how: str, wanted: float) -> None:
    """A clip's score is the mean of all its windows, of the largest tenth, or the largest."""
    statistics = np.random.default_rng(0).permutation(np.arange(21.0))

    assert clip_score(statistics, how) == wanted  # type: ignore[arg-type]  # literals as text


@pytest.mark.parametrize(("windows", "largest"), [(1, 1), (9, 1), (10, 1), (11, 2), (30, 3)])
def test_size_of_the_largest_tenth(windows: int, largest: int) -> None:
    """The tenth is rounded up, and exact where it needs no rounding."""
    statistics = np.zeros(windows)
    statistics[:largest] = 1.0

    assert clip_score(statistics, "top10") == 1.0
    statistics[0] = 0.0
    assert clip_score(statistics, "top10") < 1.0


@given(labels_and_scores())
def test_areas_are_those_of_scikit_learn(
    case: tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]],
) -> None:
    """AUC and pAUC are scikit-learn's, whatever is tied."""
    labels, scores = case

    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert pauc(labels, scores) == pytest.approx(
        roc_auc_score(labels, scores, max_fpr=0.1), abs=1e-12
    )


@settings(max_examples=50)
@given(labels_and_scores(), st.integers(0, 2**32 - 1))
def test_areas_of_resamples_are_those_of_scikit_learn(
    case: tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]], seed: int
) -> None:
    """A resample's areas are those of the list in which clips stand as often as it holds them."""
    labels, scores = case
    weights = np.random.default_rng(seed).integers(0, 4, (3, labels.size)).astype(float)
    # Both labels in each, as the draw makes sure.
    weights[:, np.argmax(labels)] += 1
    weights[:, np.argmin(labels)] += 1

    found = roc_areas(labels, scores, weights)

    for row, times in enumerate(weights.astype(int)):
        repeated = np.repeat(labels, times), np.repeat(scores, times)
        assert found.auc[row] == pytest.approx(roc_auc_score(*repeated), abs=1e-12)
        assert found.pauc[row] == pytest.approx(roc_auc_score(*repeated, max_fpr=0.1), abs=1e-12)


@pytest.mark.parametrize("normals", [9, 10, 11, 20, 100])
def test_partial_area_ends_between_or_on_a_step(normals: int) -> None:
    """The curve is cut at 0.1 exactly, on a point of it or between two."""
    rng = np.random.default_rng(normals)
    labels = np.append(np.zeros(normals), np.ones(30)).astype(bool)
    scores = rng.normal(size=labels.size) + labels

    assert pauc(labels, scores) == pytest.approx(
        roc_auc_score(labels, scores, max_fpr=0.1), abs=1e-12
    )


@pytest.mark.parametrize("anomaly", [False, True])
def test_no_area_of_one_label(anomaly: bool) -> None:
    """Without clips of both labels there is no AUC and no pAUC."""
    labels, scores = np.array([anomaly, anomaly]), np.array([1.0, 2.0])

    assert auc(labels, scores) is None
    assert pauc(labels, scores) is None


def test_all_scores_equal_is_chance() -> None:
    """A detector that says the same of everything has AUC and pAUC 0.5."""
    labels, scores = np.array([False, True, True]), np.ones(3)

    assert auc(labels, scores) == pytest.approx(0.5)
    assert pauc(labels, scores) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    """A score that is not finite is refused in one line that says where it stands."""
    with pytest.raises(TrainingError, match=rf"^scores: .* got {bad} at position 1; .*$"):
        auc(np.array([False, True]), np.array([1.0, bad]))
    with pytest.raises(TrainingError, match=rf"^section_00.*wav: .* got {bad} at position 2; .*$"):
        clip("normal", 1.0, 2.0, bad)


def test_clip_that_cannot_be_judged_is_refused() -> None:
    """A clip without a window, or without a label, is none to evaluate."""
    with pytest.raises(TrainingError, match="one number for each window"):
        clip("normal")
    with pytest.raises(DataError, match="labelled normal or anomaly"):
        clip(None, 1.0)


def test_harmonic_mean_of_published_figures() -> None:
    """The 2021 baseline's published means follow from its table for the fan."""
    aucs = (0.6738, 0.6786, 0.6542, 0.6955, 0.4953, 0.6441)
    paucs = (0.5732, 0.5053, 0.5326, 0.5484, 0.4832, 0.5595)

    assert harmonic_mean(aucs) == pytest.approx(0.6319, abs=5e-5)
    assert harmonic_mean(paucs) == pytest.approx(0.5318, abs=5e-5)
    # Not printed there: 0.5775 from the two rounded means, 0.57756 from the twelve numbers.
    assert harmonic_mean((0.6319, 0.5318)) == pytest.approx(0.5775, abs=5e-5)
    assert harmonic_mean((*aucs, *paucs)) == pytest.approx(0.5775, abs=1e-4)
    # The rule of 2022: AUC source, AUC target, pAUC.
    assert harmonic_mean((0.785, 0.506, 0.574)) == pytest.approx(0.601, abs=5e-4)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [((0.5, 0.0), 0.0), ((), None), ((0.5, None), None), ((0.5,), 0.5), ((1.0, 0.5), 2 / 3)],
)
def test_harmonic_mean_of_few(values: tuple[float | None, ...], wanted: float | None) -> None:
    """One zero makes it zero, one missing number leaves none."""
    assert harmonic_mean(values) == pytest.approx(wanted)


def test_rule_of_2021_by_hand() -> None:
    """Each section and domain by itself, and harmonic means over them."""
    found = evaluate_scores(HAND_MADE, how="mean")

    cells = found.by_section_and_domain
    assert cells["00"]["source"].auc == 1
    assert cells["00"]["source"].pauc == pytest.approx(1)
    assert cells["00"]["target"].auc == 0.75
    assert cells["00"]["target"].pauc == pytest.approx(14 / 19)
    assert cells["01"]["source"].auc == 0.5
    assert cells["01"]["source"].pauc == pytest.approx(9 / 19)
    assert cells["01"]["target"].auc == 0.625
    assert cells["01"]["target"].pauc == pytest.approx(0.5)
    assert found.by_domain["source"].auc == pytest.approx(2 / (1 / 1 + 1 / 0.5))
    assert found.by_domain["target"].pauc == pytest.approx(2 / (19 / 14 + 1 / 0.5))
    assert found.by_section["01"].auc == pytest.approx(2 / (1 / 0.5 + 1 / 0.625))
    assert found.by_section["01"].official == pytest.approx(
        4 / (1 / 0.5 + 1 / 0.625 + 19 / 9 + 1 / 0.5)
    )
    assert found.overall.auc == pytest.approx(4 / (1 + 1 / 0.75 + 1 / 0.5 + 1 / 0.625))
    assert found.overall.official == pytest.approx(
        8 / (1 + 1 + 1 / 0.75 + 19 / 14 + 1 / 0.5 + 19 / 9 + 1 / 0.625 + 1 / 0.5)
    )
    assert (found.rule, found.official) == ("2021", found.overall.official)
    assert (found.overall.normal_clips, found.by_section["00"].anomaly_clips) == (8, 4)
    assert found.left_out == ()


def test_rule_of_2022_by_hand() -> None:
    """Normals of a domain against the anomalies of both; pAUC over the whole section."""
    found = evaluate_scores(HAND_MADE, how="mean", rule="2022")

    # Section 00, anomalies 3 4 4 6. Against 1 2: all above. Against 3 5: 1/2 + 1 + 1 + 2 of 8.
    first = found.by_section_2022["00"]
    assert (first.auc_source, first.auc_target) == pytest.approx((1, 4.5 / 8))
    # Its curve is at 1/4 from 0 on: (1 + (0.025 - 0.005) / 0.095) / 2.
    assert first.pauc == pytest.approx(23 / 38)
    # Section 01, anomalies 2 3 3 3. Against 2 4: 1/2 + 3 of 8. Against 1 3: 1 + 3 * 1.5 of 8.
    second = found.by_section_2022["01"]
    assert (second.auc_source, second.auc_target) == pytest.approx((3.5 / 8, 5.5 / 8))
    assert second.pauc == pytest.approx(9 / 19)
    assert found.overall_2022.auc_target == pytest.approx(2 / (8 / 4.5 + 8 / 5.5))
    assert found.overall_2022.official == pytest.approx(
        6 / (1 + 8 / 4.5 + 38 / 23 + 8 / 3.5 + 8 / 5.5 + 19 / 9)
    )
    assert (found.rule, found.official) == ("2022", found.overall_2022.official)


def test_pooled_figures_ignore_sections_and_domains() -> None:
    """All clips together are judged as if they were one section and domain."""
    found = evaluate_scores(HAND_MADE, how="mean")

    labels = [member.is_anomaly for member in HAND_MADE]
    scores = [member.statistics[0] for member in HAND_MADE]
    assert found.pooled.auc == pytest.approx(roc_auc_score(labels, scores))
    assert found.pooled.pauc == pytest.approx(roc_auc_score(labels, scores, max_fpr=0.1))


def test_order_of_clips_does_not_matter() -> None:
    """The same clips in another order give the same evaluation."""
    shuffled = [HAND_MADE[i] for i in np.random.default_rng(0).permutation(len(HAND_MADE))]

    assert evaluate_scores(shuffled, how="mean") == evaluate_scores(HAND_MADE, how="mean")


def test_domain_with_anomalies_of_the_other_only() -> None:
    """Where a domain has no anomalies of its own, the rule of 2022 is the headline."""
    clips = [*group("00", "source", (1, 2), (3, 4)), *group("00", "target", (2, 5), ())]

    found = evaluate_scores(clips, how="mean")

    assert found.rule == "2022"
    # Against 2 5: both above 2, none above 5.
    assert found.overall_2022.auc_target == 0.5
    assert found.official == found.overall_2022.official
    assert found.left_out == ("00 target",)
    assert found.left_out_2022 == ()
    assert found.overall.auc == 1
    target = found.by_domain["target"]
    assert (target.auc, target.official, target.normal_clips) == (None, None, 2)


def test_domain_without_normals_is_left_out_and_named() -> None:
    """What lacks a label is in no mean, and the others' mean does not move."""
    clips = [
        *group("00", "source", (1, 2), (3, 4)),
        *group("01", "source", (2, 4), (3, 3)),
        *group("01", "target", (), (9,)),
    ]

    found = evaluate_scores(clips, how="mean")

    assert (found.left_out, found.left_out_2022) == (("01 target",), ("01 target",))
    assert found.overall.official == pytest.approx(4 / (1 + 1 + 1 / 0.5 + 19 / 9))
    assert found.by_section_and_domain["01"]["target"].auc is None
    assert list(found.by_section_and_domain["00"]) == ["source"]


def test_one_domain_has_one_official_score() -> None:
    """With one section and one domain both rules are the harmonic mean of AUC and pAUC."""
    found = evaluate_scores(group("00", "source", (3, 5), (4, 6)), how="mean")

    assert found.official == pytest.approx(2 / (1 / 0.75 + 19 / 14))
    assert found.overall_2022.official == pytest.approx(found.official)
    assert found.pooled.official == pytest.approx(found.official)
    assert found.overall_2022.auc_target is None
    assert (found.left_out, found.left_out_2022) == ((), ())


@pytest.mark.parametrize("clips", [[], group("00", "source", (1, 2), ())])
def test_nothing_to_tell_apart(clips: list[ScoredClip]) -> None:
    """Without clips, or with normal ones alone, there is no figure, and no error."""
    found = evaluate_scores(clips, how="mean", resamples=np.ones((5, len(clips))))

    assert (found.official, found.official_interval) == (None, None)
    assert (found.overall.auc, found.overall_2022.pauc, found.pooled.auc) == (None, None, None)
    assert found.overall.normal_clips == len(clips)


def test_how_decides_the_clip_score() -> None:
    """One loud window sets a clip apart by its largest, and not by its mean."""
    clips = [clip("normal", 2.0, 2.0, 2.0), clip("anomaly", 0.0, 0.0, 5.0)]

    assert evaluate_scores(clips, how="mean").overall.auc == 0
    assert evaluate_scores(clips, how="max").overall.auc == 1


def test_intervals_come_from_the_resamples() -> None:
    """The interval is the middle 95 % of the resamples' figures; without them there is none."""
    resamples = np.random.default_rng(0).integers(1, 5, (200, len(HAND_MADE))).astype(float)

    found = evaluate_scores(HAND_MADE, how="mean", resamples=resamples)
    values = resampled_figure(HAND_MADE, "official", how="mean", resamples=resamples)

    assert values is not None
    assert values.shape == (201,)
    assert values[0] == pytest.approx(found.official)
    assert found.official_interval == percentile_interval(values[1:])
    assert found.official_interval[0] < found.official_interval[1]
    assert found.overall_2022.official_interval not in (None, found.official_interval)
    assert evaluate_scores(HAND_MADE, how="mean").official_interval is None


def test_one_clip_of_a_label_has_no_interval() -> None:
    """A figure that rests on a single anomaly shows no interval: no resample would vary it."""
    found = evaluate_scores(
        group("00", "source", (1, 2, 4), (3,)), how="mean", resamples=np.ones((10, 4))
    )

    assert found.overall.auc == pytest.approx(2 / 3)
    assert found.overall.auc_interval is None


@pytest.mark.parametrize("rule", ["2021", "2022"])
@pytest.mark.parametrize("figure", ["auc", "pauc"])
def test_resampled_areas_of_both_rules(rule: str, figure: str) -> None:
    """Overall AUC and pAUC are harmonic means of those that the rule counts."""
    values = resampled_figure(
        HAND_MADE,
        figure,  # type: ignore[arg-type]  # literals as text
        how="mean",
        rule=rule,  # type: ignore[arg-type]
        resamples=np.ones((2, len(HAND_MADE))),
    )

    wanted = {
        ("2021", "auc"): 4 / (1 + 1 / 0.75 + 1 / 0.5 + 1 / 0.625),
        ("2021", "pauc"): 4 / (1 + 19 / 14 + 19 / 9 + 1 / 0.5),
        ("2022", "auc"): 4 / (1 + 8 / 4.5 + 8 / 3.5 + 8 / 5.5),
        ("2022", "pauc"): 2 / (38 / 23 + 19 / 9),
    }[rule, figure]
    assert values == pytest.approx([wanted] * 3)


def test_evaluation_is_ready_for_json() -> None:
    """An evaluation is written as JSON, sections and domains as keys."""
    found = evaluate_scores(HAND_MADE, how="mean", resamples=np.ones((2, len(HAND_MADE))))

    document = json.loads(msgspec.json.encode(found))

    assert document["by_section_and_domain"]["00"]["target"]["auc"] == 0.75
    assert len(document["official_interval"]) == 2


def test_decision_by_hand() -> None:
    """Rates, F1, and shares of a set small enough to count on fingers."""
    found = decisions(
        [
            clip("normal", 1.0, 3.0),  # mean 2
            clip("normal", 5.0, 7.0),  # mean 6: flagged
            clip("anomaly", 4.0, 4.0),  # mean 4: missed
            clip("anomaly", 8.0, 8.0, domain="target"),  # mean 8: flagged
        ],
        threshold=5.5,
        how="mean",
    )

    overall = found["overall"]
    assert (overall.tpr, overall.recall, overall.fpr) == (0.5, 0.5, 0.5)
    assert (overall.precision, overall.f1, overall.balanced_accuracy) == (0.5, 0.5, 0.5)
    assert overall.mcc == 0
    assert overall.flag_all_f1 == pytest.approx(2 / 3)
    assert (overall.normal_windows_flagged, overall.anomaly_windows_flagged) == (0.25, 0.5)
    assert list(found) == ["overall", "source", "target"]
    assert found["source"].tpr == 0
    assert (found["target"].tpr, found["target"].fpr, found["target"].f1) == (1, None, None)


@given(labels_and_scores(), st.integers(-13, 13))
def test_decisions_are_those_of_scikit_learn(
    case: tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]], level: int
) -> None:
    """Precision, F1, Matthews correlation and balanced accuracy are scikit-learn's."""
    labels, scores = case
    clips = [
        clip("anomaly" if label else "normal", score)
        for label, score in zip(labels, scores, strict=True)
    ]

    found = decisions(clips, threshold=level / 7, how="max")["overall"]

    flagged = scores > level / 7
    assert found.precision == pytest.approx(precision_score(labels, flagged, zero_division=0))
    assert found.f1 == pytest.approx(f1_score(labels, flagged, zero_division=0))
    assert found.mcc == pytest.approx(matthews_corrcoef(labels, flagged))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, flagged))
    assert found.flag_all_f1 == pytest.approx(f1_score(labels, np.ones_like(labels)))


def test_threshold_itself_is_not_flagged() -> None:
    """A clip at the threshold is normal, as on a node."""
    found = decisions([clip("normal", 2.0), clip("anomaly", 2.0)], threshold=2.0, how="mean")

    assert (found["overall"].fpr, found["overall"].tpr) == (0, 0)


def test_no_f1_of_one_label() -> None:
    """Without anomalies there is no F1 of any kind, but a share of false alarms."""
    found = decisions([clip("normal", 1.0, 3.0)], threshold=2.5, how="max")["overall"]

    assert (found.f1, found.flag_all_f1, found.precision, found.mcc) == (None,) * 4
    assert (found.fpr, found.normal_windows_flagged) == (1, 0.5)
    assert found.anomaly_windows_flagged is None
    assert flag_all_f1(normal_clips=0, anomaly_clips=3) is None


def test_vote_by_hand() -> None:
    """Three of five flags raise the node's alarm, two do not, and the next clip starts anew."""
    above, below = 2.0, 0.0
    found = votes(
        [
            # Alarm from the third window on: 2 of 4.
            clip("anomaly", above, below, above, above),
            # Two flags each; together they would be four of five.
            clip("normal", below, above, above),
            clip("normal", above, above, below),
        ],
        threshold=1.0,
    )["overall"]

    assert (found.normal_windows_alarmed, found.normal_clips_alarmed) == (0, 0)
    assert (found.anomaly_windows_alarmed, found.anomaly_clips_alarmed) == (0.25, 1)


def test_vote_of_one_label() -> None:
    """Where no clip has a label there is no share of it."""
    found = votes([clip("normal", 2.0, 2.0, 2.0, 2.0)], threshold=1.0)

    assert found["source"].normal_windows_alarmed == 0.5
    assert found["source"].anomaly_clips_alarmed is None


def test_rescored_clips_keep_their_labels() -> None:
    """Another detector's scores take the place of the windows' statistics."""
    found = rescored(HAND_MADE, np.arange(float(len(HAND_MADE))))

    assert [member.clip for member in found] == [member.clip for member in HAND_MADE]
    assert found[3].statistics.tolist() == [3.0]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        rescored(HAND_MADE, np.zeros(1))
