"""Quantiles of Student's t distribution, which the standard library lacks and a node needs.

The distribution function comes from the regularised incomplete beta function by its continued
fraction (Abramowitz and Stegun 26.7.1 and 26.5.8, evaluated by Lentz's method), its inverse by
bisection. SciPy would bring 40 MB for this one function.
"""

import math

_TINY = 1e-300
_LARGEST_T = 1e12


def upper_quantile(tail: float, degrees: int) -> float:
    """The t that is exceeded with probability `tail`.

    Args:
        tail: above 0 and at most 0.5.
        degrees: of freedom, at least 1.

    Raises:
        ValueError: the arguments are outside these ranges.

    Example:
        >>> round(upper_quantile(0.025, 59), 4)
        2.001
    """
    if not (0.0 < tail <= 0.5 and degrees >= 1):
        raise ValueError(f"Expected a tail in (0, 0.5] and degrees >= 1, got {tail}, {degrees}")
    low, high = 0.0, 1.0
    while _upper_tail(high, degrees) > tail and high < _LARGEST_T:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _upper_tail(middle, degrees) > tail:
            low = middle
        else:
            high = middle
    return high


def _upper_tail(t: float, degrees: int) -> float:
    """P(T > t) for t >= 0: half of the incomplete beta function at n / (n + t^2)."""
    return 0.5 * _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges quickly on this side; the other side is its mirror image.
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _beta_fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / _not_zero(1.0 + numerator * d)
            c = _not_zero(1.0 + numerator / c)
            step = c * d
            fraction *= step
        if abs(step - 1.0) < 1e-15:
            break
    return fraction


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
