"""Location records beside a CPU's instructions, as ``objdump --disassemble --line-numbers --inlines`` prints them.

A place (``/c/k.cpp:22``) holds for the instructions below it; each ``inlined by /c/k.cpp:30 (kernel)`` after it is one
caller further out.
"""

from __future__ import annotations

import re

__all__ = ["assembly_frames"]

_INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+\S")
_PLACE = re.compile(r"^(?P<inlined>inlined by )?(?P<file>/?\S.*?):(?P<line>\d+)(?: \(.*\))?$")
_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.*)>:$")


def assembly_frames(text: str) -> dict[int, tuple[tuple[str, int], ...]]:
    """Line of an instruction to the frames that it comes from, callees before callers.

    Example:
        >>> assembly_frames("/usr/include/v.h:80\\ninlined by /c/k.cpp:22 (kernel)\\n    2683:\\tmov    $0x400,%edi")
        {3: (('/usr/include/v.h', 80), ('/c/k.cpp', 22))}
    """
    found: dict[int, tuple[tuple[str, int], ...]] = {}
    innermost: tuple[str, int] | None = None
    callers: list[tuple[str, int]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if _INSTRUCTION.match(line):
            if innermost is not None:
                found[number] = tuple(dict.fromkeys((innermost, *callers)))
            callers = []  # they are printed anew for every instruction, the place only where it changes
            continue
        if _FUNCTION.match(line):
            innermost, callers = None, []
            continue
        match = _PLACE.match(line)
        if match is None:
            continue
        place = (match["file"], int(match["line"]))
        if match["inlined"]:
            callers.append(place)
        else:
            innermost, callers = place, []
    return found
