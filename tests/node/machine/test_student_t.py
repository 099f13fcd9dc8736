"""Student's t, beside SciPy's."""

import pytest
from scipy.stats import t

from node.machine.student_t import upper_quantile


@pytest.mark.parametrize("degrees", [1, 2, 5, 11, 59, 239, 10_000])
@pytest.mark.parametrize("tail", [0.3, 0.01, 1 / 10_080, 1e-6, 1e-9])
def test_quantile_is_that_of_scipy(tail: float, degrees: int) -> None:
    """From one degree of freedom to a day of blocks, and far into the tail."""
    assert upper_quantile(tail, degrees) == pytest.approx(t.isf(tail, degrees), rel=1e-9)


def test_half_of_all_is_above_zero() -> None:
    """The distribution is symmetric."""
    assert upper_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("tail", "degrees"), [(0.0, 5), (0.6, 5), (float("nan"), 5), (0.1, 0)])
def test_what_has_no_quantile_is_refused(tail: float, degrees: int) -> None:
    """A tail outside (0, 0.5], or no degree of freedom, is an error."""
    with pytest.raises(ValueError, match="Expected a tail"):
        upper_quantile(tail, degrees)
