"""What training and evaluation print."""

import re

from tests.training.conftest import Run


def rows(run: Run) -> dict[str, str]:
    """Lines of the summary by their first words; the first of those that begin alike."""
    found: dict[str, str] = {}
    for line in run.done.stdout.splitlines():
        first, *rest = re.split(r"\s{2,}", line, maxsplit=1)
        found.setdefault(first, "".join(rest))
    return found


def test_summary_of_a_training(duo_run: Run) -> None:
    """What was trained on what, how large it is, where its threshold comes from."""
    found = rows(duo_run)

    assert found["release"] == f"small-duo@1 in {duo_run.out}"
    assert found["recipe"].startswith("duo: conv and profile together")
    assert found["data"] == "11 files, 22 windows to train on; 3 files, 6 windows held out"
    assert found["models"].startswith("55033 parameters, float16, 0.13 MB; run in ")
    assert found["loss"].endswith("after 2 epochs of conv")
    assert "after 2 epochs of profile" in duo_run.done.stdout
    assert "sound like the held-out files" in found["threshold"]
    assert "over 2 seeds" in found["seeds"]


def test_held_out_windows_are_those_of_the_held_out_files(profile_run: Run) -> None:
    """They are counted by themselves where the threshold comes from sessions left out."""
    found = rows(profile_run)

    assert found["data"].endswith("3 files, 6 windows held out")
    assert "sessions, each judged by models that had not heard it" in found["threshold"]
    assert found["sessions"].startswith("3 heard; the threshold of the others flags ")


def test_figures_stand_beside_their_yardsticks(duo_run: Run) -> None:
    """Ways to score clips, yardsticks, thresholds and variants have a row each."""
    found = rows(duo_run)

    assert {"clip score: mean", "random", "level", "mean_gmm", "twfr_gmm", "knn"} <= set(found)
    assert {"held_out", "percentile_95", "gamma_90", "conformal_0.10"} <= set(found)
    assert {"float16 *", "float32", "dynamic", "int8"} <= set(found)
    assert "flag-all" in duo_run.done.stdout
    columns = r"^rule of 2021 +official +95 % interval +AUC +pAUC +source +target$"
    assert re.search(columns, duo_run.done.stdout, re.MULTILINE)


def test_fits_a_terminal(duo_run: Run) -> None:
    """The columns of figures are at most 80 wide."""
    inside = False
    for line in duo_run.done.stdout.splitlines():
        inside = bool(line) and (inside or "official  95 %" in line)
        if inside:
            assert len(line) <= 80
