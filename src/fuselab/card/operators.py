"""The ATen operators that one kernel computes, as a Python function, cut out of the captured post-grad graph.

Pure. Which node each buffer holds is the compiler's own record; from each output the graph is followed back until it
reaches the kernel's inputs. A kernel that draws random numbers cannot be repeated by its operators: what it drew and
stored (a dropout mask) is then taken as given, and the rest is compared with it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from fuselab.ir.syntax import dotted

__all__ = ["Operators", "read_operators"]

_RANDOM = ("torch.ops.prims.inductor_random", "torch.ops.prims.inductor_randint", "torch.ops.prims.inductor_seed")
_FREE = frozenset({"torch", "device", "inf", "nan", "fx_pytree", "None", "True", "False", "math", "self"})
_MOST_STATEMENTS = 2000


@dataclass
class Operators:
    """A function that computes what the kernel stores."""

    source: str = ""
    """``def operators(torch, inputs, drawn)``; empty where there is none."""
    outputs: tuple[str, ...] = ()
    """Nodes that it computes."""
    drawn: tuple[str, ...] = ()
    """Nodes that depend on random numbers and are taken from the kernel."""
    reason: str = ""
    """Why there is no function, or why it leaves outputs out."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of each node, where the graph says it."""


@dataclass
class _Graph:
    statements: dict[str, ast.stmt] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    random: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read_operators(graph_text: str, inputs: Iterable[str], outputs: Iterable[str]) -> Operators:
    """Cut the operators between a kernel's inputs and outputs out of a graph.

    Args:
        graph_text: the post-grad graph, as ``GraphModule.print_readable`` prints it.
        inputs: nodes that the kernel reads from memory.
        outputs: nodes that it writes to memory.

    Example:
        >>> text = '''
        ... class G(torch.nn.Module):
        ...     def forward(self, x: "f32[2][1]cpu"):
        ...         exp: "f32[2][1]cpu" = torch.ops.aten.exp.default(x);  x = None
        ...         add: "f32[2][1]cpu" = torch.ops.aten.add.Tensor(exp, 1);  exp = None
        ...         return (add,)
        ... '''
        >>> print(read_operators(text, ["x"], ["add"]).source)
        def operators(torch, inputs, drawn):
            x = inputs['x']
            exp = torch.ops.aten.exp.default(x)
            add = torch.ops.aten.add.Tensor(exp, 1)
            return {'add': add}
    """
    try:
        graph = _read(graph_text)
    except SyntaxError as error:
        return Operators(reason=f"the post-grad graph could not be read: {error}")
    given = set(inputs)
    wanted = [node for node in dict.fromkeys(outputs) if node not in given]
    if not wanted:
        return Operators(reason="the compiler does not say which graph nodes its outputs are", shapes=graph.shapes)
    drawn = _drawn(graph, given, wanted)
    computed: list[str] = []
    needed: set[str] = set()
    reasons: list[str] = []
    for node in wanted:
        if node in drawn:
            continue
        mine, missing = _slice(graph, node, given | set(drawn))
        if mine & graph.random:
            reasons.append(f"{node} depends on random numbers that it does not store")
        elif missing:
            reasons.append(f"{node} is computed from {sorted(missing)[0]}, which the kernel does not read from memory")
        elif node not in graph.statements:
            reasons.append(f"{node} is not in the post-grad graph")
        else:
            computed.append(node)
            needed |= mine
    reason = "; ".join(dict.fromkeys(reasons))
    if drawn and not computed:
        reason = reason or "everything that it stores depends on random numbers"
    if not computed or len(needed) > _MOST_STATEMENTS:
        return Operators(reason=reason or "its operators are too many", shapes=graph.shapes)
    return Operators(_source(graph, computed, needed, given, drawn), tuple(computed), drawn, reason, graph.shapes)


def _read(text: str) -> _Graph:
    graph = _Graph()
    forward = next((n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)), None)
    if forward is None:
        return graph
    for argument in forward.args.args:
        _note_shape(graph, argument.arg, argument.annotation)
    for number, statement in enumerate(forward.body):
        target: ast.expr
        value: ast.expr | None
        annotation: ast.expr | None
        if isinstance(statement, ast.AnnAssign):
            target, value, annotation = statement.target, statement.value, statement.annotation
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value, annotation = statement.targets[0], statement.value, None
        else:
            continue
        if not isinstance(target, ast.Name) or value is None or isinstance(value, ast.Constant):
            continue
        name = target.id
        names = [n.id for n in ast.walk(value) if isinstance(n, ast.Name)]
        graph.statements[name] = ast.Assign([ast.Name(name, ast.Store())], value, lineno=1)
        graph.order[name] = number
        graph.needs[name] = tuple(n for n in names if n not in _FREE)
        if isinstance(value, ast.Call) and dotted(value.func).startswith(_RANDOM):
            graph.random.add(name)
        _note_shape(graph, name, annotation)
    return graph


def _note_shape(graph: _Graph, name: str, annotation: ast.expr | None) -> None:
    """``"f32[64, 256][256, 1]cpu"``: the numbers in the first bracket."""
    text = annotation.value if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str) else ""
    inside, closed, _ = text.partition("[")[2].partition("]")
    sizes = [size.strip() for size in inside.split(",") if size.strip()]
    if closed and all(size.isdecimal() for size in sizes):
        graph.shapes[name] = tuple(int(size) for size in sizes)


def _slice(graph: _Graph, node: str, stop: set[str]) -> tuple[set[str], set[str]]:
    """The statements that a node needs, and the names that none of them makes."""
    mine: set[str] = set()
    missing: set[str] = set()
    queue = [node]
    while queue:
        name = queue.pop()
        if name in mine or (name in stop and name != node):
            continue
        if name not in graph.statements:
            missing.add(name)
            continue
        mine.add(name)
        queue.extend(graph.needs[name])
    return mine, missing


def _drawn(graph: _Graph, given: set[str], wanted: list[str]) -> tuple[str, ...]:
    """Outputs through which random numbers reach the others: those that need no other random output."""
    slices = {node: _slice(graph, node, given)[0] for node in wanted}
    random = [node for node in wanted if slices[node] & graph.random]
    return tuple(n for n in random if not any(other != n and other in slices[n] for other in random))


def _source(graph: _Graph, computed: list[str], needed: set[str], given: set[str], drawn: tuple[str, ...]) -> str:
    used = {name for node in needed for name in graph.needs[node]}
    lines = ["def operators(torch, inputs, drawn):"]
    lines += [f"    {name} = inputs[{name!r}]" for name in sorted(given & used)]
    lines += [f"    {name} = drawn[{name!r}]" for name in sorted(set(drawn) & used)]
    for name in sorted(needed, key=lambda n: graph.order[n]):
        lines.append(f"    {ast.unparse(ast.fix_missing_locations(graph.statements[name]))}")
    lines.append("    return {" + ", ".join(f"{name!r}: {name}" for name in computed) + "}")
    return "\n".join(lines)
