"""A user's file as text and syntax: the statement at a line, and changes of lines, made, combined and shown. Pure."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fuselab.diagnosis.records import SourceChange

__all__ = ["Source", "applied", "changes_between", "combined", "diff_of", "moved_to", "patch_of", "read"]


class Source:
    """One file's text and syntax tree."""

    def __init__(self, file: str, text: str) -> None:
        """Parse the text; a file that is no valid Python has no statements."""
        self.file = file
        self.text = text
        try:
            self.tree: ast.Module | None = ast.parse(text, filename=file)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.tree = None
        lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._lines = lines

    def statement(self, line: int) -> ast.stmt | None:
        """The innermost statement that covers a line."""
        chain = self.chain(line)
        return chain[-1] if chain else None

    def chain(self, line: int) -> list[ast.stmt]:
        """The statements that cover a line, the outermost first."""
        found: list[ast.stmt] = []
        body: Sequence[ast.AST] = [self.tree] if self.tree is not None else []
        while body:
            inner = next(
                (
                    child
                    for node in body
                    for child in _statements(node)
                    if child.lineno <= line <= (child.end_lineno or child.lineno)
                ),
                None,
            )
            if inner is None:
                break
            found.append(inner)
            body = [inner]
        return found

    def function(self, line: int) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The innermost function that covers a line."""
        functions = [s for s in self.chain(line) if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef)]
        return functions[-1] if functions else None

    def enclosing_class(self, line: int) -> ast.ClassDef | None:
        """The innermost class that covers a line."""
        classes = [s for s in self.chain(line) if isinstance(s, ast.ClassDef)]
        return classes[-1] if classes else None

    def siblings(self, statement: ast.stmt) -> list[ast.stmt]:
        """The block that a statement stands in."""
        for node in ast.walk(self.tree) if self.tree is not None else ():
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list) and any(s is statement for s in block):
                    return block
        return []

    def segment(self, node: ast.AST) -> str:
        """A node's own text."""
        start, end = self.span(node)
        return self.text[start:end]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends in the text, in characters."""
        return (
            self._place(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self._place(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def indent(self, node: ast.stmt) -> str:
        """The white space before a statement."""
        line = self._lines[node.lineno - 1]
        return line[: len(line) - len(line.lstrip())]

    def replaced(self, pieces: Iterable[tuple[int, int, str]]) -> str:
        """The text with pieces of it replaced; those inside of another one are dropped."""
        result, end_of_last = [], 0
        for start, end, new in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
            if start >= end_of_last:
                result += [self.text[end_of_last:start], new]
                end_of_last = end
        return "".join([*result, self.text[end_of_last:]])

    def line_after_setup(self, names: Iterable[str]) -> int:
        """The line after which a setting can stand: behind the imports, and where each name has its value."""
        wanted = set(names)
        last = 0
        body = self.tree.body if self.tree is not None else []
        for index, node in enumerate(body):
            given = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Import | ast.ImportFrom) or docstring or given & wanted:
                last = node.end_lineno or node.lineno
        return last

    def imports(self, module: str) -> bool:
        """Whether ``import MODULE`` stands at the top level."""
        body = self.tree.body if self.tree is not None else []
        return any(
            isinstance(node, ast.Import) and any(alias.name == module and not alias.asname for alias in node.names)
            for node in body
        )

    def with_setup(self, setting: str = "", names: Iterable[str] = ()) -> str:
        """The text with a line of setup put in at the top level, and ``import torch`` where it is missing."""
        after = self.line_after_setup(names)
        place = self._starts[min(after, len(self._lines))]
        before = "" if place == 0 or self.text[place - 1] == "\n" else "\n"
        lines = [*([] if self.imports("torch") else ["import torch"]), *([setting] if setting else [])]
        put_in = "".join(f"{line}\n" for line in lines)
        return f"{self.text[:place]}{before}{put_in}{self.text[place:]}"

    def _place(self, line: int, column: int) -> int:
        """Offset in characters of a place that ``ast`` gives: its columns count UTF-8 bytes."""
        text = self._lines[line - 1]
        return self._starts[line - 1] + len(text.encode()[:column].decode(errors="ignore"))


def read(file: str) -> Source | None:
    """A file's source; None where there is no such file or it cannot be read."""
    try:
        return Source(file, Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return None


def changes_between(file: str, old: str, new: str) -> list[SourceChange]:
    """The lines that differ.

    Example:
        >>> change, = changes_between("m.py", "a\\nb\\nc\\n", "a\\nB\\nc\\n")
        >>> change.first_line, change.last_line, change.text
        (2, 2, 'B\\n')
    """
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [
        SourceChange(file=file, first_line=i + 1, last_line=i_end, text="".join(after[j:j_end]))
        for tag, i, i_end, j, j_end in matcher.get_opcodes()
        if tag != "equal"
    ]


def combined(groups: Iterable[Sequence[SourceChange]]) -> tuple[list[SourceChange], list[int]]:
    """Changes of several edits together, and which edits went in: one that meets the lines of an earlier one does not.

    The same line put in at the same place twice is put in once.
    """
    taken: list[SourceChange] = []
    accepted = []
    for index, group in enumerate(groups):
        new = [change for change in group if change not in taken]
        if any(_meet(change, other) for change in new for other in taken):
            continue
        taken += new
        accepted.append(index)
    return taken, accepted


def applied(text: str, changes: Iterable[SourceChange]) -> str:
    """The text with changes made, which must not overlap.

    Example:
        >>> applied("a\\nb\\n", [SourceChange(file="m.py", first_line=2, last_line=1, text="new\\n")])
        'a\\nnew\\nb\\n'
    """
    lines = text.splitlines(keepends=True)
    # From the end, so that line numbers stay; of two put in at one place the later goes first, to stand behind.
    ordered = sorted(
        enumerate(changes), key=lambda item: (item[1].first_line, item[1].last_line, item[0]), reverse=True
    )
    for _, change in ordered:
        lines[change.first_line - 1 : change.last_line] = change.text.splitlines(keepends=True)
    return "".join(lines)


def moved_to(line: int, changes: Iterable[SourceChange]) -> tuple[int, int]:
    """Where a line of the original is after the changes: first and last line."""
    shift = 0
    for change in sorted(changes, key=lambda c: (c.first_line, c.last_line)):
        length = len(change.text.splitlines())
        if change.first_line <= line <= change.last_line:
            return change.first_line + shift, change.first_line + shift + max(length - 1, 0)
        if change.first_line <= line:
            shift += length - (change.last_line - change.first_line + 1)
    return line + shift, line + shift


def diff_of(text: str, changes: Sequence[SourceChange]) -> str:
    """The changes as a diff of the changed lines alone, without the file's header."""
    return "\n".join(_unified(text, changes, "", "", 0)[2:])


def patch_of(file: str, text: str, changes: Sequence[SourceChange]) -> str:
    """The changes of one file as a patch."""
    return "".join(f"{line}\n" for line in _unified(text, changes, file, file, 3))


def _unified(text: str, changes: Sequence[SourceChange], before: str, after: str, context: int) -> list[str]:
    new = applied(text, changes)
    return list(difflib.unified_diff(text.splitlines(), new.splitlines(), before, after, n=context, lineterm=""))


def _meet(one: SourceChange, other: SourceChange) -> bool:
    if one.file != other.file:
        return False
    inserts = one.last_line < one.first_line, other.last_line < other.first_line
    if all(inserts):
        return False
    if inserts[0]:
        return other.first_line < one.first_line <= other.last_line
    if inserts[1]:
        return one.first_line < other.first_line <= one.last_line
    return one.first_line <= other.last_line and other.first_line <= one.last_line


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements directly below a node, those in its handlers and cases included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from _statements(child)
