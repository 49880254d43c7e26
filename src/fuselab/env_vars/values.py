"""How a text in the environment becomes a field's value: the expression in the source, evaluated without the source.

Only expressions of plain shape are evaluated (``os.environ.get("X", "1") == "1"``, ``Config(env_name_force=...)``):
names, comparisons and calls out of a short list. Nothing of torch's is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

__all__ = ["UNREADABLE", "is_plain", "read_as"]

_SHAPES = (
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Call, ast.Constant, ast.Name, ast.Attribute),
    *(ast.Load, ast.cmpop, ast.boolop, ast.unaryop, ast.operator, ast.IfExp, ast.Tuple, ast.List, ast.keyword),
)
_NAMES = {"os", "int", "float", "bool", "str", "is_fbcode", "_is_fbcode", "get_tristate_env", "Config"}
_ATTRIBUTES = {"environ", "get", "getenv", "lower", "upper", "split"}


class _Unreadable:
    """Stands for a value that the expression does not give."""


UNREADABLE = _Unreadable()


def is_plain(node: ast.AST) -> bool:
    """Whether an expression is of the shape that is evaluated."""
    parts = list(ast.walk(node))
    return (
        all(isinstance(part, _SHAPES) for part in parts)
        and {part.id for part in parts if isinstance(part, ast.Name)} <= _NAMES
        and {part.attr for part in parts if isinstance(part, ast.Attribute)} <= _ATTRIBUTES
    )


def read_as(rule: str, environ: Mapping[str, str]) -> Any:
    """What an expression gives in an environment; ``UNREADABLE`` where it is not plain or refuses the text.

    Example:
        >>> rule = "os.environ.get('FAST', '0') == '1'"
        >>> read_as(rule, {}), read_as(rule, {"FAST": "1"}), read_as(rule, {"FAST": "true"})
        (False, True, False)
    """
    tree = ast.parse(rule, mode="eval")
    if not is_plain(tree):
        return UNREADABLE

    class System:
        """``os`` as the expression sees it."""

        getenv = staticmethod(environ.get)

    System.environ = environ  # type: ignore[attr-defined]

    def tristate(name: str, default: object = None) -> object:
        return {"1": True, "0": False}.get(environ.get(name, ""), default)

    def config(default: object = None, env_name_force: Any = (), env_name_default: Any = (), **_rest: object) -> object:
        for names in (env_name_force, env_name_default):
            for name in [names] if isinstance(names, str) else names or ():
                if name in environ:
                    return {"1": True, "0": False}.get(environ[name], environ[name])
        return default

    scope = {
        **{"os": System, "int": int, "float": float, "bool": bool, "str": str, "Config": config},
        **{"is_fbcode": lambda: False, "_is_fbcode": lambda: False, "get_tristate_env": tristate, "__builtins__": {}},
    }
    try:
        return eval(compile(tree, "<rule>", "eval"), scope)  # noqa: S307 - the shape was checked
    except (TypeError, ValueError, AttributeError, KeyError):
        return UNREADABLE
