"""After how many calls a way of starting has paid for itself, with an interval. Pure numpy.

The total time of N calls is what came before the first call, plus the first few calls as they were measured one by one,
plus the steady time for each call after those. One way has paid against another from the first number of calls on whose
total is not above the other's, and stays so; ``None`` stands for never.

The unit of analysis is the process. The interval comes from resampling the mean of each way's processes: its deviation
is drawn as a Gaussian multiplier combination of the processes' deviations (Mammen 1993), which keeps the covariance of
start and steady time, and scaled by the ratio that turns it into Student's t with n - 1 degrees of freedom; of few
processes a bootstrap with replacement covers far too little (at three, 75% for a nominal 95%). An end that lies beyond
every number of calls is never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fuselab.startup.records import BreakEven, Configuration, Start, StartRecord, Unit

__all__ = ["Costs", "break_even", "break_even_of_starts", "costs_of", "crossing", "totals"]

Array = NDArray[np.float64]

RESAMPLES = 4000

NEVER = math.inf

FARTHEST = 10**12
"""Calls beyond which a break-even counts as never: a microsecond a call, that is twelve days of nothing else."""


@dataclass(frozen=True)
class Costs:
    """What the processes of one way of starting cost: one row a process.

    The columns: what came before the first call, the first calls one by one, the steady time.
    """

    rows: Array
    """Nanoseconds, of shape (processes, 2 + early calls)."""

    @property
    def processes(self) -> int:
        """Number of processes."""
        return int(self.rows.shape[0])

    def mean(self) -> Array:
        """The mean process."""
        mean: Array = self.rows.mean(axis=0)
        return mean

    def resampled(self, generator: np.random.Generator, count: int) -> Array:
        """Means as they might have come out, of shape (count, columns)."""
        n = self.processes
        if n < 2:
            return np.repeat(self.rows, count, axis=0)
        weights = generator.standard_normal((count, n))
        deviation = weights @ (self.rows - self.mean()) / math.sqrt(n * (n - 1))
        tails = np.sqrt((n - 1) / generator.chisquare(n - 1, (count, 1)))
        resampled: Array = self.mean() + deviation * tails
        return resampled


def costs_of(records: Sequence[StartRecord]) -> Costs | None:
    """The costs of processes that reached a steady state; None where there is none.

    Example:
        >>> from fuselab.startup.records import Start
        >>> record = StartRecord(start=Start.EAGER, configuration=None, round=0, first_result_ns=900, first_call_ns=100,
        ...                      early_ns=[50, 40], steady_ns=30.0)
        >>> costs_of([record]).rows.tolist()
        [[800.0, 100.0, 50.0, 40.0, 30.0]]
    """
    usable = [r for r in records if r.first_result_ns and r.first_call_ns and r.steady_ns is not None]
    if not usable:
        return None
    early = min(len(r.early_ns) for r in usable)
    rows = [
        [
            float((r.first_result_ns or 0) - (r.first_call_ns or 0)),
            float(r.first_call_ns or 0),
            *map(float, r.early_ns[:early]),
            float(r.steady_ns or 0.0),
        ]
        for r in usable
    ]
    return Costs(np.array(rows, dtype=np.float64))


def totals(row: Array, calls: Array) -> Array:
    """Total time in nanoseconds of so many calls of the process that a row describes.

    Example:
        >>> totals(np.array([800.0, 100.0, 50.0, 40.0, 30.0]), np.array([1.0, 3.0, 10.0])).tolist()
        [900.0, 990.0, 1200.0]
    """
    early = np.concatenate([[0.0], np.cumsum(row[1:-1])])
    whole = np.clip(calls, 0, early.size - 1).astype(int)
    result: Array = row[0] + early[whole] + np.maximum(calls - (early.size - 1), 0.0) * row[-1]
    return result


def crossing(way: Array, against: Array) -> float:
    """The first number of calls from which on ``way`` costs no more than ``against``; infinite for never.

    Example:
        >>> eager, compiled = np.array([100.0, 10.0, 10.0]), np.array([500.0, 4.0, 2.0])
        >>> crossing(compiled, eager), crossing(eager, compiled), crossing(eager, eager)
        (51.0, inf, 1.0)
    """
    return float(_crossings((way - against)[None, :])[0])


def _crossings(difference: Array) -> Array:
    """``crossing`` of many pairs at once, from the differences of their rows."""
    early = difference.shape[1] - 2
    ahead_by = difference[:, :1] + np.cumsum(difference[:, 1:-1], axis=1)  # after 1, 2, ... early calls
    left, gain = ahead_by[:, -1], -difference[:, -1]
    # The last early call after which it is still behind; the one after that is the crossing.
    behind = ahead_by > 0
    last = np.where(behind.any(axis=1), early - np.argmax(behind[:, ::-1], axis=1), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        later = early + np.ceil(left / gain - 1e-9)
    found = np.where(left > 0, later, last + 1.0)
    never = (gain < 0) | ((gain == 0) & (left > 0)) | ~(found <= FARTHEST)
    result: Array = np.where(never, NEVER, found)
    return result


def break_even(
    way: Sequence[StartRecord],
    against: Sequence[StartRecord],
    configuration: Configuration,
    *,
    seed: int,
    confidence: float = 0.95,
) -> BreakEven | None:
    """After how many calls of one process a way of starting has paid; None where either was not measured.

    Args:
        way: processes of the way that has to pay.
        against: processes of what it is compared with.
        configuration: how ``way`` is compiled.
        seed: of the resampling.
        confidence: of the interval.
    """
    mine, theirs = costs_of(way), costs_of(against)
    if mine is None or theirs is None:
        return None
    columns = max(mine.rows.shape[1], theirs.rows.shape[1])
    mine, theirs = _padded(mine, columns), _padded(theirs, columns)
    generator = np.random.default_rng(seed)
    resampled = _crossings(mine.resampled(generator, RESAMPLES) - theirs.resampled(generator, RESAMPLES))
    return _answer(
        way[0].start,
        configuration,
        against[0].start,
        Unit.CALLS,
        crossing(mine.mean(), theirs.mean()),
        resampled,
        confidence,
        min(mine.processes, theirs.processes),
        mine.processes,
    )


def break_even_of_starts(
    way: Sequence[StartRecord],
    cold: Sequence[StartRecord],
    preparation_ns: float,
    configuration: Configuration,
    *,
    seed: int,
    confidence: float = 0.95,
) -> BreakEven | None:
    """After how many started processes what had to be made before has paid against starting cold each time.

    Args:
        way: processes of the way that was prepared.
        cold: processes that started cold.
        preparation_ns: time that making it took.
        configuration: how ``way`` is compiled.
        seed: of the resampling.
        confidence: of the interval.
    """
    mine = [float(r.first_result_ns) for r in way if r.first_result_ns]
    theirs = [float(r.first_result_ns) for r in cold if r.first_result_ns]
    if not mine or not theirs:
        return None
    generator = np.random.default_rng(seed)
    a, b = Costs(np.array(mine)[:, None]), Costs(np.array(theirs)[:, None])
    saved = b.resampled(generator, RESAMPLES)[:, 0] - a.resampled(generator, RESAMPLES)[:, 0]
    resampled = _starts(preparation_ns, saved)
    centre = float(_starts(preparation_ns, b.mean() - a.mean())[0])
    return _answer(
        way[0].start,
        configuration,
        cold[0].start,
        Unit.STARTS,
        centre,
        resampled,
        confidence,
        min(a.processes, b.processes),
        a.processes,
    )


def _starts(preparation_ns: float, saved_ns: Array) -> Array:
    with np.errstate(divide="ignore"):
        starts = np.maximum(np.ceil(preparation_ns / saved_ns - 1e-9), 1.0)
    result: Array = np.where(saved_ns > 0, starts, NEVER)
    return result


def _padded(costs: Costs, columns: int) -> Costs:
    """More early calls, as long as the steady ones, so that two ways have as many."""
    missing = columns - costs.rows.shape[1]
    if missing == 0:
        return costs
    steady = np.repeat(costs.rows[:, -1:], missing, axis=1)
    return Costs(np.concatenate([costs.rows[:, :-1], steady, costs.rows[:, -1:]], axis=1))


def _answer(
    start: Start,
    configuration: Configuration,
    against: Start,
    unit: Unit,
    centre: float,
    resampled: Array,
    confidence: float,
    fewest: int,
    processes: int,
) -> BreakEven:
    tail = (1.0 - confidence) / 2
    # Order statistics, not interpolated: between a number and never there is nothing.
    ordered = np.sort(resampled)
    low = float(ordered[math.floor(tail * (ordered.size - 1))])
    high = float(ordered[math.ceil((1.0 - tail) * (ordered.size - 1))])
    single = fewest < 2
    return BreakEven(
        start=start,
        configuration=configuration,
        against=against,
        unit=unit,
        count=_count(centre),
        low=None if single else _count(low),
        high=None if single else _count(high),
        never=None if single else float(np.mean(~np.isfinite(resampled))),
        confidence=confidence,
        processes=processes,
    )


def _count(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None
