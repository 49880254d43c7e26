"""Location records of LLVM IR: ``!dbg`` on instructions, ``!DILocation`` with its scope and ``inlinedAt``."""

from __future__ import annotations

import re

__all__ = ["llvm_frames"]

_DEFINITION = re.compile(r"^!(?P<id>\d+) = (?:distinct )?!(?P<kind>DI\w+)\((?P<fields>.*)\)\s*$", re.MULTILINE)
_FIELD = re.compile(r'(?P<key>\w+): (?:"(?P<text>(?:[^"\\]|\\.)*)"|!(?P<id>\d+)|(?P<word>[^,\s]+))')
_USE = re.compile(r"!dbg !(?P<id>\d+)")
_DEEPEST = 64


def llvm_frames(text: str) -> dict[int, tuple[tuple[str, int], ...]]:
    """Line of the text to the frames that it comes from, callees before callers.

    Example:
        >>> llvm_frames('ret void, !dbg !3\\n!1 = !DIFile(filename: "k.py", directory: "/c")\\n'
        ...             '!2 = distinct !DISubprogram(name: "k", file: !1, line: 2)\\n'
        ...             '!3 = !DILocation(line: 5, column: 1, scope: !2)')
        {1: (('/c/k.py', 5),)}
    """
    nodes: dict[str, tuple[str, dict[str, str]]] = {}
    for match in _DEFINITION.finditer(text):
        if match["kind"] in {"DILocation", "DIFile", "DISubprogram", "DILexicalBlock", "DILexicalBlockFile"}:
            fields = {f["key"]: f["text"] or f["id"] or f["word"] or "" for f in _FIELD.finditer(match["fields"])}
            nodes[match["id"]] = (match["kind"], fields)
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        use = _USE.search(line)
        if use is None or line.startswith("declare"):
            continue
        frames = _chain(use["id"], nodes)
        if frames:
            found[number] = frames
    return found


def _chain(location: str, nodes: dict[str, tuple[str, dict[str, str]]]) -> tuple[tuple[str, int], ...]:
    frames = []
    for _ in range(_DEEPEST):
        kind, fields = nodes.get(location, ("", {}))
        if kind == "DISubprogram":  # a definition carries its own line
            frames.append((_file(location, nodes), int(fields.get("line", 0))))
        if kind != "DILocation":
            break
        frames.append((_file(fields.get("scope", ""), nodes), int(fields.get("line", 0))))
        location = fields.get("inlinedAt", "")
    return tuple(dict.fromkeys(frames))


def _file(scope: str, nodes: dict[str, tuple[str, dict[str, str]]]) -> str:
    """The file of a scope, through the blocks around it where it names none."""
    for _ in range(_DEEPEST):
        kind, fields = nodes.get(scope, ("", {}))
        if kind == "DIFile":
            directory, name = fields.get("directory", ""), fields.get("filename", "")
            return f"{directory}/{name}" if directory and not name.startswith("/") else name
        scope = fields.get("file") or fields.get("scope") or ""
    return ""
