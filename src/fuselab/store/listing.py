"""The runs below a root: all of them, and one by its name."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import msgspec

from fuselab.errors import StoreError, UnknownNameError, UsageError
from fuselab.records import RunStatus, Status
from fuselab.store.files import naming
from fuselab.store.migrate import UnreadableError
from fuselab.store.run import METADATA, Run

__all__ = ["Rejected", "RunSummary", "list_runs", "open_run"]

LATEST = "latest"

_RUN_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_LISTED = 20
"""Ids that an error about an unknown run lists."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``fuselab list-runs``."""

    id: str
    """``<experiment>/<UTC stamp>-<short id>``."""
    path: str
    """The run's directory."""
    experiment: str
    """Name of the experiment."""
    status: RunStatus
    """How far it came; ``interrupted`` if it says running and nobody carries it out."""
    created_at: str
    """UTC, ISO 8601."""
    finished_at: str | None
    """UTC, ISO 8601; None if it did not finish."""
    device: str
    """Name of the device."""
    device_type: str
    """``cuda`` or ``cpu``."""
    preset: str | None
    """The preset, where one was used."""
    planned_cells: int
    """Cells of the plan."""
    cells: dict[Status, int]
    """Cells in the store by status."""
    kernels: int
    """Kernels captured."""
    error: str | None
    """Why it failed, where it did."""
    notes: list[str]
    """What in its file of measurements could not be read."""


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that looks like a run and cannot be read as one."""

    path: str
    """The directory."""
    reason: str
    """What is wrong with it."""


def list_runs(root: Path) -> tuple[list[RunSummary], list[Rejected]]:
    """Every run below a root, the newest first, and what was set aside with the reason.

    Raises:
        StoreError: the root is there and cannot be read.
    """
    summaries = []
    paths, rejected = _run_directories(root)
    for path in paths:
        try:
            summaries.append(_summary(path))
        except UnreadableError as error:
            rejected.append(Rejected(path=str(path), reason=f"{_within(error, path)} {error.reason}"))
        except StoreError as error:
            rejected.append(Rejected(path=str(path), reason=error.message))
    summaries.sort(key=lambda summary: (summary.created_at, summary.id), reverse=True)
    return summaries, rejected


def open_run(name: str | Path, root: Path) -> Run:
    """A run by its path, its id, the start of its id or of its stamp, ``latest`` or ``<experiment>/latest``.

    Raises:
        UnknownNameError: there is none of that name; names the nearest.
        UsageError: several runs begin like that.
        StoreError: it is there and cannot be read.
    """
    if "\0" not in str(name) and os.access(Path(name) / METADATA, os.F_OK):
        run = Run(Path(name))
        run.metadata()
        return run
    text = str(name).rstrip("/")
    paths = {f"{path.parent.name}/{path.name}": path for path in _run_directories(root)[0]}
    experiment, _, stamp = text.rpartition("/")
    if stamp == LATEST:
        summaries = [s for s in list_runs(root)[0] if experiment in ("", s.id.partition("/")[0])]
        if summaries:
            return Run(Path(summaries[0].path))
        raise _unknown(text, paths, root)
    matches = [i for i in paths if text == i] or [
        i for i in paths if text and (i.startswith(text) or i.partition("/")[2].startswith(text))
    ]
    if not matches:
        raise _unknown(text, paths, root)
    if len(matches) > 1:
        raise UsageError(
            f"{len(matches)} runs begin with {text!r}", hint=f"name one of them: {', '.join(_newest(matches))}"
        )
    run = Run(paths[matches[0]])
    run.metadata()
    return run


def _unknown(name: str, paths: dict[str, Path], root: Path) -> UnknownNameError:
    error = UnknownNameError("run", name, _newest(paths))
    if not paths:  # most often another directory than the one that was worked in
        error.hint = f"there is no run in {root.absolute()}: make one with `fuselab run`, or name a run by its path"
    return error


def _newest(ids: dict[str, Path] | list[str]) -> list[str]:
    readable = [i for i in ids if i.isprintable()]
    return sorted(readable, key=lambda i: i.partition("/")[2], reverse=True)[:_LISTED]


def _run_directories(root: Path) -> tuple[list[Path], list[Rejected]]:
    """Directories two levels below the root that are named like a run or hold metadata; and what cannot be listed."""
    found, rejected = [], []
    for experiment in _directories(root):
        try:
            paths = _directories(experiment)
        except StoreError as error:
            rejected.append(Rejected(path=str(experiment), reason=error.message))
        else:
            found += [p for p in paths if _RUN_NAME.fullmatch(p.name) or os.access(p / METADATA, os.F_OK)]
    return found, rejected


def _directories(path: Path) -> list[Path]:
    """Directories in a directory, in order of their names; none where it is missing."""
    with naming("list", path):
        try:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
    return [path.absolute() / name for name in sorted(names)]


def _summary(path: Path) -> RunSummary:
    for part in (path.parent, path):
        if part.is_symlink():
            raise UnreadableError(part, "is a symbolic link")
    run = Run(path)
    metadata = run.metadata()
    if metadata.id != f"{path.parent.name}/{path.name}":
        raise UnreadableError(path / METADATA, f"is that of another run, {metadata.id!r}")
    environment = run.environment()
    measurements, notes = run._read_measurements()
    return RunSummary(
        id=metadata.id,
        path=str(path),
        experiment=metadata.experiment,
        status=metadata.status,
        created_at=metadata.created_at,
        finished_at=metadata.finished_at,
        device=environment.device,
        device_type=environment.device_type,
        preset=metadata.preset,
        planned_cells=len(metadata.plan) * len(metadata.variants) * len(metadata.directions),
        cells=dict(Counter(measurement.status for measurement in measurements)),
        kernels=len(metadata.kernels),
        error=metadata.error,
        notes=notes,
    )


def _within(error: UnreadableError, path: Path) -> str:
    where = error.path
    return where.name if where.is_relative_to(path) and where != path else "it"
