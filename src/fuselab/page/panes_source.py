"""The user's own lines: what the runs recorded of them, with the rest of the file where that is certainly the same one.

A run keeps single lines of the user's code, and names files that may be of another machine. A file is read from disk
only where nothing can leak by it: fuselab's own experiments, when every recorded line stands where it stood, and the
run's target, when its hash is the one of the run's start.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fuselab.errors import StoreError
from fuselab.records import RunMetadata
from fuselab.store.files import read_plain
from fuselab.store.redaction import scrub_code

__all__ = ["Interruption", "SourceFile", "interruption", "place_of", "user_files"]

_OURS = re.compile(r"(?:^|/)fuselab/((?:experiments|ops)/\w+\.py)$")
_LARGEST = 256 << 10
_BREAK = re.compile(r"graph break at (?P<file>.+?):(?P<line>\d+): (?P<reason>.*)", re.DOTALL)
_RECOMPILE = re.compile(r"recompile of (?P<name>.*?) at (?P<file>.+?):(?P<line>\d+) (?P<reason>\(.*)", re.DOTALL)


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one of the user's files."""

    file: str
    """Its path, as the run names it."""
    lines: list[tuple[int, str]]
    """Number and text, in order; all of them, or those that were recorded."""
    whole: bool = False
    """Whether these are all lines of the file."""


class Interruption(msgspec.Struct, frozen=True, kw_only=True):
    """A graph break or a recompile at a line of the user's."""

    kind: str
    """``graph break`` or ``recompile``."""
    file: str
    """Empty where nobody recorded the line."""
    line: int
    reason: str


def interruption(warning: str) -> Interruption | None:
    """What a warning of a measurement says of a graph break or a recompile; None where it is about something else.

    Example:
        >>> interruption("graph break at model.py:8: Data-dependent branching").line
        8
        >>> interruption("recompile of f at m.py:3 (0/1): 0/0: k == 2").reason
        'f (0/1): 0/0: k == 2'
        >>> interruption("warm: the buffers fit into the cache") is None
        True
    """
    match = _BREAK.match(warning)
    if match:
        return Interruption(
            kind="graph break", file=match["file"], line=_number(match["line"]), reason=match["reason"].strip()
        )
    match = _RECOMPILE.match(warning)
    if match:
        reason = f"{match['name']} {match['reason']}".strip()
        return Interruption(kind="recompile", file=match["file"], line=_number(match["line"]), reason=reason)
    for kind in ("graph break", "recompile"):
        if warning.startswith(f"{kind} "):
            return Interruption(kind=kind, file="", line=0, reason=warning.removeprefix(kind).strip())
    return None


def place_of(user: str) -> tuple[str, int]:
    """File and line of ``file:line``; line 0 where there is none.

    Example:
        >>> place_of("C:/a b/model.py:12"), place_of("nowhere")
        (('C:/a b/model.py', 12), ('nowhere', 0))
    """
    file, _, line = user.rpartition(":")
    return (file, _number(line)) if file and line.isascii() and line.isdecimal() else (user, 0)


def user_files(
    recorded: Mapping[str, str], interruptions: Iterable[Interruption], metadata: RunMetadata
) -> list[SourceFile]:
    """The files that a graph comes from, the one with most of its lines first.

    Args:
        recorded: ``file:line`` to the line's text, empty where it was not available.
        interruptions: graph breaks and recompiles, whose lines belong to it as well.
        metadata: of the run, for its target.
    """
    files: dict[str, dict[int, str]] = {}
    for user, text in recorded.items():
        file, line = place_of(user)
        if line:
            files.setdefault(file, {})[line] = text
    weight = {file: len(lines) for file, lines in files.items()}
    for found in interruptions:
        if found.file and found.line:
            files.setdefault(found.file, {}).setdefault(found.line, "")
    shown = []
    for file in sorted(files, key=lambda name: -weight.get(name, 0)):
        whole = _whole(file, files[file], metadata)
        if whole is not None:
            shown.append(SourceFile(file=file, lines=list(enumerate(whole.splitlines(), 1)), whole=True))
        else:
            shown.append(SourceFile(file=file, lines=sorted(files[file].items())))
    return shown


def _number(text: str) -> int:
    return int(text) if len(text) < 10 else 0


def _whole(file: str, lines: Mapping[int, str], metadata: RunMetadata) -> str | None:
    """The whole text where it is certain to be the file that was compiled."""
    ours = _OURS.search(file.replace("\\", "/"))
    data: bytes | None = None
    if ours:
        place = importlib.resources.files("fuselab").joinpath(ours[1])
        data = place.read_bytes() if place.is_file() else None
    elif metadata.target and metadata.target_sha256:
        target = metadata.target.rpartition(":")[0]
        if target and Path(target).absolute() == Path(file).absolute():
            data = _hashed(Path(file), metadata.target_sha256)
    if data is None or len(data) > _LARGEST:
        return None
    text = scrub_code(data.decode("utf-8", "replace"))
    there = text.splitlines()
    same = all(line <= len(there) and there[line - 1].strip() == said.strip() for line, said in lines.items() if said)
    return text if same and all(line <= len(there) for line in lines) else None


def _hashed(path: Path, digest: str) -> bytes | None:
    try:
        data = read_plain(path, _LARGEST + 1)
    except StoreError:
        return None
    return data if hashlib.sha256(data).hexdigest() == digest else None
