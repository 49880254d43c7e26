"""``--redact``: what says whose machine this was is taken out; paths become file names, users and hosts dots.

Every text of a run is changed before anything is made of it; of a comparison, every text of its record. Names of users
are found in the paths of the run itself as well, since a run may be reported on another machine than the one it ran on.
"""

from __future__ import annotations

import enum
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fuselab.store import Run

__all__ = ["IN_A_RUN", "people_in", "redacted", "redactor", "redactor_of", "unchanged"]

R = TypeVar("R", bound=msgspec.Struct)

HIDDEN = "…"

_LOCATIONS = frozenset({"path", "file_path"})
"""Fields that say where in the run a file lies: they are read from, and never shown."""
_IDENTITIES = frozenset({"variant", "variants", "baseline", "workload", "plan", "kernel_id", "options", "arguments"})
"""Fields that refer to each other within a run; what is shown of them is redacted where it is shown."""
IN_A_RUN = _LOCATIONS | _IDENTITIES
"""Fields of a run that stay as they are."""

_TABLES = frozenset({"versions", "variables"})
"""Fields whose keys are words from elsewhere as well."""

_PATH = re.compile(r"(?:file://|(?<![\w/.~]))~?(?:/[^\s/\"'`<>|:;,()\[\]{}=*?\\]+)+/([^\s/\"'`<>|:;,()\[\]{}=*?\\]*)")
_DRIVE = re.compile(r"(?<!\w)[A-Za-z]:(?:\\[^\s\\\"'<>|:]+)+\\([^\s\\\"'<>|:]*)")
_HOME = re.compile(r"/(?:home|Users|var/home|export/home)/([^/\s\"':,;<>|]+)")
_ADDRESS = re.compile(r"(?<![\w.%@-])[\w.+-]+@(?=[A-Za-z0-9-])[\w-]+(?:\.[\w-]+)+")
_SHORTEST = 2
_COMMON = frozenset({"root", "user", "runner", "localhost", "home", "admin", "app", "ubuntu", "build"})
"""Names that say nothing of anybody, and are words of code."""


def unchanged(text: str) -> str:
    """The text itself: a page that is not redacted."""
    return text


def people_in(texts: Iterable[str]) -> set[str]:
    """Names of users in the paths of texts.

    Example:
        >>> people_in(["/home/ada/train.py:3", "/usr/lib/x.py"])
        {'ada'}
    """
    return {name for text in texts for name in _HOME.findall(text)}


def redactor(names: Iterable[str] = ()) -> Callable[[str], str]:
    """A function that takes paths, hosts and users out of a text.

    Args:
        names: further names to take out, such as those of ``people_in``.

    Example:
        >>> redactor(["ada"])("ada ran /home/ada/work/train.py:3 on ada@gpu7.example.org, see docs/a.md")
        '… ran …/train.py:3 on …, see docs/a.md'
    """
    own = [*names, socket.gethostname(), socket.gethostname().partition(".")[0], _user(), _home()]
    words = sorted({w for w in own if len(w) >= _SHORTEST and w.lower() not in _COMMON}, key=len, reverse=True)
    named = (
        re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, words))})(?![A-Za-z0-9])", re.I) if words else None
    )

    def redact(text: str) -> str:
        if "/" in text:
            text = _PATH.sub(rf"{HIDDEN}/\1", text)
        if "\\" in text:
            text = _DRIVE.sub(rf"{HIDDEN}/\1", text)
        if "@" in text:
            text = _ADDRESS.sub(HIDDEN, text)
        return named.sub(HIDDEN, text) if named else text

    return redact


def redactor_of(runs: Iterable[Run]) -> Callable[[str], str]:
    """The redactor that knows the names in the runs' own paths, commands, reasons and source lines.

    Raises:
        StoreError: the metadata of a run cannot be read.
    """
    texts = []
    for run in runs:
        metadata = run.metadata()
        texts += [str(run.path), *metadata.command, metadata.target or "", metadata.error or ""]
        texts += [line for kernel in metadata.kernels for line in kernel.source_lines]
        texts += [text for m in run.measurements() for text in (m.reason, *m.warnings)]
    return redactor(people_in(texts))


def redacted(record: R, redact: Callable[[str], str], keep: frozenset[str] = IN_A_RUN) -> R:
    """The record with every text redacted but the fields to keep: those that refer to other parts of the run.

    Members of enumerations are no text: a host may be called ``triton``, as a stage is.
    """
    return msgspec.structs.replace(
        record, **{name: _field(name, getattr(record, name), redact, keep) for name in record.__struct_fields__}
    )


def _changed(value: Any, redact: Callable[[str], str], keep: frozenset[str]) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, msgspec.Struct):
        return redacted(value, redact, keep)
    if isinstance(value, dict):
        return {key: _field(key, item, redact, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_changed(item, redact, keep) for item in value)
    return value


def _field(name: str, value: Any, redact: Callable[[str], str], keep: frozenset[str]) -> Any:
    if name in keep:
        return value
    if name in _TABLES and isinstance(value, dict):
        return {redact(key): redact(item) for key, item in value.items()}
    return _changed(value, redact, keep)


def _home() -> str:
    try:
        return Path.home().name
    except RuntimeError:  # neither HOME nor an entry for the user
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        return os.environ.get("USER", "")
