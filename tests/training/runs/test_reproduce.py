"""What `reproduce` refuses before it trains."""

from pathlib import Path

import pytest

from tests.training.conftest import RunTraining


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
