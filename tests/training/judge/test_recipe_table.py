"""Tables of recipes beside what others have published."""

import pytest

from training.judge.recipe_table import published_figures


def test_published_figures_of_the_fan() -> None:
    """The official baselines of 2021 are there with their sources; a year without any is empty."""
    found = {baseline.name: baseline for baseline in published_figures(2021, "fan")}

    assert set(found) == {"autoencoder", "MobileNetV2"}
    assert found["autoencoder"].official == pytest.approx(2 / (1 / 0.6319 + 1 / 0.5318), abs=1e-3)
    assert all("github.com" in baseline.source for baseline in found.values())
    assert published_figures(2021, "teapot") == ()
