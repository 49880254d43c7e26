"""The loads and stores of one of Inductor's C++ kernels: addresses as functions of its loops and vector lanes.

Pure: text in, accesses out. Inductor's C++ is loops over constants around statements of a few forms; each of these
forms is read with balanced parentheses, its index as arithmetic (``ast``). What has another form is listed as not
counted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fuselab.ir.addresses import Bound, Dim, Index
from fuselab.ir.traffic import Access

__all__ = ["CppAccesses", "CppArgument", "read_cpp"]

ELEMENT_BYTES = {
    "float": 4,
    "double": 8,
    "bool": 1,
    "int8_t": 1,
    "uint8_t": 1,
    "int16_t": 2,
    "int32_t": 4,
    "int64_t": 8,
    "uint16_t": 2,
    "uint32_t": 4,
    "uint64_t": 8,
    "at::BFloat16": 2,
    "at::Half": 2,
    "bfloat16": 2,
    "half": 2,
    "c10::complex<float>": 8,
    "at::Float8_e4m3fn": 1,
    "at::Float8_e5m2": 1,
}
"""Bytes of the element types that Inductor's C++ uses."""

_KERNEL = re.compile(r'extern\s+"C"[^(]*?\b(?P<name>\w+)\s*\((?P<arguments>[^)]*)\)')
_PARAMETER = re.compile(r"^(?P<const>const\s+)?(?P<type>[\w:<>]+)\s*(?P<pointer>\*)?\s*(?:const\s+)?(?P<name>\w+)$")
_FOR = re.compile(
    r"\bfor\s*\(\s*int64_t (?P<name>\w+)=(?P<low>.*?); (?P=name)<(?P<high>.*?); (?P=name)(?P<step>\+.*)\)$"
)
_ALIAS = re.compile(r"^auto (?P<new>\w+) = (?P<old>\w+);$")
_CONDITION = re.compile(r"(?P<left>[^&]+?)(?P<how><=|>=|<|>)(?P<right>[^&]+)")
_CAST = "static_cast<int64_t>"


@dataclass(frozen=True)
class CppArgument:
    """One parameter of the kernel."""

    name: str
    type: str
    pointer: bool
    const: bool


@dataclass
class CppAccesses:
    """Everything that a C++ kernel loads and stores through its arguments."""

    name: str = ""
    arguments: list[CppArgument] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why this may not be everything."""
    parallel: int = 0
    """Loops that are shared among threads."""


def read_cpp(text: str, values: Mapping[str, int] | None = None) -> CppAccesses:
    """The accesses of the kernel in a C++ source of Inductor's.

    Args:
        text: the source.
        values: values of its integer parameters (sizes that are not known when it is compiled).

    Raises:
        ValueError: the text holds no ``extern "C"`` function.

    Example:
        >>> source = '''extern "C" void kernel(const float* in_ptr0, float* out_ptr0)
        ... {
        ...     for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(64L); x0+=static_cast<int64_t>(1L))
        ...     {
        ...         auto tmp0 = in_ptr0[static_cast<int64_t>(x0)];
        ...         out_ptr0[static_cast<int64_t>(2L*x0)] = tmp0;
        ...     }
        ... }'''
        >>> [(a.argument, a.kind, a.address.high) for a in read_cpp(source).accesses]
        [('in_ptr0', 'load', 63), ('out_ptr0', 'store', 126)]
    """
    return _Reader(text, values or {}).read()


@dataclass
class _Scope:
    dim: Dim | None = None
    counter: str = ""
    value: Index | None = None
    step: int = 1
    bounds: tuple[Bound, ...] = ()
    unknown: str = ""


class _Reader:
    def __init__(self, text: str, values: Mapping[str, int]) -> None:
        match = _KERNEL.search(text)
        if match is None:
            raise ValueError('no extern "C" function in this text: it is not one of Inductor\'s C++ kernels')
        self._out = CppAccesses(match["name"])
        for part in match["arguments"].split(","):
            parameter = _PARAMETER.match(" ".join(part.split()))
            if parameter is not None:
                self._out.arguments.append(
                    CppArgument(
                        parameter["name"], parameter["type"], bool(parameter["pointer"]), bool(parameter["const"])
                    )
                )
        self._bytes = {a.name: ELEMENT_BYTES.get(a.type, 0) for a in self._out.arguments if a.pointer}
        self._aliases = {name: name for name in self._bytes}
        self._values: dict[str, Index] = {name: Index(value) for name, value in values.items()}
        self._scopes: list[_Scope] = []
        self._ordinals: dict[tuple[str, ...], int] = {}
        self._first_line = text.count("\n", 0, match.end()) + 1
        self._at = self._first_line
        self._lines = text[match.end() :].split("\n")

    def read(self) -> CppAccesses:
        waiting: _Scope | None = None
        for number, raw in enumerate(self._lines, start=self._first_line):
            self._at = number
            line = raw.strip()
            if line.startswith("#pragma omp for"):
                self._out.parallel += 1
            if (alias := _ALIAS.match(line)) is not None and alias["old"] in self._aliases:
                self._aliases[alias["new"]] = self._aliases[alias["old"]]
            header = self._header(line)
            if header is not None:
                waiting = header
                if not line.endswith("{"):
                    continue
            else:
                self._statement(line, self._at)
            if "[&]" in line and not line.endswith(";"):
                waiting = _Scope(unknown="it is under a condition that depends on data")
            for character in line:
                if character == "{":
                    self._scopes.append(waiting or _Scope())
                    waiting = None
                elif character == "}" and self._scopes:
                    self._scopes.pop()
        return self._out

    def _header(self, line: str) -> _Scope | None:
        text = line.removesuffix("{").strip()
        if (match := _FOR.match(text)) is not None:
            return self._loop(match)
        if text.startswith(("for(", "for (", "while(", "while (")):
            return _Scope(unknown="it is in a loop whose length is not plain")
        if text.startswith(("if(", "if (")):
            return self._condition(text)
        if text.startswith("else"):
            return _Scope(unknown="it is under a condition that depends on data")
        return None

    def _loop(self, match: re.Match[str]) -> _Scope:
        low, high = self._index(match["low"]), self._index(match["high"])
        step_text = match["step"].removeprefix("+=")
        step = Index(1) if step_text.startswith("++") else self._index(step_text)
        plain = step is not None and not step.terms and step.const > 0 and low is not None and high is not None
        if not plain or low is None or high is None or step is None:
            return _Scope(counter=match["name"], unknown="it is in a loop whose length is not plain")
        span = high - low
        dim = Dim(f"loop {match['name']} of line {self._at}", -(-span.high // step.const))
        value = Index.of(dim) * step.const + low
        bounds = (Bound(value - high, 0),) if span.terms else ()
        return _Scope(dim, match["name"], value, step.const, bounds)

    def _condition(self, text: str) -> _Scope:
        self._ordinals.clear()  # Inductor writes the same statements again for the elements that fill no vector
        inner = _inside(text, text.find("("))
        inner = inner.removeprefix("C10_LIKELY").removeprefix("C10_UNLIKELY").strip()
        inner = _inside(inner, 0) if inner.startswith("(") and _closing(inner, 0) == len(inner) - 1 else inner
        bounds = []
        for clause in inner.split("&&"):
            match = _CONDITION.fullmatch(clause.strip())
            left = self._index(match["left"]) if match else None
            right = self._index(match["right"]) if match else None
            if match is None or left is None or right is None:
                return _Scope(unknown="it is under a condition that depends on data")
            if match["how"].startswith(">"):
                left, right = right, left
            difference = left - right
            limit = 1 if match["how"].endswith("=") else 0
            bounds.append(Bound(Index(0, difference.terms), limit - difference.const))
        return _Scope(bounds=tuple(bounds))

    def _statement(self, line: str, number: int) -> None:
        for kind, pointer, index, lanes in self._accesses(line):
            name = self._aliases.get(pointer)
            if name is None:
                continue
            if not self._bytes[name]:
                self._incomplete(f"{name}: elements of an unknown type")
                continue
            address = self._index(index)
            dims = [s.dim for s in self._scopes if s.dim is not None]
            bounds = [b for s in self._scopes for b in s.bounds]
            unknown = next((s.unknown for s in self._scopes if s.unknown), "")
            for axis, (extent, stride) in enumerate(lanes):
                lane = Dim(f"lane {axis}", extent)
                dims.append(lane)
                address = None if address is None else address + Index.of(lane) * stride
            nest = " ".join(s.dim.name for s in self._scopes if s.dim is not None)
            ordinal = self._ordinals[nest, name, kind] = self._ordinals.get((nest, name, kind), 0) + 1
            place = f"{nest} #{ordinal}" if nest else ""
            self._out.accesses.append(
                Access(name, kind, self._bytes[name], tuple(dims), address, tuple(bounds), unknown, number, place)
            )

    def _accesses(self, line: str) -> Iterator[tuple[str, str, str, list[tuple[int, int]]]]:
        """Each access of a line: kind, pointer, index, and the extents and strides of its lanes."""
        stored = re.match(r"(\w+)\[", line)
        store_end = -1
        if stored is not None:
            store_end = _closing(line, stored.end() - 1)
            after = line[store_end + 1 :].lstrip()
            if after.startswith(("=", "+=")) and not after.startswith("=="):
                yield ("atomic" if after.startswith("+=") else "store"), stored[1], line[stored.end() : store_end], []
            else:
                store_end = -1
        for match in re.finditer(r"(&\s*)?\b(\w+)\[", line):
            end = _closing(line, match.end() - 1)
            if end != store_end:
                atomic = match[1] and "atomic_add" in line[: match.start()]
                yield "atomic" if atomic else "load", match[2], line[match.end() : end], []
        for match in re.finditer(
            r"(?P<call>\.store|\w*atomic_add_vec<[^(]*>|[\w:<>,]*)\((?P<pointer>\w+) ?(?=[+,)])", line
        ):
            if match["pointer"] not in self._aliases:
                continue
            arguments = _arguments(line, match.start("pointer") - 1)
            yield from self._call(match["call"], match["pointer"], arguments)

    def _call(
        self, call: str, pointer: str, arguments: list[str]
    ) -> Iterator[tuple[str, str, str, list[tuple[int, int]]]]:
        index = arguments[0].partition("+")[2] or "0"
        if call.startswith("transpose_mxn"):
            sizes = [int(n) for n in re.findall(r"\d+", call.partition("<")[2].partition(",")[2])]
            sizes = sizes or [int(n) for a in arguments[4:6] if (n := _plain(a)).isdecimal()]
            leading = self._index(arguments[1]) if len(arguments) > 1 else None
            if len(sizes) >= 2 and leading is not None and not leading.terms:
                yield "load", pointer, index, [(sizes[0], leading.const), (sizes[1], 1)]
                return
        elif call.endswith((".store", "loadu", "::from")) or call.endswith("load"):
            count = self._index(arguments[1]) if len(arguments) > 1 else Index(self._vector())
            if count is not None and not count.terms:
                yield ("store" if call.endswith("store") else "load"), pointer, index, [(count.const, 1)]
                return
        self._incomplete(f"a use of {self._aliases[pointer]} in {call or 'an expression'} is not counted")

    def _vector(self) -> int:
        """Lanes of a store that does not say: the step of the loop it stands in."""
        return next((s.step for s in reversed(self._scopes) if s.step > 1), 1)

    def _incomplete(self, reason: str) -> None:
        if reason not in self._out.reasons:
            self._out.reasons.append(reason)

    def _index(self, text: str) -> Index | None:
        try:
            tree = ast.parse(_plain(text), mode="eval").body
        except SyntaxError:
            return None
        return self._evaluated(tree)

    def _evaluated(self, node: ast.expr) -> Index | None:  # noqa: PLR0911 - one form of expression each
        if isinstance(node, ast.Constant):
            return Index(node.value) if isinstance(node.value, int) else None
        if isinstance(node, ast.Name):
            for scope in reversed(self._scopes):
                if scope.counter == node.id:
                    return scope.value
            return self._values.get(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._evaluated(node.operand)
            return None if value is None else value * -1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
            return self._called(node.func.id, node.args)
        if not isinstance(node, ast.BinOp):
            return None
        left, right = self._evaluated(node.left), self._evaluated(node.right)
        if left is None or right is None:
            return None
        return _calculated(node.op, left, right)

    def _called(self, name: str, arguments: list[ast.expr]) -> Index | None:
        a, b = (self._evaluated(argument) for argument in arguments)
        if a is None or b is None or b.terms:
            return None
        if name == "div_floor_integer":
            return a // b.const
        if name in ("min", "max") and not a.terms:
            return Index(min(a.const, b.const) if name == "min" else max(a.const, b.const))
        return None


def _calculated(operator: ast.operator, a: Index, b: Index) -> Index | None:
    if isinstance(operator, ast.Add):
        return a + b
    if isinstance(operator, ast.Sub):
        return a - b
    if isinstance(operator, ast.Mult) and not (a.terms and b.terms):
        return a * b.const if not b.terms else b * a.const
    if b.terms:
        return None
    if isinstance(operator, ast.Div | ast.FloorDiv):
        return a // b.const
    return a % b.const if isinstance(operator, ast.Mod) else None


def _plain(text: str) -> str:
    """C++ integer arithmetic as Python reads it."""
    text = text.replace(_CAST, "").replace("c10::div_floor_integer", "div_floor_integer").replace("std::", "")
    text = re.sub(r"\(\s*[^()?]+== 0 \? 1 : ([^()]+|\([^()]*\))\)", r"(\1)", text)
    return re.sub(r"\b(\d+)L+\b", r"\1", text).strip()


def _closing(text: str, opening: int) -> int:
    """Where the bracket at ``opening`` closes; the end of the text if it does not."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    return len(text)


def _inside(text: str, opening: int) -> str:
    return text[opening + 1 : _closing(text, opening)]


def _arguments(text: str, opening: int) -> list[str]:
    """The arguments of the call whose parenthesis opens there."""
    depth = 0
    parts = [""]
    for character in _inside(text, opening):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
