"""Statistics of timings: medians, paired ratios by round, control over many cells. Pure numpy.

The unit of analysis is the round. All variants of a comparison are timed once a round in an order drawn anew, and
what is analysed is ``log(baseline) - log(variant)`` by round: what a round has in common (drift, clocks, a busy
neighbour) cancels, and the drawn order makes the rest symmetric and uncorrelated when the two are equally fast.

The centre of these log-ratios is their 20% trimmed mean, its standard error the winsorised one (Tukey & McLaughlin
1963; Yuen 1974). Of Student, trimmed means of 10, 20 and 25%, Wilcoxon's signed ranks, each with and without a
correction for autocorrelation, it kept its level best over normal, t(2), Cauchy, log-normal and spiked noise, AR(1)
0.9 and drift, from 11 to 100 rounds (3 to 6% at a nominal 5%; Student falls to 0.5% under spikes, which costs all its
power). Where the log-ratios are themselves autocorrelated, because a disturbance hits one variant for several rounds,
the standard error grows by sqrt((1 + r) / (1 - r)), r being the lag-1 autocorrelation with its small-sample bias
removed; under AR(1) 0.5 of its own in each variant, 100 rounds, that brings 24% false positives down to 6%.
``tests/measure`` repeats the simulations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fuselab.measure.distributions import binomial_cdf, student_quantile, student_two_sided

__all__ = [
    "TRIM",
    "Estimate",
    "Interval",
    "benjamini_hochberg",
    "draw_order",
    "median",
    "median_interval",
    "paired_log_ratios",
    "trimmed_estimate",
    "trimmed_estimates",
]

Array = NDArray[np.float64]

TRIM = 0.2
"""Share of the log-ratios set aside at each end."""

_AUTOCORRELATION_THRESHOLD = 1.3
"""In units of 1/sqrt(n): autocorrelation below it is taken for noise. Correcting for all of it would cost power for
nothing."""

_AUTOCORRELATION_CAP = 0.9


@dataclass(frozen=True)
class Interval:
    """An interval with the confidence that it really has."""

    low: float
    high: float
    confidence: float


def median(values: ArrayLike) -> float:
    """Median of ``values``.

    Raises:
        ValueError: there are none.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("the median of no values")
    return float(np.median(array))


def median_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Distribution-free interval of the median: two order statistics, symmetric in rank.

    For independent values it covers the median of any continuous distribution with at least ``confidence``. Below six
    values no two order statistics can at 95%; then it is the whole range, and ``Interval.confidence`` says what
    that has.

    Raises:
        ValueError: there are no values.

    Example:
        >>> median_interval(range(1, 12))
        Interval(low=2.0, high=10.0, confidence=0.98828125)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if n == 0:
        raise ValueError("the interval of the median of no values")
    rank = 0  # how many values are left out at each end
    while rank + 1 < (n + 1) // 2 and 1.0 - 2.0 * binomial_cdf(rank + 1, n) >= confidence:
        rank += 1
    return Interval(float(ordered[rank]), float(ordered[n - 1 - rank]), 1.0 - 2.0 * binomial_cdf(rank, n))


def paired_log_ratios(baseline: Mapping[int, float], variant: Mapping[int, float]) -> Array:
    """``log(baseline / variant)`` of every round that both have, in order of the rounds.

    Args:
        baseline: duration by round, any unit, positive.
        variant: duration by round, the same unit.

    Raises:
        ValueError: a duration is not a positive finite number.
    """
    rounds = sorted(baseline.keys() & variant.keys())
    above = np.array([baseline[r] for r in rounds], dtype=np.float64)
    below = np.array([variant[r] for r in rounds], dtype=np.float64)
    for durations in (above, below):
        bad = ~(np.isfinite(durations) & (durations > 0))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise ValueError(f"round {rounds[at]} has the duration {durations[at]}")
    return np.log(above) - np.log(below)


@dataclass(frozen=True)
class Estimate:
    """Centre of paired log-ratios with what is needed for an interval or a p-value at any level."""

    centre: float
    """Trimmed mean of the log-ratios."""
    error: float
    """Its standard error."""
    degrees: int
    """Degrees of freedom."""
    rounds: int
    """Rounds it is made of."""

    def half_width(self, alpha: float) -> float:
        """Half the width of the interval that misses with probability ``alpha``, on the log scale."""
        return self.error * student_quantile(alpha, self.degrees)

    def interval(self, alpha: float) -> tuple[float, float]:
        """The interval that misses with probability ``alpha``, on the log scale."""
        half = self.half_width(alpha)
        return self.centre - half, self.centre + half

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "both are equally fast"."""
        if self.error == 0.0:
            return 1.0 if self.centre == 0.0 else 0.0
        return student_two_sided(self.centre / self.error, self.degrees)


def trimmed_estimates(log_ratios: ArrayLike) -> tuple[Array, Array, int]:
    """Trimmed means and their standard errors along the last axis, with the degrees of freedom that they share.

    Raises:
        ValueError: fewer than four rounds.
    """
    series = np.asarray(log_ratios, dtype=np.float64)
    n = series.shape[-1]
    if n < 4:
        raise ValueError(f"an interval needs at least 4 rounds, got {n}")
    cut = int(TRIM * n)
    kept = n - 2 * cut
    ordered = np.sort(series, axis=-1)
    centre = ordered[..., cut : n - cut].mean(axis=-1)
    winsorised = np.clip(series, ordered[..., [cut]], ordered[..., [n - 1 - cut]])
    deviation = winsorised - winsorised.mean(axis=-1, keepdims=True)
    squares = np.square(deviation).sum(axis=-1)
    # Winsorised sum of squares over kept * (kept - 1): Yuen 1974; equals Student's where nothing is trimmed.
    error = np.sqrt(squares / (kept * (kept - 1.0)))
    products = (deviation[..., 1:] * deviation[..., :-1]).sum(axis=-1)
    lag1 = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
    # The estimate is biased down by about (1 + 3r) / n (Marriott & Pope 1954).
    lag1 = lag1 + (1.0 + 3.0 * np.clip(lag1, 0.0, 1.0)) / n
    lag1 = np.where(lag1 > _AUTOCORRELATION_THRESHOLD / math.sqrt(n), np.minimum(lag1, _AUTOCORRELATION_CAP), 0.0)
    return centre, error * np.sqrt((1.0 + lag1) / (1.0 - lag1)), kept - 1


def trimmed_estimate(log_ratios: ArrayLike) -> Estimate:
    """The estimate of one series of log-ratios; see the module for the method.

    Raises:
        ValueError: fewer than four rounds.

    Example:
        >>> estimate = trimmed_estimate([0.10, 0.11, 0.09, 0.10, 0.12, 0.10, 0.09, 0.11, 0.10, 0.10, 2.0])
        >>> round(estimate.centre, 3), estimate.degrees, estimate.p_value < 1e-4
        (0.103, 6, True)
    """
    series = np.asarray(log_ratios, dtype=np.float64)
    centre, error, degrees = trimmed_estimates(series)
    return Estimate(float(centre), float(error), degrees, int(series.size))


def benjamini_hochberg(p_values: Sequence[float]) -> Array:
    """Adjusted p-values that control the false discovery rate (Benjamini & Hochberg 1995), in the order given.

    Rejecting where the adjusted value is at most q keeps the expected share of false rejections at most q for
    independent or positively dependent tests.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.04, 0.04]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    adjusted = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def draw_order(names: Sequence[str], seed: int, round_number: int) -> list[str]:
    """The order in which ``names`` are timed in one round, a function of the seed and the round alone.

    Example:
        >>> draw_order(["eager", "compile", "triton"], seed=0, round_number=0) == draw_order(
        ...     ["eager", "compile", "triton"], seed=0, round_number=0)
        True
    """
    generator = np.random.default_rng([seed & (2**64 - 1), round_number])
    return [names[i] for i in generator.permutation(len(names))]
