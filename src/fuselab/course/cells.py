"""The notebooks' text sources: where they lie, their cells in order, and which cell makes a name.

The sources are MyST Markdown with ``{code-cell}`` blocks, as jupytext and myst-nb read them. They are read here without
either, because a learner's machine may have neither.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from fuselab.errors import SetupError

__all__ = ["NAMES", "Cell", "cells", "code_of", "directory", "made_by", "names_made", "names_used", "source"]

NAMES = ("pytorch-triton-basics", "triton-optimization")
"""The two notebooks, in the order they are read."""

HERE = Path(__file__).parent
_BLOCK = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_OPTIONS = re.compile(r"\A(?::[\w-]+:[^\n]*\n)+\n?")
_HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
_MAGIC = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """One cell of a source."""

    kind: str
    """``code`` or ``markdown``."""
    text: str
    """As it stands in the source."""
    heading: str
    """The nearest heading above it."""


def directory() -> Path:
    """Where the notebooks lie: in the repository, or in an installed package.

    Raises:
        SetupError: they are not there.
    """
    for candidate in (HERE / "material", HERE.parents[2] / "notes" / "triton-gpu-optimization"):
        if (candidate / f"{NAMES[0]}.md").is_file():
            return candidate
    raise SetupError("the course's notebooks are not installed", hint="pip install --force-reinstall fuselab")


def source(name: str) -> str:
    """The text source of a notebook."""
    return (directory() / f"{name}.md").read_text(encoding="utf-8")


def cells(text: str) -> list[Cell]:
    """The cells of a source, in order.

    Example:
        >>> [c.kind for c in cells("# A\\n\\ntext\\n\\n```{code-cell}\\nx = 1\\n```\\n")]
        ['markdown', 'code']
    """
    body = _FRONT.sub("", text)
    found: list[Cell] = []
    heading, start = "", 0
    for block in _BLOCK.finditer(body):
        heading = _add_prose(found, body[start : block.start()], heading)
        found.append(Cell("code", _OPTIONS.sub("", block.group(1)).strip("\n"), heading))
        start = block.end()
    _add_prose(found, body[start:], heading)
    return found


def _add_prose(found: list[Cell], text: str, heading: str) -> str:
    for part in text.split("\n+++\n"):
        if part.strip():
            headings = _HEADING.findall(part)
            heading = headings[-1][1] if headings else heading
            found.append(Cell("markdown", part.strip("\n"), heading))
    return heading


def code_of(cell: Cell) -> ast.Module:
    """The syntax tree of a code cell, magics left out."""
    return ast.parse(_MAGIC.sub("pass", cell.text))


def names_made(tree: ast.Module) -> set[str]:
    """Names that a cell gives a value at its top level."""
    made: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                made |= {(alias.asname or alias.name).split(".")[0] for alias in inner.names}
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                made.add(inner.id)
    return made


def names_used(tree: ast.Module) -> set[str]:
    """Names that a cell reads, its functions' own included."""
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def made_by(name: str, notebook: str) -> Cell | None:
    """The first code cell of a notebook that makes a name."""
    for cell in cells(source(notebook)):
        if cell.kind == "code" and name in names_made(code_of(cell)):
            return cell
    return None
