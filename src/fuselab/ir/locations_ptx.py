"""Location records of GPU assembly: ``.loc`` in PTX and AMD's, line comments in what ``nvdisasm -g -gp`` prints.

``.loc file line column`` holds for the instructions below it. What was inlined is said in ``inlined_at`` (PTX ISA) or
in LLVM's comment ``// helper.py:9:5 @[ kernel.py:4:2 ]``, which names files without their directories. A cubin's own
line table says only the innermost place, but it also says the line of the PTX, and through that the callers are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

__all__ = ["amdgcn_frames", "ptx_frames", "sass_frames"]

_FILE = re.compile(r'^\s*\.file\s+(?P<number>\d+)\s+"(?P<first>[^"]*)"(?:\s+"(?P<second>[^"]*)")?', re.MULTILINE)
_LOC = re.compile(r"^\s*\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)\s+(?P<column>\d+)(?P<rest>[^\n]*)")
_INLINED = re.compile(r"inlined_at\s+(?P<file>\d+)\s+(?P<line>\d+)\s+(?P<column>\d+)")
_CALLER = re.compile(r"@\[\s*(?P<file>[^\s:\]]+):(?P<line>\d+):\d+")
_SASS_LINE = re.compile(r'^\s*//## File "(?P<file>[^"]*)", line (?P<line>\d+)(?P<rest>.*)$')
_SASS_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+\S")
_PTX_TEXT = ".nv_debug_ptx_txt"
_DEEPEST = 64

_Frames = tuple[tuple[str, int], ...]


def ptx_frames(text: str) -> dict[int, _Frames]:
    """Line of an instruction to the frames that it comes from, callees before callers.

    Example:
        >>> ptx_frames('.file 1 "/c/k.py"\\n.loc 1 7 0 // x.py:9:1 @[ k.py:8:2 ]\\nadd.f32 %f1, %f2, %f3;')
        {3: (('/c/k.py', 7), ('k.py', 8))}
    """
    return _loc_frames(text, ("//",))


def amdgcn_frames(text: str) -> dict[int, _Frames]:
    """The same for AMD's assembly."""
    return _loc_frames(text, (";", "//"))


def _loc_frames(text: str, comments: tuple[str, ...]) -> dict[int, _Frames]:
    files = {
        m["number"]: str(PurePath(m["first"]) / m["second"]) if m["second"] else m["first"]
        for m in _FILE.finditer(text)
    }
    callers: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    found: dict[int, _Frames] = {}
    current: _Frames = ()
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LOC.match(line)
        if match:
            current = _loc(match, files, callers)
            continue
        stripped = line.strip()
        if stripped.endswith(":") or stripped.startswith((".", "{", "}", *comments)) or not stripped:
            if stripped.startswith((".section", ".visible", ".entry", ".func")):
                current = ()
            continue
        if current:
            found[number] = current
    return found


def _loc(
    match: re.Match[str], files: Mapping[str, str], callers: dict[tuple[str, str, str], tuple[str, str, str]]
) -> _Frames:
    frames = [(files.get(match["file"], ""), int(match["line"]))]
    place = (match["file"], match["line"], match["column"])
    inlined = _INLINED.search(match["rest"])
    if inlined:
        callers[place] = (inlined["file"], inlined["line"], inlined["column"])
        for _ in range(_DEEPEST):
            if place not in callers:
                break
            place = callers[place]
            frames.append((files.get(place[0], ""), int(place[1])))
    else:
        frames += [(m["file"], int(m["line"])) for m in _CALLER.finditer(match["rest"])]
    return tuple(dict.fromkeys(frames))


def sass_frames(text: str, ptx: Mapping[int, _Frames]) -> dict[int, _Frames]:
    """Line of an instruction, as ``nvdisasm -g -gp`` prints it, to the frames that it comes from.

    Args:
        text: the disassembly.
        ptx: ``ptx_frames`` of the PTX it was assembled from; empty where there is none.

    Example:
        >>> sass_frames('//## File "/c/k.py", line 7\\n        /*0000*/   LDC R1, c[0x0][0x28] ;', {})
        {2: (('/c/k.py', 7),)}
    """
    found: dict[int, _Frames] = {}
    direct: _Frames = ()
    through: _Frames = ()
    for number, line in enumerate(text.splitlines(), start=1):
        match = _SASS_LINE.match(line)
        if match and match["file"] == _PTX_TEXT:
            through = ptx.get(int(match["line"]), ())
        elif match:
            direct = ((match["file"], int(match["line"])),)
        elif _SASS_INSTRUCTION.match(line):
            frames = tuple(dict.fromkeys((*direct, *through)))
            if frames:
                found[number] = frames
        elif line.lstrip().startswith(".text."):
            direct = through = ()
    return found
