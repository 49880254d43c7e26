"""Index arithmetic of a kernel, kept symbolic.

Pure. A kernel's addresses are sums of *dimensions* (program ids, loop counters, lanes of a tile), whole multiples of
them, and their digits (``x % 768``, ``x // 768``). What they touch is counted in ``address_sets``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Bound", "Digit", "Dim", "Index"]


@dataclass(frozen=True)
class Dim:
    """One independent counter from 0 to ``extent - 1``."""

    name: str
    extent: int
    parts: tuple[tuple[int, Dim], ...] = ()
    """For a dimension made of others, in mixed radix: coefficients and dimensions, the slowest first."""

    def renamed(self, names: dict[str, str]) -> Dim:
        """The same dimension with the counters it is made of renamed."""
        parts = tuple((c, d.renamed(names)) for c, d in self.parts)
        return Dim(_composite_name(parts) if parts else names.get(self.name, self.name), self.extent, parts)

    def leaves(self) -> tuple[Dim, ...]:
        """The counters that it is made of, itself if of none."""
        return tuple(leaf for _, d in self.parts for leaf in d.leaves()) if self.parts else (self,)


@dataclass(frozen=True)
class Digit:
    """``(dim // div) % mod``."""

    dim: Dim
    div: int
    mod: int

    @property
    def extent(self) -> int:
        """How many values it takes."""
        return min(self.mod, -(-self.dim.extent // self.div))


@dataclass(frozen=True)
class Index:
    """``const`` plus a sum of coefficients times digits; immutable.

    Example:
        >>> x = Index.of(Dim("program", 4)) * 1024 + Index.of(Dim("lane", 1024))
        >>> (x.low, x.high)
        (0, 4095)
        >>> (x // 768).high, (x % 768).high
        (5, 767)
    """

    const: int = 0
    terms: tuple[tuple[Digit, int], ...] = ()

    @classmethod
    def of(cls, dim: Dim) -> Index:
        """The value of one dimension."""
        return cls(0, ((Digit(dim, 1, dim.extent), 1),) if dim.extent > 1 else ())

    @property
    def low(self) -> int:
        """Smallest value."""
        return self.const + sum(min(0, c * (d.extent - 1)) for d, c in self.terms)

    @property
    def high(self) -> int:
        """Largest value."""
        return self.const + sum(max(0, c * (d.extent - 1)) for d, c in self.terms)

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return replace(self, const=self.const + other)
        terms = dict(self.terms)
        for digit, coefficient in other.terms:
            terms[digit] = terms.get(digit, 0) + coefficient
        return Index(self.const + other.const, tuple((d, c) for d, c in terms.items() if c))

    def __sub__(self, other: Index | int) -> Index:
        return self + (other * -1)

    def __mul__(self, factor: int) -> Index:
        return Index(self.const * factor, tuple((d, c * factor) for d, c in self.terms) if factor else ())

    def __floordiv__(self, divisor: int) -> Index | None:  # type: ignore[override] # None: not expressible
        return self._divided(divisor)[0]

    def __mod__(self, divisor: int) -> Index | None:
        return self._divided(divisor)[1]

    def renamed(self, names: dict[str, str]) -> Index:
        """With other names for its dimensions."""
        return Index(self.const, tuple((replace(d, dim=d.dim.renamed(names)), c) for d, c in self.terms))

    def merged(self) -> Index:
        """With neighbours that count on from each other made one dimension: ``1024 * program + lane``."""
        terms = sorted(self.terms, key=lambda t: t[1])
        out: list[tuple[Digit, int]] = []
        for digit, coefficient in terms:
            last = out[-1] if out else None
            if last is not None and coefficient == last[1] * last[0].extent and coefficient > 0:
                joined = _joined(digit, last[0])
                if joined is not None:
                    out[-1] = (joined, last[1])
                    continue
            out.append((digit, coefficient))
        return Index(self.const, tuple(out))

    def leaves(self) -> set[Dim]:
        """The independent counters that it depends on."""
        return {leaf for digit, _ in self.terms for leaf in digit.dim.leaves()}

    def values(self, at: dict[str, np.ndarray]) -> np.ndarray | int:
        """Its values where the counters have the values ``at``."""
        total: np.ndarray | int = self.const
        for digit, coefficient in self.terms:
            total = total + coefficient * ((_value(digit.dim, at) // digit.div) % digit.mod)
        return total

    def _divided(self, divisor: int) -> tuple[Index | None, Index | None]:
        if divisor <= 0 or self.low < 0:
            return None, None
        # What counts on from each other is one counter: a mask bounds it as one, and so its digits are its own.
        for candidate in (self.merged(), self):
            divided = _split(candidate, divisor)
            if divided is not None:
                return divided
        return None, None


@dataclass(frozen=True)
class Bound:
    """``index < limit``."""

    index: Index
    limit: int

    @property
    def always(self) -> bool:
        """Whether it holds everywhere."""
        return self.index.high < self.limit


def _composite_name(parts: tuple[tuple[int, Dim], ...]) -> str:
    return "(" + "+".join(f"{c}*{d.name}" for c, d in parts) + ")"


def _value(dim: Dim, at: dict[str, np.ndarray]) -> np.ndarray | int:
    if not dim.parts:
        return at[dim.name]
    total: np.ndarray | int = 0
    for coefficient, part in dim.parts:
        total = total + coefficient * _value(part, at)
    return total


def _joined(slow: Digit, fast: Digit) -> Digit | None:
    """One digit of which ``slow`` counts what ``fast`` carries over."""
    if slow.dim == fast.dim:
        return Digit(slow.dim, fast.div, fast.mod * slow.mod) if slow.div == fast.div * fast.mod else None
    for digit in (slow, fast):
        if digit.div != 1 or digit.mod < digit.dim.extent:
            return None
    if set(slow.dim.leaves()) & set(fast.dim.leaves()):
        return None
    fast_parts = fast.dim.parts or ((1, fast.dim),)
    slow_parts = slow.dim.parts or ((1, slow.dim),)
    parts = (*((c * fast.extent, d) for c, d in slow_parts), *fast_parts)
    extent = slow.extent * fast.extent
    return Digit(Dim(_composite_name(parts), extent, parts), 1, extent)


def _split(index: Index, divisor: int) -> tuple[Index, Index] | None:
    """Quotient and remainder, where every term is a multiple, stays below, or is cut in two at a digit."""
    quotient, rest = Index(index.const // divisor), Index(index.const % divisor)
    for digit, coefficient in index.terms:
        if coefficient % divisor == 0:
            quotient += Index(0, ((digit, coefficient // divisor),))
        elif coefficient > 0 and divisor % coefficient == 0 and coefficient * (digit.extent - 1) >= divisor:
            step = divisor // coefficient
            top = digit.div * digit.mod >= digit.dim.extent
            if digit.mod % step and not top:
                return None
            upper = -(-digit.mod // step) if top else digit.mod // step
            quotient += Index(0, ((Digit(digit.dim, digit.div * step, upper), 1),))
            rest += Index(0, ((Digit(digit.dim, digit.div, step), coefficient),))
        else:
            rest += Index(0, ((digit, coefficient),))
    return (quotient, rest) if rest.low >= 0 and rest.high < divisor else None
