"""Which guard failed, about whose value: the compiler's reason for a recompilation, taken apart. Pure.

A reason is ``0/0: GUARD   # the line that read the value  # file:line``: the compiled version, the guard, a comment.
"""

from __future__ import annotations

import ast
import re

from fuselab.diagnosis.records import Guard

__all__ = ["guard_from", "normalised", "version_of"]

_VERSION = re.compile(r"^(?P<version>(?:!\d+/)?\d+/\d+(?:_\d+)?): (?P<rest>.*)", re.DOTALL)
_TENSOR = re.compile(
    r"tensor '(?P<subject>.+?)' (?P<what>size|stride|dtype|device|rank|requires_grad|dispatch key set) mismatch"
    r"(?: at index (?P<axis>\d+))?\.? *(?:expected (?P<expected>.+?)(?:, actual (?P<actual>.+))?)?$"
)
_TENSOR_TYPE = re.compile(r"expected type of '(?P<subject>.+?)' to be (?P<expected>.+?),? ?'? but found (?P<actual>.+)")
_STATE = re.compile(r"GLOBAL_STATE changed: (?P<what>.*)")
_MODE = re.compile(r"TORCH_FUNCTION_MODE_STACK|DEFAULT_DEVICE|torch_function_mode_stack", re.IGNORECASE)
_SIZE = re.compile(r"(?P<subject>[\w.\[\]'\"]+?)\.(?:size\(\)|shape)\[(?P<axis>\d+)\]")
_IDENTITY = re.compile(r"___check_(?:obj|type)_id\((?P<subject>.+?), (?P<id>\d+)\)(?:, type=(?P<expected>.+))?")
_MODULES = re.compile(r"\.?__dict__\['_(?:modules|parameters|buffers)'\]|\._(?:modules|parameters|buffers)(?=\[)")
_LOCAL = re.compile(r"L\[['\"](\w+)['\"]\]")

_BY_TYPE = {bool: "flag", int: "integer", float: "float", str: "text", type(None): "none"}


def version_of(reason: str) -> str:
    """The compiled version that a reason is about: ``0/1``.

    Example:
        >>> version_of("0/1: k == 2   # return x * k")
        '0/1'
    """
    match = _VERSION.match(reason)
    return match["version"] if match else ""


def normalised(source: str) -> str:
    """A guard's source as the user would write it.

    Example:
        >>> normalised("L['self']._modules['norm'].training"), normalised("L['x']")
        ('self.norm.training', 'x')
    """
    source = _LOCAL.sub(r"\1", source)
    source = _MODULES.sub("", source)
    return (
        re.sub(r"(?<=[\w\]])\['([A-Za-z_]\w*)'\](?=$|[.\[])", r".\1", source) if source.startswith("self") else source
    )


def guard_from(reason: str) -> Guard:
    """The guard in a reason.

    Example:
        >>> guard = guard_from("0/0: tensor 'x' size mismatch at index 0. expected 8, actual 16")
        >>> guard.kind, guard.subject, guard.axis, guard.expected, guard.actual
        ('size', 'x', 0, '8', '16')
        >>> guard = guard_from("0/0: self.step == 0      # self.step += 1  # model.py:24 in forward")
        >>> guard.kind, guard.subject, guard.subject_kind, guard.expected
        ('integer', 'self.step', 'attribute', '0')
    """
    match = _VERSION.match(reason)
    body = match["rest"] if match else reason
    text = body.split("\nUser stack trace:", 1)[0].split("\n", 1)[0]
    expression = _without_comment(text)
    for read in (_of_tensor, _of_tensor_type, _of_state, _of_size, _of_identity, _of_length, _of_value):
        guard = read(expression)
        if guard is not None:
            return guard
    return Guard(expression=expression, kind="other")


def _of_tensor(expression: str) -> Guard | None:
    """``tensor 'x' size mismatch at index 0. expected 8, actual 16``."""
    match = _TENSOR.match(expression)
    if match is None:
        return None
    subject = normalised(match["subject"])
    return Guard(
        expression=expression,
        kind=match["what"].replace(" ", "_"),
        subject=subject,
        subject_kind=_subject_kind(subject),
        axis=int(match["axis"]) if match["axis"] else None,
        expected=match["expected"] or "",
        actual=match["actual"] or "",
    )


def _of_tensor_type(expression: str) -> Guard | None:
    """``expected type of 'L['x']' to be a tensor type, but found NoneType``."""
    match = _TENSOR_TYPE.match(expression)
    if match is None:
        return None
    subject = normalised(match["subject"])
    return Guard(
        expression=expression,
        kind="type",
        subject=subject,
        subject_kind=_subject_kind(subject),
        expected=match["expected"].strip("'"),
        actual=match["actual"],
    )


def _of_state(expression: str) -> Guard | None:
    """``GLOBAL_STATE changed: grad_mode`` and the process's other state."""
    match = _STATE.match(expression)
    if match is None:
        modes = _MODE.search(expression) is not None
        return Guard(expression=expression, kind="global_state", subject_kind="state") if modes else None
    what = match["what"].strip()
    kind = "grad_mode" if what == "grad_mode" else "global_state"
    return Guard(expression=expression, kind=kind, subject=what, subject_kind="state")


def _of_size(expression: str) -> Guard | None:
    """``2 <= x.size()[0] <= 12``."""
    match = _SIZE.search(expression)
    if match is None:
        return None
    subject = normalised(match["subject"])
    return Guard(
        expression=expression,
        kind="shape_condition",
        subject=subject,
        subject_kind=_subject_kind(subject),
        axis=int(match["axis"]),
        expected=expression,
    )


def _of_identity(expression: str) -> Guard | None:
    """``___check_obj_id(f, 140709404120688)``."""
    match = _IDENTITY.match(expression)
    if match is None:
        return None
    subject = normalised(match["subject"])
    return Guard(
        expression=expression,
        kind="type" if expression.startswith("___check_type_id") else "identity",
        subject=subject,
        subject_kind=_subject_kind(subject),
        expected=match["expected"] or "",
    )


def _of_length(expression: str) -> Guard | None:
    """``len(values) == 2``, ``not values``, ``values``."""
    tree = _parsed(expression)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return _guard(expression, "length", tree.operand, "empty")
    if isinstance(tree, ast.Name | ast.Attribute | ast.Subscript):
        return _guard(expression, "length", tree, "not empty")
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.left, ast.Call):
        function = tree.left.func
        if isinstance(function, ast.Name) and function.id == "len" and tree.left.args:
            return _guard(expression, "length", tree.left.args[0], ast.unparse(tree.comparators[0]))
    return None


def _of_value(expression: str) -> Guard | None:
    """``k == 2``, ``mode == 'sin'``, ``bias is None``."""
    tree = _parsed(expression)
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
        return None
    left, right = tree.left, tree.comparators[0]
    try:
        kind = _BY_TYPE.get(type(ast.literal_eval(right)), "other")
    except ValueError:
        kind = "other"
    if kind == "flag" and ast.unparse(left).endswith(".training"):
        kind = "training"
    return _guard(expression, kind, left, ast.unparse(right))


def _parsed(expression: str) -> ast.expr | None:
    try:
        return ast.parse(expression, mode="eval").body
    except SyntaxError:
        return None


def _guard(expression: str, kind: str, subject: ast.expr, expected: str) -> Guard:
    name = normalised(ast.unparse(subject))
    return Guard(expression=expression, kind=kind, subject=name, subject_kind=_subject_kind(name), expected=expected)


def _subject_kind(subject: str) -> str:
    if subject.startswith("G["):
        return "global"
    if subject.startswith("___stack"):  # the compiler's name for what was under way when the graph broke
        return "intermediate"
    return "argument" if subject.isidentifier() else "attribute"


def _without_comment(text: str) -> str:
    """The guard without the comment behind it; a ``#`` within quotes is no comment."""
    quote = ""
    for index, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and text[:index].endswith("  "):
            return text[:index].strip()
    return text.strip()
