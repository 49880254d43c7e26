"""Verdicts: what an interval says at a margin, and what a whole run lets stand. Pure.

An interval wholly within the margin says equivalent, also where it excludes 1: half a per cent is nobody's speedup.
Else one that excludes 1 says faster or slower, and any other is unresolved. ``settle`` then looks at all cells of a
run together: it controls the false discovery rate of the differences, and withholds speedups that are not to be
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from fuselab.measure.statistics import benjamini_hochberg
from fuselab.records import Comparison, Measurement, Status, Verdict

__all__ = [
    "ABOVE_CEILING",
    "CEILING_TOLERANCE",
    "SELF_CERTIFICATION_FAILED",
    "THROTTLING_DECIDES",
    "TIMED_OUTPUT_WRONG",
    "TOO_FAST",
    "WITHHOLDING",
    "controlled",
    "settle",
    "verdict_of",
]

CEILING_TOLERANCE = 0.02
"""A cell that moves its bytes faster than plain streaming by more than this is an error of measuring, or does not do
its work."""

ABOVE_CEILING = "above the measured ceiling"
SELF_CERTIFICATION_FAILED = "self-certification failed"
TIMED_OUTPUT_WRONG = "the timed output is wrong"
THROTTLING_DECIDES = "throttled rounds decide the verdict"
TOO_FAST = "faster than the clock can see"

WITHHOLDING = (ABOVE_CEILING, SELF_CERTIFICATION_FAILED, TIMED_OUTPUT_WRONG, THROTTLING_DECIDES, TOO_FAST)
"""A measurement with a warning that begins with one of these shows no speedup."""

_DIFFERENCES = (Verdict.FASTER, Verdict.SLOWER)


def verdict_of(low: float, high: float, margin: float) -> Verdict:
    """The verdict of an interval of ``log(speedup)`` at a margin, which is a share (0.01 for 1%).

    Example:
        >>> verdict_of(0.02, 0.05, 0.01).value, verdict_of(0.002, 0.004, 0.01).value, verdict_of(-0.1, 0.1, 0.01).value
        ('faster', 'equivalent', 'unresolved')
    """
    bound = math.log1p(margin)
    if -bound <= low and high <= bound:
        return Verdict.EQUIVALENT
    if low > 0.0:
        return Verdict.FASTER
    if high < 0.0:
        return Verdict.SLOWER
    return Verdict.UNRESOLVED


def controlled(compared: Sequence[tuple[Verdict, float]]) -> list[float]:
    """P-values of comparisons, adjusted so that of those called faster or slower few are not.

    Benjamini and Hochberg's procedure over all of them, where one that is not called different counts with p = 1. An
    equivalent one may have a p-value of next to nothing, for half a per cent that was measured well; as a discovery
    that nobody claims, it would make room for claims that are false. With 30 such among 40 cells, and ten that are
    equally fast and noisy, 35% of what was called different was not, in place of 5%.

    Args:
        compared: verdict and p-value of each.
    """
    claimed = [p_value if verdict in _DIFFERENCES else 1.0 for verdict, p_value in compared]
    return [float(p_value) for p_value in benjamini_hochberg(claimed)]


def settle(measurements: Sequence[Measurement], *, false_discovery_rate: float = 0.05) -> list[Measurement]:
    """New records of a run's cells, in the order given, with the verdicts that stand.

    A cell that is wrong, did not end ``ok``, or carries one of the ``WITHHOLDING`` warnings loses its speedup: the
    comparison then keeps its baseline and rounds alone. So does a cell whose baseline loses its own. Among the rest,
    a difference whose p-value does not pass Benjamini and Hochberg's procedure over all compared cells of the run
    (``controlled``) becomes unresolved. Applying it again changes nothing.
    """
    reasons = {m.key: _reason_to_withhold(m) for m in measurements}
    withheld = {
        m.key
        for m in measurements
        if m.comparison is not None
        and (reasons[m.key] or reasons.get(msgspec.structs.replace(m.key, variant=m.comparison.baseline)))
    }
    compared = {
        m.key: (m.comparison.verdict, m.comparison.p_value)
        for m in measurements
        if m.key not in withheld and m.comparison is not None and m.comparison.p_value is not None
    }
    adjusted = dict(zip(compared, controlled(list(compared.values())), strict=True))
    settled = []
    for m in measurements:
        comparison = m.comparison
        if comparison is not None:
            if m.key in withheld:
                comparison = Comparison(
                    baseline=comparison.baseline, verdict=Verdict.WITHHELD, rounds=comparison.rounds
                )
            elif comparison.verdict in _DIFFERENCES and adjusted.get(m.key, 0.0) > false_discovery_rate:
                comparison = msgspec.structs.replace(comparison, verdict=Verdict.UNRESOLVED)
        settled.append(m if comparison is m.comparison else msgspec.structs.replace(m, comparison=comparison))
    return settled


def _reason_to_withhold(m: Measurement) -> str:
    if m.status is not Status.OK:
        return m.reason or str(m.status)
    if m.correctness is not None and not m.correctness.correct:
        return m.correctness.reason or "wrong"
    return next((w for w in m.warnings if w.startswith(WITHHOLDING)), "")
