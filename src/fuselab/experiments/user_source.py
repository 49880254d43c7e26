"""What a user's file defines, read from its syntax: nothing in it is executed.

The command line has to answer a misspelt name or argument at once, and must not run a file to find out.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fuselab.errors import UnknownNameError, UsageError

__all__ = ["Definition", "Parameter", "Signature", "Source", "read_source"]

RETURN_SELF = frozenset(
    ("bfloat16", "cpu", "cuda", "double", "eval", "float", "half", "requires_grad_", "share_memory", "to", "train")
)
"""Methods of a module that return the module."""

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True)
class Parameter:
    """One named parameter."""

    name: str
    """Its name."""
    required: bool
    """Whether it has no default."""
    annotation: str = ""
    """Its annotation as written."""

    @property
    def example(self) -> str:
        """An ``--arg`` that might fit, from the annotation."""
        by_annotation = {"int": "3", "float": "1e-5", "bool": "true", "str": "tanh", "constexpr": "1024"}
        return f"{self.name}={by_annotation.get(self.annotation.rpartition('.')[2], 'bf16[4096,1024]')}"


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, or of a module's ``forward`` without ``self``."""

    parameters: tuple[Parameter, ...]
    """Named parameters in order."""
    extra_positional: bool = False
    """Whether there is an ``*args``."""
    extra_named: bool = False
    """Whether there is a ``**kwargs``."""


@dataclass(frozen=True)
class Definition:
    """A name at the top level of a file."""

    name: str
    """The name."""
    signature: Signature | None = None
    """The signature, where the syntax shows it."""
    doc: str = ""
    """First line of the docstring."""


@dataclass(frozen=True)
class Source:
    """The top level of a Python file."""

    path: Path
    """The file."""
    definitions: dict[str, Definition]
    """Every name that is defined, assigned or imported."""
    complete: bool
    """False where ``from x import *`` may define more."""

    def definition(self, name: str) -> Definition:
        """The definition of a name.

        Raises:
            UnknownNameError: the file has none; the message has the nearest match.
        """
        if name in self.definitions:
            return self.definitions[name]
        if not self.complete:
            return Definition(name)
        public = [n for n in self.definitions if not n.startswith("_")]
        raise UnknownNameError(f"name in {self.path.name}", name, public, plural="names at its top level")


def read_source(path: Path) -> Source:
    """Parse a file.

    Raises:
        UsageError: there is no such file, or it cannot be read or is not Python; the message has the line.
    """
    if path.exists() and not path.is_file():
        kind = "directory" if path.is_dir() else "special file"
        raise UsageError(f"{path} is a {kind}", hint="name a Python file: FILE.py:NAME")
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint=_nearest_file(path))
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="look at its permissions") from error
    except SyntaxError as error:
        line = f"\n    {error.text.rstrip()}" if error.text else ""
        place = f"{path}:{error.lineno}" if error.lineno else str(path)  # bytes that are no text have no line
        raise UsageError(f"{place}: {error.msg}{line}", hint="the file is not valid Python") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path} cannot be parsed: {error}", hint="the file is not valid Python") from error
    classes = {node.name: node for node in _statements(tree.body) if isinstance(node, ast.ClassDef)}
    definitions: dict[str, Definition] = {}
    complete = True
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            complete = False
            continue
        for definition in _definitions(node, classes):
            definitions[definition.name] = definition
    return Source(path, definitions, complete)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top level, also those below ``if``, ``try`` and ``with``, but not below ``__main__``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            if "__name__" not in ast.dump(node.test):
                yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body)
            for handler in node.handlers:
                yield from _statements(handler.body)
            yield from _statements(node.orelse)
            yield from _statements(node.finalbody)
        elif isinstance(node, ast.With):
            yield from _statements(node.body)


def _definitions(node: ast.stmt, classes: dict[str, ast.ClassDef]) -> Iterator[Definition]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield Definition(node.name, _signature(node) if _transparent(node) else None, _doc(node))
    elif isinstance(node, ast.ClassDef):
        yield Definition(node.name, _forward(node, classes), _doc(node))
    elif isinstance(node, ast.ImportFrom):  # a plain import names a module, and that is nothing to call
        for alias in node.names:
            yield Definition(alias.asname or alias.name)
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    yield Definition(name.id, _value_signature(node.value, classes))


def _transparent(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the parameters are those written: torch's decorators keep them, others may add or take some."""
    return all(ast.unparse(decorator).startswith("torch.") for decorator in node.decorator_list)


def _value_signature(value: ast.expr, classes: dict[str, ast.ClassDef]) -> Signature | None:
    """Of ``f = lambda x: ...``, and of ``net = Net(...).eval()`` where Net is a class of the file."""
    if isinstance(value, ast.Lambda):
        return _signature(value)
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in RETURN_SELF:
        value = value.func.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in classes:
        return _forward(classes[value.func.id], classes)
    return None


def _forward(node: ast.ClassDef, classes: dict[str, ast.ClassDef], depth: int = 0) -> Signature | None:
    """The signature of ``forward``, its own or that of a base class in the same file."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "forward":
            return _signature(statement, method=True)
    for base in node.bases:
        # A class of the file may have the name of its own base, rebound: the depth ends that.
        if isinstance(base, ast.Name) and base.id in classes and depth < len(classes):
            return _forward(classes[base.id], classes, depth + 1)
    return None


def _signature(node: Function, *, method: bool = False) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = len(arguments.defaults)
    parameters = [
        Parameter(argument.arg, index < len(positional) - with_default, _annotation(argument))
        for index, argument in enumerate(positional)
    ]
    if method:
        parameters = parameters[1:]
    parameters += [
        Parameter(argument.arg, default is None, _annotation(argument))
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return Signature(tuple(parameters), arguments.vararg is not None, arguments.kwarg is not None)


def _annotation(argument: ast.arg) -> str:
    return "" if argument.annotation is None else ast.unparse(argument.annotation)


def _doc(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    doc = (ast.get_docstring(node) or "").strip()
    return doc.splitlines()[0].strip() if doc else ""


def _nearest_file(path: Path) -> str:
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix == ".py" and p.is_file())
    except OSError:
        return f"the folder {path.parent} cannot be read either"
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    return f"Python files there: {', '.join(names[:10])}" if names else f"there is no Python file in {path.parent}"
