"""Texts of a run on their way into the page: read within limits, cut with a note, redacted, compressed."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fuselab.errors import StoreError
from fuselab.store import Run

__all__ = ["Documents", "Limits", "Texts"]

_CUT = re.compile(r"\n\.\.\. \d+ of (\d+) bytes shown; the whole is in [^\n]*\n\Z")


@dataclass(frozen=True)
class Limits:
    """How much of a run goes into a page."""

    text_bytes: int = 2 << 20
    """Of one text; what is longer is cut."""
    all_bytes: int = 96 << 20
    """Of all texts together, before compression; beyond it a text is its path."""
    kernels: int = 20_000
    """Kernels listed; of more the page says how many there are."""


@dataclass
class Texts:
    """Reads texts of runs until the limits are reached.

    Args:
        redact: removes what the page is not to tell from a text, line by line.
        limits: how much is read.
    """

    redact: Callable[[str], str]
    limits: Limits = field(default_factory=Limits)
    used_bytes: int = 0

    def stage(self, run: Run, path: str) -> dict[str, Any]:
        """One text as the page's script has it: ``text`` with ``path`` and perhaps a ``note``, or ``absent``."""
        place = self.clean(str(run.path / path))
        if self.used_bytes >= self.limits.all_bytes:
            room = self.limits.all_bytes >> 20
            return {"absent": f"left out: this page holds {room} MiB of texts already; it is in {place}"}
        try:
            text = run.read_text(path, self.limits.text_bytes)
        except StoreError as error:
            return {"absent": self.clean(f"cannot be shown: {error.message}")}
        self.used_bytes += len(text)
        cut = _CUT.search(text) if len(text) > self.limits.text_bytes // 4 else None
        if cut is None:
            return {"text": self.clean(text), "path": place}
        text = text[: cut.start()]
        text = text[: text.rfind("\n") + 1] or text
        shown, whole = (_mib(size) for size in (self.limits.text_bytes, int(cut[1])))
        note = f"cut: the first {shown} of {whole} MiB; the whole is in {place}"
        return {"text": self.clean(text), "path": place, "note": note}

    def clean(self, text: str) -> str:
        """The text redacted, and such that it can be written as UTF-8."""
        return self.redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _mib(size: int) -> str:
    """Bytes in MiB, to three digits.

    Example:
        >>> _mib(2 << 20), _mib(5_000_000), _mib(1 << 30)
        ('2', '4.77', '1024')
    """
    mib = size / (1 << 20)
    return f"{mib:.3g}" if mib < 100 else f"{mib:.0f}"


@dataclass
class Documents:
    """Gzip-compressed JSON documents by name; the same document twice is kept once."""

    data: dict[str, bytes] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)

    def add(self, prefix: str, document: object) -> str:
        """Keep a document; its name."""
        encoded = msgspec.json.encode(document)
        digest = hashlib.sha256(encoded).hexdigest()
        if digest not in self._known:
            self._known[digest] = f"{prefix}{len(self.data)}"
            # No time stamp, so that the same runs make the same page.
            self.data[self._known[digest]] = gzip.compress(encoded, 6, mtime=0)
        return self._known[digest]
