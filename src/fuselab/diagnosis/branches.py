"""Branches on a tensor's values written as selections, and values taken out of tensors left in. Pure, on syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from fuselab.diagnosis.source import Source

__all__ = ["conditional_as_where", "if_as_where", "without_item"]

Piece = tuple[int, int, str]


def without_item(source: Source, nodes: Iterable[ast.AST]) -> list[Piece]:
    """``t.item()`` and ``float(t)`` as ``t``, for every such call among the nodes."""
    pieces = []
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        inner = _taken_from(node)
        if inner is not None:
            # float(t.item()) is one call within the other: the outer piece covers the inner one.
            innermost = inner
            while isinstance(innermost, ast.Call) and (deeper := _taken_from(innermost)) is not None:
                innermost = deeper
            pieces.append((*source.span(node), _operand(source, innermost)))
    return pieces


def if_as_where(source: Source, statement: ast.If) -> str | None:
    """The text with an ``if`` as selections; None where its branches do more than give names values.

    Known forms: each branch assigns plain names, no name twice and none that it reads after; or both sides return.
    """
    condition = _condition(source, statement.test)
    indent = source.indent(statement)
    following = _return_after(source, statement)
    if len(statement.body) == 1 and isinstance(statement.body[0], ast.Return):
        other = statement.orelse[0] if len(statement.orelse) == 1 else following if not statement.orelse else None
        first = statement.body[0].value
        if not isinstance(other, ast.Return) or other.value is None or first is None:
            return None
        chosen = f"return torch.where({condition}, {source.segment(first)}, {source.segment(other.value)})"
        start, end = source.span(statement)[0], source.span(other)[1]
        return _with_torch(source, source.replaced([(start, end, chosen)]))
    yes, no = _assignments(source, statement.body), _assignments(source, statement.orelse)
    if yes is None or no is None or not yes:
        return None
    names = list(dict.fromkeys([*yes, *no]))
    lines = [f"{name} = torch.where({condition}, {yes.get(name, name)}, {no.get(name, name)})" for name in names]
    if len(names) > 1:
        # Later selections must not see names that earlier ones changed, the condition's own included.
        read = {n.id for n in ast.walk(statement.test) if isinstance(n, ast.Name)}
        read |= {n.id for part in (*statement.body, *statement.orelse) for n in _loads(part)}
        if read & set(names[:-1]):
            return None
    start, end = source.span(statement)
    return _with_torch(source, source.replaced([(start, end, f"\n{indent}".join(lines))]))


def conditional_as_where(source: Source, statement: ast.stmt, name: str | None = None) -> str | None:
    """The text with ``a if condition else b`` as selections; with a name only where the condition reads it."""
    pieces = []
    for node in ast.walk(statement):
        if isinstance(node, ast.IfExp) and (name is None or any(_is_name(n, name) for n in ast.walk(node.test))):
            condition = _condition(source, node.test)
            text = f"torch.where({condition}, {source.segment(node.body)}, {source.segment(node.orelse)})"
            pieces.append((*source.span(node), text))
    return _with_torch(source, source.replaced(pieces)) if pieces else None


def _condition(source: Source, test: ast.expr) -> str:
    """A test as a boolean tensor."""
    if isinstance(test, ast.BoolOp):
        sign = " & " if isinstance(test.op, ast.And) else " | "
        return sign.join(f"({_condition(source, value)})" for value in test.values)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return f"torch.logical_not({_condition(source, test.operand)})"
    plain = _replaced_within(source, test, without_item(source, ast.walk(test)))
    if isinstance(test, ast.Compare):
        return plain
    return f"({plain}) != 0"


def _replaced_within(source: Source, node: ast.AST, pieces: list[Piece]) -> str:
    """A node's text with pieces of it replaced."""
    start, end = source.span(node)
    text, place = [], start
    for first, last, new in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
        if first >= place:
            text += [source.text[place:first], new]
            place = last
    return "".join([*text, source.text[place:end]])


def _assignments(source: Source, body: list[ast.stmt]) -> dict[str, str] | None:
    """What each name is given in a branch; None where the branch does something else."""
    given: dict[str, str] = {}
    for statement in body:
        if any(node.id in given for node in _loads(statement)):
            return None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], source.segment(statement.value)
        elif isinstance(statement, ast.AugAssign) and (sign := _OPERATORS.get(type(statement.op))):
            target = statement.target
            value = f"{source.segment(target)} {sign} ({source.segment(statement.value)})"
        elif isinstance(statement, ast.Pass):
            continue
        else:
            return None
        if not isinstance(target, ast.Name) or target.id in given:
            return None
        given[target.id] = value
    return given


_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.MatMult: "@",
}


def _return_after(source: Source, statement: ast.stmt) -> ast.stmt | None:
    """The statement that follows directly, where that is a return."""
    block = source.siblings(statement)
    index = next((i for i, s in enumerate(block) if s is statement), None)
    if index is None or index + 1 >= len(block):
        return None
    return block[index + 1] if isinstance(block[index + 1], ast.Return) else None


def _taken_from(call: ast.Call) -> ast.expr | None:
    """``t`` of ``t.item()`` and ``float(t)``."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "item" and not call.args:
        return call.func.value
    if isinstance(call.func, ast.Name) and call.func.id == "float" and len(call.args) == 1:
        return call.args[0]
    return None


def _operand(source: Source, node: ast.expr) -> str:
    """A node's text, in brackets where it might bind less than a call."""
    text = source.segment(node)
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) else f"({text})"


def _loads(statement: ast.AST) -> list[ast.Name]:
    return [n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _with_torch(source: Source, text: str) -> str:
    """The text with ``import torch`` where the file has none."""
    return Source(source.file, text).with_setup()
