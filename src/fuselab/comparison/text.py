"""Captured text as it is compared: without names, hashes, paths, locations and numbers of values. Pure.

Two captures of one kernel differ in all of these although nothing changed: the compiler's caches lie elsewhere, a file
is named after the hash of its text, and one value more renumbers all that follow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from fuselab.comparison.records import StageDifference
from fuselab.records import Stage

__all__ = ["MOST_LINES", "MOST_SHOWN", "cleaned", "difference"]

MOST_LINES = 6000
"""Lines of a side that are compared; a longer file is compared by its beginning, and the diff says so."""

MOST_SHOWN = 400
"""Lines of one diff that are kept."""

_PATH = re.compile(r"(?<![\w.<])(?:/[\w.+=@~,-]+)+/(?P<name>[\w.+=@-]+)")
_CACHE_FILE = re.compile(r"\bc[a-z2-7]{51}\b")
_HASH = re.compile(r"\b(?:[0-9a-f]{32,128}|[0-9A-F]{32,128}|[A-Z2-7]{48,64})\b")
_MLIR_LOCATION = re.compile(r"\s*loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_MLIR_ALIAS = re.compile(r"^#loc\d*\s*=")
_MLIR_VALUE = re.compile(r"%(?:\d+|(?P<name>[A-Za-z]\w*?)_\d+)\b")
_LLVM_DEBUG = re.compile(r",? !(?:dbg|srcloc|tbaa|noalias|alias\.scope) !\d+")
_LLVM_NUMBER = re.compile(r"(?P<sign>[%#])\d+\b")
_PTX_REGISTER = re.compile(r"%(?P<kind>rd|rs|r|fd|f|p|h|hh|b|rq)\d+\b")
_PTX_LABEL = re.compile(r"\$L__\w+")
_SASS_ADDRESS = re.compile(r"/\*[0-9a-f]+\*/")
_SASS_REGISTER = re.compile(r"\b(?P<kind>UR|UP|R|P|B)\d+\b")
_ASSEMBLY_ADDRESS = re.compile(r"^\s*[0-9a-f]+:\s*(?:(?:[0-9a-f]{2} )+\s*)?")
_NOTES = re.compile(r"(?<=,) (?=')")
_DEBUG_DIRECTIVES = (".loc", ".file", ".section\t.debug", ".b8", ".b32", ".b64", "$L__", "//", ".cfi_")


def cleaned(text: str, stage: Stage, name: str = "") -> list[str]:
    r"""The lines of a stage as they are compared.

    Args:
        text: as it was captured.
        stage: what it is.
        name: the kernel's own name, which stands as ``<kernel>``.

    Example:
        >>> cleaned('%7 = tt.load %6 : f32 loc(#loc3)\n#loc3 = loc("/a/b.py":3:0)', Stage.TTIR)
        ['% = tt.load % : f32']
        >>> cleaned("        /*0010*/   LDG.E R16, [R2.64] ;", Stage.SASS)
        ['LDG.E R, [R.64] ;']
    """
    if name:
        text = text.replace(name, "<kernel>")
    text = _CACHE_FILE.sub("<file>", _PATH.sub(lambda m: m["name"], text))
    lines = (_HASH.sub("<hash>", line).rstrip() for line in text.splitlines())
    return [line for line in _by_stage(lines, stage) if line]


def difference(base: list[str], new: list[str], stage: Stage, labels: tuple[str, str] = ("A", "B")) -> StageDifference:
    """Two cleaned texts as a unified diff with three lines around each change."""
    notes = []
    if max(len(base), len(new)) > MOST_LINES:
        notes.append(f"only the first {MOST_LINES} of {len(base)} and {len(new)} lines were compared")
    base, new = base[:MOST_LINES], new[:MOST_LINES]
    if base == new:
        return StageDifference(stage=stage, note="; ".join(notes))
    lines = list(difflib.unified_diff(base, new, *labels, n=3, lineterm=""))[2:]
    added = sum(line.startswith("+") for line in lines)
    removed = sum(line.startswith("-") for line in lines)
    if len(lines) > MOST_SHOWN:
        notes.append(f"{len(lines) - MOST_SHOWN} more lines of this diff are not shown")
    text = "\n".join(lines[:MOST_SHOWN])
    return StageDifference(stage=stage, added=added, removed=removed, text=text, note="; ".join(notes))


def _by_stage(lines: Iterable[str], stage: Stage) -> Iterable[str]:
    if stage is Stage.PTX:
        return _ptx(lines)
    clean = _LINES.get(stage, _as_it_is)
    return (part for line in lines for part in clean(line))


def _as_it_is(line: str) -> list[str]:
    return [line]


def _triton(line: str) -> list[str]:
    """The line; the compiler's notes of a kernel are one of 1,500 characters, and a note by itself is to be read."""
    return _NOTES.split(line) if line.lstrip().startswith(("triton_meta=", "inductor_meta=")) else [line]


def _mlir(line: str) -> list[str]:
    if _MLIR_ALIAS.match(line):
        return []
    without = _MLIR_LOCATION.sub("", line) if "loc(" in line else line
    return [_MLIR_VALUE.sub(lambda m: f"%{m['name'] or ''}", without).rstrip()]


def _llvm(line: str) -> list[str]:
    if line.startswith(("!", "; ModuleID", "source_filename")) or "#dbg_" in line:
        return []
    without = _LLVM_DEBUG.sub("", line).split(" !dbg", 1)[0]
    return [_LLVM_NUMBER.sub(lambda m: m["sign"], without).rstrip()]


def _ptx(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        text = line.split("//", 1)[0].strip()
        if text.startswith(".section") and "debug" in text:
            return  # what follows is debug information to the end of the file
        if text and not text.startswith(_DEBUG_DIRECTIVES):
            text = _PTX_LABEL.sub("$L", text)
            yield _PTX_REGISTER.sub(lambda m: f"%{m['kind']}", text)


def _sass(line: str) -> list[str]:
    text = _SASS_ADDRESS.sub("", line).strip()
    if text.startswith(("//", ".")) or not text:
        return []
    return [" ".join(_SASS_REGISTER.sub(lambda m: m["kind"], text).split())]


def _assembly(line: str) -> list[str]:
    text = _ASSEMBLY_ADDRESS.sub("", line).strip()
    return [] if text.startswith((*_DEBUG_DIRECTIVES, "#")) else [" ".join(text.split())]


_LINES: dict[Stage, Callable[[str], list[str]]] = {
    Stage.TRITON: _triton,
    Stage.TTIR: _mlir,
    Stage.TTGIR: _mlir,
    Stage.LLIR: _llvm,
    Stage.SASS: _sass,
    Stage.ASSEMBLY: _assembly,
    Stage.AMDGCN: _assembly,
}
