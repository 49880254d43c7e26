"""Which graph nodes, operators and user lines a kernel comes from, joined from the compiler's own records.

Pure. Three records are joined: Inductor's mapping of launches (``kernel:handle``) to post-grad nodes, the post-grad
graph (node to ATen operator and stack trace), and the stack traces of each launch. Names are only ever compared for
equality with a name that the compiler wrote down itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fuselab.ir.syntax import dotted

__all__ = ["GraphNode", "KernelProvenance", "join", "parse_graph", "user_line"]

_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')


@dataclass(frozen=True)
class GraphNode:
    """One node of a post-grad graph."""

    name: str
    """Its name in the graph, as the provenance mapping uses it."""
    operator: str
    """``aten.rsqrt.default``; empty where the node is no operator (placeholder, getitem, output)."""
    stack_trace: str = ""
    """Where the user's code made it, as Python prints a traceback; empty where nobody recorded it."""


@dataclass(frozen=True)
class KernelProvenance:
    """What one kernel computes and where that was written."""

    nodes: tuple[str, ...] = ()
    """Post-grad nodes in graph order."""
    operations: tuple[str, ...] = ()
    """Operators of those nodes, each once, in graph order."""
    source_lines: tuple[str, ...] = ()
    """The user's lines as ``file:line``, each once, in graph order."""


def join(
    keys: Iterable[str],
    nodes_of: Mapping[str, Sequence[str]],
    graph: Sequence[GraphNode],
    stack_traces_of: Mapping[str, Sequence[str]] | None = None,
    library_roots: Sequence[str] = (),
) -> KernelProvenance:
    """The provenance of one kernel from all of its launches.

    Args:
        keys: the launches' keys in the mapping (``name:handle``).
        nodes_of: key to post-grad node names, as Inductor recorded them.
        graph: the post-grad graph, in order.
        stack_traces_of: key to stack traces; used for lines where the nodes carry none.
        library_roots: directories whose frames are not the user's.

    Example:
        >>> graph = [GraphNode("add", "aten.add.Tensor"), GraphNode("rsqrt", "aten.rsqrt.default")]
        >>> join(["k:1"], {"k:1": ["rsqrt", "add"]}, graph).operations
        ('aten.add.Tensor', 'aten.rsqrt.default')
    """
    keys = list(keys)
    named = {name for key in keys for name in nodes_of.get(key, ())}
    ordered = [node for node in graph if node.name in named]
    known = {node.name for node in ordered}
    # A node that is not in the graph (rewritten after it was printed) is the compiler's word all the same: kept, last.
    unknown = [name for key in keys for name in nodes_of.get(key, ()) if name not in known]
    lines = [user_line(node.stack_trace, library_roots) for node in ordered]
    if not any(lines):
        lines = [user_line(trace, library_roots) for key in keys for trace in (stack_traces_of or {}).get(key, ())]
    return KernelProvenance(
        tuple(dict.fromkeys([node.name for node in ordered] + unknown)),
        tuple(dict.fromkeys(node.operator for node in ordered if node.operator)),
        tuple(dict.fromkeys(line for line in lines if line)),
    )


def user_line(stack_trace: str, library_roots: Sequence[str] = ()) -> str:
    """The innermost frame that is the user's, as ``file:line``; empty for an empty trace.

    Example:
        >>> user_line('  File "model.py", line 7, in forward\\n  File "/torch/nn/norm.py", line 1, in f', ["/torch/"])
        'model.py:7'
    """
    frames = [(m["file"], m["line"]) for m in _FRAME.finditer(stack_trace)]
    mine = [frame for frame in frames if not any(frame[0].startswith(root) for root in library_roots)]
    file, line = (mine or frames or [("", "")])[-1]
    return f"{file}:{line}" if file else ""


def parse_graph(text: str) -> list[GraphNode]:
    """Nodes of a graph as ``GraphModule.print_readable`` prints it; the way back from a graph that came from a cache.

    Stack traces are not printed in full: each node carries the ``# File:`` comment above it.

    Raises:
        SyntaxError: the text is not Python.

    Example:
        >>> parse_graph('''
        ... class G(torch.nn.Module):
        ...     def forward(self, x):
        ...         # File: model.py:3 in f, code: x.rsqrt()
        ...         rsqrt: "f32[2][1]cpu" = torch.ops.aten.rsqrt.default(x);  x = None
        ...         return (rsqrt,)
        ... ''')
        [GraphNode(name='rsqrt', operator='aten.rsqrt.default', stack_trace='File "model.py", line 3')]
    """
    comments = _file_comments(text)
    nodes = []
    for statement in ast.walk(ast.parse(text)):
        target: ast.expr | None = None
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        if not isinstance(target, ast.Name) or not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        value = statement.value
        if value is None or isinstance(value, ast.Constant):  # "x = None" frees a node, it does not make one
            continue
        name = dotted(value.func) if isinstance(value, ast.Call) else ""
        operator = name.removeprefix("torch.ops.") if name.startswith("torch.ops.") else ""
        above = [line for line in comments if line < statement.lineno]
        nodes.append((statement.lineno, GraphNode(target.id, operator, comments[above[-1]] if above else "")))
    return [node for _, node in sorted(nodes, key=lambda pair: pair[0])]


def _file_comments(text: str) -> dict[int, str]:
    """Line number to a traceback line, from the ``# File: path:line in function, code: ...`` comments."""
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("# File: "):
            place = stripped.removeprefix("# File: ").split(" in ", 1)[0].split(", code:", 1)[0]
            file, _, at = place.rpartition(":")
            if at.isdecimal():
                found[number] = f'File "{file}", line {at}'
    return found
