"""Location records of MLIR: ``loc("file":line:column)``, named, fused and call-site locations, and aliases of them.

The grammar is MLIR's (https://mlir.llvm.org/docs/Diagnostics/): an alias ``#loc7 = loc(...)`` may name another alias,
``callsite(callee at caller)`` is what inlining leaves, ``fused[a, b]`` what merging leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["first_file", "mlir_frames"]

_ALIAS = re.compile(r"^(?P<name>#loc\d*) = loc\((?P<body>.*)\)\s*$", re.MULTILINE)
_USE = re.compile(r"\bloc\(")
_FILE = re.compile(r'"(?P<file>(?:[^"\\]|\\.)*)":(?P<line>\d+):\d+')
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|#loc\d*|callsite|fused|unknown|\bat\b|[()\[\],<>]|:\d+|\bto\b|[^\s"()\[\],<>:]+'
)

_Frames = tuple[tuple[str, int], ...]


def first_file(text: str) -> str:
    """The file of the first location record; Triton prints the function's own first."""
    match = _FILE.search(text)
    return match["file"] if match else ""


def mlir_frames(text: str) -> dict[int, _Frames]:
    """Line of the text to the frames that it comes from, callees before callers.

    An operation with a region carries its location where the region ends: its first line gets it as well.

    Example:
        >>> mlir_frames('#loc = loc("k.py":3:0)\\n#loc1 = loc("tmp"(#loc))\\n%0 = arith.addf %a, %b : f32 loc(#loc1)')
        {3: (('k.py', 3),)}
    """
    aliases = {match["name"]: match["body"] for match in _ALIAS.finditer(text)}
    known: dict[str, _Frames] = {}
    found: dict[int, _Frames] = {}
    opened: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            continue
        frames: list[tuple[str, int]] = []
        for body in _bodies(line):
            frames += _resolve(body, aliases, known)
        stripped = line.strip()
        start = opened.pop() if stripped.startswith("}") and opened else None
        if stripped.endswith("{"):
            opened.append(number)
        if frames:
            found[number] = tuple(dict.fromkeys(frames))
            if start is not None and start not in found:
                found[start] = found[number]
    return dict(sorted(found.items()))


def _bodies(line: str) -> Iterator[str]:
    """What stands inside each ``loc(...)`` of a line; only the operation's own where it has one."""
    bodies = []
    for match in _USE.finditer(line):
        depth, position = 1, match.end()
        while position < len(line) and depth:
            depth += {"(": 1, ")": -1}.get(line[position], 0)
            position += 1
        bodies.append((position, line[match.end() : position - 1]))
    closing = [body for position, body in bodies if position == len(line.rstrip())]
    yield from closing or [body for _, body in bodies]


def _resolve(body: str, aliases: dict[str, str], known: dict[str, _Frames]) -> _Frames:
    """Frames of one location expression; aliases are resolved once and never in a circle."""
    if body in known:
        return known[body]
    known[body] = ()
    frames: list[tuple[str, int]] = []
    tokens = _TOKEN.findall(body)
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token.startswith("#loc"):
            frames += _resolve(aliases.get(token, "unknown"), aliases, known)
        elif token.startswith('"') and position + 1 < len(tokens) and tokens[position + 1].startswith(":"):
            frames.append((token[1:-1].replace('\\"', '"').replace("\\\\", "\\"), int(tokens[position + 1][1:])))
            position += 2  # the column; a range's end ("to :8") names no file and adds nothing
        position += 1
    known[body] = tuple(dict.fromkeys(frames))
    return known[body]
