"""Axes, their grids and the constraints between them: from a few lines of a plan to the points to measure.

A constraint is an expression over the names of the axes; it is parsed and walked here and never given to ``eval``.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import Scalar

__all__ = ["MOST_VALUES", "Constraint", "points", "values"]

MOST_VALUES = 10_000
"""Values that one grid may have: a step that was mistyped says so instead of filling the memory."""

_GRID_KEYS = ("from", "to", "step", "times", "count")
_GRID_HINT = "{from = 256, to = 4096, times = 2}, {from = 8, to = 64, step = 8} or {from = 1, to = 1024, count = 5}"


def values(axis: object) -> tuple[Scalar, ...]:
    """The values of an axis: a list, one value, or a grid from one number to another, both ends included.

    ``step`` adds, ``times`` multiplies, ``count`` spreads that many whole numbers evenly on a logarithmic scale.

    Raises:
        UsageError: it is none of these, or has more than ``MOST_VALUES`` values.

    Example:
        >>> values({"from": 256, "to": 4096, "times": 4}), values({"from": 8, "to": 24, "step": 8}), values("bf16")
        ((256, 1024, 4096), (8, 16, 24), ('bf16',))
    """
    if isinstance(axis, Mapping):
        return _grid(axis)
    listed: list[Scalar] = []
    for value in axis if isinstance(axis, list) else [axis]:
        if isinstance(value, bool | int | float | str):
            listed.append(value)
        else:
            raise UsageError(f"{value!r} is no value of an axis", hint=f"numbers, words, true, false; or {_GRID_HINT}")
    if not listed:
        raise UsageError("the axis has no values", hint="leave it out, or give it one")
    return tuple(dict.fromkeys(listed))


def points(axes: Mapping[str, Sequence[Scalar]], constraints: Sequence[Constraint]) -> Iterator[dict[str, Scalar]]:
    """Every combination of the axes that all constraints allow, the last axis fastest.

    Example:
        >>> list(points({"rows": (1, 2), "width": (2, 4)}, [Constraint("rows * width <= 4", ["rows", "width"])]))
        [{'rows': 1, 'width': 2}, {'rows': 1, 'width': 4}, {'rows': 2, 'width': 2}]
    """
    for combination in itertools.product(*axes.values()):
        point = dict(zip(axes, combination, strict=True))
        if all(constraint.allows(point) for constraint in constraints):
            yield point


class Constraint:
    """An expression over axes that has to be true: comparisons, ``and``, ``or``, ``not``, ``in``, arithmetic.

    Args:
        text: the expression, ``"rows * width <= 2**28"``.
        axes: the names that it may use.

    Raises:
        UsageError: it is not such an expression.
        UnknownNameError: it uses another name.
    """

    def __init__(self, text: str, axes: Sequence[str]) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UsageError(
                f"{text!r} is not an expression: {getattr(error, 'msg', error)}",
                hint="for example rows * width <= 2**28",
            ) from None
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and node.id not in axes:
                raise UnknownNameError(f"axis in the constraint {text!r}:", node.id, axes, plural="axes")
            if not isinstance(node, _ALLOWED):
                raise UsageError(
                    f"{text!r}: a constraint has no {type(node).__name__}",
                    hint="names of axes, numbers, words, comparisons, and, or, not, in, + - * / // % **",
                )

    def allows(self, point: Mapping[str, Scalar]) -> bool:
        """Whether the point may be measured.

        Raises:
            UsageError: the expression has no value there (a division by zero, a word compared with a number).
        """
        try:
            return bool(_value(self._tree, point))
        except (ArithmeticError, TypeError, ValueError) as error:
            at = ", ".join(f"{name} = {value!r}" for name, value in point.items())
            raise UsageError(f"{self.text!r} has no value at {at}: {error}") from None


def _grid(axis: Mapping[str, Any]) -> tuple[Scalar, ...]:
    for key in axis:
        if key not in _GRID_KEYS:
            raise UnknownNameError("key of a grid", key, _GRID_KEYS, plural="keys")
    steps = [key for key in ("step", "times", "count") if key in axis]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values())
    if not {"from", "to"} <= axis.keys() or len(steps) != 1 or not numbers:
        raise UsageError("a grid has numbers for from, to, and one of step, times, count", hint=_GRID_HINT)
    low, high, by = axis["from"], axis["to"], axis[steps[0]]
    if low > high:
        raise UsageError(f"the grid goes from {low} down to {high}", hint="write the smaller number first")
    if steps[0] == "count":
        return _spread(low, high, by)
    if (steps[0] == "step" and by <= 0) or (steps[0] == "times" and (by <= 1 or low <= 0)):
        raise UsageError(f"the grid never arrives: from {low}, {steps[0]} {by}", hint=_GRID_HINT)
    found: list[Scalar] = []
    value = low
    while value <= high:
        found.append(value)
        if len(found) > MOST_VALUES:
            raise UsageError(f"the grid has more than {MOST_VALUES} values", hint="a larger step, or times = 2")
        value = low + by * len(found) if steps[0] == "step" else value * by
    return tuple(found)


def _spread(low: float, high: float, count: float) -> tuple[Scalar, ...]:
    if not isinstance(count, int) or not 2 <= count <= MOST_VALUES or low <= 0:
        raise UsageError(f"{count} values cannot be spread from {low} to {high}", hint=_GRID_HINT)
    return tuple(dict.fromkeys(round(low * (high / low) ** (i / (count - 1))) for i in range(count)))


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
_ALLOWED = (
    *(ast.Name, ast.Load, ast.Constant, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub),
    *(ast.BinOp, ast.Compare, ast.Tuple, ast.List, *_BINARY, *_COMPARISONS),
)
_LARGEST_POWER = 128
"""An exponent beyond this is a slip that would take the memory."""


def _value(node: ast.expr, point: Mapping[str, Scalar]) -> Any:  # noqa: PLR0911 - one answer a kind of node
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return point[name]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return [_value(part, point) for part in parts]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, point) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, point) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _value(inner, point)
        case ast.UnaryOp(operand=inner):
            return -_value(inner, point)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, point), _value(right, point)
            if isinstance(op, ast.Pow) and abs(b) > _LARGEST_POWER:
                raise ValueError(f"an exponent of {b}")
            if isinstance(op, ast.Mult | ast.Mod) and (isinstance(a, str | list) or isinstance(b, str | list)):
                raise TypeError("arithmetic is for numbers")
            return _BINARY[type(op)](a, b)
        case ast.Compare(left=left, ops=ops, comparators=others):
            terms = [_value(term, point) for term in (left, *others)]
            pairs = zip(ops, terms, terms[1:], strict=False)
            return all(_COMPARISONS[type(op)](a, b) for op, a, b in pairs)
    raise TypeError(f"no value for {type(node).__name__}")
