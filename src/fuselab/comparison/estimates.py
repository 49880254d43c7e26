"""How much longer one cell takes than another, with the engine's own statistics. Pure.

**Together.** Two variants of one group were timed once a round each, in an order drawn anew. What is analysed is what
the engine itself analyses (``measure.statistics``): the trimmed mean of the paired log-ratios of the rounds, with the
share of the error rate that the engine had spent when it stopped looking. That share is not stored; it is read off the
intervals that are (their half-width is a quantile of Student's distribution at the level they were made with).

**Apart.** Two processes have no rounds in common. Each side is the trimmed mean of the logarithms of its own rounds,
and the difference has the standard error of both (Welch 1947). That error knows nothing of what lies between two
processes: clocks, the place of buffers in memory, a neighbour. So the interval is widened on either side by an
*allowance*: what the yardsticks moved by between the runs, and ``REPEATABILITY`` on top. A yardstick is
something else that was timed in the same rounds and should not have changed: plain streaming (the ceiling), and the
baseline as long as the software is the same. A cell without a yardstick gets no verdict. Two processes cannot show
that times are equal within less than they differ by anyway: *equivalent* means within the margin and
``REPEATABILITY`` together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fuselab.comparison.records import Change, Yardstick
from fuselab.measure.distributions import student_quantile, student_two_sided
from fuselab.measure.sequential import MIN_ROUNDS, plan_looks
from fuselab.measure.statistics import Estimate, paired_log_ratios, trimmed_estimate
from fuselab.measure.verdicts import verdict_of
from fuselab.records import Clock, Measurement, Sample, Verdict

__all__ = [
    "ALPHA",
    "FEWEST_ROUNDS",
    "REPEATABILITY",
    "allowance_of",
    "apart",
    "common_clock",
    "paired",
    "relative",
    "share_spent",
    "timed_together",
    "yardstick",
]

ALPHA = 0.05
"""Level of every interval."""

FEWEST_ROUNDS = 4
"""Rounds without which a trimmed mean has no interval."""

REPEATABILITY = 0.01
"""What a time may differ by between two processes that do the same, although everything stands still: the bar of the
engine for a speedup repeated in fresh processes (half-range at most 1% in 90% of cells)."""

_MOST_ROUNDS = 200
"""Rounds that the engine plans at most."""

_LEAST_SHARE = plan_looks(MIN_ROUNDS, _MOST_ROUNDS).shares[0]
"""Taken where no stored interval says what was spent: the first look's, the smallest there is."""

_CLOCKS = (Clock.CUDA_GRAPH, Clock.CPU_MONOTONIC, Clock.CUDA_EVENTS)
"""The clocks that are compared by, the best first, as in ``measure.evaluation``."""


def common_clock(base: Measurement, new: Measurement) -> tuple[Clock, list[Sample], list[Sample]] | None:
    """The best clock that both were timed with, and the samples of each; None where there is none."""
    above, below = _clocked(base), _clocked(new)
    for clock in _CLOCKS:
        if above.get(clock) and below.get(clock):
            return clock, above[clock], below[clock]
    return None


def timed_together(base: Measurement, new: Measurement) -> bool:
    """Whether two cells of one run were arms of one group: the order of rounds has one seed, the conditions beside
    the rounds are the same records, and in no round do both have one place in the order.

    A run that was taken up again has groups of one workload that were timed in different processes; their seeds are
    the same, their conditions and places are not.
    """
    if base.workload != new.workload or base.direction is not new.direction or base.order_seed != new.order_seed:
        return False
    if base.order_seed is None or base.conditions != new.conditions:
        return False
    places = {s.round: s.position for s in base.samples}
    shared = [s for s in new.samples if s.round in places]
    return bool(shared) and all(places[s.round] != s.position for s in shared)


def paired(base: Sequence[Sample], new: Sequence[Sample], *, share: float, margin: float) -> Change:
    """The change from base to new over the rounds that both have.

    Raises:
        ValueError: fewer than four such rounds, or a duration that is no positive number.
    """
    ratios = paired_log_ratios(_by_round(base), _by_round(new))
    return _change(trimmed_estimate(ratios), ALPHA * share, margin, p_scale=share)


def apart(base: Sequence[Sample], new: Sequence[Sample], *, allowance: float, share: float, margin: float) -> Change:
    """The change between two processes, its interval widened by the allowance (a share, 0.01 for 1%).

    Raises:
        ValueError: fewer than four rounds on a side, or a duration that is no positive number.
    """
    estimate = _difference(plus=trimmed_estimate(_logarithms(base)), minus=trimmed_estimate(_logarithms(new)))
    bound = (1.0 + margin) * (1.0 + REPEATABILITY) - 1.0
    return _change(estimate, ALPHA * share, bound, p_scale=share, widened=math.log1p(allowance))


def relative(
    base: Sequence[Sample], base_yard: Sequence[Sample], new: Sequence[Sample], new_yard: Sequence[Sample], share: float
) -> Change:
    """The change in units of a yardstick that was timed in the same rounds: what a run has in common cancels.

    Raises:
        ValueError: fewer than four rounds in common on a side, or a duration that is no positive number.
    """
    above = trimmed_estimate(paired_log_ratios(_by_round(base), _by_round(base_yard)))
    below = trimmed_estimate(paired_log_ratios(_by_round(new), _by_round(new_yard)))
    return _change(_difference(plus=above, minus=below), ALPHA * share, 0.0, p_scale=share)


def yardstick(name: str, base_ns: float, new_ns: float, *, used: bool) -> Yardstick:
    """A yardstick from its median times; it does not count where one of them is no positive number."""
    fine = all(math.isfinite(t) and t > 0 for t in (base_ns, new_ns))
    change = new_ns / base_ns - 1.0 if fine else 0.0
    return Yardstick(name=name, base_ns=base_ns, new_ns=new_ns, change=change, used=used and fine)


def allowance_of(yardsticks: Sequence[Yardstick]) -> float | None:
    """How far the machine may have moved between two runs, as a share; None where nothing tells.

    Example:
        >>> round(allowance_of([Yardstick(name="ceiling", base_ns=100.0, new_ns=97.0, change=-0.03, used=True)]), 4)
        0.0412
    """
    moved = [abs(math.log1p(y.change)) for y in yardsticks if y.used]
    return math.expm1(max(moved) + math.log1p(REPEATABILITY)) if moved else None


def share_spent(stored: Mapping[str, Measurement]) -> float:
    """The share of the error rate that the engine spent at the look that ended a group, from its stored comparisons.

    Args:
        stored: the cells of one group by variant, as they are stored.
    """
    for cell in stored.values():
        comparison = cell.comparison
        if comparison is None or comparison.low is None or comparison.high is None:
            continue
        baseline = stored.get(comparison.baseline)
        clocked = None if baseline is None or baseline is cell else common_clock(baseline, cell)
        if clocked is None or min(comparison.low, comparison.high) <= 0:
            continue
        try:
            estimate = trimmed_estimate(paired_log_ratios(_by_round(clocked[1]), _by_round(clocked[2])))
        except ValueError:
            continue
        if estimate.rounds != comparison.rounds or estimate.error <= 0:
            continue
        half = (math.log(comparison.high) - math.log(comparison.low)) / 2
        share = student_two_sided(half / estimate.error, estimate.degrees) / (1.0 - comparison.confidence)
        return min(share, 1.0) if share > 0 else _LEAST_SHARE
    return _LEAST_SHARE


def _clocked(cell: Measurement) -> dict[Clock, list[Sample]]:
    clocks = {Clock(name): samples for name, samples in cell.other_clocks.items() if name in set(Clock)}
    if cell.clock is not None:
        clocks[cell.clock] = cell.samples
    return clocks


def _by_round(samples: Sequence[Sample]) -> dict[int, float]:
    return {sample.round: sample.duration_ns for sample in samples}


def _logarithms(samples: Sequence[Sample]) -> list[float]:
    durations = _by_round(samples)
    for number, duration in durations.items():
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"round {number} has the duration {duration}")
    return [math.log(durations[number]) for number in sorted(durations)]


def _difference(*, plus: Estimate, minus: Estimate) -> Estimate:
    """``plus - minus`` of two independent estimates, degrees of freedom after Welch and Satterthwaite."""
    variances = plus.error**2, minus.error**2
    total = sum(variances)
    degrees = min(plus.degrees, minus.degrees)
    if total > 0:
        degrees = int(total**2 / (variances[0] ** 2 / plus.degrees + variances[1] ** 2 / minus.degrees))
    return Estimate(plus.centre - minus.centre, math.sqrt(total), max(degrees, 1), min(plus.rounds, minus.rounds))


def _change(estimate: Estimate, alpha: float, margin: float, *, p_scale: float, widened: float = 0.0) -> Change:
    """A change of time from an estimate of ``log(base / new)``."""
    half = estimate.error * student_quantile(alpha, estimate.degrees) + widened
    low, high = estimate.centre - half, estimate.centre + half
    beyond = max(abs(estimate.centre) - widened, 0.0)
    if estimate.error > 0:
        p_value = student_two_sided(beyond / estimate.error, estimate.degrees)
    else:
        p_value = 0.0 if beyond > 0 else 1.0
    return Change(
        change=math.expm1(-estimate.centre) + 0.0,  # not -0.0
        low=math.expm1(-high) + 0.0,
        high=math.expm1(-low) + 0.0,
        confidence=1.0 - ALPHA,
        rounds=estimate.rounds,
        p_value=min(1.0, p_value / p_scale),
        verdict=verdict_of(low, high, margin) if margin > 0 else Verdict.UNRESOLVED,
    )
