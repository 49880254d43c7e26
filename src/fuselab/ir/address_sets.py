"""How many elements a load touches, without enumerating them.

Pure. What symbolic addresses touch is counted from the strides: dimensions that never collide multiply, dimensions that
overlap without a gap are an interval, and what is neither is enumerated while it is small. Beyond that the answer is
"not known", never a guess.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuselab.ir.addresses import Bound, Digit, Dim, Index

if TYPE_CHECKING:
    import numpy as np

__all__ = ["AddressSet", "count_points", "touched", "union_size"]

_MOST_POINTS = 1 << 21
"""Points that are enumerated at most: 16 MiB of 64-bit addresses."""


@dataclass(frozen=True)
class AddressSet:
    """Which elements an access touches."""

    count: int
    """How many different ones."""
    low: int
    high: int
    outer: tuple[tuple[int, int], ...] = ()
    """Strides and extents around a run of neighbours; meaningful where ``regular``."""
    run: int = 1
    """Length of that run."""
    regular: bool = False

    @property
    def dense(self) -> bool:
        """Whether it is everything between its ends."""
        return self.count == self.high - self.low + 1


def count_points(dims: Iterable[Dim], bounds: Sequence[Bound]) -> int | None:
    """In how many points of a space all bounds hold; None where that would have to be enumerated and is too large.

    Example:
        >>> program, lane = Dim("program", 2), Dim("lane", 1024)
        >>> count_points([program, lane], [Bound(Index.of(program) * 1024 + Index.of(lane), 1500)])
        1500
    """
    total = 1
    for leaves, mine in _components(dims, bounds):
        counted = _count_component(leaves, mine)
        if counted is None:
            return None
        total *= counted
    return total


def touched(address: Index, dims: Iterable[Dim], bounds: Sequence[Bound]) -> AddressSet | None:
    """The set of addresses in the points where all bounds hold; None where it cannot be told.

    Example:
        >>> row, column = Dim("row", 64), Dim("column", 250)
        >>> touched(Index.of(row) * 250 + Index.of(column), [row, column], []).count
        16000
    """
    dims = tuple(dims)
    levels: list[_Level] = []
    low = address.const
    for leaves, mine in _components(dims, bounds, address):
        part = Index(0, tuple((d, c) for d, c in address.terms if d.dim.leaves()[0] in leaves))
        found = _levels(part, leaves, mine)
        if found is None:
            return None
        if not found and not part.terms and _count_component(leaves, mine) == 0:
            return AddressSet(0, 0, -1)
        for level in found:
            if level.count == 0:
                return AddressSet(0, 0, -1)
            low += level.low
            levels.append(level)
    combined = _combined(low, [level for level in levels if level.count > 1])
    if combined is None and _volume(dims) <= _MOST_POINTS:
        import numpy as np

        at, keep = _enumerate({d for d in dims if d.extent != 1} | address.leaves(), list(bounds))
        values = np.unique(np.broadcast_to(np.asarray(address.values(at)), keep.shape)[keep])
        return AddressSet(int(values.size), int(values[0]), int(values[-1]))
    return combined


def union_size(sets: Sequence[AddressSet]) -> tuple[int, bool]:
    """How many elements are in at least one of the sets, and whether that is exact (else at most).

    Example:
        >>> main = AddressSet(15360, 0, 15989, ((250, 64),), 240, True)
        >>> tail = AddressSet(640, 240, 15999, ((250, 64),), 10, True)
        >>> union_size([main, tail])
        (16000, True)
    """
    left = [s for s in dict.fromkeys(sets) if s.count]
    changed = True
    while changed:
        changed = False
        for i, first in enumerate(left):
            for j in range(i + 1, len(left)):
                joined = _union(first, left[j])
                if joined is not None:
                    left[i : i + 1] = [joined]
                    del left[j]
                    changed = True
                    break
            if changed:
                break
    left.sort(key=lambda s: s.low)
    apart = all(b.low > a.high for a, b in itertools.pairwise(left))
    return sum(s.count for s in left), apart


@dataclass(frozen=True)
class _Level:
    """Values that one part of an address takes: ``count`` of them, at least ``gap`` apart, over ``span``."""

    gap: int
    span: int
    count: int
    low: int
    strided: bool


def _components(
    dims: Iterable[Dim], bounds: Sequence[Bound], address: Index | None = None
) -> list[tuple[set[Dim], list[Bound]]]:
    """Counters that hang together through a bound or a composite dimension, with their bounds."""
    groups: list[tuple[set[Dim], list[Bound]]] = [({d}, []) for d in dict.fromkeys(dims) if d.extent != 1]
    links: list[tuple[set[Dim], list[Bound]]] = [(b.index.leaves(), [b]) for b in bounds if not b.always]
    if address is not None:
        links += [(set(digit.dim.leaves()), []) for digit, _ in address.terms]
    for leaves, mine in links:
        hit = [g for g in groups if g[0] & leaves]
        merged = (set(leaves).union(*(g[0] for g in hit)), [b for g in hit for b in g[1]] + mine)
        groups = [g for g in groups if g not in hit] + [merged]
    return groups


def _volume(leaves: Iterable[Dim]) -> int:
    return math.prod(d.extent for d in leaves)


def _counting(index: Index, leaves: set[Dim]) -> Dim | None:
    """The one dimension that ``index`` is, if it counts all points of ``leaves`` once; else None."""
    merged = index.merged()
    if len(merged.terms) != 1:
        return None
    digit, coefficient = merged.terms[0]
    whole = coefficient == 1 and digit.div == 1 and digit.mod >= digit.dim.extent
    return digit.dim if whole and set(digit.dim.leaves()) == leaves else None


def _count_component(leaves: set[Dim], bounds: list[Bound]) -> int | None:
    if not bounds:
        return _volume(leaves)
    if len(bounds) == 1:
        index, limit = bounds[0].index, bounds[0].limit
        if not index.terms:
            return _volume(leaves) if index.const < limit else 0
        if _counting(index, leaves) is not None:
            return max(0, min(limit - index.const, _volume(leaves)))
    if _volume(leaves) > _MOST_POINTS:
        return None
    import numpy as np

    _, keep = _enumerate(leaves, bounds)
    return int(np.count_nonzero(keep))


def _enumerate(leaves: set[Dim], bounds: list[Bound]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    import numpy as np

    ordered = sorted(leaves, key=lambda d: d.name)
    grids = np.indices([d.extent for d in ordered], dtype=np.int64, sparse=True) if ordered else ()
    at = {d.name: grid for d, grid in zip(ordered, grids, strict=True)}
    keep = np.ones([d.extent for d in ordered], dtype=bool)
    for bound in bounds:
        keep &= np.asarray(bound.index.values(at)) < bound.limit
    return at, keep


def _levels(part: Index, leaves: set[Dim], bounds: list[Bound]) -> list[_Level] | None:
    """What one component adds to an address."""
    if not part.terms:
        return []
    if not bounds and all(not d.dim.parts and d.div == 1 and d.mod >= d.dim.extent for d, _ in part.terms):
        return [_stride_level(c, d.extent) for d, c in part.terms]
    counted = _counted(part, leaves, bounds)
    if counted is not None:
        return counted
    if _volume(leaves) > _MOST_POINTS:
        return None
    import numpy as np

    at, keep = _enumerate(leaves, bounds)
    values = np.unique(np.broadcast_to(np.asarray(part.values(at)), keep.shape)[keep])
    if not values.size:
        return [_Level(0, 0, 0, 0, False)]
    gaps = np.diff(values)
    gap = int(gaps.min()) if gaps.size else 1
    strided = bool((gaps == gap).all())
    return [_Level(gap, int(values[-1] - values[0]), int(values.size), int(values[0]), strided)]


def _counted(part: Index, leaves: set[Dim], bounds: list[Bound]) -> list[_Level] | None:
    """The levels of a component that counts through one dimension, up to a limit, whole or in its digits."""
    extent = _volume(leaves)
    digits = _digits_of_one(part, leaves)
    if len(bounds) > 1 or digits is None:
        return None
    if bounds:
        if _counting(bounds[0].index, leaves) != digits[0][0].dim:
            return None
        extent = min(bounds[0].limit - bounds[0].index.const, extent)
    return _segments(digits, extent) if extent > 0 else [_Level(0, 0, 0, 0, False)]


def _digits_of_one(part: Index, leaves: set[Dim]) -> list[tuple[Digit, int]] | None:
    """The terms of a part as digits of one counter of all its leaves; None where they are not."""
    plain = Index(0, tuple((d, c) for d, c in part.terms if not d.dim.parts))
    others = [(d, c) for d, c in part.terms if d.dim.parts]
    terms = list(part.terms) if len(leaves) == 1 else [*plain.merged().terms, *others]
    dims = {digit.dim for digit, _ in terms}
    return terms if len(dims) == 1 and set(next(iter(dims)).leaves()) == leaves else None


def _segments(digits: list[tuple[Digit, int]], extent: int) -> list[_Level] | None:
    """The levels of digits of one counter below ``extent``: cut where any of them is, so that none overlap."""
    cuts = sorted({digit.div for digit, _ in digits} | {digit.div * digit.mod for digit, _ in digits} | {1})
    cuts = [cut for cut in cuts if cut < extent or cut == 1]
    if any(slow % fast for fast, slow in itertools.pairwise(cuts)):
        return None
    used: list[tuple[int, int, int]] = []
    for start, end in itertools.pairwise([*cuts, max(extent, cuts[-1])]):
        stride = sum(c * (start // d.div) for d, c in digits if d.div <= start < d.div * d.mod)
        if stride:
            used.append((stride, start, end))
    levels = []
    for stride, start, end in used:
        last = end >= extent
        if len(used) > 1 and last and extent % start:
            return None  # the last turn of the slowest digit is not complete
        levels.append(_stride_level(stride, -(-extent // start) if last else end // start))
    return levels


def _stride_level(stride: int, extent: int) -> _Level:
    if extent <= 0:
        return _Level(0, 0, 0, 0, False)
    span = abs(stride) * (extent - 1)
    return _Level(abs(stride), span, extent, -span if stride < 0 else 0, True)


def _combined(low: int, levels: list[_Level]) -> AddressSet | None:
    levels = sorted(levels, key=lambda level: (level.gap, level.span))
    high = low + sum(level.span for level in levels)
    reach = 0
    for level in levels:
        if level.gap <= reach:
            return _overlapping(low, high, levels)
        reach += level.span
    count = math.prod(level.count for level in levels)
    if not all(level.strided for level in levels):
        return AddressSet(count, low, high)
    run = 1
    outer: list[tuple[int, int]] = []
    for level in levels:
        if not outer and level.gap == run:
            run *= level.count
        elif outer and level.gap == outer[-1][0] * outer[-1][1]:
            outer[-1] = (outer[-1][0], outer[-1][1] * level.count)
        else:
            outer.append((level.gap, level.count))
    return AddressSet(count, low, high, tuple(outer), run, True)


def _overlapping(low: int, high: int, levels: list[_Level]) -> AddressSet | None:
    """Dimensions that overlap without a gap are an interval of the finest stride; others are enumerated."""
    if not all(level.strided for level in levels):
        return None
    step, reach = levels[0].gap, levels[0].span
    for level in levels[1:]:
        if level.gap > reach + step or level.gap % step:
            break
        reach += level.span
    else:
        count = reach // step + 1
        regular = step == 1
        return AddressSet(count, low, high, () if regular else ((step, count),), count if regular else 1, True)
    if math.prod(level.count for level in levels) > _MOST_POINTS:
        return None
    import numpy as np

    values = np.zeros(1, dtype=np.int64)
    for level in levels:
        values = np.unique(values[:, None] + np.arange(level.count, dtype=np.int64) * level.gap)
    return AddressSet(int(values.size), low, high)


def _union(a: AddressSet, b: AddressSet) -> AddressSet | None:
    """Both as one set, where that is plain; None where they have to stay two."""
    if a == b:
        return a
    for big, small in ((a, b), (b, a)):
        if big.dense and big.low <= small.low and small.high <= big.high:
            return big
    if not (a.regular and b.regular) or a.outer != b.outer:
        return None
    first, second = (a, b) if a.low <= b.low else (b, a)
    if second.low > first.low + first.run:
        return None
    end = max(first.low + first.run, second.low + second.run)
    run = end - first.low
    outer = first.outer
    if outer and run > outer[0][0]:
        return None
    while outer and outer[0][0] == run:
        run, outer = run * outer[0][1], outer[1:]
    count = run * math.prod(extent for _, extent in outer)
    return AddressSet(count, first.low, max(first.high, second.high), outer, run, True)
