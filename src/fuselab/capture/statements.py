"""The lines of a kernel's source: what each does, and which line's values it uses. Pure: text in, records out.

Triton's kernels are read as Python; Inductor's C++ is read line by line, since it writes one statement a line. A use is
resolved to the nearest definition above it, which holds for both: a name is never used before it is defined again.
"""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Kind", "Statement", "read_cpp", "read_triton"]


class Kind(enum.StrEnum):
    """What a line of a kernel does."""

    LOAD = "load"
    STORE = "store"
    COMPUTE = "compute"
    CONSTANT = "constant"
    """A literal, or one spread over a vector."""
    LAYOUT = "layout"
    """A broadcast or a reshape: no arithmetic."""
    INDEX = "index"
    """Which elements the program works on."""
    CONTROL = "control"
    """A loop, a branch, the head of the function."""


@dataclass
class Statement:
    """One line of a kernel's source."""

    line: int
    """From 1."""
    last: int
    """Its last line, where it runs over several."""
    kind: Kind
    producers: set[int] = field(default_factory=set)
    """Lines whose values it uses."""
    consumers: set[int] = field(default_factory=set)
    """Lines that use its value."""


_LOADS = {"load", "make_block_ptr", "load_tensor_descriptor"}
_STORES = {"store"}
_LAYOUTS = {"broadcast_to", "reshape", "expand_dims", "trans", "view"}
_INDEX_CALLS = {"program_id", "arange", "num_programs"}


def read_triton(source: str, *, first: bool = False) -> list[Statement]:
    """Statements of the kernel in a Triton source, in order; empty where it is not Python.

    Inductor writes what a kernel calls above it, and below a kernel of the user's (``first``).

    Example:
        >>> text = "def k(p, q):\\n    x = tl.arange(0, 8)\\n    a = tl.load(p + x)\\n    tl.store(q + x, a * 2)\\n"
        >>> [(s.line, s.kind.value, sorted(s.producers)) for s in read_triton(text)]
        [(1, 'control', []), (2, 'index', []), (3, 'load', [2]), (4, 'store', [2, 3])]
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not functions:
        return []
    function = functions[0 if first else -1]
    head = Statement(function.lineno, function.lineno, Kind.CONTROL)
    flow = _Flow([head])
    constants = {argument.arg for argument in function.args.args}
    for statement in _walk(function.body):
        if isinstance(statement, ast.For | ast.While | ast.If | ast.With):
            mine = Statement(statement.lineno, statement.lineno, Kind.CONTROL)
            head_of = statement.iter if isinstance(statement, ast.For) else getattr(statement, "test", None)
            names = _names(statement.target) if isinstance(statement, ast.For) else set()
            flow.add(mine, _names(head_of) if head_of is not None else set(), names)
            continue
        mine = Statement(statement.lineno, statement.end_lineno or statement.lineno, _python_kind(statement, constants))
        defined = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if isinstance(statement, ast.AnnAssign) or mine.kind is Kind.CONSTANT:
            constants |= defined
        flow.add(
            mine, {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} - (defined - _used(statement)), defined
        )
    return flow.statements


def _walk(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.Pass):
            continue
        yield statement
        for inner in ("body", "orelse"):
            nested = getattr(statement, inner, None)
            if isinstance(nested, list):
                yield from _walk(nested)


def _used(statement: ast.stmt) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _python_kind(statement: ast.stmt, constants: set[str]) -> Kind:  # noqa: PLR0911 - a table of cases
    calls = {_called(node) for node in ast.walk(statement) if isinstance(node, ast.Call)}
    if any(name in _STORES or name.startswith("atomic_") for name in calls):
        return Kind.STORE
    if calls & _LOADS:
        return Kind.LOAD
    if isinstance(statement, ast.Expr) and not calls:
        return Kind.CONTROL
    if isinstance(statement, ast.Return | ast.Import | ast.ImportFrom | ast.FunctionDef):
        return Kind.CONTROL
    value = getattr(statement, "value", None)
    if isinstance(statement, ast.AnnAssign) or value is None:
        return Kind.CONSTANT
    if calls & _INDEX_CALLS:
        return Kind.INDEX
    names = _names(value) - {"tl", "triton_helpers", "libdevice", "tl_math", "triton"}
    if not names or (calls <= {"full", "constexpr"} and names <= constants):
        return Kind.CONSTANT
    if isinstance(value, ast.Name):
        return Kind.LAYOUT
    outer = _called(value) if isinstance(value, ast.Call) else ""
    if outer in _LAYOUTS or isinstance(value, ast.Subscript):
        inner = {_called(node) for node in ast.walk(value) if isinstance(node, ast.Call)}
        if inner <= _LAYOUTS:
            return Kind.LAYOUT
    return Kind.COMPUTE


def _called(call: ast.AST) -> str:
    function = getattr(call, "func", None)
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


_CPP_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_CPP_TARGET = re.compile(
    r"^(?:(?:const\s+)?(?:auto|float|double|bool|int|long|u?int\d+_t|at::\S+|Welford\S*|IndexValue\S*|[\w:]+<[^=;]*>)"
    r"[\s&*]+)?(?P<name>[A-Za-z_]\w*)\s*(?P<index>\[.*?\])?\s*(?P<op>[-+*/|&^]?=)(?!=)\s*(?P<value>.*)$"
)
_CPP_CONTROL = re.compile(r"^(?:for|if|else|while|#|}|\{|\)|extern|void|template|return|inductor_cpu_|//)|^\S*\s*\($")
_CPP_STORE = re.compile(r"\.store\(|\btranspose_mxn<|\batomic_add|\bstore_\w+\(|\bnormalized_\w+_store")
_CPP_LOAD = re.compile(r"\bloadu\(|::loadu|Vec\w*<[^>]*>::from\(\s*\w*ptr|\b(?:in|out|in_out)_ptr\w*\[|\bws_ptr\w*\[")
_CPP_POINTER = re.compile(r"(?:in|out|in_out|ws)_ptr\w*|local_buffer\w*")
_CPP_STORED_TO = re.compile(r"\.store\((?P<name>\w+)")
_CPP_LITERAL = re.compile(
    r"^(?:static_cast<[^<>]*>\()?[-+]?(?:\d[\w.+-]*|std::numeric_limits<.*>::\w+\(\)|true|false)\)?;?$"
)
_CPP_SPREAD = re.compile(r"^at::vec::Vectorized\w*<[^<>]*>\((?P<what>[^()]*|static_cast<[^<>]*>\([^()]*\))\);?$")
_CPP_INDEX = re.compile(r"^(?:static_cast<int64_t>\(.*\)|omp_get_\w+\(\));?$")


def read_cpp(source: str) -> list[Statement]:
    """Statements of one of Inductor's C++ kernels, a line each.

    Example:
        >>> text = "void k() {\\nauto tmp0 = in_ptr0[x0];\\nauto tmp1 = tmp0 * tmp0;\\nout_ptr0[x0] = tmp1;\\n}"
        >>> [(s.line, s.kind.value, sorted(s.producers)) for s in read_cpp(text) if s.kind is not Kind.CONTROL]
        [(2, 'load', []), (3, 'compute', [2]), (4, 'store', [3])]
    """
    flow = _Flow([])
    constants: set[str] = set()
    for number, raw in enumerate(source.splitlines(), start=1):
        text = raw.strip()
        if not text or text in {"{", "}", "();", "()", ";", "("}:
            continue
        mine = Statement(number, number, Kind.CONTROL)
        match = None if _CPP_CONTROL.match(text) else _CPP_TARGET.match(text)
        names = set(_CPP_NAME.findall(text))
        defined: set[str] = set()
        if match is None:
            if not _CPP_CONTROL.match(text) and _CPP_STORE.search(text):
                mine.kind = Kind.STORE
            stored = _CPP_STORED_TO.search(text)  # into an array of its own: a value to be used below
            if stored and not _CPP_POINTER.fullmatch(stored["name"]):
                defined = {stored["name"]}
        else:
            name, value = match["name"], match["value"]
            mine.kind = _cpp_kind(match, constants)
            if mine.kind is not Kind.STORE:
                defined = {name}
                partly = match["op"] != "=" or match["index"] is not None
                names = set(_CPP_NAME.findall(value)) | ({name} if partly else set())
                (constants.add if mine.kind is Kind.CONSTANT else constants.discard)(name)
        flow.add(mine, names, defined)
    return flow.statements


def _cpp_kind(match: re.Match[str], constants: set[str]) -> Kind:  # noqa: PLR0911 - a table of cases
    value = match["value"].strip()
    if value.startswith("[&]") or value.startswith("[]"):
        return Kind.CONTROL
    if match["index"] is not None and _CPP_POINTER.fullmatch(match["name"]):
        return Kind.STORE
    if _CPP_LITERAL.match(value):
        return Kind.CONSTANT
    spread = _CPP_SPREAD.match(value)
    if spread:
        what = spread["what"]
        return Kind.CONSTANT if what in constants or _CPP_LITERAL.match(what) else Kind.LAYOUT
    if value.rstrip(";") in constants:
        return Kind.CONSTANT
    if _CPP_LOAD.search(value):
        return Kind.LOAD
    if _CPP_INDEX.match(value) or re.fullmatch(r"\w+;?", value):
        return Kind.INDEX
    return Kind.COMPUTE


@dataclass
class _Flow:
    """Statements with their uses resolved as they come."""

    statements: list[Statement]
    _defined: dict[str, Statement] = field(default_factory=dict)

    def add(self, statement: Statement, used: set[str], defined: set[str]) -> None:
        for name in used:
            producer = self._defined.get(name)
            if producer is not None and producer is not statement:
                statement.producers.add(producer.line)
                producer.consumers.add(statement.line)
        self.statements.append(statement)
        for name in defined:
            self._defined[name] = statement


def reachable(start: int, step: str, statements: Mapping[int, Statement], stop: set[int]) -> set[int]:
    """The nearest lines in ``stop`` along ``producers`` or ``consumers``, across lines that are not in it."""
    found: set[int] = set()
    seen = {start}
    waiting = [start]
    while waiting:
        for line in getattr(statements[waiting.pop()], step):
            if line in seen:
                continue
            seen.add(line)
            if line in stop:
                found.add(line)
            elif line in statements:
                waiting.append(line)
    return found
