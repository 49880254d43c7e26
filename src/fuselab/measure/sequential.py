"""When to stop: looks at planned rounds, the error rate split over them, so that looking early costs nothing.

A group is looked at after a few planned numbers of rounds, and timing stops as soon as every verdict is settled.
Testing at 5% at every look would be wrong far more often than 5%. Here look k may spend ``alpha * share[k]``, the
shares adding up to one (Bonferroni; Lan & DeMets 1983 call it spending). That holds whatever the dependence between
looks and whatever made the timing stop, so the time budget may end it too. The shares grow with the square of the
rounds, as in the boundaries between Pocock's and O'Brien and Fleming's: an early stop needs a clear case, and the
last look keeps most of the level.

The interval shown is the repeated confidence interval (Jennison & Turnbull 1989) of the look that ended it, and the
p-value is that look's own over its share: at most u with probability at most u, however the timing ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from fuselab.measure.statistics import Estimate, trimmed_estimate
from fuselab.measure.verdicts import verdict_of
from fuselab.records import Comparison, Verdict

__all__ = ["LOOK_GROWTH", "MIN_ROUNDS", "Looks", "Monitor", "plan_looks"]

MIN_ROUNDS = 11
"""Fewest rounds of a comparison: fewer leave a 20% trimmed mean without protection against two bad rounds."""

LOOK_GROWTH = 1.7
"""Each look has this many times the rounds of the one before."""


@dataclass(frozen=True)
class Looks:
    """Numbers of rounds at which a group is looked at, and the share of the error rate that each may spend."""

    rounds: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not math.isclose(sum(self.shares), 1.0) or list(self.rounds) != sorted(set(self.rounds)):
            raise ValueError(f"looks at {self.rounds} with shares {self.shares}")

    @property
    def last(self) -> int:
        """Rounds after which timing ends, settled or not."""
        return self.rounds[-1]

    def share_left(self, looks_taken: int) -> float:
        """What is left for a look that was not planned, because time ran out after ``looks_taken`` looks."""
        return 1.0 - sum(self.shares[:looks_taken])


def plan_looks(min_rounds: int, max_rounds: int) -> Looks:
    """Looks from ``min_rounds`` to ``max_rounds``, each ``LOOK_GROWTH`` times the one before.

    Example:
        >>> plan_looks(11, 60).rounds
        (11, 19, 33, 60)
        >>> [round(share, 2) for share in plan_looks(11, 60).shares]
        [0.03, 0.07, 0.2, 0.7]
    """
    rounds = [min_rounds]
    while (following := math.ceil(rounds[-1] * LOOK_GROWTH)) < max_rounds:
        rounds.append(following)
    if max_rounds > rounds[-1]:
        # A look shortly before the last one is worth less than the error rate it spends.
        if len(rounds) > 1 and max_rounds < rounds[-1] * 1.3:
            rounds.pop()
        rounds.append(max_rounds)
    spent = [(r / rounds[-1]) ** 2 for r in rounds]
    shares = [after - before for before, after in zip([0.0, *spent], spent, strict=False)]
    return Looks(tuple(rounds), tuple(shares))


class Monitor:
    """Follows one comparison through its looks.

    Example:
        >>> monitor = Monitor(margin=0.01)
        >>> monitor.look([0.70, 0.69, 0.70, 0.71, 0.70, 0.69, 0.70, 0.71, 0.70, 0.70, 0.69], share=0.1)
        >>> monitor.settled, monitor.comparison("eager").verdict.value
        (True, 'faster')
    """

    def __init__(self, *, margin: float, alpha: float = 0.05) -> None:
        self.margin = margin
        self.alpha = alpha
        self._estimate: Estimate | None = None
        self._share = 1.0

    def look(self, log_ratios: ArrayLike, share: float) -> None:
        """Take the log-ratios of all rounds so far, spending ``share`` of the error rate.

        Raises:
            ValueError: fewer than four rounds, or the share is not within (0, 1].
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"a share lies within (0, 1], got {share}")
        self._estimate = trimmed_estimate(log_ratios)
        self._share = share

    @property
    def settled(self) -> bool:
        """Whether more rounds would hardly change the verdict.

        A difference counts as settled only at a tenth of the level: at the level itself, control over the cells of a
        run would often take it back.
        """
        if self._estimate is None:
            return False
        level = self.alpha * self._share
        if verdict_of(*self._estimate.interval(level), self.margin) is Verdict.EQUIVALENT:
            return True
        return verdict_of(*self._estimate.interval(level / 10.0), self.margin) is not Verdict.UNRESOLVED

    def comparison(self, baseline: str) -> Comparison:
        """The comparison as of the last look.

        Raises:
            ValueError: there was no look yet.
        """
        if self._estimate is None:
            raise ValueError("no look has been taken")
        low, high = self._estimate.interval(self.alpha * self._share)
        return Comparison(
            baseline=baseline,
            verdict=verdict_of(low, high, self.margin),
            speedup=math.exp(self._estimate.centre),
            low=math.exp(low),
            high=math.exp(high),
            confidence=1.0 - self.alpha,
            rounds=self._estimate.rounds,
            p_value=min(1.0, self._estimate.p_value / self._share),
        )
