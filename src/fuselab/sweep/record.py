"""The directory of a sweep: which runs it makes, how far it came, what its units cost. Results are in the runs alone.

::

    <root>/sweeps/<name>-<UTC stamp>-<short id>/
      sweep.json       replaced whole
      units.jsonl      one line a unit that ended: where, when, how long
      .lock            held by the process that carries the sweep out
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import StoreError, UnknownNameError, UsageError
from fuselab.records import RunStatus
from fuselab.store.files import naming, read_batches, read_plain, write_atomically
from fuselab.store.lock import RunLock, is_held
from fuselab.store.migrate import UnreadableError, read_record
from fuselab.store.redaction import scrub, scrub_command
from fuselab.store.trust import make_directory, require_trusted
from fuselab.sweep.plan import Budget

__all__ = ["Sweep", "SweepRecord", "SweepRun", "UnitLine", "create_sweep", "list_sweeps", "open_sweep"]

SWEEPS = "sweeps"
RECORD = "sweep.json"
UNITS = "units.jsonl"
LOCK = ".lock"

SCHEMA_VERSION = 1
"""Version of ``sweep.json``."""

_ATTEMPTS = 100


class SweepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run that the sweep makes: one block of the plan on one model of device."""

    run: str
    """Id of the run."""
    model: str
    """The device's name: figures of two models are never in one run."""
    code_sha256: str
    """Hash of the file that the experiment is in."""


class SweepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``sweep.json``."""

    id: str
    """Name of the directory."""
    name: str
    """The plan's name."""
    status: RunStatus
    """How far it came; ``interrupted`` if it says running and nobody carries it out."""
    created_at: str
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601; None while it is carried out."""
    command: list[str] = []
    """The command line, secrets removed."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``, as asked for."""
    models: list[str] = []
    """The models of device that the plan names."""
    budget: Budget = Budget()
    """The plan's limits."""
    blocks: int = 0
    """Blocks of the plan; each becomes one run a model."""
    planned_runs: int = 0
    """Runs that it makes: blocks times models; 0 where it was not recorded."""
    runs: list[SweepRun] = []
    """The runs, made before the first unit begins."""
    notes: list[str] = []
    """What happened to devices and workers, each once."""
    dashboard: str = ""
    """Dask's dashboard, while there is one."""
    error: str | None = None
    """Why it stopped."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""


class UnitLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``units.jsonl``."""

    run: str
    """Id of the run."""
    workload: str
    """Key of the workload."""
    device_id: str
    """The GPU's UUID, or ``cpu``."""
    seconds: float
    """Wall time on the worker."""
    cells: int
    """Cells that it brought."""
    ended_at: str
    """UTC, ISO 8601."""


class Sweep:
    """One sweep's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = RunLock(self.path / LOCK)

    def record(self) -> SweepRecord:
        """The record; one that says ``running`` and whose process is gone is read as interrupted.

        Raises:
            StoreError: it is missing, damaged, or of a newer version.
        """
        record = self._read()
        if record.status is RunStatus.RUNNING and is_held(self.path / LOCK) is False:
            return msgspec.structs.replace(record, status=RunStatus.INTERRUPTED)
        return record

    def units(self) -> list[UnitLine]:
        """What units cost, in the order they ended; a damaged line is left out, since nothing hangs on it."""
        try:
            lines, _ = read_batches(self.path / UNITS)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise
        found = []
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=UnitLine))
            except msgspec.DecodeError:
                continue
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep, so that no other process carries it out.

        Raises:
            StoreError: another process holds it, or the directory cannot be trusted.
        """
        require_trusted(self.path)
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def update(self, **changes: Any) -> SweepRecord:
        """Replace fields of the record; words in it lose their secrets.

        Raises:
            StoreError: the disk refused; the old record stands.
        """
        record = msgspec.structs.replace(self._read(), **changes)
        self._write(record)
        return record

    def note(self, text: str) -> None:
        """Keep a sentence about a device or a worker, once."""
        text = scrub(text)
        notes = self._read().notes
        if text not in notes:
            self.update(notes=[*notes, text])

    def log(self, unit: UnitLine) -> None:
        """Append what a unit cost; not waited for, since predictions alone are made from it."""
        path = self.path / UNITS
        with naming("append to", path), path.open("ab") as file:
            file.write(msgspec.json.encode(unit) + b"\n")

    def _read(self) -> SweepRecord:
        path = self.path / RECORD
        try:
            return read_record(read_plain(path), SweepRecord, path, steps={}, current=SCHEMA_VERSION)
        except UnreadableError as error:
            error.hint = error.hint or "its runs stand: fuselab list-runs"
            raise

    def _write(self, record: SweepRecord) -> None:
        safe = msgspec.structs.replace(
            record,
            command=scrub_command(record.command),
            notes=[scrub(note) for note in record.notes],
            dashboard=scrub(record.dashboard),
            error=None if record.error is None else scrub(record.error),
        )
        write_atomically(self.path / RECORD, msgspec.json.format(msgspec.json.encode(safe), indent=2) + b"\n")


def create_sweep(root: Path, record: SweepRecord) -> Sweep:
    """Make the directory of a new sweep; ``id`` and ``created_at`` are set here.

    Raises:
        StoreError: it cannot be made, written or trusted.
    """
    root = root.absolute()
    make_directory(root, 0o755)
    parent = root / SWEEPS
    make_directory(parent, 0o755)
    for _ in range(_ATTEMPTS):
        now = datetime.now(UTC)
        name = f"{record.name}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        hidden = parent / f".{name}"
        with naming("make the directory", hidden):
            try:
                hidden.mkdir(mode=0o700)
            except FileExistsError:
                continue
        # Hidden until it is complete: a reader never meets a sweep without its record.
        Sweep(hidden)._write(msgspec.structs.replace(record, id=name, created_at=f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"))
        with naming("make the directory", parent / name):
            hidden.rename(parent / name)
        return Sweep(parent / name)
    raise StoreError(f"cannot make a directory for a sweep in {parent}: {_ATTEMPTS} names were taken")


def list_sweeps(root: Path) -> list[Sweep]:
    """Every sweep below a root, the newest first."""
    try:
        paths = [p for p in (root.absolute() / SWEEPS).iterdir() if (p / RECORD).is_file() and p.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Sweep(path) for path in sorted(paths, key=_stamp, reverse=True)]


def open_sweep(name: str, root: Path) -> Sweep:
    """A sweep by its path, its id, the start of it, or ``latest``.

    Raises:
        UnknownNameError: there is none; names the nearest match.
        UsageError: several begin like that.
    """
    if "\0" not in name and (Path(name) / RECORD).is_file():
        return Sweep(Path(name))
    sweeps = {sweep.path.name: sweep for sweep in list_sweeps(root)}
    wanted = name.rstrip("/").removeprefix(f"{SWEEPS}/")
    if wanted == "latest" and sweeps:
        return next(iter(sweeps.values()))
    found = [wanted] if wanted in sweeps else [i for i in sweeps if wanted and i.startswith(wanted)]
    if not found:
        raise UnknownNameError("sweep", name, _some(list(sweeps)))
    if len(found) > 1:
        raise UsageError(f"{len(found)} sweeps begin with {name!r}", hint=f"name one: {', '.join(_some(found))}")
    return sweeps[found[0]]


def _stamp(path: Path) -> str:
    return path.name[-24:]


def _some(names: Sequence[str]) -> Sequence[str]:
    return names[:20]
