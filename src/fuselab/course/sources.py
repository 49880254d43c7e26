"""The source of a learner's function: gathered from cells or files, never pickled.

A function in a notebook uses names of other cells. ``source_of`` follows them through ``__globals__`` and writes one
file with the imports, constants and functions that it needs, so that another process can run it.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fuselab.course.exercises import Exercise
from fuselab.errors import UsageError

__all__ = ["Piece", "Source", "source_of"]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a gathered file."""

    name: str
    first: int
    """Its first line in the gathered file, from 1."""
    last: int


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: text, and where its lines are from."""

    text: str
    entry: str
    """The name to call, or the kernel to launch."""
    bare_kernel: bool = False
    """The entry is a kernel without a function that launches it."""
    where: str = "your code"
    pieces: tuple[Piece, ...] = ()

    def unwritten(self) -> int | None:
        """The first line on which ``...`` stands for code that is still to be written.

        Example:
            >>> Source(text="x = 1\\ny = ...\\n", entry="f").unwritten()
            2
        """
        try:
            tree = ast.parse(self.text)
        except (SyntaxError, ValueError):
            return None  # reported with its line by the process that runs it
        lines = []
        for node in ast.walk(tree):
            parts: list[ast.expr] = []
            if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Return) and node.value is not None:
                parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            elif isinstance(node, ast.Call):
                parts = [*node.args, *(k.value for k in node.keywords)]
            lines += [p.lineno for p in parts if isinstance(p, ast.Constant) and p.value is Ellipsis]
        return min(lines, default=None)

    def place(self, line: int) -> tuple[str, int]:
        """Where a line of the text is in what the learner wrote: a name, and the line counted within it."""
        for piece in self.pieces:
            if piece.first <= line <= piece.last:
                return piece.name, line - piece.first + 1
        return self.where, line


def source_of(exercise: Exercise, answer: Callable[..., Any] | str | Path | None) -> Source:
    """Find the source of an answer.

    Raises:
        UsageError: it is neither a function, a source nor a file, or its source cannot be found.
    """
    if answer is None:
        path = Path("exercises", f"{exercise.name}.py")
        if not path.is_file():
            raise UsageError(
                f"no answer to {exercise.name} was given, and there is no {path} here",
                hint=f"check({exercise.name!r}, your_function), or `fuselab course DIR` and work in DIR",
            )
        return _from_file(exercise, path)
    if isinstance(answer, Path) or (isinstance(answer, str) and "\n" not in answer):
        return _from_file(exercise, Path(answer))
    if isinstance(answer, str):
        return Source(text=answer, entry=_entry_in(exercise, answer))
    return _from_function(exercise, answer)


def _from_file(exercise: Exercise, path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the answer to {exercise.name} cannot be read: {error}", hint="a function, a source or a .py file"
        ) from None
    return Source(text=text, entry=exercise.name, where=path.name)


def _entry_in(exercise: Exercise, text: str) -> str:
    # A source that does not parse is reported by the process that runs it, with its line.
    try:
        names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return exercise.name
    return exercise.name if exercise.name in names or not names else names[-1]


def python_function(answer: Any) -> types.FunctionType | None:
    """The Python function below decorators: a jit kernel, an autotuned one, a ``functools.wraps``."""
    for _ in range(10):
        if isinstance(answer, types.FunctionType):
            below = inspect.unwrap(answer)
            return below if isinstance(below, types.FunctionType) else answer
        answer = getattr(answer, "fn", None)
    return None


def _from_function(exercise: Exercise, answer: Any) -> Source:
    function = python_function(answer)
    if function is None:
        raise UsageError(
            f"the answer to {exercise.name} is {_article(type(answer).__name__)}, not a function",
            hint=f"it is called as {exercise.call}",
        )
    gathered = _Gathered()
    gathered.add(function)
    text, pieces = gathered.write()
    bare = not isinstance(answer, types.FunctionType)
    return Source(text=text, entry=function.__name__, bare_kernel=bare, pieces=pieces)


class _Gathered:
    """Everything that a function needs, in the order in which it has to stand."""

    def __init__(self) -> None:
        self.imports: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._seen: set[int] = set()

    def add(self, function: types.FunctionType, name: str = "") -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        source = _text_of(function)
        if function.__closure__:
            raise UsageError(
                f"{function.__name__} is defined inside another function and uses its variables "
                f"({', '.join(function.__code__.co_freevars)})",
                hint="define it at the top of a cell",
            )
        for used in _names_in(source, function):
            if used not in function.__globals__ or used in self.imports or used in self.constants:
                continue
            self._add_value(used, function.__globals__[used], function)
        self.functions[name or function.__name__] = source

    def _add_value(self, name: str, value: Any, user: types.FunctionType) -> None:
        home = getattr(value, "__module__", None)
        below = python_function(value)
        if isinstance(value, types.ModuleType):
            package, _, last = value.__name__.rpartition(".")
            if name == value.__name__:
                self.imports[name] = f"import {name}"
            elif package:
                self.imports[name] = f"from {package} import {last} as {name}"
            else:
                self.imports[name] = f"import {value.__name__} as {name}"
        elif below is not None and below.__globals__ is user.__globals__:
            self.add(below)
            if below.__name__ != name:
                self.constants[name] = below.__name__
        elif hasattr(value, "__qualname__") and home not in (None, "__main__") and "." not in value.__qualname__:
            self.imports[name] = f"from {home} import {value.__qualname__} as {name}"
        elif type(value).__name__ == "constexpr":
            self.imports.setdefault("_constexpr", "from triton.language import constexpr as _constexpr")
            self.constants[name] = f"_constexpr({value.value!r})"
        elif type(value).__module__ in ("torch", "triton.language.core") and type(value).__name__ == "dtype":
            module = "torch" if type(value).__module__ == "torch" else "triton.language"
            short = str(value).removeprefix("torch.")
            names = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
            self.imports[name] = f"from {module} import {names.get(short, short)} as {name}"
        elif isinstance(value, int | float | str | bool | tuple) or value is None:
            self.constants[name] = "float('inf')" if value == float("inf") else repr(value)
        elif not isinstance(value, type):
            raise UsageError(
                f"{user.__name__} uses {name}, {_article(type(value).__name__)} from outside: another process lacks it",
                hint="pass it as an argument, make it inside of the function, or define it as a number",
            )

    def write(self) -> tuple[str, tuple[Piece, ...]]:
        lines = [*self.imports.values()]
        late = {k: v for k, v in self.constants.items() if v in self.functions}
        lines += [f"{k} = {v}" for k, v in self.constants.items() if k not in late]
        pieces = []
        for name, source in self.functions.items():
            lines += ["", ""]
            first = len(lines) + 1
            lines += source.rstrip().splitlines()
            pieces.append(Piece(name=name, first=first, last=len(lines)))
            lines += [f"{k} = {v}" for k, v in late.items() if v == name]
        return "\n".join(lines) + "\n", tuple(pieces)


def _text_of(function: types.FunctionType) -> str:
    linecache.checkcache(function.__code__.co_filename)
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError, IndentationError, SyntaxError):
        raise UsageError(
            f"the source of {function.__name__} cannot be found",
            hint="define it in a cell or a file, or give the source itself as text",
        ) from None


def _names_in(source: str, function: types.FunctionType) -> list[str]:
    """Names in the function, its decorators, defaults and annotations, in order of appearance."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return list(function.__code__.co_names)
    return list(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
