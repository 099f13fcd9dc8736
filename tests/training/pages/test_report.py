"""The page that a training leaves beside its release."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.features import Float32Array
from node.scoring.release_store import read_release
from node.scoring.runtime import find_runtime
from tests.rig.fake_inference import FEATURES, RUNTIME, FakeModel, release_of
from training.detector.autoencoders import Epoch
from training.detector.outcome import Outcome, SeedFigures, Seeds
from training.judge.disturbances import Disturbance
from training.judge.evaluate import EvaluationInput, judge
from training.judge.evaluation_report import EvaluationReport, detector_figures
from training.judge.intervals import draw_resamples, mean_and_spread
from training.judge.metrics import ScoredClip, rescored
from training.judge.scoring import stacked
from training.judge.thresholds import Fold, leave_one_session_out
from training.judge.yardstick_figures import Yardsticks
from training.pages.report import report_html
from training.pages.results import Environment
from training.pages.shown_windows import ShownWindow, extreme_windows
from training.recipes import read_recipe
from training.sound.dataset import Clip, Dataset, Domain, Label, Split
from training.sound.feature_cache import ClipFeatures

RELEASE = Path(__file__).parents[3] / "models" / "fan-synthetic"
SEED = 42
VOID = {"meta"}
ENVIRONMENT = Environment(
    platform="Debian GNU/Linux 12 (bookworm), aarch64",
    device="Raspberry Pi 4 Model B Rev 1.4",
    git_hash="0123456789ab",
    versions={"earshot": "0.1.0", "Python": "3.11.2"},
)


def hear(
    label: Label,
    *,
    domain: Domain = "source",
    split: Split = "test",
    index: int = 0,
    machine: str = "fan",
) -> ClipFeatures:
    """A clip of two windows; an anomaly differs more from the others."""
    rng = np.random.default_rng([index, label == "anomaly", domain == "target", split == "test"])
    shape = (2, *read_release(RELEASE).manifest.features.shape)
    loudness = 40.0 if label == "anomaly" else 30.0
    return ClipFeatures(
        Clip(
            path=Path(
                "data", machine, split, f"section_00_{domain}_{split}_{label}_{index:04d}.wav"
            ),
            section="00",
            domain=domain,
            split=split,
            label=label,
            session=f"00/{domain}/day-{index % 2}" if split == "train" else None,
        ),
        rng.normal(0, loudness + index, shape).astype(np.float32),
        np.array([-20.0, -21.0]),
        0,
    )


def recordings(machine: str, domains: Sequence[Domain]) -> list[ClipFeatures]:
    """Six clips of each label and domain to test with."""
    return [
        hear(label, domain=domain, index=index, machine=machine)
        for domain in domains
        for label in ("normal", "anomaly")
        for index in range(6)
    ]


def dataset_of(machine: str, domains: Sequence[Domain]) -> Dataset:
    """The clips as a data set on disk would name them."""
    return Dataset(
        machine=machine,
        folder=Path("data", machine),
        layout="DCASE 2021",
        train=tuple(hear("normal", split="train", index=index).clip for index in range(4)),
        test=tuple(clip.clip for clip in recordings(machine, domains)),
        unlabelled=(),
    )


def beside(clips: Iterable[ClipFeatures]) -> Yardsticks:
    """Two yardsticks: random numbers, and all alike."""
    scored = [ScoredClip(clip.clip, np.array([1.0]), -20.0) for clip in clips]
    resamples = draw_resamples([clip.clip for clip in scored], seed=0)
    scores = {
        "random": np.random.default_rng(1).random(len(scored)),
        "knn": np.ones(len(scored)),
    }
    lines = {
        name: detector_figures(rescored(scored, found), "mean", resamples, f"remark of {name}")
        for name, found in scores.items()
    }
    return Yardsticks(lines, {name: tuple(found.tolist()) for name, found in scores.items()})


@cache
def judged(
    machine: str = "fan", domains: tuple[Domain, ...] = ("source", "target")
) -> EvaluationReport:
    """What the evaluation says of the default model, without tflite-runtime."""
    test = recordings(machine, domains)
    return judge(
        EvaluationInput(
            folder=RELEASE,
            data="data",
            dataset=dataset_of(machine, domains),
            test=test,
            yardsticks=beside(test),
            warnings=(),
            held_out=[],
            unheard_sessions=None,
            recipe="reference",
            clip_score="mean",
            windows="all",
            command="earshot training train --data fan",
            tflite_python=None,
        )
    )


def outcome_of(report: EvaluationReport | None) -> Outcome:
    """A training of two networks, two seeds and two sessions left out."""
    rng = np.random.default_rng(0)
    seeds = None
    if report is not None:
        figures = report.clip_scores["mean"]
        scores = tuple(row.score for row in report.clips)
        each = [SeedFigures(seed=seed, figures=figures, scores=scores) for seed in (SEED, 43)]
        seeds = Seeds(
            auc=mean_and_spread([0.75, 0.85]),
            pauc=mean_and_spread([0.6, 0.7]),
            official=mean_and_spread([0.7, 0.8]),
            each=tuple(each),
        )
    return Outcome(
        manifest=read_release(RELEASE).manifest,
        recipe=read_recipe("duo"),
        train_files=4,
        train_windows=8,
        held_out_files=1,
        held_out={"section_00_source_train_normal_0003.wav": [0.01, 2.0, 300.0]},
        sessions=("00/source/day-0", "00/source/day-1"),
        session_check=leave_one_session_out(
            [
                Fold(
                    session=f"00/source/day-{day}",
                    others=rng.uniform(1, 2, 50),
                    left_out=rng.uniform(1.5, 3, 40),
                )
                for day in (0, 1)
            ],
            false_alarm_rate=0.05,
        ),
        trained_on=("0123456789abcdef",) * 5,
        losses={
            "conv": (Epoch(1, 0.9, 0.8), Epoch(2, 0.4, 0.5)),
            "profile": (Epoch(1, 30.0, 20.0), Epoch(2, 0.04, 0.05)),
        },
        seeds=seeds,
        report=report,
        seconds={"features": 1.25, "training": 30.0},
    )


def window(residual: Float32Array, *, name: str = "a.wav", statistic: float = 1.0) -> ShownWindow:
    """A window with what the only model left over of it."""
    heard = hear("normal")
    return ShownWindow(
        clip=msgspec.structs.replace(heard.clip, path=Path(name)),
        number=1,
        statistic=statistic,
        features=heard.features[0],
        residuals=(residual,),
    )


def page(
    outcome: Outcome,
    *,
    dataset: Dataset | None = None,
    windows: Sequence[ShownWindow] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page of an outcome."""
    return report_html(
        outcome,
        dataset_of("fan", ("source", "target")) if dataset is None else dataset,
        windows=windows,
        notes=notes,
        environment=ENVIRONMENT,
    )


class Elements(HTMLParser):
    """Collects the elements, text and attributes, and what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def names(self) -> set[str]:
        """Kinds of elements."""
        return {name for name, _ in self.found}

    @property
    def words(self) -> str:
        """All text, in one line."""
        return " ".join(" ".join(self.text).split())


def hrefs(attributes: dict[str, str | None]) -> list[str]:
    """What an element refers to."""
    return [attributes[name] or "" for name in ("href", "xlink:href") if name in attributes]


WITHOUT_TEST = pytest.param(None, id="without-test-clips")
ALL_OUTCOMES = [
    pytest.param(("source", "target"), id="two-domains"),
    pytest.param(("source",), id="one-domain"),
    WITHOUT_TEST,
]


@pytest.mark.parametrize("domains", ALL_OUTCOMES)
def test_page_is_whole_and_needs_nothing_else(domains: tuple[Domain, ...] | None) -> None:
    """Every element is closed in order, and no script, address or other file is asked for."""
    report = None if domains is None else judged("fan", domains)
    shape = read_release(RELEASE).manifest.features.shape
    shown = [window(np.ones(shape, np.float32)), window(np.ones(shape, np.float32))]

    text = page(outcome_of(report), windows=shown)
    elements = Elements(text)

    assert not elements.open
    assert not elements.wrong
    assert not {"script", "link", "iframe", "object"} & elements.names
    assert not re.search(r"https?:|\bsrc=|url\((?!#)|@import|\bon\w+=", text)
    addresses = [address for _, of in elements.found for address in hrefs(of)]
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    names = [of["id"] for _, of in elements.found if "id" in of]
    assert len(names) == len(set(names))
    assert len(text) < 1_500_000


def test_same_outcome_gives_the_same_bytes() -> None:
    """Neither time nor chance enters the page."""
    outcome = outcome_of(judged())

    assert page(outcome) == page(outcome)


def test_figures_stand_beside_every_yardstick() -> None:
    """Each yardstick has its official score, its interval and its AUC, as the release has."""
    report = judged()

    words = Elements(page(outcome_of(report))).words

    for found in (report.clip_scores["mean"], *report.yardsticks.values()):
        assert found.official is not None
        assert found.official_interval is not None
        assert found.auc is not None
        low, high = found.official_interval
        assert f"{found.official:.3f} [{low:.3f}, {high:.3f}] {found.auc:.3f}" in words
    assert "remark of knn" in words
    decision = report.thresholds["release"].overall
    assert f"flagging every recording gives {decision.flag_all_f1:.3f}" in words


def test_every_table_with_f1_has_that_of_flagging_everything() -> None:
    """No F1 stands alone."""
    heads = re.findall(r"<thead>(.*?)</thead>", page(outcome_of(judged())))

    with_f1 = [head for head in heads if ">F1<" in head]
    assert with_f1
    assert all(">flag-all F1<" in head for head in with_f1)


def test_verdict_says_when_the_network_earns_nothing() -> None:
    """A yardstick that is as good as the network is named in the first lines."""
    report = judged()
    perfect = msgspec.structs.replace(report.yardsticks["knn"], official=1.0)
    beaten = msgspec.structs.replace(report, yardsticks={"knn": perfect})

    words = Elements(page(outcome_of(beaten))).words

    assert "as good or better: nearest neighbour (1.000" in words
    assert "On these recordings the network earns nothing." in words


@pytest.mark.parametrize(
    ("official", "interval", "expected"),
    [
        (0.99, (0.98, 1.0), "almost without a mistake"),
        (0.92, (0.9, 0.95), "tell most faults from normal sound"),
        (0.8, (0.7, 0.9), "with many mistakes"),
        (0.6, (0.55, 0.7), "only a little better than chance"),
        (0.8, (0.4, 0.9), "have not been shown to tell faults from normal sound"),
        (0.45, (0.4, 0.48), "have not been shown to tell faults from normal sound"),
    ],
)
def test_verdict_follows_the_score_and_its_interval(
    official: float, interval: tuple[float, float], expected: str
) -> None:
    """A good score whose interval holds chance is not called good."""
    report = msgspec.structs.replace(judged(), official=official, official_interval=interval)

    verdict = re.search(r'<p class="verdict">(.*?)</p>', page(outcome_of(report)))

    assert verdict
    assert expected in verdict[1]


def test_false_alarms_are_told_in_the_verdict() -> None:
    """A release that flags most normal recordings is not recommended, however good its AUC."""
    report = judged()
    release = report.thresholds["release"]
    loud = msgspec.structs.replace(
        release,
        overall=msgspec.structs.replace(release.overall, fpr=0.75, tpr=1.0),
        false_alarm_rate=0.01,
    )
    crying = msgspec.structs.replace(
        report,
        official=0.99,
        official_interval=(0.98, 1.0),
        thresholds={**report.thresholds, "release": loud},
    )

    words = Elements(page(outcome_of(crying))).words

    assert "but at its threshold it flags 12 of 12 anomalous and 9 of 12 normal recordings" in words
    assert "It flags 75 % of the normal test recordings instead of the 1 % asked for" in words


def test_without_test_clips_nothing_is_said_of_faults() -> None:
    """The page says that nothing is known, and shows no figure that would need faults."""
    words = Elements(page(outcome_of(None))).words

    assert "Nothing is known of how well it finds faults" in words
    assert "AUC" not in words
    assert "Scores of the test recordings" not in words
    assert "Sessions left out of the training in turn" in words
    assert "Windows of the held-out recordings" in words


def test_notes_and_warnings_are_shown_once() -> None:
    """What the training warned of stands on the page; a warning that is a note as well, once."""
    report = judged()
    warning = report.warnings[0]

    words = Elements(page(outcome_of(report), notes=["2 sessions are few", warning])).words

    assert "2 sessions are few" in words
    assert words.count(warning[1:]) == 1


def test_names_from_outside_are_escaped() -> None:
    """A folder, a file and a reason cannot put elements into the page."""
    evil = "<script>alert('\"&')</script>"
    report = msgspec.structs.replace(judged(), left_out=(evil,))
    outcome = msgspec.structs.replace(outcome_of(report), sessions=(evil,))
    shape = read_release(RELEASE).manifest.features.shape

    elements = Elements(
        page(
            outcome,
            dataset=dataset_of(evil, ("source",)),
            windows=[window(np.zeros(shape, np.float32), name=f"{evil}.wav")],
            notes=[f"listen to {evil}"],
        )
    )

    assert "script" not in elements.names
    assert not elements.wrong
    assert elements.words.count(evil) >= 4


def test_skipped_library_is_named_with_its_reason() -> None:
    """Where tflite-runtime was not there, the page says so, and gives no latency for it."""
    words = Elements(page(outcome_of(judged()))).words

    assert "tflite-runtime: skipped" in words
    assert "no virtual environment that has it" in words


def test_threshold_lies_where_the_axis_says() -> None:
    """A threshold above all scores has no bar to its right: the axis is wide enough for both."""
    report = judged()
    release = msgspec.structs.replace(report.thresholds["release"], value=1e6)
    quiet = msgspec.structs.replace(report, thresholds={**report.thresholds, "release": release})

    text = page(outcome_of(quiet))
    plot = re.search(r"<svg[^>]*aria-label=\"source: .*?</svg>", text)

    assert plot
    assert "0 of 6 normal above the threshold" in plot[0]
    limit = re.search(r'<g class="limit"><path d="M ([0-9.]+)', plot[0])
    bars = re.findall(r'<g class="bars-[a-z]+"><path d="M [0-9.]+ [0-9.]+ L ([0-9.]+)', plot[0])
    assert limit
    assert bars
    assert max(map(float, bars)) <= float(limit[1])


def test_room_noise_is_told_where_it_was_tried() -> None:
    """Each kind and ratio has its shares, the clean sound first; without any there is no word."""
    clean = Disturbance(
        kind="none",
        ratio_db=None,
        windows=40,
        windows_flagged=0.01,
        clips=8,
        clips_flagged=0.125,
        clips_alarmed=0.0,
    )
    dog = msgspec.structs.replace(
        clean, kind="dog", ratio_db=10.0, windows_flagged=0.5, clips=24, clips_alarmed=0.25
    )
    disturbed = msgspec.structs.replace(judged(), room_noise=(clean, dog))

    words = Elements(page(outcome_of(disturbed))).words

    assert "none - 8 1 % 12 % 0 % dog 10 24 50 % 12 % 25 %" in words
    assert "Room noise" not in Elements(page(outcome_of(judged()))).words


def test_every_threshold_is_named_in_words() -> None:
    """No key of the evaluation stands on the page, and the release's says where it is from."""
    report = judged()
    release = report.thresholds["release"]
    keys = ("held_out", "conformal_0.10", "percentile_95", "gamma_90", "sessions_left_out")
    chosen = msgspec.structs.replace(release, method="sessions_left_out")
    told = msgspec.structs.replace(
        report, thresholds={"release": chosen, **dict.fromkeys(keys, release)}
    )

    words = Elements(page(outcome_of(told))).words

    assert "the release's, from sessions left out" in words
    assert not [key for key in keys if key in words]


def test_groups_of_sessions_are_called_groups() -> None:
    """With more sessions than trainings without some of them, nothing is said of each session."""
    outcome = msgspec.structs.replace(outcome_of(None), sessions=("a", "b", "c"))

    words = Elements(page(outcome)).words

    assert "With each of 2 groups of sessions of normal sound left out" in words
    assert "With each session" in Elements(page(outcome_of(None))).words


def test_threshold_from_sessions_left_out_is_told_as_such() -> None:
    """The release's threshold is not compared with itself."""
    outcome = outcome_of(None)
    assert outcome.session_check
    found = outcome.session_check.threshold
    threshold = msgspec.structs.replace(
        outcome.manifest.threshold,
        method="sessions_left_out",
        value=found.value,
        false_alarm_rate=found.false_alarm_rate,
        calibration_windows=found.count,
    )
    manifest = msgspec.structs.replace(outcome.manifest, threshold=threshold)

    words = Elements(page(msgspec.structs.replace(outcome, manifest=manifest))).words

    assert "Hence the release's threshold: 5 % of all unheard windows cross it." in words
    assert "The release's threshold is chosen from all these 80 windows." in words
    assert "the threshold would be" not in words

    held_out = msgspec.structs.replace(threshold, method="held_out")
    manifest = msgspec.structs.replace(outcome.manifest, threshold=held_out)
    words = Elements(page(msgspec.structs.replace(outcome, manifest=manifest))).words
    assert "the threshold would be" in words


def test_least_that_a_training_leaves_makes_a_page() -> None:
    """One seed, no variants, no sessions, no epochs and one window leave no empty section."""
    report = msgspec.structs.replace(
        judged(), variants={}, room_noise=(), false_alarms=None, delays=None
    )
    whole = outcome_of(report)
    assert whole.seeds
    one = mean_and_spread([0.75])
    outcome = msgspec.structs.replace(
        whole,
        sessions=(),
        session_check=None,
        held_out={},
        losses={},
        seeds=Seeds(auc=one, pauc=one, official=one, each=whole.seeds.each[:1]),
    )
    shape = read_release(RELEASE).manifest.features.shape

    elements = Elements(page(outcome, windows=[window(np.ones(shape, np.float32))]))

    assert not elements.wrong
    assert "Trained with one seed only" in elements.words
    assert "the names do not say" in elements.words
    for title in ("Variants", "left out of the training", "How the training went", "Operators"):
        assert title not in elements.words


def test_windows_show_what_a_model_leaves_over() -> None:
    """A reconstruction is shown beside features and residual, for both windows."""
    outcome = outcome_of(judged())
    shape = outcome.manifest.features.shape
    (model,) = outcome.manifest.models
    picture = msgspec.structs.replace(model, output="reconstruction", output_shape=(1, *shape))
    manifest = msgspec.structs.replace(outcome.manifest, models=(picture,))
    shown = [window(np.full(shape, size, np.float32), name=f"{size}.wav") for size in (1, 9)]

    text = page(msgspec.structs.replace(outcome, manifest=manifest), windows=shown)

    assert text.count("<image ") == 6
    for what in ("features", "reconstruction by", "residual of"):
        assert len(re.findall(f"<title>{what}", text)) == 2
    assert "1.wav, window 1 (normal, source)" in text


def test_residual_without_time_is_a_line() -> None:
    """What a model leaves over of an averaged spectrum is drawn as numbers, not as a picture."""
    outcome = outcome_of(judged())
    (model,) = outcome.manifest.models
    assert (model.output, model.output_shape) == ("residual", (1, 40))
    shown = [window(np.arange(40, dtype=np.float32) * size) for size in (0.1, 1.0)]

    text = page(outcome, windows=shown)

    assert text.count("<image ") == 2
    assert "largest of the least and the most anomalous window: 3.9, 39" in text


def test_extreme_windows_are_those_of_the_node() -> None:
    """The windows with the smallest and the largest statistic are found, with their residuals."""
    release, runtime = read_release(RELEASE), find_runtime()
    clips = recordings("fan", ("source",))

    least, most = extreme_windows(release, runtime, clips)

    everything = extreme_windows(release, runtime, clips[:1])
    assert least.statistic < most.statistic
    assert least.statistic <= everything[0].statistic <= most.statistic
    assert most.clip.label == "anomaly"
    assert np.abs(most.features).max() in np.abs(stacked(clips)).max(axis=(1, 2))
    (model,) = release.manifest.models
    assert most.residuals[0].shape == model.output_shape[1:]
    mse = float(np.mean(np.square(most.residuals[0])))
    assert mse == pytest.approx(most.statistic, rel=1e-4)


def test_extreme_windows_of_a_reconstruction_have_the_features_shape() -> None:
    """What is left over of them is the difference of features and reconstruction."""
    answer = np.arange(np.prod(FEATURES.shape), dtype=np.float32).reshape(FEATURES.shape)
    heard = hear("normal")
    features = np.stack([answer + 1, answer - 3, answer + 2])
    clip = ClipFeatures(heard.clip, features, np.full(3, -20.0), 0)

    release = release_of(FakeModel({"answer": answer.tolist()}))

    least, most = extreme_windows(release, RUNTIME, [clip])

    assert (least.statistic, most.statistic) == (1.0, 9.0)
    np.testing.assert_array_equal(most.features, answer - 3)
    for shown, difference in ((least, 1), (most, -3)):
        (residual,) = shown.residuals
        np.testing.assert_array_equal(residual, np.full(FEATURES.shape, difference, np.float32))


def test_only_window_is_shown_once() -> None:
    """A single window is both the least and the most anomalous."""
    heard = hear("normal")
    single = ClipFeatures(heard.clip, heard.features[:1], heard.level_dbfs[:1], 0)

    shown = extreme_windows(read_release(RELEASE), find_runtime(), [single])

    assert len(shown) == 1
