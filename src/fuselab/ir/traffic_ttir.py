"""The loads and stores of a Triton kernel, from its TTIR: addresses and masks over programs, loops and lanes.

Pure: text in, accesses out. The integer arithmetic of the kernel is carried out on ``addresses.Index`` values; whatever
depends on loaded data stays unknown, and what is loaded or stored through it is listed as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuselab.ir.addresses import Bound, Dim, Index
from fuselab.ir.traffic import Access
from fuselab.ir.ttir_values import (
    FALSE,
    TENSOR,
    Mask,
    Pointer,
    arithmetic,
    attribute,
    compared,
    moved_by,
    moving,
    reshaped,
    trips_of,
)

__all__ = ["Loop", "TtirAccesses", "read_ttir"]

_FUNCTION = re.compile(r"tt\.func\s+(?P<visibility>public|private)?\s*@(?P<name>\"[^\"]*\"|[^\s(]+)\((?P<rest>.*)$")
_ARGUMENT = re.compile(r"%(?P<name>[\w$.-]+): (?P<type>!tt\.ptr<[^>]*>|!tt\.tensordesc<[^{]*>|[\w.]+)")
_OPERATION = re.compile(r"^(?:(?P<results>%[\w$.:#, %-]+?) = )?(?P<op>\"?[a-z_]+\.[\w.]+\"?)(?P<rest>.*)$", re.DOTALL)
_VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
_POINTEE = re.compile(r"!tt\.ptr<\s*(?P<element>[\w.]+)")
_FOR = re.compile(
    r"%(?P<counter>[\w$.-]+) = (?P<low>%[\w$.-]+) to (?P<high>%[\w$.-]+) step (?P<step>%[\w$.-]+)"
    r"(?:\s+iter_args\((?P<carried>.*?)\) ->)?"
)
_AXES = {"x": 0, "y": 1, "z": 2}
_BITS = re.compile(r"\D*(\d+)")


@dataclass(frozen=True)
class Loop:
    """One loop of the kernel."""

    line: int
    trips: int | None
    """How often its body runs; None where that depends on data."""
    depth: int
    """Loops around it."""


@dataclass
class TtirAccesses:
    """Everything that a kernel's TTIR loads and stores."""

    arguments: list[str] = field(default_factory=list)
    """Names of the function's arguments, in order."""
    accesses: list[Access] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why this may not be everything."""
    dots: int = 0
    """Matrix products in it."""
    reductions: int = 0
    """Reductions and scans in it."""


def read_ttir(
    text: str, arguments: Mapping[str, int] | Sequence[int | None], grid: tuple[int, int, int] | None
) -> TtirAccesses:
    """The accesses of the public function in a TTIR module.

    Args:
        text: the module.
        arguments: values of its integer arguments, by name or by position (None where there is none).
        grid: programs along x, y and z; None where unknown: then nothing can be counted.

    Raises:
        ValueError: the text holds no function.
    """
    return _Reader(text, arguments, grid).read()


class _Reader:
    def __init__(
        self, text: str, arguments: Mapping[str, int] | Sequence[int | None], grid: tuple[int, int, int] | None
    ) -> None:
        self._lines = text.splitlines()
        self._given = arguments
        self._grid = grid
        self._values: dict[str, Any] = {}
        self._dims: list[Dim] = []
        self._guards: list[Mask] = []
        self._unknown: list[str] = []
        self._recording = True
        self._out = TtirAccesses()

    def read(self) -> TtirAccesses:
        start = self._function()
        if self._grid is None:
            self._out.reasons.append("the grid is not known")
            self._grid = (1, 1, 1)
        self._dims = [Dim(f"program {axis}", self._grid[i]) for axis, i in _AXES.items()]
        self._block(start, self._end(start - 1))
        return self._out

    def _function(self) -> int:
        found = [(n, m) for n, line in enumerate(self._lines) if (m := _FUNCTION.search(line))]
        public = [pair for pair in found if pair[1]["visibility"] != "private"]
        if not public:
            raise ValueError("no tt.func in this text: it is not TTIR")
        number, match = public[0]
        for position, argument in enumerate(_ARGUMENT.finditer(match["rest"])):
            name = argument["name"]
            self._out.arguments.append(name)
            self._values[f"%{name}"] = self._argument(name, argument["type"], position)
        return number + 1

    def _argument(self, name: str, kind: str, position: int) -> Any:
        if (pointee := _POINTEE.match(kind)) is not None:
            return Pointer(name, _bytes(pointee["element"]), Index())
        if isinstance(self._given, Mapping):
            value = self._given.get(name)
        else:
            value = self._given[position] if position < len(self._given) else None
        return Index(value) if isinstance(value, int) else None

    def _end(self, opening: int) -> int:
        """The line that closes the block which the line ``opening`` opens."""
        depth = 0
        for number in range(opening, len(self._lines)):
            line = _without_location(self._lines[number])
            line = re.sub(r"\{[^{}]*\}", "", re.sub(r'"[^"]*"', "", line))
            depth += line.count("{") - line.count("}")
            if depth <= 0 and number > opening:
                return number
        return len(self._lines)

    def _block(self, start: int, end: int) -> list[Any]:
        """Carry out the lines of a block; the values that it yields."""
        number = start
        yielded: list[Any] = []
        while number < end:
            line = _without_location(self._lines[number]).strip()
            match = _OPERATION.match(line)
            if match is None:
                number += 1
                continue
            operation = match["op"].strip('"')
            results = [r.strip() for r in (match["results"] or "").split(",") if r.strip()]
            if operation in ("scf.for", "scf.if", "scf.while"):
                number = self._region(operation, results, match["rest"], number)
                continue
            if operation in ("tt.reduce", "tt.scan", "tt.map_elementwise"):
                self._out.reductions += self._recording and operation != "tt.map_elementwise"
                number = self._end(number) + 1 if line.endswith("({") else number + 1
                continue
            if operation in ("scf.yield", "scf.condition"):
                yielded = [self._values.get(v) for v in _VALUE.findall(match["rest"].partition(" : ")[0])]
            elif operation.startswith("cf."):
                self._incomplete("its control flow is not structured: some accesses are counted as if always reached")
            else:
                self._carry_out(operation, results, match["rest"], number + 1)
            number += 1
        return yielded

    def _region(self, operation: str, results: list[str], rest: str, number: int) -> int:
        end = self._end(number)
        if operation == "scf.for":
            self._loop(results, rest, number, end)
        elif operation == "scf.if":
            condition = self._values.get((_VALUE.findall(rest) or [""])[0])
            self._branch(condition if isinstance(condition, Mask) else Mask(unknown=True), number + 1, end)
            if _without_location(self._lines[end]).strip().startswith("} else"):
                otherwise = self._end(end)
                self._branch(Mask(unknown=True), end + 1, otherwise)
                end = otherwise
        else:
            why = "it is in a loop whose length depends on data"
            self._unknown.append(why)
            if self._recording:
                self._out.loops.append(Loop(number + 1, None, self._depth()))
            self._block(number + 1, end)
            self._unknown.pop()
            if "do {" in self._lines[end]:
                second = self._end(end)
                self._unknown.append(why)
                self._block(end + 1, second)
                self._unknown.pop()
                end = second
        return end + 1

    def _branch(self, mask: Mask, start: int, end: int) -> None:
        self._guards.append(mask)
        self._block(start, end)
        self._guards.pop()

    def _depth(self) -> int:
        return sum(d.name.startswith("loop ") for d in self._dims) + len(self._unknown)

    def _loop(self, results: list[str], rest: str, number: int, end: int) -> None:
        match = _FOR.search(rest)
        low, high, step = (
            (self._values.get(match[name]) for name in ("low", "high", "step")) if match else (None, None, None)
        )
        trips, ends = trips_of(low, high, step)
        if self._recording:
            self._out.loops.append(Loop(number + 1, trips, self._depth()))
        counter = Dim(f"loop {number + 1}", 1 if trips is None else trips)
        if match is None:
            self._incomplete("a loop could not be read")
            return
        steps = None
        if trips is not None and isinstance(low, Index) and isinstance(step, Index):
            steps = Index.of(counter) * step.const + low
        self._values[f"%{match['counter']}"] = steps
        carried = [pair.partition(" = ") for pair in (match["carried"] or "").split(", ") if " = " in pair]
        names, starts = [c[0].strip() for c in carried], [self._values.get(c[2].strip()) for c in carried]
        # Once without recording, to see by how much the carried addresses move each time.
        recording, self._recording = self._recording, False
        self._values.update(zip(names, starts, strict=True))
        after = self._block(number + 1, end)
        self._recording = recording
        for name, start, moved in zip(names, starts, [*after, *[None] * len(names)], strict=False):
            self._values[name] = moving(start, moved, counter)
        if trips is None:
            self._unknown.append("it is in a loop whose length depends on data")
        self._dims.append(counter)
        self._guards.append(Mask(tuple(Bound(steps - last, 0) for last in ends) if steps is not None else ()))
        if trips != 0:
            self._block(number + 1, end)
        self._guards.pop()
        self._dims.pop()
        if trips is None:
            self._unknown.pop()
        for result in results:
            self._values[result.partition(":")[0]] = None

    def _incomplete(self, reason: str) -> None:
        if reason not in self._out.reasons:
            self._out.reasons.append(reason)

    def _carry_out(  # noqa: PLR0912 - a table of operations
        self, operation: str, results: list[str], rest: str, line: int
    ) -> None:
        operands = [self._values.get(v) for v in _VALUE.findall(rest.partition(" : ")[0])]
        value: Any = None
        if operation in ("tt.load", "tt.store", "tt.atomic_rmw", "tt.atomic_cas"):
            self._access(operation, operands, rest, line)
        elif operation.startswith(("tt.descriptor_", "ttng.", "ttg.")) or "descriptor" in operation:
            self._incomplete(f"{operation} is not counted")
        elif operation == "tt.call":
            self._incomplete("a function that it calls was not inlined, and is not counted")
        elif operation.startswith("tt.dot"):
            self._out.dots += self._recording
        elif operation == "arith.constant":
            value = _constant(rest)
        elif operation == "tt.get_program_id":
            axis = _AXES.get(rest.split(maxsplit=1)[0], 0) if rest.split() else 0
            value = Index.of(self._dims[axis])
        elif operation == "tt.get_num_programs":
            axis = _AXES.get(rest.split(maxsplit=1)[0], 0) if rest.split() else 0
            value = Index(self._grid[axis]) if self._grid else None
        elif operation == "tt.make_range":
            first, last = attribute(rest, "start"), attribute(rest, "end")
            if first is not None and last is not None:
                value = Index.of(Dim("lane 0", last - first)) + first
        elif operation in ("tt.expand_dims", "tt.trans", "tt.reshape"):
            value = reshaped(operation, operands[0] if operands else None, rest)
        elif operation == "tt.addptr":
            value = moved_by(operands[0], operands[1]) if len(operands) > 1 else None
        elif operation == "arith.cmpi":
            value = compared(rest, operands)
        elif operation.startswith("arith.") or operation in ("tt.splat", "tt.broadcast", "tt.bitcast"):
            value = arithmetic(operation, operands)
        for result in results:
            self._values[result.partition(":")[0]] = value if len(results) == 1 else None

    def _access(self, operation: str, operands: list[Any], rest: str, line: int) -> None:
        if not self._recording:
            return
        pointer = operands[0] if operands else None
        if operation.startswith("tt.atomic") and not isinstance(pointer, Pointer):
            pointer = next((o for o in operands if isinstance(o, Pointer)), None)
        if not isinstance(pointer, Pointer):
            self._incomplete(f"an address does not start from an argument (line {line})")
            return
        kind = {"tt.load": "load", "tt.store": "store"}.get(operation, "atomic")
        position = 1 if kind == "load" else 2
        masked = len(operands) > position and operation != "tt.atomic_cas"
        mask = operands[position] if masked else Mask()
        mask = mask if isinstance(mask, Mask) else Mask(unknown=True)
        shape = _shape(rest)
        lanes = tuple(Dim(f"lane {axis}", extent) for axis, extent in enumerate(shape))
        guards = [*self._guards, mask]
        unknown = [*self._unknown, *(["the mask depends on data"] if any(g.unknown for g in guards) else [])]
        self._out.accesses.append(
            Access(
                argument=pointer.argument,
                kind=kind,
                element_bytes=pointer.element_bytes,
                dims=(*self._dims, *lanes),
                address=pointer.offset,
                bounds=tuple(b for g in guards for b in g.bounds),
                unknown="; ".join(unknown),
                line=line,
            )
        )


def _without_location(line: str) -> str:
    """A line without the location record at its end."""
    found = line.find(" loc(")
    return line if found < 0 or "tt.func" in line else line[:found]


def _bytes(element: str) -> int:
    match = _BITS.match(element)
    bits = int(match[1]) if match and not element.startswith("f8") else 8
    return max(1, bits // 8)


def _constant(rest: str) -> Any:
    text = rest.partition(" : ")[0].strip()
    text = re.sub(r"^\{.*?\}\s*", "", text)
    if text.startswith("dense<"):
        text = text.removeprefix("dense<").rstrip(">")
    if text in ("true", "false"):
        return Mask() if text == "true" else FALSE
    return Index(int(text)) if re.fullmatch(r"-?\d+", text) else None


def _shape(rest: str) -> tuple[int, ...]:
    """Shape of the tile that an access works on: that of its type, none for a scalar."""
    match = TENSOR.search(rest.rpartition(" : ")[2])
    return tuple(int(n) for n in match["shape"].split("x") if n) if match else ()
