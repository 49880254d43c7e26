"""One run: its directory, what is written to it and what is read back.

``metadata.json`` and ``environment.json`` are replaced whole, ``measurements.jsonl`` is appended to, captured files are
moved in by rename. Whoever writes holds the run's lock; reading needs none. Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import StoreError
from fuselab.records import Artifact, CellKey, Environment, Kernel, Measurement, RunMetadata, RunStatus
from fuselab.store import adoption
from fuselab.store.encoding import encode_document, encode_measurement, require_no_secret
from fuselab.store.files import (
    append_batch,
    check_relative,
    inside,
    naming,
    read_batches,
    read_plain,
    safe_name,
    sync_directory,
    write_atomically,
)
from fuselab.store.lock import RunLock, is_held
from fuselab.store.migrate import UnreadableError, read_record
from fuselab.store.redaction import scrub_code
from fuselab.store.trust import make_directory, require_trusted

__all__ = ["METADATA", "Run", "create_run"]

METADATA = "metadata.json"
ENVIRONMENT = "environment.json"
MEASUREMENTS = "measurements.jsonl"
LOCK = ".lock"
STAGING = ".staging"
CACHES = ".caches"

_ATTEMPTS = 100
_SHOWN_BYTES = 4 << 20
_PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".npz", ".joblib"})


def create_run(root: Path, metadata: RunMetadata, environment: Environment) -> Run:
    """Make the directory of a new run, ``<root>/<experiment>/<UTC stamp>-<short id>``, and hold its lock.

    The directory appears under its name with its files in it, or not at all. The lock is given back by the end of the
    first ``with run.lock():``, or with the object.

    Args:
        root: directory that holds all runs; made if missing.
        metadata: of the run; ``id`` and ``created_at`` are set here.
        environment: of the run.

    Raises:
        StoreError: the directory cannot be made, written or trusted; names the path and the way out.
        UsageError: an argument in the plan looks like a secret.
    """
    for workload in metadata.plan:
        require_no_secret(workload)
    root = root.absolute()
    make_directory(root, 0o755)
    parent = root / safe_name(metadata.experiment)
    make_directory(parent, 0o755)
    for _ in range(_ATTEMPTS):
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        # Hidden until it is complete: a reader never meets a run without its files, whenever its writer dies.
        hidden = parent / f".{name}"
        try:
            with naming("make the directory", hidden):
                hidden.mkdir(mode=0o700)
        except StoreError as error:
            if isinstance(error.__cause__, FileExistsError):
                continue
            raise
        run = Run(hidden)
        try:
            run._fill(
                msgspec.structs.replace(
                    metadata, id=f"{parent.name}/{name}", created_at=f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
                ),
                environment,
            )
            if run._publish(parent / name):
                return run
        except BaseException:
            _remove(hidden)
            raise
        _remove(hidden)
    raise StoreError(f"cannot make a directory for a run in {parent}: {_ATTEMPTS} names were taken")


class Run:
    """One run directory. Reading never needs to write; every writing method holds the lock while it writes.

    Args:
        path: the run's directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = RunLock(self.path / LOCK)
        self._depth = 0

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # --- reading ------------------------------------------------------------------------------------------------

    def metadata(self) -> RunMetadata:
        """The metadata; a run that says ``running`` and whose process is gone is read as interrupted.

        Raises:
            StoreError: it is missing, truncated, tampered with, foreign or of a newer version.
        """
        metadata = self._read_metadata()
        if metadata.status is RunStatus.RUNNING and is_held(self.path / LOCK) is False:
            return msgspec.structs.replace(metadata, status=RunStatus.INTERRUPTED)
        return metadata

    def environment(self) -> Environment:
        """Where the run took place.

        Raises:
            StoreError: as ``metadata``.
        """
        path = self.path / ENVIRONMENT
        return read_record(read_plain(path), Environment, path)

    def measurements(self) -> list[Measurement]:
        """Every cell that was stored, in that order; of two lines for one cell the first counts.

        Raises:
            StoreError: the file cannot be read. Lines that cannot are left out and named by ``notes``.
        """
        return self._read_measurements()[0]

    def notes(self) -> list[str]:
        """What is wrong with the file of measurements and was left out: damaged lines, a torn last one."""
        return self._read_measurements()[1]

    def finished_cells(self) -> set[CellKey]:
        """Cells that need not be repeated."""
        return {measurement.key for measurement in self.measurements()}

    def read_text(self, path: str, limit: int = _SHOWN_BYTES) -> str:
        """Text of a captured file, cut after ``limit`` bytes with a note.

        Args:
            path: relative to the run's directory, as in its records.
            limit: bytes to read at most.

        Raises:
            StoreError: the path leaves the run, goes through a link, or is not text.
        """
        file = inside(self.path, path)
        data = read_plain(file, limit + 1)
        if file.suffix in _PICKLE_SUFFIXES or b"\0" in data[:4096] or data[:1] == b"\x80":
            raise StoreError(f"{file} is not text, and nothing else is read from a run")
        if len(data) <= limit:
            return data.decode("utf-8", "replace")
        with naming("look at", file):
            size = file.stat().st_size
        return f"{data[:limit].decode('utf-8', 'replace')}\n... {limit} of {size} bytes shown; the whole is in {file}\n"

    # --- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run, so that no other process carries it out; released by the system if this one dies.

        Raises:
            StoreError: another process holds it, or the run cannot be written or trusted.
        """
        if not self._lock.held:
            self._acquire()
            self._sweep()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._lock.release()

    def update(self, **changes: Any) -> None:
        """Replace fields of the metadata; a run that is taken up again has not finished.

        Raises:
            StoreError: the disk refused; the old metadata stand.
        """
        if changes.get("status") is RunStatus.RUNNING:
            changes = {"finished_at": None, **changes}
        with self._held():
            self._write_metadata(msgspec.structs.replace(self._read_metadata(), **changes))

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Store cells that belong together: all of them are there afterwards, or none.

        Raises:
            StoreError: the disk refused; what was stored before stands.
        """
        if measurements:
            lines = [encode_measurement(measurement) for measurement in measurements]
            with self._held():
                append_batch(self.path / MEASUREMENTS, lines)

    def staging(self, name: str) -> Path:
        """A fresh directory for a worker to write to, on the run's file system, so that ``adopt`` can rename."""
        parent = self._hidden_directory(STAGING)
        with naming("make a directory in", parent):
            return Path(tempfile.mkdtemp(prefix=f"{safe_name(name)}-", dir=parent))

    def caches(self, variant: str, workload: str) -> Path:
        """The directory for the compiler's caches of one variant and workload; removed by ``finish``."""
        path = self._hidden_directory(CACHES) / safe_name(variant) / safe_name(workload)
        with naming("make the directory", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def adopt(
        self, staging: Path, artifacts: Sequence[Artifact], kernels: Sequence[Kernel]
    ) -> tuple[list[Artifact], list[Kernel]]:
        """Move what a worker captured for one variant and workload into the run, and list it in the metadata.

        ``graphs/<direction>`` becomes ``graphs/<variant>/<workload>/<direction>``, ``kernels/<direction>`` likewise.
        What an earlier attempt at the same variant and workload left is replaced; metadata never list a file that is
        gone.

        Args:
            staging: a directory from ``staging``; it is gone afterwards.
            artifacts, kernels: records whose paths are relative to ``staging``.

        Returns:
            The records with paths relative to the run.

        Raises:
            StoreError: a path leaves the staging directory or is not there, there is a link, or the disk refused.
        """
        with self._held():
            if not artifacts and not kernels:
                _remove(staging)
                return [], []
            capture = adoption.Capture.read(self.path, staging, artifacts, kernels)
            metadata = self._read_metadata()
            others = msgspec.structs.replace(
                metadata,
                artifacts=[a for a in metadata.artifacts if not capture.covers(a)],
                kernels=[k for k in metadata.kernels if not capture.covers(k)],
            )
            if others != metadata:
                self._write_metadata(others)
            capture.move()
            self._write_metadata(
                msgspec.structs.replace(
                    others,
                    artifacts=[*others.artifacts, *capture.artifacts],
                    kernels=[*others.kernels, *capture.kernels],
                )
            )
            _remove(staging)
            return list(capture.artifacts), list(capture.kernels)

    def write_card(self, kernel_id: str, card: Mapping[str, Any]) -> Path:
        """Write a kernel's card anew, with what was learnt of it since it was captured.

        Raises:
            StoreError: the disk refused, there is no such card, or the name leaves the directory.
        """
        with self._held():
            path = inside(self.path, f"kernels/{kernel_id}/card.json")
            if not path.is_file():
                raise StoreError(f"there is no card at {path}")
            text = msgspec.json.format(msgspec.json.encode(dict(card)), indent=2)
            write_atomically(path, scrub_code(text.decode()).encode() + b"\n")
            return path

    def write_plot(self, name: str, text: str) -> Path:
        """Write ``plots/<name>``.

        Raises:
            StoreError: the disk refused, or the name leaves the directory.
        """
        with self._held():
            path = inside(self.path, f"plots/{name}")
            with naming("make the directory", path.parent):
                path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(path, scrub_code(text).encode("utf-8"))
            return path

    def finish(self, status: RunStatus, summary: dict[str, Any], error: str | None = None) -> None:
        """Write down how the run ended, and remove what only its making needed.

        Raises:
            StoreError: the disk refused. The run then reads as interrupted, which it is.
        """
        with self._held():
            # First: this is what makes room on a full disk. The caches can be made again.
            _remove(self.path / STAGING)
            _remove(self.path / CACHES)
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            self.update(status=status, summary=summary, error=error, finished_at=now)

    # --- within the store ---------------------------------------------------------------------------------------

    def _fill(self, metadata: RunMetadata, environment: Environment) -> None:
        self._lock.acquire()
        write_atomically(self.path / MEASUREMENTS, b"")
        write_atomically(self.path / ENVIRONMENT, encode_document(environment))
        self._write_metadata(metadata)

    def _publish(self, path: Path) -> bool:
        """Rename the hidden directory; False if another run has the name."""
        with naming("make the directory", path):
            try:
                self.path.rename(path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    return False
                raise
            sync_directory(path.parent)
        self.path = path
        self._lock.moved_to(path / LOCK)
        return True

    def _acquire(self) -> None:
        require_trusted(self.path)
        require_trusted(self.path.parent)
        self._lock.acquire()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock for the length of one operation, unless this object holds it anyway."""
        if self._lock.held:
            yield
            return
        self._acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _sweep(self) -> None:
        """Remove what a dead holder left half done; the compiler's caches are whole files and stay."""
        _remove(self.path / STAGING)
        for leftover in self.path.glob(".*.tmp"):
            with suppress(OSError):
                leftover.unlink()

    def _hidden_directory(self, name: str) -> Path:
        path = inside(self.path, name)
        with naming("make the directory", path):
            path.mkdir(mode=0o700, exist_ok=True)
        return path

    def _read_metadata(self) -> RunMetadata:
        path = self.path / METADATA
        metadata = read_record(read_plain(path), RunMetadata, path)
        try:
            for artifact in metadata.artifacts:
                if artifact.path is not None:
                    check_relative(artifact.path)
            for kernel in metadata.kernels:
                check_relative(kernel.file_path)
        except StoreError as error:
            raise UnreadableError(path, f"was tampered with: {error.message}") from error
        return metadata

    def _write_metadata(self, metadata: RunMetadata) -> None:
        write_atomically(self.path / METADATA, encode_document(metadata))

    def _read_measurements(self) -> tuple[list[Measurement], list[str]]:
        path = self.path / MEASUREMENTS
        lines, torn_bytes = read_batches(path)
        cells: dict[CellKey, Measurement] = {}
        notes = []
        for number, line in enumerate(lines, start=1):
            try:
                measurement = read_record(line, Measurement, path)
            except UnreadableError as error:
                notes.append(f"{MEASUREMENTS} line {number}: {error.reason}")
            else:
                cells.setdefault(measurement.key, measurement)
        if torn_bytes:
            notes.append(f"{MEASUREMENTS}: the last {torn_bytes} bytes are of a write that was cut off")
        return list(cells.values()), notes


def _remove(path: Path) -> None:
    """Remove a directory as far as possible; what stays behind is hidden and harmless."""
    shutil.rmtree(path, ignore_errors=True)
