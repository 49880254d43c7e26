"""Distribution functions that the intervals need: Student's t and the binomial, without scipy.

The core of fuselab does not depend on scipy; these few functions are tested against it. The incomplete beta function is
Lentz's continued fraction (Press et al., Numerical Recipes, 3rd edition, section 6.4).
"""

from __future__ import annotations

import functools
import math

__all__ = ["binomial_cdf", "incomplete_beta", "student_cdf", "student_quantile", "student_two_sided"]

_TINY = 1e-300
_MAX_TERMS = 1000


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b), for positive ``a`` and ``b`` and ``x`` in [0, 1].

    Example:
        >>> round(incomplete_beta(2.0, 3.0, 0.5), 6)
        0.6875
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    # The fraction converges fast only left of the mean; on the right the symmetry is used.
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(a, b, x) / a


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _MAX_TERMS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            step = c * d
            value *= step
        if abs(step - 1.0) < 1e-15:
            break
    return value


def student_two_sided(t: float, degrees: float) -> float:
    """Probability that Student's t with ``degrees`` of freedom is further from zero than ``t``.

    Example:
        >>> round(student_two_sided(2.228, 10), 3)
        0.05
    """
    if math.isinf(t):
        return 0.0
    square = t * t
    if square < degrees:  # near zero the other argument would round to one
        return 1.0 - incomplete_beta(0.5, degrees / 2.0, square / (degrees + square))
    return incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + square))


def student_cdf(t: float, degrees: float) -> float:
    """Probability that Student's t with ``degrees`` of freedom is at most ``t``."""
    tail = 0.5 * student_two_sided(t, degrees)
    return 1.0 - tail if t > 0 else tail


@functools.lru_cache(maxsize=4096)
def student_quantile(two_sided: float, degrees: float) -> float:
    """The t whose two-sided tail probability is ``two_sided``: 0.05 gives the factor of a 95% interval.

    Found by bisection on the logarithm, which is monotone everywhere; about 1e-12 relative.

    Raises:
        ValueError: ``two_sided`` is not within (0, 1).

    Example:
        >>> round(student_quantile(0.05, 10), 4)
        2.2281
    """
    if not 0.0 < two_sided < 1.0:
        raise ValueError(f"a two-sided probability lies within (0, 1), got {two_sided}")
    low, high = -40.0, 40.0  # of log t
    if student_two_sided(math.exp(low), degrees) < two_sided:
        return 0.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if student_two_sided(math.exp(middle), degrees) > two_sided:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def binomial_cdf(k: int, n: int, p: float = 0.5) -> float:
    """Probability of at most ``k`` successes in ``n`` trials, 0 < ``p`` < 1.

    Example:
        >>> binomial_cdf(1, 3)
        0.5
    """
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return incomplete_beta(n - k, k + 1.0, 1.0 - p)
