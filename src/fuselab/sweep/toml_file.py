"""A TOML file whose complaints name the file, the line and the field: lines are found again, ``tomllib`` keeps none."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fuselab.errors import UnknownNameError, UsageError

__all__ = ["Table", "read_toml"]

Value = TypeVar("Value")
Key = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.|=)?""")
_OUTSIDE = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')
"""Strings and comments, whose brackets do not count."""

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


@dataclass
class Table:
    """One table of the file; what is taken out of it is known, the rest is complained of at the end."""

    entries: Mapping[str, Any]
    path: Path
    lines: Mapping[Key, int]
    key: Key = ()
    taken: list[str] = field(default_factory=list)

    def where(self, name: str = "") -> str:
        """``plan.toml, line 7, experiment 2, axes.rows``."""
        key = (*self.key, name) if name else self.key
        known = key
        while known and known not in self.lines:
            known = known[:-1]
        parts: list[str] = []
        for part in key:
            if isinstance(part, int):
                parts[-1] += f" {part + 1}"
            else:
                parts.append(part)
        return ", ".join([str(self.path.name), f"line {self.lines.get(known, 1)}", ".".join(parts)]).removesuffix(", ")

    def refuse(self, name: str, problem: str, hint: str | None = None) -> UsageError:
        """The complaint about one field."""
        return UsageError(f"{self.where(name)}: {problem}", hint=hint)

    @contextmanager
    def naming(self, name: str = "") -> Iterator[None]:
        """Put the place before whatever complaint is raised inside."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self.where(name)}: {error.message}", hint=error.hint) from error

    def take(self, name: str, kind: type[Value], default: Value) -> Value:
        """A field of one type, or its default; a whole number is a number."""
        self.taken.append(name)
        value = self.entries.get(name, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if value is not default and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise self.refuse(name, f"{value!r} is not {_WORDS[kind]}")
        return value  # type: ignore[no-any-return]

    def words(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of texts; one text is a list of one."""
        self.taken.append(name)
        value = self.entries.get(name)
        if value is None:
            return default
        listed = value if isinstance(value, list) else [value]
        for word in listed:
            if not isinstance(word, str):
                raise self.refuse(name, f"{word!r} is not text")
        return tuple(listed)

    def table(self, name: str) -> Table:
        """A table below this one; empty where it is missing."""
        return Table(self.take(name, dict, {}), self.path, self.lines, (*self.key, name))

    def tables(self, name: str) -> list[Table]:
        """The tables of ``[[name]]``, in order."""
        found = self.take(name, list, [])
        for entry in found:
            if not isinstance(entry, dict):
                raise self.refuse(name, f"{entry!r} is not a table", hint=f"write [[{name}]] before each")
        return [Table(entry, self.path, self.lines, (*self.key, name, i)) for i, entry in enumerate(found)]

    def finish(self) -> None:
        """Complain of a field that nobody took; names the nearest match."""
        for name in self.entries:
            if name not in self.taken:
                error = UnknownNameError("field", name, self.taken)
                raise self.refuse(name, error.message, hint=error.hint)


def read_toml(path: Path) -> Table:
    """The table of a whole file.

    Raises:
        UsageError: it is not there, cannot be read or is not TOML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name} is not TOML: {error}", hint="docs/sweep.md has a plan to begin with") from None
    return Table(entries, path, _lines(text))


def _lines(text: str) -> dict[Key, int]:
    """The line of every table and key, from 1; of a value over several lines, where its key stands."""
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    current: Key = ()
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        bare = _OUTSIDE.sub("", line)
        if depth == 0:
            header = _HEADER.match(line)
            if header:
                current = _resolved(_parts(header[2]), counts, is_array=header[1] == "[[")
                found.setdefault(current, number)
                continue
            parts = _parts(line.partition("=")[0]) if "=" in bare else ()
            for end in range(1, len(parts) + 1):
                found.setdefault((*current, *parts[:end]), number)
        depth = max(0, depth + bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}"))
    return found


def _parts(text: str) -> Key:
    return tuple(a or b or c for a, b, c, _ in _PART.findall(text))


def _resolved(parts: Key, counts: dict[Key, int], *, is_array: bool) -> Key:
    """A header's key with the number of the entry wherever a part is an array of tables."""
    key: Key = ()
    for i, part in enumerate(parts):
        key = (*key, part)
        if i == len(parts) - 1 and is_array:
            counts[key] = counts.get(key, -1) + 1
        if key in counts:
            key = (*key, counts[key])
    return key
