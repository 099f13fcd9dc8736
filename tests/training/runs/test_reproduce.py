"""Tables of recipes beside what others have published."""

from pathlib import Path

import pytest

from tests.training.conftest import RunTraining
from training.runs.reproduce import published


def test_published_figures_of_the_fan() -> None:
    """The official baselines of 2021 are there with their sources; a year without any is empty."""
    found = {baseline.name: baseline for baseline in published(2021, "fan")}

    assert set(found) == {"autoencoder", "MobileNetV2"}
    assert found["autoencoder"].official == pytest.approx(2 / (1 / 0.6319 + 1 / 0.5318), abs=1e-3)
    assert all("github.com" in baseline.source for baseline in found.values())
    assert published(2021, "teapot") == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "profile", "--champion", "duo"], "champion out of the recipes that are run"),
        (["--recipes", "nonsense"], "Expected a recipe out of"),
    ],
)
def test_wrong_names_are_refused_before_any_training(
    small_data: Path,
    tmp_path: Path,
    run_training: RunTraining,
    arguments: list[str],
    message: str,
) -> None:
    """A champion that is not run, or a recipe that is not there, is one line."""
    done = run_training(["reproduce", "--data", small_data, "--out", tmp_path / "runs", *arguments])

    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
