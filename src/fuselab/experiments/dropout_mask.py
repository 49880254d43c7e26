"""The dropout mask that an implementation drew: read back from its output, and put to statistical tests.

Random implementations cannot be compared value by value with a reference that draws another mask. So the mask is
recovered from what came out, the reference computes with it, and the mask itself is tested for what a wrong generator
does: another keep rate, dead or always-kept columns and rows, one random number for several elements, a mask repeated
along the row or from row to row.

All bounds hold for any number of elements, not only in the limit: Chernoff's for rates (Hoeffding 1963, theorem 1),
Freedman's for correlations (Freedman 1975: products of independent deviations are martingale differences). They are
drawn so that a right mask is refused with probability below ``FALSE_ALARM``: at about 6.5 standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["DROPPED", "FAINT", "FALSE_ALARM", "KEPT", "UNKNOWN", "each_fault", "faults", "recover"]

KEPT, DROPPED, FAINT, UNKNOWN = 1, 0, 2, -1
"""States of an element. ``FAINT`` was kept, ``UNKNOWN`` is zero: both where the dtype may round to zero by itself."""

FALSE_ALARM = 1e-9
"""Probability with which all tests together refuse a right mask."""

SHARE = FALSE_ALARM / 4
"""Each of the four tests may take a quarter of it."""

LAGS = (1, 2, 3, 4, 5, 6, 7, *(2**k for k in range(3, 17)))
"""Distances along memory at which a mask is compared with itself: vector widths, tiles, blocks."""

ROW_LAGS = (1, 2, 3, 4, 8, 16, 32)
"""The same in rows: with a program's offset left out of the random counter, the mask repeats from one to the next."""


def recover(output: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The mask behind an output, as int8 states of the output's shape.

    What is not zero was kept. A zero was dropped where the softmax lies well above what the output's dtype rounds to
    zero; below that, or where the softmax is masked, it says nothing. There it counts as dropped, which changes
    neither output nor gradient by more than the underflow itself, and it stays out of the statistics, kept or not:
    counting only those that were kept would bend the rate.

    Args:
        output: what the implementation returned, in its own dtype.
        probabilities: the softmax in float64, before dropout.
    """
    import torch

    info = torch.finfo(output.dtype)
    # Four of the dtype's smallest subnormals; and devices may flush float32's subnormals, which computed the value.
    computed_in = torch.finfo(torch.float64 if output.dtype == torch.float64 else torch.float32)
    visible = probabilities > max(4.0 * info.tiny * info.eps, 2.0 * computed_in.tiny)
    nonzero = output != 0
    keep = torch.full_like(output, UNKNOWN, dtype=torch.int8).masked_fill_(visible, DROPPED)
    return keep.masked_fill_(nonzero & visible, KEPT).masked_fill_(nonzero & ~visible, FAINT)


def faults(keep: torch.Tensor, p: float) -> str:
    """The first thing wrong with a mask that should drop each element with probability ``p``; empty when nothing is.

    Args:
        keep: states as ``recover`` returns them, of shape ``(..., N)``.
        p: the probability that an element is dropped.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> mask = (torch.rand(64, 256, generator=generator) >= 0.1).to(torch.int8)
        >>> faults(mask, p=0.1)
        ''
        >>> faults(mask[:, ::4].repeat_interleave(4, dim=1), p=0.1).split(",")[0]
        'elements 1 apart are kept together'
    """
    return next(each_fault(keep, p), "")


def each_fault(keep: torch.Tensor, p: float) -> Iterator[str]:
    """Everything that is wrong with a mask, test by test."""
    kept = (keep == KEPT).reshape(-1, keep.shape[-1])
    decided = ((keep == KEPT) | (keep == DROPPED)).reshape(-1, keep.shape[-1])
    rate = 1.0 - p
    n, k = int(decided.count_nonzero()), int(kept.count_nonzero())
    if n == 0:
        return
    if rate in (0.0, 1.0):
        if k != round(n * rate):
            wrong, done = (k, "kept") if rate == 0.0 else (n - k, "dropped")
            yield f"{wrong} of {n} elements are {done} at p={1 - rate:g}"
        return
    if _surprise(k, n, rate) > math.log(2 / SHARE):
        yield f"keep rate {k / n:.5f} over {n} elements, not {rate:g}: {_sigma(k, n, rate):.1f} sigma off"
    for axis, noun in ((0, "column"), (1, "row")):
        yield from _lines(kept.sum(axis), decided.sum(axis), rate, noun)
    columns = kept.shape[1]
    flat_kept = kept.reshape(-1)
    flat_decided = None if n == kept.numel() else decided.reshape(-1)
    # One beside a row: a counter of row + column, without the width between them.
    lags = sorted({*LAGS, *(columns * rows for rows in ROW_LAGS), columns - 1, columns + 1})
    for lag in lags:
        if 0 < lag < flat_kept.numel():
            yield from _lag(flat_kept, flat_decided, rate, lag, columns, math.log(2 * len(lags) / SHARE))


def _lines(kept: torch.Tensor, decided: torch.Tensor, rate: float, noun: str) -> Iterator[str]:
    """The keep rate of each row or column."""
    import torch

    k, n = kept.double(), decided.double()
    observed = k / n.clamp(min=1)
    surprise = torch.xlogy(k, observed / rate) + torch.xlogy(n - k, (1 - observed) / (1 - rate))
    worst = int(surprise.argmax())
    if float(surprise[worst]) > math.log(2 * kept.numel() / SHARE):
        k_worst, n_worst = int(kept[worst]), int(decided[worst])
        yield (f"{noun} {worst} keeps {k_worst} of {n_worst} elements, a rate of {k_worst / n_worst:.4f}, not {rate:g}")


def _lag(
    kept: torch.Tensor, decided: torch.Tensor | None, rate: float, lag: int, columns: int, surprise: float
) -> Iterator[str]:
    """Correlation of the mask with itself ``lag`` elements on, from exact counts; ``decided`` None means all are."""
    first, second = kept[:-lag], kept[lag:]
    # count_nonzero: a third of the time of a sum, which makes int64 of every element first.
    both = int((first & second).count_nonzero())
    if decided is None:
        pairs, k1, k2 = first.numel(), int(first.count_nonzero()), int(second.count_nonzero())
    else:
        known = decided[:-lag] & decided[lag:]
        pairs = int(known.count_nonzero())
        k1, k2 = int((first & known).count_nonzero()), int((second & known).count_nonzero())
    # Sum of (k1 - rate)(k2 - rate), and its variance given all that came before.
    product = both - rate * (k1 + k2) + rate * rate * pairs
    variance = rate * (1 - rate) * ((1 - rate) ** 2 * k1 + rate**2 * (pairs - k1))
    largest = max(rate, 1 - rate) ** 2
    bound = surprise * largest / 3 + math.sqrt((surprise * largest / 3) ** 2 + 2 * surprise * variance)
    if abs(product) > bound:
        rows = f" ({lag // columns} row{'s' if lag > columns else ''})" if lag % columns == 0 else ""
        together = "are kept together" if product > 0 else "avoid each other"
        sigma = abs(product) / math.sqrt(pairs) / (rate * (1 - rate))
        yield f"elements {lag} apart{rows} {together}, {sigma:.0f} sigma from independent over {pairs} pairs"


def _surprise(k: int, n: int, rate: float) -> float:
    """n times the Kullback-Leibler divergence of the observed rate from the expected one."""
    observed = k / n
    total = 0.0
    if k:
        total += k * math.log(observed / rate)
    if k < n:
        total += (n - k) * math.log((1 - observed) / (1 - rate))
    return total


def _sigma(k: int, n: int, rate: float) -> float:
    return abs(k - n * rate) / math.sqrt(n * rate * (1 - rate))
