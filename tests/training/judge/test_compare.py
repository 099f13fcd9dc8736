"""Two runs, compared by the scores of the same clips."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.training.conftest import Run as Training
from training.errors import DataError
from training.judge.compare import Run, compare, read_run, yardstick_run
from training.judge.evaluation_report import ClipRow
from training.judge.metrics import DcaseRule, evaluate_scores


def make_run(*scores: tuple[float, ...], level_dbfs: float = -20.0, machine: str = "fan") -> Run:
    """A run with these scores for each seed: as many normal clips as anomalies, in two domains."""
    count = len(scores[0])
    clips = tuple(
        ClipRow(
            file=f"test/{index:04d}.wav",
            section="00",
            domain="source" if index % 4 < 2 else "target",
            label="anomaly" if index % 2 else "normal",
            recording=f"test/{index:04d}.wav",
            attributes="",
            score=score,
            level_dbfs=level_dbfs,
        )
        for index, score in enumerate(scores[0])
    )
    assert count % 4 == 0
    return Run(
        name="a",
        data="recordings",
        machine=machine,
        command="",
        recipe=None,
        clips=clips,
        scores=scores,
        yardsticks={"level": tuple(range(count))},
    )


PERFECT = tuple(float(index % 2) for index in range(16))
REVERSED = tuple(-score for score in PERFECT)


def test_better_run_is_ahead() -> None:
    """A run that tells all clips apart is ahead of one that has them the wrong way round by 1."""
    found = compare(make_run(PERFECT), make_run(REVERSED))

    assert found.figures["auc"] == (1.0, 0.0)
    difference = found.differences["auc"]
    assert difference is not None
    assert (difference.point, difference.low, difference.high) == (1.0, 1.0, 1.0)


def test_run_is_the_mean_over_its_seeds() -> None:
    """Two seeds, one right and one wrong throughout, have an AUC of one half."""
    found = compare(make_run(PERFECT, REVERSED), make_run(PERFECT))

    assert found.seeds == (2, 1)
    assert found.figures["auc"] == (0.5, 1.0)


@pytest.mark.parametrize("rule", ["2021", "2022"])
def test_figures_and_their_difference_are_of_one_rule(rule: DcaseRule) -> None:
    """What is shown as ahead by is the difference of the two figures beside it."""
    mixed = tuple(float((index * 7) % 5) for index in range(16))

    found = compare(make_run(PERFECT), make_run(mixed), rule=rule)

    for figure, (first, second) in found.figures.items():
        difference = found.differences[figure]
        assert first is not None
        assert second is not None
        assert difference is not None
        assert difference.point == pytest.approx(first - second)


def test_runs_on_other_machines_are_refused() -> None:
    """File names of two machines are often the same; their clips are not."""
    with pytest.raises(DataError, match="same machine, got fan and pump"):
        compare(make_run(PERFECT), make_run(PERFECT, machine="pump"))


def test_other_recordings_of_the_same_names_are_refused() -> None:
    """A clip that has another level in the other run is not the same recording."""
    with pytest.raises(DataError, match=r"test/0000\.wav has another level"):
        compare(make_run(PERFECT), make_run(PERFECT, level_dbfs=-21.0))


def test_yardstick_is_a_run_of_one_seed() -> None:
    """A yardstick's scores stand in for those of the detector, on the same clips."""
    found = yardstick_run(make_run(PERFECT, REVERSED), "level")

    assert found.scores == (tuple(range(16)),)
    assert found.name == "level"


def test_reads_what_training_wrote(duo_run: Training) -> None:
    """Each seed's scores are there, and give the figures that training gave."""
    run = read_run(duo_run.out)

    written = json.loads((duo_run.out / "metrics.json").read_text())
    assert len(run.scores) == 2
    assert [evaluate_scores(clips, how="mean").official for clips in run.scored] == pytest.approx(
        [seed["figures"]["official"] for seed in written["seeds"]["each"]]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), ("{}", "expected what `training train` writes"), ("x", "expected")],
)
def test_something_else_is_refused_in_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    """A file that no run wrote, or none at all, is named."""
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_text(content)

    with pytest.raises(DataError, match=message) as refused:
        read_run(file)
    assert str(file) in str(refused.value)


def test_clips_of_one_recording_are_drawn_together() -> None:
    """A planted fault and its original count as one: the interval is another."""
    scores = tuple(float((index * 7) % 5 + 2 * (index % 2)) for index in range(16))
    apart = make_run(scores)
    rows = tuple(
        msgspec.structs.replace(row, recording=f"test/{index // 2 * 2:04d}.wav")
        for index, row in enumerate(apart.clips)
    )
    together = msgspec.structs.replace(apart, clips=rows)
    other = tuple(reversed(scores))

    found = [
        compare(run, msgspec.structs.replace(run, scores=(other,))).differences["auc"]
        for run in (apart, together)
    ]

    assert found[0] is not None
    assert found[1] is not None
    assert found[0].point == found[1].point
    assert (found[0].low, found[0].high) != (found[1].low, found[1].high)
