"""Small questions to Python's syntax tree that the readers of generated code share. Pure."""

from __future__ import annotations

import ast

__all__ = ["dotted"]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for an attribute chain that starts at a name, else an empty string.

    Example:
        >>> dotted(ast.parse("torch.ops.aten", mode="eval").body)
        'torch.ops.aten'
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
