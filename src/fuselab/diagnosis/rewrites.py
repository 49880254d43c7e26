"""The edits: what would remove a finding, written on the user's own lines. Pure; whether one holds is for the proof.

A rewrite looks at one finding's place and returns an edit, or None where the code has not the form that it knows.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fuselab.diagnosis.branches import conditional_as_where, if_as_where, without_item
from fuselab.diagnosis.records import CallChange, Edit, Frame, Guard
from fuselab.diagnosis.source import Source, changes_between, diff_of

__all__ = ["REWRITES", "Site", "edits_for"]

_CONFIG = "torch._dynamo.config"
_SHAPE_LIKE = frozenset(("shape", "dtype", "device", "ndim", "layout", "names", "itemsize"))


@dataclass(frozen=True)
class Site:
    """One finding, with what is needed to change the code there."""

    place: Frame | None
    """The user's line."""
    source: Source | None
    """Its file; None where the source is not available."""
    guard: Guard | None = None
    """The guard that failed, for recompiles."""
    target: str = ""
    """Name of the function that is diagnosed."""
    arguments: tuple[str, ...] = ()
    """Names of its arguments."""
    varying: tuple[tuple[str, int], ...] = ()
    """Arguments and axes whose size differed between calls."""


def edits_for(names: Sequence[str], site: Site) -> list[Edit]:
    """The edits of these rewrites that fit the code, in order, each once."""
    found: list[Edit] = []
    for name in names:
        edit = REWRITES[name](site)
        if edit is not None and not any(
            (e.changes, e.call_changes) == (edit.changes, edit.call_changes) for e in found
        ):
            found.append(edit)
    return found


def _edit(name: str, title: str, source: Source, new: str, *, judgement: bool = False) -> Edit | None:
    """An edit of a file; None where nothing changed or the result is no Python."""
    changes = changes_between(source.file, source.text, new)
    if not changes or Source(source.file, new).tree is None:
        return None
    return Edit(name=name, title=title, judgement=judgement, changes=changes, diff=diff_of(source.text, changes))


def _statement(site: Site) -> tuple[Source, ast.stmt] | None:
    if site.source is None or site.place is None:
        return None
    statement = site.source.statement(site.place.line)
    return None if statement is None else (site.source, statement)


def _calls(statement: ast.stmt, names: Sequence[str]) -> Iterator[ast.Call]:
    """Calls in a statement (not in those inside of it) of functions or methods with one of these names."""
    for node in _expressions(statement):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in names:
                yield node


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    todo: list[ast.AST] = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.expr)]
    while todo:
        node = todo.pop()
        yield node
        todo += ast.iter_child_nodes(node)


def _reorder_print(site: Site) -> Edit | None:
    found = _statement(site)
    if found is None or not any(_calls(found[1], ["print"])):
        return None
    source, _ = found
    new = source.with_setup(f"{_CONFIG}.reorderable_logging_functions.add(print)")
    return _edit("reorder_print", "have the compiler move prints behind the computation", source, new)


def _reorder_formatted_print(site: Site) -> Edit | None:
    """The compiler moves a print of texts and tensors only: shapes and the like are made texts first."""
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    pieces = []
    for call in _calls(statement, ["print"]):
        for argument in call.args:
            shape = isinstance(argument, ast.Attribute) and argument.attr in _SHAPE_LIKE
            called = argument.func if isinstance(argument, ast.Call) else None
            plain = isinstance(called, ast.Name) and called.id in ("len", "tuple", "list", "type", "str", "int")
            method = isinstance(called, ast.Attribute) and called.attr in ("size", "dim", "numel", "stride")
            text = source.segment(argument)
            if (shape or plain or method) and not any(sign in text for sign in "\n\\{}\"'"):
                pieces.append((*source.span(argument), f'f"{{{text}}}"'))
    if not pieces:
        return None
    formatted = Source(source.file, source.replaced(pieces))
    new = formatted.with_setup(f"{_CONFIG}.reorderable_logging_functions.add(print)")
    return _edit("reorder_formatted_print", "make it a text, and have the compiler move prints back", source, new)


def _logging_call(site: Site) -> tuple[Source, str, list[str]] | None:
    """The logging function called on the line, as written, with the names it needs."""
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    names = ("debug", "info", "warning", "warn", "error", "critical", "exception", "log")
    for call in _calls(statement, names):
        roots = [node.id for node in ast.walk(call.func) if isinstance(node, ast.Name)]
        body = source.tree.body if source.tree is not None else []
        stored = {n.id for node in body for n in ast.walk(node) if isinstance(n, ast.Name)}
        imported = {a.asname or a.name for node in body if isinstance(node, ast.Import) for a in node.names}
        if roots and all(root in stored | imported for root in roots):
            return source, ast.unparse(call.func), roots
    return None


def _reorder_log(site: Site) -> Edit | None:
    found = _logging_call(site)
    if found is None:
        return None
    source, function, roots = found
    new = source.with_setup(f"{_CONFIG}.reorderable_logging_functions.add({function})", roots)
    return _edit("reorder_log", "have the compiler move log lines behind the computation", source, new)


def _ignore_log(site: Site) -> Edit | None:
    found = _logging_call(site)
    if found is None:
        return None
    source, function, roots = found
    new = source.with_setup(f"{_CONFIG}.ignore_logging_functions.add({function})", roots)
    return _edit("ignore_log", "leave the log line out of compiled code", source, new, judgement=True)


def _reorder_warning(site: Site) -> Edit | None:
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    for call in _calls(statement, ["warn"]):
        function = ast.unparse(call.func)
        new = source.with_setup(f"{_CONFIG}.reorderable_logging_functions.add({function})")
        return _edit("reorder_warning", "have the compiler move warnings behind the computation", source, new)
    return None


def _where(site: Site) -> Edit | None:
    """A branch on a tensor's values as a selection."""
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    new = if_as_where(source, statement) if isinstance(statement, ast.If) else conditional_as_where(source, statement)
    return None if new is None else _edit("where", "compute both sides and select with torch.where", source, new)


def _drop_item(site: Site) -> Edit | None:
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    pieces = without_item(source, _expressions(statement))
    return _edit("drop_item", "stay with the tensor", source, source.replaced(pieces)) if pieces else None


def _drop_item_where(site: Site) -> Edit | None:
    """``n = t.item()`` with branches on ``n`` further down: stay with the tensor, and select in each of them."""
    found = _statement(site)
    if found is None or site.place is None:
        return None
    source, statement = found
    function = source.function(site.place.line)
    pieces = without_item(source, _expressions(statement))
    if function is None or not pieces or not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target = statement.targets[0]
    if not isinstance(target, ast.Name):
        return None
    current = Source(source.file, source.replaced(pieces))
    changed = False
    # Each replacement moves what follows, so the branches are looked up anew, from the last to the first.
    for line in sorted({n.lineno for n in ast.walk(function) if isinstance(n, ast.If | ast.IfExp)}, reverse=True):
        branch = current.statement(line)
        if branch is None or line <= statement.lineno:
            continue
        if isinstance(branch, ast.If):
            new = if_as_where(current, branch) if _mentions(branch.test, target.id) else None
        else:
            new = conditional_as_where(current, branch, target.id)
        if new is not None:
            current, changed = Source(source.file, new), True
    if not changed:
        return None
    return _edit("drop_item_where", "stay with the tensor, and select with torch.where", source, current.text)


def _capture_scalars(site: Site) -> Edit | None:
    if site.source is None:
        return None
    new = site.source.with_setup(f"{_CONFIG}.capture_scalar_outputs = True")
    return _edit("capture_scalars", "have values taken out of tensors captured", site.source, new)


def _capture_dynamic_shapes(site: Site) -> Edit | None:
    if site.source is None:
        return None
    new = site.source.with_setup(f"{_CONFIG}.capture_dynamic_output_shape_ops = True")
    return _edit("capture_dynamic_shapes", "have operators with such results captured", site.source, new)


def _drop_tolist(site: Site) -> Edit | None:
    found = _statement(site)
    if found is None:
        return None
    source, statement = found
    pieces = [
        (*source.span(call), source.segment(call.func.value))
        for call in _calls(statement, ["tolist"])
        if isinstance(call.func, ast.Attribute)
    ]
    return _edit("drop_tolist", "index the tensor", source, source.replaced(pieces), judgement=True) if pieces else None


def _remove_statement(site: Site) -> Edit | None:
    found = _statement(site)
    if found is None or not isinstance(found[1], ast.Expr):
        return None
    source, statement = found
    start, end = source.span(statement)
    alone = len(source.siblings(statement)) == 1
    if alone:
        new = source.replaced([(start, end, "pass")])
    else:
        lines = source.text.splitlines(keepends=True)
        del lines[statement.lineno - 1 : statement.end_lineno]
        new = "".join(lines)
    return _edit("remove_statement", "take it out", source, new, judgement=True)


def _buffer_attribute(site: Site) -> Edit | None:
    """``self.step = 0`` in ``__init__`` as a buffer."""
    if site.source is None or site.place is None or site.guard is None:
        return None
    name = site.guard.subject.removeprefix("self.")
    owner = site.source.enclosing_class(site.place.line)
    if owner is None or not name.isidentifier() or site.guard.subject == name:
        return None
    init = next((s for s in owner.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
    for node in ast.walk(init) if init is not None else ():
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if len(targets) != 1 or ast.unparse(targets[0]) != f"self.{name}":
            continue
        value = site.source.segment(node.value)
        # float64 holds the Python float to the bit, and a tensor without axes does not widen what it meets.
        dtype = ", dtype=torch.float64" if site.guard.kind == "float" else ""
        text = f'self.register_buffer("{name}", torch.tensor({value}{dtype}), persistent=False)'
        new = site.source.replaced([(*site.source.span(node), text)])
        return _edit("buffer_attribute", "make the number a buffer", site.source, new)
    return None


def _unspecialized_integers(site: Site) -> Edit | None:
    if site.source is None or site.guard is None or site.guard.kind != "integer":
        return None
    new = site.source.with_setup(f"{_CONFIG}.allow_unspec_int_on_nn_module = True")
    return _edit("unspecialized_integers", "let integers on modules be variables", site.source, new)


def _mark_dynamic(site: Site) -> Edit | None:
    guard = site.guard
    if guard is None or guard.axis is None or guard.subject not in site.arguments:
        return None
    return _marks(site, "mark_dynamic", [(guard.subject, guard.axis)])


def _mark_all_dynamic(site: Site) -> Edit | None:
    return _marks(site, "mark_all_dynamic", site.varying) if site.varying else None


def _marks(site: Site, name: str, axes: Sequence[tuple[str, int]]) -> Edit:
    lines = [f"+torch._dynamo.mark_dynamic({argument}, {axis})" for argument, axis in axes]
    return Edit(
        name=name,
        title="say before the call that the axis changes",
        call_changes=[CallChange(kind="mark_dynamic", argument=argument, axis=axis) for argument, axis in axes],
        diff="\n".join([*lines, f" {site.target}({', '.join(site.arguments)})"]),
    )


def _compile_dynamic(site: Site) -> Edit | None:
    return Edit(
        name="compile_dynamic",
        title="compile for any size at once",
        call_changes=[CallChange(kind="compile_dynamic")],
        diff=f"-torch.compile({site.target})\n+torch.compile({site.target}, dynamic=True)",
    )


def _tensor_argument(site: Site) -> Edit | None:
    guard = site.guard
    if guard is None or guard.subject not in site.arguments:
        return None
    dtype = ", dtype=torch.float64" if guard.kind == "float" else ""
    before = ", ".join(site.arguments)
    new = [f"torch.tensor({name}{dtype})" if name == guard.subject else name for name in site.arguments]
    return Edit(
        name="tensor_argument",
        title="pass the number as a tensor",
        call_changes=[CallChange(kind="tensor_argument", argument=guard.subject)],
        diff=f"-{site.target}({before})\n+{site.target}({', '.join(new)})",
    )


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))


REWRITES: dict[str, Callable[[Site], Edit | None]] = {
    "buffer_attribute": _buffer_attribute,
    "capture_dynamic_shapes": _capture_dynamic_shapes,
    "capture_scalars": _capture_scalars,
    "compile_dynamic": _compile_dynamic,
    "drop_item": _drop_item,
    "drop_item_where": _drop_item_where,
    "drop_tolist": _drop_tolist,
    "ignore_log": _ignore_log,
    "mark_all_dynamic": _mark_all_dynamic,
    "mark_dynamic": _mark_dynamic,
    "remove_statement": _remove_statement,
    "reorder_formatted_print": _reorder_formatted_print,
    "reorder_log": _reorder_log,
    "reorder_print": _reorder_print,
    "reorder_warning": _reorder_warning,
    "tensor_argument": _tensor_argument,
    "unspecialized_integers": _unspecialized_integers,
    "where": _where,
}
"""Every rewrite by its name, as the catalogue of causes has them."""
