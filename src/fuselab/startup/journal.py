"""Where a measurement is kept: a directory with one line a process, appended as each ends, and read back.

::

    <out>/compile-cost/<name>-<UTC stamp>-<short id>/
      starts.jsonl      a header line, then one line a process, appended with one write and flushed to the disk
      waterfall.svg     drawn when everything was measured
      break-even.svg
      caches/           the compilers' caches while it is measured; removed at the end

Every line is an object with one field, whose name says what it holds: ``header``, ``preparation``, ``start``,
``stream_header``, ``stream``. It is no run directory: nothing in it is compared with a reference, and ``list-runs``
leaves it out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import SetupError, StoreError
from fuselab.startup.records import CompileCost, Preparation, StartRecord
from fuselab.startup.shape_records import Shapes, StreamRecord
from fuselab.store.files import append_batch, naming, read_batches, safe_name, write_atomically
from fuselab.store.redaction import names_secret, scrub
from fuselab.store.trust import make_directory

__all__ = ["Journal", "StreamHeader", "load_compile_cost"]

FOLDER = "compile-cost"
LINES = "starts.jsonl"
CACHES = "caches"


class StreamHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The stream of shapes that was asked for."""

    stream: list[Shapes]
    """Shapes of each call."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line: exactly one of these."""

    header: CompileCost | None = None
    stream_header: StreamHeader | None = None
    preparation: Preparation | None = None
    start: StartRecord | None = None
    stream: StreamRecord | None = None


_decoder = msgspec.json.Decoder(Line)


class Journal:
    """The directory of one measurement, for writing.

    Args:
        path: the directory, made by ``create``.
    """

    def __init__(self, path: Path, caches: Path) -> None:
        self.path = path
        self._caches = caches

    @classmethod
    def create(cls, out: Path, header: CompileCost, caches: Path | None = None) -> Journal:
        """Make the directory and write the header.

        Args:
            out: directory that holds all runs.
            header: what is measured, without any measurements.
            caches: directory to put the compilers' caches in; None for one below the journal's own.

        Raises:
            StoreError: the directory cannot be made or written.
            SetupError: the caches cannot be written.
        """
        parent = out.absolute() / FOLDER
        make_directory(out.absolute(), 0o755)
        make_directory(parent, 0o755)
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        path = parent / f"{safe_name(header.experiment)}-{stamp}"
        with naming("make the directory", path):
            path.mkdir(mode=0o700)
        journal = cls(path, _writable(caches or path / CACHES))
        journal.append(Line(header=msgspec.structs.replace(header, path=str(path))))
        return journal

    def append(self, *lines: Line) -> None:
        """Append lines and wait until the disk has them.

        Raises:
            StoreError: the disk refused.
        """
        secret = {name: value for name, value in os.environ.items() if names_secret(name)}
        append_batch(
            self.path / LINES, [msgspec.json.encode(_scrubbed(msgspec.to_builtins(line), secret)) for line in lines]
        )

    def write(self, name: str, text: str) -> None:
        """Replace a file whole.

        Raises:
            StoreError: the disk refused.
        """
        write_atomically(self.path / name, text.encode())

    def caches(self, name: str) -> Path:
        """A fresh directory of compiler caches, empty; its name begins with ``name``."""
        with naming("make a directory below", self._caches):
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._caches))

    def remove_caches(self, path: Path | None = None) -> None:
        """Remove one directory of compiler caches, or all of them."""
        shutil.rmtree(path or self._caches, ignore_errors=True)


def load_compile_cost(path: str | Path) -> CompileCost:
    """What an earlier ``fuselab compile-cost`` measured, also one that was interrupted: as far as it came.

    Args:
        path: its directory.

    Raises:
        StoreError: there is none, or it cannot be read; the message names the path.
    """
    from fuselab.startup.summary import summarised

    directory = Path(path).absolute()
    lines, _torn = read_batches(directory / LINES)
    header: CompileCost | None = None
    starts: list[StartRecord] = []
    preparations: list[Preparation] = []
    streams: list[StreamRecord] = []
    stream: Sequence[Shapes] = ()
    for number, text in enumerate(lines, 1):
        try:
            line = _decoder.decode(text)
        except msgspec.DecodeError as error:
            raise StoreError(f"cannot read {directory / LINES}, line {number}: {error}") from error
        if line.header is not None:
            header = msgspec.structs.replace(line.header, path=str(directory))
        if line.stream_header is not None:
            stream = line.stream_header.stream
        if line.preparation is not None:
            preparations.append(line.preparation)
        if line.start is not None:
            starts.append(line.start)
        if line.stream is not None:
            streams.append(line.stream)
    if header is None:
        raise StoreError(f"{directory / LINES} has no header", hint="it was not written by fuselab compile-cost")
    return summarised(header, starts, preparations, stream, streams)


def _scrubbed(value: Any, secret: Mapping[str, str]) -> Any:
    """Every text in it with secrets masked: reasons quote what a user's code said."""
    if isinstance(value, str):
        return scrub(value, secret)
    if isinstance(value, dict):
        return {name: _scrubbed(item, secret) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item, secret) for item in value]
    return value


def _writable(caches: Path) -> Path:
    """A directory of our own for the compilers' caches, tried out.

    Raises:
        SetupError: it cannot be written to.
    """
    try:
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix="fuselab-", dir=caches))
        (own / "written").write_bytes(b"")
        (own / "written").unlink()
    except OSError as error:
        raise SetupError(
            f"the directory for the compilers' caches, {caches}, cannot be written to: {error.strerror or error}",
            hint="choose another one with --caches, or another place for everything with --out",
        ) from error
    return own
