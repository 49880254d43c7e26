"""What a kernel reads and writes: every load and store of its code, counted, against the fewest bytes possible.

Pure. An :class:`Access` is one place in the code that loads or stores; ``ir.traffic_ttir`` finds them in TTIR and
``ir.traffic_cpp`` in Inductor's C++. Three figures are kept apart, since they answer three questions:

- *requested*: every lane of every load and store, as often as it runs. What the caches see.
- *read* and *written*: each access's different elements, once for each place in the code. A weight that every program
  loads counts once (it stays in the cache); an input that is loaded in two passes counts twice.
- *fewest*: each input's touched elements once and each output's once. What any kernel has to move.

Where an address or a mask depends on data the figure is an upper limit, and ``reasons`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuselab.ir.address_sets import AddressSet, count_points, touched, union_size
from fuselab.ir.addresses import Bound, Dim, Index

__all__ = ["Access", "ArgumentTraffic", "Traffic", "measure_traffic"]


@dataclass(frozen=True)
class Access:
    """One place in the code that loads or stores."""

    argument: str
    """The pointer argument that the address starts from."""
    kind: str
    """``load``, ``store`` or ``atomic``."""
    element_bytes: int
    dims: tuple[Dim, ...]
    """Programs, loops and lanes that it runs over."""
    address: Index | None
    """Elements from the argument; None where it depends on data."""
    bounds: tuple[Bound, ...] = ()
    """Where it runs at all."""
    unknown: str = ""
    """Why the mask, or how often it runs, is not known; empty where it is."""
    line: int = 0
    """Line in the text it was read from."""
    place: str = ""
    """Accesses of one name are one place in the code: a vectorised loop and its remainder. Empty: its own."""


@dataclass
class ArgumentTraffic:
    """What one pointer argument is used for."""

    name: str
    element_bytes: int
    role: str = ""
    """``input``, ``output`` or ``in-out``: an argument that is stored to before it is loaded from is an output."""
    loads: int = 0
    """Places that load."""
    stores: int = 0
    """Places that store."""
    requested_read_bytes: int = 0
    requested_written_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    fewest_bytes: int = 0
    """Its touched elements: once for an input, once for an output, twice for one that is both."""


@dataclass
class Traffic:
    """What one launch reads and writes, in bytes."""

    arguments: list[ArgumentTraffic] = field(default_factory=list)
    exact: bool = True
    """Whether every figure is exact; else they are upper limits."""
    reasons: list[str] = field(default_factory=list)
    """Why they are not."""
    elements: int = 0
    """Different elements of the argument that has most: what "an element" means in a ratio."""

    def total(self, name: str) -> int:
        """Sum of one figure over the arguments."""
        return sum(getattr(argument, name) for argument in self.arguments)

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        fewest = self.total("fewest_bytes")
        moved = self.total("read_bytes") + self.total("written_bytes")
        return {
            "read_bytes": self.total("read_bytes"),
            "written_bytes": self.total("written_bytes"),
            "requested_bytes": self.total("requested_read_bytes") + self.total("requested_written_bytes"),
            "fewest_bytes": fewest,
            "over_fewest": moved / fewest if fewest else None,
            "elements": self.elements,
            "exact": self.exact,
            "reasons": self.reasons,
            "arguments": [vars(argument) for argument in self.arguments],
        }


def measure_traffic(
    accesses: Sequence[Access], sizes: Mapping[str, int | None] | None = None, reasons: Sequence[str] = ()
) -> Traffic:
    """Count what the accesses of one launch move.

    Args:
        accesses: in the order of the code.
        sizes: elements of each argument's tensor, where known: no argument has more different elements than that.
        reasons: why the accesses themselves may not be all.

    Example:
        >>> row, column = Dim("row", 64), Dim("column", 250)
        >>> access = Access("x", "load", 4, (row, column), Index.of(row) * 250 + Index.of(column))
        >>> measure_traffic([access, access]).summary()["over_fewest"]
        2.0
    """
    traffic = Traffic(reasons=list(dict.fromkeys(reasons)), exact=not reasons)
    by_argument: dict[str, list[Access]] = {}
    for access in accesses:
        by_argument.setdefault(access.argument, []).append(access)
    for name, mine in by_argument.items():
        _add_argument(traffic, name, mine, (sizes or {}).get(name))
    return traffic


def _add_argument(traffic: Traffic, name: str, accesses: list[Access], size: int | None) -> None:
    argument = ArgumentTraffic(name, max(access.element_bytes for access in accesses))
    sets: dict[tuple[str, str], list[AddressSet]] = {}
    limit = 0  # elements that are touched at most where the addresses are not known
    for number, access in enumerate(accesses):
        requested = _requested(traffic, access)
        found = None if access.address is None else touched(access.address, access.dims, access.bounds)
        if found is None:
            why = (
                "the address depends on data" if access.address is None else "the addresses are too irregular to count"
            )
            _inexact(traffic, f"{name}: {why} (line {access.line})")
            different = min(requested, size) if size is not None else requested
            limit += different
        else:
            place = sets.setdefault((access.kind, access.place or f"#{number}"), [])
            # What this adds to its place: nothing where the vectorised loop before it had the same.
            different = union_size([*place, found])[0] - union_size(place)[0]
            place.append(found)
        requested_bytes, moved = requested * access.element_bytes, different * access.element_bytes
        if access.kind in ("load", "atomic"):
            argument.loads += 1
            argument.requested_read_bytes += requested_bytes
            argument.read_bytes += moved
        if access.kind in ("store", "atomic"):
            argument.stores += 1
            argument.requested_written_bytes += requested_bytes
            argument.written_bytes += moved
    elements, exact = union_size([found for place in sets.values() for found in place])
    elements += limit
    if not exact:
        _inexact(traffic, f"{name}: what its accesses have in common was not worked out")
    if size is not None:
        elements = min(elements, size)
    argument.role = _role(accesses)
    argument.fewest_bytes = elements * argument.element_bytes * (2 if argument.role == "in-out" else 1)
    traffic.elements = max(traffic.elements, elements)
    traffic.arguments.append(argument)


def _role(accesses: list[Access]) -> str:
    if all(access.kind == "load" for access in accesses):
        return "input"
    return "output" if accesses[0].kind == "store" else "in-out"


def _requested(traffic: Traffic, access: Access) -> int:
    if access.unknown:
        _inexact(traffic, f"{access.argument}: {access.unknown} (line {access.line})")
    points = count_points(access.dims, access.bounds)
    if points is None:
        _inexact(traffic, f"{access.argument}: the mask is too irregular to count (line {access.line})")
        points = count_points(access.dims, ())
    return points or 0


def _inexact(traffic: Traffic, reason: str) -> None:
    traffic.exact = False
    if reason not in traffic.reasons:
        traffic.reasons.append(reason)
