"""Values of a Triton kernel's integer arithmetic: indices, pointers and masks, and what TTIR's operations make of them.

Pure. ``None`` is a value that depends on data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from fuselab.ir.addresses import Bound, Dim, Index

__all__ = [
    "FALSE",
    "TENSOR",
    "Mask",
    "Pointer",
    "Smallest",
    "arithmetic",
    "attribute",
    "compared",
    "moved_by",
    "moving",
    "reshaped",
    "trips_of",
]


TENSOR = re.compile(r"tensor<(?P<shape>(?:\d+x)*)(?P<element>!tt\.ptr<[^>]*>|[\w.]+)")
"""A tensor's type: its shape and its elements'."""


@dataclass(frozen=True)
class Pointer:
    """Somewhere in the memory of one argument; ``offset`` counts elements."""

    argument: str
    element_bytes: int
    offset: Index | None


@dataclass(frozen=True)
class Mask:
    """Where all bounds hold; ``unknown`` where it also depends on data, so that it is at most that."""

    bounds: tuple[Bound, ...] = ()
    unknown: bool = False


@dataclass(frozen=True)
class Smallest:
    """The smallest of several values: how far a loop goes whose last program has less to do."""

    options: tuple[Index, ...]


FALSE = Mask((Bound(Index(1), 1),))
"""A mask that holds nowhere."""


def attribute(rest: str, name: str) -> int | None:
    """An integer attribute of an operation: ``end`` of ``{end = 64 : i32}``."""
    match = re.search(rf"\b{name} = (-?\d+)", rest)
    return int(match[1]) if match else None


def trips_of(low: Any, high: Any, step: Any) -> tuple[int | None, tuple[Index, ...]]:
    """How often a loop runs at most, and the ends of it that differ from program to program."""
    ends = high.options if isinstance(high, Smallest) else (high,)
    if not all(isinstance(v, Index) for v in (low, step, *ends)) or step.terms or step.const <= 0:
        return None, ()
    spans = [(last - low).high for last in ends]
    return max(0, -(-min(spans) // step.const)), tuple(last for last in ends if (last - low).terms)


def moving(start: Any, after: Any, counter: Dim) -> Any:
    """A value that a loop carries: where it started plus what each turn adds; None where that is not constant."""
    if isinstance(start, Index) and isinstance(after, Index):
        delta = after - start
        return start + Index.of(counter) * delta.const if not delta.terms else None
    if isinstance(start, Pointer) and isinstance(after, Pointer) and start.argument == after.argument:
        return Pointer(start.argument, start.element_bytes, moving(start.offset, after.offset, counter))
    return start if isinstance(start, Mask) and start == after else None


def moved_by(pointer: Any, offset: Any) -> Any:
    """``tt.addptr``; the argument stays known where the offset is not."""
    if not isinstance(pointer, Pointer):
        return None
    known = pointer.offset is not None and isinstance(offset, Index)
    return Pointer(pointer.argument, pointer.element_bytes, pointer.offset + offset if known else None)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, Index):
        return value.renamed(names)
    if isinstance(value, Pointer):
        return Pointer(value.argument, value.element_bytes, _renamed(value.offset, names))
    if isinstance(value, Mask):
        return Mask(tuple(Bound(b.index.renamed(names), b.limit) for b in value.bounds), value.unknown)
    return None


def reshaped(operation: str, value: Any, rest: str) -> Any:
    """A value whose lanes lie along other axes; None where a reshape cuts an axis in pieces."""
    types = list(TENSOR.finditer(rest))
    before = [int(n) for n in types[0]["shape"].split("x") if n] if types else []
    after = [int(n) for n in types[-1]["shape"].split("x") if n] if types else []
    if operation == "tt.expand_dims":
        axis = attribute(rest, "axis") or 0
        places = [i + (i >= axis) for i in range(len(before))]
    elif operation == "tt.trans":
        order = [int(n) for n in re.findall(r"\d+", (re.search(r"order = array<i32: ([^>]*)>", rest) or [""])[0][13:])]
        order = [n for n in order if n < len(before)][-len(before) :]
        places = [order.index(i) for i in range(len(before))] if sorted(order) == list(range(len(before))) else []
    else:
        if [n for n in before if n != 1] != [n for n in after if n != 1]:
            return None
        kept = [i for i, n in enumerate(after) if n != 1]
        new = iter(kept)
        places = [next(new) if n != 1 else 0 for n in before]
    return _renamed(value, {f"lane {i}": f"lane {place}" for i, place in enumerate(places)}) if places else None


def compared(rest: str, operands: list[Any]) -> Any:  # noqa: PLR0911 - one comparison each
    """``arith.cmpi`` of two indices, as a mask."""
    how = rest.strip().partition(",")[0].strip()
    if len(operands) < 2 or not all(isinstance(o, Index) for o in operands[:2]):
        return Mask(unknown=True)
    a, b = operands[:2]
    signless = how[1:]
    if signless == "lt":
        return _below(a - b, 0)
    if signless == "le":
        return _below(a - b, 1)
    if signless == "gt":
        return _below(b - a, 0)
    if signless == "ge":
        return _below(b - a, 1)
    if how == "eq":
        return Mask((*_below(a - b, 1).bounds, *_below(b - a, 1).bounds))
    return Mask(unknown=True)


def _below(difference: Index, limit: int) -> Mask:
    return Mask((Bound(Index(0, difference.terms), limit - difference.const),))


def arithmetic(operation: str, operands: list[Any]) -> Any:  # noqa: PLR0911 - a table of operations
    """What an operation of integers makes of its operands."""
    name = operation.partition(".")[2]
    if name in ("splat", "broadcast", "bitcast", "extsi", "extui", "trunci", "index_cast"):
        return operands[0] if operands else None
    if len(operands) != 2:
        return None
    a, b = operands
    if isinstance(a, Mask) and isinstance(b, Mask):
        return Mask((*a.bounds, *b.bounds), a.unknown or b.unknown) if name == "andi" else Mask(unknown=True)
    if isinstance(a, Mask) or isinstance(b, Mask):
        mask = a if isinstance(a, Mask) else b  # and'ed with something unknown
        return Mask(mask.bounds if name == "andi" else (), True)
    if not isinstance(a, Index) or not isinstance(b, Index):
        return None
    if name in ("minsi", "maxsi", "minui", "maxui"):
        return _extreme(name, a, b)
    if name == "addi":
        return a + b
    if name == "subi":
        return a - b
    if name == "muli" and not (a.terms and b.terms):
        return a * b.const if not b.terms else b * a.const
    return None if b.terms else _by_constant(name, a, b.const)


def _by_constant(name: str, a: Index, b: int) -> Index | None:
    if name in ("divsi", "divui", "floordivsi"):
        return a // b
    if name in ("remsi", "remui"):
        return a % b
    if name == "shli":
        return a * (1 << b) if 0 <= b < 32 else None
    if name in ("shrsi", "shrui"):
        return a // (1 << b) if 0 <= b < 32 else None
    if name == "andi" and b >= 0 and math.log2(b + 1).is_integer():
        return a % (b + 1)
    return None


def _extreme(name: str, a: Index, b: Index) -> Any:
    """The smaller or larger of two values, where one is so everywhere; else, of the smaller, both."""
    for one, other in ((a, b), (b, a)):
        if (other - one).low >= 0:
            return one if name.startswith("min") else other
    return Smallest((a, b)) if name.startswith("min") else None
