"""From a C++ kernel to the machine code that the host's compiler made of it, with the line of the kernel beside it.

Inductor writes a kernel's source into a file of its cache, with Python bindings after it, and compiles that to a
library with a line table (``-g1``; before torch 2.13 only when asked). ``objdump`` prints the library with that table;
the functions that no line of the kernel is in are left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Libraries", "Library", "disassemble"]

_DEADLINE_S = 60
_KEY = 120
_FUNCTION = re.compile(r"^[0-9a-f]+ <.*>:$")
_CALLEE = re.compile(r"^\S+\(\):$")
_PLACE = re.compile(r"^(?:inlined by )?(?P<file>/?\S.*?):(?P<line>\d+)(?: \(.*\))?$")


@dataclass(frozen=True)
class Library:
    """The library that a kernel was compiled to."""

    source: Path
    """The file that was compiled; it starts with the kernel's source."""
    binary: Path


@dataclass
class Libraries:
    """Every C++ library below Inductor's cache, found by the text that it was compiled from."""

    cache: Path
    _known: defaultdict[str, list[tuple[str, Path]]] | None = field(default=None, repr=False)

    def find(self, source: str) -> Library | None:
        """The library of a kernel with this source; None where nothing was compiled from it."""
        if self._known is None:
            self._known = defaultdict(list)
            for path in sorted(self.cache.glob("*/*.cpp")):
                text = path.read_text(encoding="utf-8", errors="replace")
                self._known[text.lstrip()[:_KEY]].append((text.lstrip(), path))
        mine = source.lstrip()
        short = len(mine) <= _KEY  # what stands below it is in the key
        candidates = [pair for pairs in self._known.values() for pair in pairs] if short else self._known[mine[:_KEY]]
        for text, path in candidates:
            binary = path.with_suffix(".so")
            if text.startswith(mine.rstrip()) and binary.is_file():
                return Library(path, binary)
        return None


def disassemble(library: Library, lines: int) -> str:
    """The machine code of a kernel with the places it comes from.

    Args:
        library: where it lies.
        lines: length of the kernel's source; what stands below are Python's bindings.

    Raises:
        RuntimeError: there is no ``objdump``, or it failed; the message has what it said.
    """
    tool = shutil.which("objdump")
    if tool is None:
        raise RuntimeError("objdump is not installed (package binutils)")
    command = [tool, "--disassemble", "--line-numbers", "--inlines", "--no-show-raw-insn", str(library.binary)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"objdump did not run: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"objdump exited with {done.returncode}: {done.stderr.strip()[:500]}")
    text = functions_of(done.stdout.splitlines(), str(library.source), lines)
    if not text:
        raise RuntimeError("the library carries no line of the kernel (compiled without a line table)")
    return text


def functions_of(printed: Iterable[str], source: str, lines: int) -> str:
    """The functions that a line of the kernel is in, of everything that ``objdump`` printed.

    Example:
        >>> printed = ["01 <f>:", "/c/k.cpp:2", "  1:\\tret", "", "02 <g>:", "/c/k.cpp:9", "  2:\\tret"]
        >>> functions_of(printed, "/c/k.cpp", 5)
        '01 <f>:\\n/c/k.cpp:2\\n  1:\\tret\\n'
    """
    kept: list[str] = []
    function: list[str] = []
    mine = False

    def close() -> None:
        if mine:
            kept.extend(function)

    for line in printed:
        if _FUNCTION.match(line):
            close()
            function, mine = [], False
        elif not line or _CALLEE.match(line):  # whose code it is stands in the place below
            continue
        else:
            match = _PLACE.match(line)
            if match and match["file"] == source and int(match["line"]) <= lines:
                mine = True
        function.append(line)
    close()
    return "\n".join(kept) + "\n" if kept else ""
