"""Inductor's output module, read: which kernels it defines, and what one call of it launches.

Pure: text in, records out. The module is parsed as Python (``ast``) and its comments as tokens, never by a pattern over
the text. Two of Inductor's own comments carry what the syntax does not: ``# kernel path:`` names the file that a Triton
kernel was written to, and ``# [Provenance debug handles] name:handle`` stands before each launch and names it as the
provenance mapping does.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field

from fuselab.ir.syntax import dotted

__all__ = ["GeneratedKernel", "Launch", "OutputCode", "parse_output_code", "read_aot_id"]

_PATH_COMMENT = "# kernel path:"
_ORIGINAL_COMMENT = "# Original path:"
_HANDLE_COMMENT = "# [Provenance debug handles]"
_AOT_ID_COMMENT = "# AOT ID:"

_SOURCE_ARGUMENT = {
    "triton": 1,
    "cpp_pybinding": 1,
    "cpp": 0,
    "cuda": 0,
    "rocm": 0,
    "halide": 1,
    "metal": 1,
    "cutedsl": 1,
}
"""Which positional argument of ``async_compile.<method>`` holds the source."""

_EXTERN_ROOTS = ("extern_kernels.", "torch.ops.", "aten.", "inductor_ops.", "_quantized.")
"""Dotted names whose call in the output module runs a kernel that Inductor did not generate."""

_NOT_LAUNCHES = ("torch.ops.inductor._reinterpret_tensor", "torch.ops.inductor._alloc_from_pool")


@dataclass(frozen=True)
class GeneratedKernel:
    """One kernel that the output module defines."""

    name: str
    """The compiler's own name."""
    backend: str
    """``triton``, ``cpp``, or the method of ``async_compile`` that compiles it."""
    source: str
    """Its source, with decorators; for ``multi_kernel`` the names it chooses from, a line each."""
    line: int
    """Line of the definition in the output module."""
    source_path: str = ""
    """File that Inductor wrote this kernel's source to; empty where it does not say."""
    original: str = ""
    """For a Triton kernel that the user wrote: ``file:line`` of its definition, decorators included."""


@dataclass(frozen=True)
class Launch:
    """One place in the output module that launches a kernel."""

    name: str
    """The generated kernel's name, or the dotted name of an extern kernel."""
    line: int
    """Line of the call."""
    handle: int | None = None
    """The number that the provenance mapping knows this launch by."""
    extern: bool = False
    """Whether the kernel is not one of Inductor's own."""
    repeated: bool = False
    """Whether it stands in a loop or a branch, so that how often it runs depends on the data."""

    @property
    def key(self) -> str:
        """The key of the provenance mapping: ``name:handle``, or the name alone without a handle."""
        return self.name if self.handle is None else f"{self.name}:{self.handle}"


@dataclass(frozen=True)
class OutputCode:
    """What one output module defines and launches."""

    kernels: tuple[GeneratedKernel, ...] = ()
    launches: tuple[Launch, ...] = ()
    aot_id: str = ""
    """For example ``0_forward``, ``0_inference``, ``3_backward``."""

    @property
    def backward(self) -> bool:
        """Whether AOTAutograd compiled it as a backward graph."""
        return self.aot_id.endswith("_backward")

    def launches_of(self, name: str) -> int | None:
        """How often one call launches the kernel; None where that depends on the data."""
        mine = [launch for launch in self.launches if launch.name == name]
        return None if any(launch.repeated for launch in mine) else len(mine)


@dataclass
class _Comments:
    paths: dict[int, str] = field(default_factory=dict)
    originals: dict[int, str] = field(default_factory=dict)
    handles: dict[int, tuple[str, int]] = field(default_factory=dict)
    aot_id: str = ""


def parse_output_code(text: str) -> OutputCode:
    """Read one of Inductor's output modules.

    Raises:
        SyntaxError: the text is not Python.

    Example:
        >>> code = parse_output_code('''
        ... k = async_compile.triton('k', "def k(): pass")
        ... def call(args):
        ...     # [Provenance debug handles] k:1
        ...     k.run(args, stream=0)
        ...     extern_kernels.mm(args, out=args)
        ... ''')
        >>> [(launch.key, launch.extern) for launch in code.launches]
        [('k:1', False), ('extern_kernels.mm', True)]
    """
    tree = ast.parse(text)
    comments = _comments(text)
    kernels = tuple(_kernels(tree, comments))
    return OutputCode(kernels, tuple(_launches(tree, {k.name for k in kernels}, comments)), comments.aot_id)


def read_aot_id(text: str) -> str:
    """The AOT ID alone (``0_forward``), without reading the whole module; empty where there is none.

    Example:
        >>> read_aot_id("# AOT ID: ['3_backward']")
        '3_backward'
    """
    _, marker, rest = f"\n{text}".partition(f"\n{_AOT_ID_COMMENT}")
    return _aot_id(_AOT_ID_COMMENT + rest.partition("\n")[0]) if marker else ""


def _comments(text: str) -> _Comments:
    found = _Comments()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.string.startswith(_PATH_COMMENT):
            found.paths[token.start[0]] = token.string.removeprefix(_PATH_COMMENT).strip()
        elif token.string.startswith(_ORIGINAL_COMMENT):
            found.originals[token.start[0]] = token.string.removeprefix(_ORIGINAL_COMMENT).strip()
        elif token.string.startswith(_HANDLE_COMMENT):
            name, _, handle = token.string.removeprefix(_HANDLE_COMMENT).strip().rpartition(":")
            if handle.isdecimal():
                found.handles[token.start[0]] = (name, int(handle))
        elif token.string.startswith(_AOT_ID_COMMENT):
            found.aot_id = _aot_id(token.string)
    return found


def _aot_id(comment: str) -> str:
    listed = ast.literal_eval(comment.removeprefix(_AOT_ID_COMMENT).strip())
    return str(listed[0]) if isinstance(listed, list) and listed else str(listed)


def _kernels(tree: ast.Module, comments: _Comments) -> Iterator[GeneratedKernel]:
    previous_line = 0
    for statement in tree.body:
        # A kernel's path comment stands somewhere between the statement before it and its own definition.
        between = range(previous_line + 1, statement.lineno)
        paths = [comments.paths[line] for line in between if line in comments.paths]
        originals = [comments.originals[line] for line in between if line in comments.originals]
        previous_line = statement.end_lineno or statement.lineno
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        target, call = statement.targets[0], statement.value
        owner, _, method = dotted(call.func).rpartition(".")
        if not isinstance(target, ast.Name) or owner != "async_compile":
            continue
        backend = "cpp" if method == "cpp_pybinding" else method
        yield GeneratedKernel(
            target.id,
            backend,
            _source(call, method),
            statement.lineno,
            paths[-1] if paths else "",
            originals[-1] if originals else "",
        )


def _source(call: ast.Call, method: str) -> str:
    if method == "multi_kernel":
        listed = call.args[1] if len(call.args) > 1 else None
        return "\n".join(dotted(e) for e in listed.elts) if isinstance(listed, ast.List | ast.Tuple) else ""
    position = _SOURCE_ARGUMENT.get(method)
    strings = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if position is not None and position < len(call.args):
        argument = call.args[position]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return argument.value
    return max(strings, key=len, default="")


def _launches(tree: ast.Module, kernels: set[str], comments: _Comments) -> Iterator[Launch]:
    recorded = {name for name, _ in comments.handles.values()}
    found: list[tuple[int, str, bool, bool]] = []  # line, name, extern, repeated
    for function in _called_functions(tree):
        for call, repeated in _calls(function):
            name = dotted(call.func)
            if name.removesuffix(".run") in kernels:
                found.append((call.lineno, name.removesuffix(".run"), False, repeated))
            elif (name.startswith(_EXTERN_ROOTS) and not name.startswith(_NOT_LAUNCHES)) or name in recorded:
                found.append((call.lineno, name, True, repeated))
    # The comment stands before its call with nothing but set-up (a stream, a view) between; one comment, one launch.
    waiting = sorted(comments.handles.items(), reverse=True)
    said: dict[str, int] = {}
    for line, name, extern, repeated in sorted(found):
        while waiting and waiting[-1][0] < line:
            recorded_name, handle = waiting.pop()[1]
            said[recorded_name] = handle
        yield Launch(name, line, said.pop(name, None), extern, repeated)


def _called_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """``call`` (a function, or the Runner's method), its partitions and subgraphs; not the benchmark harness below."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    reached = [f for f in functions if f.name == "call"]
    by_name = {f.name: f for f in functions if f.name != "call"}
    runs_partitions = any(
        isinstance(node, ast.Attribute) and node.attr == "partitions" for f in reached for node in ast.walk(f)
    )
    if runs_partitions:
        reached += [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name.startswith("partition_")]
    queue = list(reached)
    while queue:
        for node in ast.walk(queue.pop()):
            called = by_name.get(dotted(node.func)) if isinstance(node, ast.Call) else None
            if called is not None and called not in reached:
                reached.append(called)
                queue.append(called)
    return reached


def _calls(function: ast.FunctionDef) -> Iterator[tuple[ast.Call, bool]]:
    """Every call in a function's body with whether it stands under a loop or a branch."""

    def walk(node: ast.AST, repeated: bool) -> Iterator[tuple[ast.Call, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield child, repeated
            yield from walk(child, repeated or isinstance(child, ast.For | ast.While | ast.If))

    yield from walk(function, False)
