"""Where the installed torch and triton read environment variables, found in their sources without importing them.

The sources are parsed (``ast``), so that a read carries what a search for the name cannot say: the configuration field
it fills, its default, and when it happens. The moment follows from the scope: what stands at the level of a module, a
class or a default argument is read by the import, and so is a function that the module itself calls; what stands in
any other function is read when that runs, once where the function is cached. Names read by C++ alone are found as
strings of the shared libraries (``installation``).

``python -m fuselab.env_vars.scan`` prints what is read here and what the catalogue does not hold.
"""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from fuselab.env_vars.values import UNREADABLE, is_plain, read_as

__all__ = ["Read", "ReadTime", "scan_source", "scan_tree"]

NAME = re.compile(r"[A-Z_][A-Za-z0-9_]*[A-Z0-9_]")
"""What a variable's name looks like; ``debug_extract_compiled_graph`` is the one exception, and not for users."""

_WRAPPER = re.compile(r"env|knob", re.IGNORECASE)
"""Functions and classes that are handed the name of a variable have one of these words in their own name."""

_LIKELY = re.compile(r"environ\b|getenv|env_name|env_\w+\(|_env\w*\(|env\w*\(\s*[\"']")

_TOOL = "env_nvidia_tool"
"""Triton's knob for a program: ``env_nvidia_tool("ptxas")`` reads ``TRITON_PTXAS_PATH``."""

_LEFT_OUT = ("testing", "test", "tests", "_vendor", "model_dump", "fuzzer")


class ReadTime(enum.Enum):
    """When a read happens, as far as its scope says."""

    IMPORT = "import"
    CALL = "call"
    ONCE = "first call"


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One place that reads a variable."""

    name: str
    file: str
    """Path below site-packages."""
    line: int
    time: ReadTime
    field: str | None = None
    """Dotted path of the configuration field that it fills, for configuration modules and triton's knobs."""
    default: str | None = None
    """The field's value without the variable, as Python, where the source says it plainly."""
    rule: str | None = None
    """The expression that makes the field's value of the text, where it is plain (see ``values``)."""


def scan_tree(root: Path, packages: Iterable[str] = ("torch", "triton")) -> list[Read]:
    """Every read in the packages below a site-packages directory, by name and place.

    Args:
        root: a site-packages directory.
        packages: top-level packages to look into.
    """
    reads: list[Read] = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root)
            if _LEFT_OUT and not set(relative.parts).isdisjoint(_LEFT_OUT):
                continue
            text = path.read_text(errors="replace")
            if _LIKELY.search(text):  # parsing is the slow part: of 2,300 files 170 are worth it
                reads += scan_source(text, relative.as_posix())
    return sorted(reads, key=lambda read: (read.name, read.file, read.line))


def scan_source(text: str, file: str) -> list[Read]:
    """Every read in one source.

    Example:
        >>> text = "import os\\nfast = os.environ.get('TORCH_FAST', '1') == '1'\\ninstall_config_module(fast)"
        >>> read = scan_source(text, "torch/config.py")[0]
        >>> read.name, read.time.value, read.field, read.default
        ('TORCH_FAST', 'import', 'torch.config.fast', 'True')
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:  # sources for another Python, such as torch's templates
        return []
    return list(_Module(tree, file).reads())


_Filled = tuple[ast.stmt, tuple[str, ...]]
"""A statement that fills a field, and the classes around it."""


class _Module:
    """One parsed module: its constants, what it calls while it is imported, and the fields that those calls fill."""

    def __init__(self, tree: ast.Module, file: str) -> None:
        self.tree = tree
        self.file = file
        self.name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for target in _targets(node)
            if isinstance(target, ast.Name)
        }
        self.knobs = file == "triton/knobs.py"
        self.is_config = self.knobs or any(
            isinstance(node, ast.Call) and _last(node.func) == "install_config_module" for node in ast.walk(tree)
        )
        self.knob_groups = {
            _last(node.value.func): node.targets[0].id
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and isinstance(node.targets[0], ast.Name)
        }
        self.called: dict[str, _Filled] = {}
        self._calls_while_imported(tree.body, ())

    def _calls_while_imported(self, body: list[ast.stmt], classes: tuple[str, ...]) -> None:
        """Functions of this module that its own top level calls, with the statement that does."""
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                self._calls_while_imported(statement.body, (*classes, statement.name))
            elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(statement):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                        self.called.setdefault(node.func.id, (statement, classes))

    def reads(self) -> Iterator[Read]:
        yield from self._visit(self.tree.body, (), ReadTime.IMPORT, None)

    def _visit(
        self, body: Iterable[ast.stmt], classes: tuple[str, ...], time: ReadTime, filled: _Filled | None
    ) -> Iterator[Read]:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                yield from self._visit(statement.body, (*classes, statement.name), time, filled)
            elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                for default in (*statement.args.defaults, *(d for d in statement.args.kw_defaults if d)):
                    yield from self._expression(default, time, None)
                inner, field = self._time_of(statement, time, filled)
                yield from self._visit(statement.body, classes, inner, field)
            else:
                own = (statement, classes) if time is ReadTime.IMPORT else None
                children = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
                blocks = [
                    inner
                    for child in ast.iter_child_nodes(statement)
                    if isinstance(child, ast.ExceptHandler | ast.match_case)
                    for inner in child.body
                ]
                yield from self._visit((*children, *blocks), classes, time, filled)
                for child in ast.iter_child_nodes(statement):
                    if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                        yield from self._expression(child, time, filled or own)

    def _time_of(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, outer: ReadTime, filled: _Filled | None
    ) -> tuple[ReadTime, _Filled | None]:
        if outer is ReadTime.IMPORT and function.name in self.called:
            return ReadTime.IMPORT, self.called[function.name] if filled is None else filled
        cached = any("cache" in (_last(d.func if isinstance(d, ast.Call) else d)) for d in function.decorator_list)
        return (ReadTime.ONCE if cached or outer is ReadTime.ONCE else ReadTime.CALL), None

    def _expression(self, node: ast.AST, time: ReadTime, filled: _Filled | None) -> Iterator[Read]:
        for inner in ast.walk(node):
            for name in self._names_read(inner):
                field = self._field(*filled) if filled is not None else None
                moment = ReadTime.CALL if self.knobs and not _is_got(node, inner) else time
                yield Read(
                    name=name,
                    file=self.file,
                    line=getattr(inner, "lineno", 0),
                    time=moment,
                    field=field,
                    default=_default(filled[0]) if filled and field else None,
                    rule=_rule(filled[0]) if filled and field else None,
                )

    def _names_read(self, node: ast.AST) -> list[str]:
        """The variables that one node reads itself."""
        if isinstance(node, ast.Call):
            return self._names_passed(node)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _last(node.value) == "environ":
            return self._literals([node.slice])
        if isinstance(node, ast.Compare) and any(_last(c) == "environ" for c in node.comparators):
            return self._literals([node.left])
        return []

    def _names_passed(self, node: ast.Call) -> list[str]:
        """The variables whose names a call hands to a function that reads them."""
        function = _last(node.func)
        named = [k.value for k in node.keywords if k.arg and "env" in k.arg]
        if function == _TOOL and node.args and isinstance(node.args[0], ast.Constant):
            return [f"TRITON_{str(node.args[0].value).upper().replace('-', '_')}_PATH"]
        owner = _last(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if owner == "environ" and function in ("get", "setdefault", "pop"):
            return self._literals(node.args[:1])
        if _WRAPPER.search(function) and owner != "monkeypatch":
            return self._literals([*node.args[:2], *named])
        return self._literals(named)

    def _literals(self, nodes: Iterable[ast.AST]) -> list[str]:
        found = []
        for node in nodes:
            for part in node.elts if isinstance(node, ast.List | ast.Tuple) else [node]:
                value = part.value if isinstance(part, ast.Constant) else self.constants.get(_last(part))
                if isinstance(value, str) and NAME.fullmatch(value):
                    found.append(value)
        return found

    def _field(self, statement: ast.stmt, classes: tuple[str, ...]) -> str | None:
        if not self.is_config:
            return None
        targets = [t for t in _targets(statement) if isinstance(t, ast.Name)]
        if not targets:
            return None
        path = tuple(self.knob_groups.get(c, c) for c in classes) if self.knobs else classes
        return ".".join((self.name, *path, targets[0].id))


def _is_got(whole: ast.AST, knob: ast.AST) -> bool:
    """Whether a knob's value is taken at once (``env_bool("TRITON_DEBUG").get()``) and not kept as a descriptor."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "get" and node.value is knob for node in ast.walk(whole)
    )


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return list(statement.targets)
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def _last(node: ast.AST) -> str:
    """Last name of a dotted path; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


_KNOB_DEFAULTS = {"env_bool": "False", "env_int": "0", "env_opt_str": "None", "env_opt_bool": "None"}


def _rule(statement: ast.stmt) -> str | None:
    """The expression that makes the field's value of the variable's text, where it is plain enough to evaluate."""
    value = getattr(statement, "value", None)
    return ast.unparse(value) if isinstance(value, ast.expr) and is_plain(value) else None


def _default(statement: ast.stmt) -> str | None:
    """What the statement assigns when no variable is set; None where that takes more than arithmetic to say."""
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and _last(value.func).startswith("env_"):
        return ast.unparse(value.args[1]) if len(value.args) > 1 else _KNOB_DEFAULTS.get(_last(value.func))
    rule = _rule(statement)
    given = UNREADABLE if rule is None else read_as(rule, {})
    return None if given is UNREADABLE else repr(given)


def main() -> None:
    """Print what the installed sources read, and where the catalogue and they differ."""
    import json
    import sys

    from fuselab.env_vars.catalogue import catalogue
    from fuselab.env_vars.installation import Installation

    installation, known = Installation.here(), catalogue()
    reads = [read for package, root in installation.roots.items() for read in scan_tree(root, [package])]
    missing = {
        variable.name: presence.reason
        for variable in known.variable
        if (presence := installation.look(variable)).found is False
    }
    document = {
        "versions": installation.versions,
        "reads": [msgspec.to_builtins(read) for read in reads],
        "not_catalogued": sorted({read.name for read in reads} - set(known.by_name)),
        "catalogued_but_not_here": missing,
    }
    json.dump(document, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
