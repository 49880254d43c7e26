"""Captured graphs, read as text: which operator reads and writes which tensor, of how many bytes.

The graphs are Python as ``torch.fx`` prints it, with a dtype, sizes and strides beside each value
(``"bf16[4096, 4096][4096, 1]cuda:0"``). They are parsed, never executed. A view moves nothing: who reads it reads the
tensor it is of, as many different elements as the view has (an axis of stride 0 counts once).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Graph", "Operator", "Tensor", "parse_graphs"]

BYTES = {
    **{"b8": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8},
    **{"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16, "c32": 4},
    **{"f8e4m3fn": 1, "f8e5m2": 1, "f8e4m3fnuz": 1, "f8e5m2fnuz": 1, "f8e8m0fnu": 1},
}
"""Bytes of an element by the dtype's name in a printed graph."""

_VIEWS = frozenset(
    {
        *(
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "permute",
            "transpose",
            "t",
            "T",
            "mT",
            "expand",
            "expand_as",
        ),
        *("unsqueeze", "squeeze", "slice", "select", "alias", "detach", "split", "split_with_sizes", "chunk", "unbind"),
        *("as_strided", "view_as", "reshape_as", "flatten", "unflatten", "narrow", "diagonal", "swapaxes", "movedim"),
        *("size", "stride", "numel", "dim", "getitem", "requires_grad_", "contiguous", "lift_fresh_copy", "sym_size"),
    }
)
"""Operators that move no bytes. ``contiguous`` is one of them where it has nothing to do, which it mostly has not."""

_ANNOTATION = re.compile(r"^(?P<dtype>[a-z]+\d+\w*)\[(?P<sizes>[^\]]*)\](?:\[(?P<strides>[^\]]*)\])?")


@dataclass(frozen=True)
class Tensor:
    """One value of a graph."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    bytes: int | None = None
    """Bytes of its different elements; None where a size is a symbol, or it is no tensor."""

    @property
    def label(self) -> str:
        """Dtype and sizes: ``bf16 4096x4096``."""
        return f"{self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}".strip()


@dataclass(frozen=True)
class Operator:
    """One call of a graph that moves bytes."""

    name: str
    """Name of its node, which is the name of its result."""
    operator: str
    """What is called: ``silu``, ``aten.mul.Tensor``, ``+``."""
    reads: tuple[Tensor, ...]
    """Different tensors it reads; of a view, the tensor below with the view's bytes."""
    writes: tuple[Tensor, ...]


@dataclass
class Graph:
    """One printed graph."""

    inputs: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    """Names of the tensors (below views) that it returns."""

    @property
    def sized(self) -> bool:
        """Whether every tensor that is moved has a size."""
        return all(t.bytes is not None for o in self.operators for t in (*o.reads, *o.writes))


def parse_graphs(text: str) -> list[Graph]:
    """The graphs of one captured file; none where it is not a printed graph.

    Example:
        >>> (graph,) = parse_graphs('''
        ... class GraphModule(torch.nn.Module):
        ...     def forward(self, x: "f32[8, 4][4, 1]cpu"):
        ...         y: "f32[8, 4][4, 1]cpu" = torch.sin(x);  x = None
        ...         return (y,)
        ... ''')
        >>> [(o.operator, [t.bytes for t in o.reads], [t.bytes for t in o.writes]) for o in graph.operators]
        [('sin', [128], [128])]
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # cut, or not a graph at all
        return []
    functions = [
        f for c in module.body if isinstance(c, ast.ClassDef) for f in c.body if isinstance(f, ast.FunctionDef)
    ]
    return [_Reader(f).graph for f in functions if f.name == "forward"]


class _Reader:
    """Reads one ``forward``, statement by statement."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.graph = Graph()
        self._tensors: dict[str, Tensor] = {}
        self._below: dict[str, str] = {}  # a view, an element of a tuple or another name, to what it is of
        self._elements: dict[str, list[Tensor]] = {}  # results of an operator that has several
        self._calls: dict[str, tuple[str, tuple[Tensor, ...]]] = {}
        for argument in function.args.args:
            annotation = argument.annotation
            if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
                self._input(argument.arg, annotation.value)
        for statement in function.body:
            self._statement(statement)
        self._finish()

    def _input(self, name: str, annotation: str) -> None:
        tensor = _tensor(name, annotation)
        if tensor is not None:
            self._tensors[name] = tensor
            self.graph.inputs.append(tensor)

    def _statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Return) and statement.value is not None:
            self.graph.returned = list(dict.fromkeys(self._root(n) for n in _names(statement.value)))
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = statement.annotation
            shown = annotation.value if isinstance(annotation, ast.Constant) else ""
            if statement.value is None:
                self._input(statement.target.id, str(shown))
            else:
                self._assign(statement.target.id, statement.value, str(shown))
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and not isinstance(statement.value, ast.Constant):
                self._assign(target.id, statement.value, "")

    def _assign(self, name: str, value: ast.expr, annotation: str) -> None:
        tensor = _tensor(name, annotation)
        if tensor is not None:
            self._tensors[name] = tensor
        if isinstance(value, ast.Name):
            self._below[name] = value.id
            return
        if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name):
            source = value.value.id
            if source in self._calls:
                if tensor is not None:
                    self._elements.setdefault(source, []).append(tensor)
                return
            self._below[name] = source
            return
        operator = _operator(value)
        names = _names(value)
        if operator.split(".")[-1] in _VIEWS or (operator.count(".") == 2 and operator.split(".")[1] in _VIEWS):
            if names:
                self._below[name] = names[0]
            return
        self._calls[name] = (operator, tuple(self._reads(names)))

    def _reads(self, names: list[str]) -> Iterator[Tensor]:
        seen = set()
        for name in names:
            root = self._root(name)
            below, shown = self._tensors.get(root), self._tensors.get(name)
            if below is None or root in seen:
                continue
            seen.add(root)
            fewer = shown is not None and shown.bytes is not None and below.bytes is not None
            moved = min(shown.bytes, below.bytes) if fewer and shown and shown.bytes and below.bytes else below.bytes
            yield Tensor(below.name, below.dtype, below.shape, moved)

    def _root(self, name: str) -> str:
        seen = set()
        while name in self._below and name not in seen:
            seen.add(name)
            name = self._below[name]
        return name

    def _finish(self) -> None:
        for name, (operator, reads) in self._calls.items():
            whole = self._tensors.get(name)
            writes = tuple(self._elements.get(name, ())) or ((whole,) if whole else ())
            if writes or reads:
                self.graph.operators.append(Operator(name, operator, reads, writes))


def _names(expression: ast.expr) -> list[str]:
    """Names in an expression, in order, as often as they stand there."""
    found = [n for n in ast.walk(expression) if isinstance(n, ast.Name)]
    return [n.id for n in sorted(found, key=lambda n: (n.lineno, n.col_offset))]


_SIGNS: dict[type[ast.operator], str] = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@", ast.Mod: "%"},
    **{ast.FloorDiv: "//", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^"},
}


def _operator(value: ast.expr) -> str:
    """What an expression calls, without the packages it is from."""
    if isinstance(value, ast.BinOp):
        return _SIGNS.get(type(value.op), "operator")
    if isinstance(value, ast.UnaryOp):
        return "negative"
    if isinstance(value, ast.Compare):
        return "comparison"
    if not isinstance(value, ast.Call):
        return "value"
    parts: list[str] = []
    at: ast.expr = value.func
    while isinstance(at, ast.Attribute):
        parts.insert(0, at.attr)
        at = at.value
    path = ".".join(parts)
    if isinstance(at, ast.Name) and at.id == "torch" and path.startswith("ops."):
        return path.removeprefix("ops.")
    return parts[-1] if parts else (at.id if isinstance(at, ast.Name) else "call")


def _tensor(name: str, annotation: str) -> Tensor | None:
    match = _ANNOTATION.match(annotation)
    if match is None or match["dtype"] not in BYTES:
        return None
    sizes = [s.strip() for s in match["sizes"].split(",") if s.strip()]
    strides = [s.strip() for s in (match["strides"] or "").split(",") if s.strip()]
    if not all(s.isdigit() for s in sizes):
        return Tensor(name, match["dtype"], (), None)
    shape = tuple(int(s) for s in sizes)
    elements = 1
    for axis, length in enumerate(shape):
        repeated = axis < len(strides) and strides[axis] == "0"
        elements *= 1 if repeated else length
    return Tensor(name, match["dtype"], shape, elements * BYTES[match["dtype"]])
