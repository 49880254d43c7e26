"""The runs as data for the page: indexed, verdicts settled, cells in the order of the plan, and what charts share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from fuselab.measure.verdicts import settle
from fuselab.page.panes import kernel_anchor
from fuselab.page.redact import redacted, unchanged
from fuselab.records import Direction, Environment, Kernel, Measurement, RunMetadata, Status, Verdict
from fuselab.report import figures
from fuselab.report.table import groups
from fuselab.store import Run, list_runs

__all__ = [
    "Group",
    "RunData",
    "Variants",
    "comparable",
    "finite",
    "groups_of",
    "load",
    "multiple",
    "speedup_of",
    "together",
]

_KNOWN = ("eager", "compile", "triton", "compile-max-autotune", "liger", "quack")
"""Variants whose colours are the same on every page, in the order of the style sheet's colours."""

_ONE_INVOCATION_S = 60.0

COLOURS = 10
"""Colours of the style sheet; more variants than that share them, told apart by their shapes and labels."""


@dataclass(frozen=True)
class RunData:
    """One run as the page shows it."""

    index: int
    """Its place on the page, as in ``#kernel/<index>/<kernel_id>``."""
    run: Run
    metadata: RunMetadata
    environment: Environment
    cells: tuple[Measurement, ...]
    """Verdicts settled, in the order of the plan."""
    notes: tuple[str, ...] = ()
    """What of the run could not be read."""
    redact: Callable[[str], str] = unchanged
    """Applied to what is shown; paths that are read from stay what they are."""

    @property
    def path(self) -> Path:
        """Directory of the run."""
        return self.run.path

    def kernel_href(self, kernel: Kernel) -> str:
        """Where on the page the kernel's card and code are."""
        return kernel_anchor(self.index, self.redact(kernel.kernel_id))

    def kernels_of(self, cell: Measurement) -> list[Kernel]:
        """The kernels captured for one cell."""
        return self._kernels.get((cell.variant, cell.workload.key, cell.direction), [])

    @cached_property
    def _kernels(self) -> dict[tuple[str, str, Direction], list[Kernel]]:
        found: dict[tuple[str, str, Direction], list[Kernel]] = {}
        for kernel in self.metadata.kernels:
            found.setdefault((kernel.variant, kernel.workload, kernel.direction), []).append(kernel)
        return found


@dataclass(frozen=True)
class Group:
    """The cells of one workload and direction, which were timed together."""

    run: RunData
    label: str
    """The workload in words."""
    direction: Direction
    cells: tuple[Measurement, ...]

    @property
    def anchor(self) -> str:
        """Fragment of the page where its samples are."""
        digest = hashlib.sha256(self.cells[0].workload.key.encode()).hexdigest()[:8]
        return f"samples-{self.run.index}-{digest}-{self.direction.value}"


class Variants:
    """Colour and shape of each variant, the same in every chart of a page."""

    def __init__(self, runs: Sequence[RunData]) -> None:
        seen = dict.fromkeys(c.variant for run in runs for c in run.cells)
        others = [name for name in seen if name not in _KNOWN]
        self._place = {name: number for number, name in enumerate([*_KNOWN, *others])}
        self.names = [name for name in self._place if name in seen]
        """Of every variant that has cells."""
        timed = {c.variant for run in runs for c in run.cells if c.status is Status.OK}
        self.drawn = [name for name in self.names if name in timed]
        """Of those that have times."""

    def place(self, variant: str) -> int:
        """Number of its colour and shape."""
        return self._place.get(variant, len(self._place)) % COLOURS


def load(run: Run, index: int = 0, redact: Callable[[str], str] = unchanged) -> RunData:
    """A run as it stands in the store; one that is still going on, failed or was interrupted as far as it came.

    Args:
        run: from the store.
        index: its place on the page.
        redact: applied to every text that is shown.

    Raises:
        StoreError: its metadata or environment cannot be read; names the file.
    """
    metadata = run.metadata()
    order = {
        (workload.key, direction, variant): (i, j, k)
        for i, workload in enumerate(metadata.plan)
        for j, direction in enumerate(metadata.directions)
        for k, variant in enumerate(metadata.variants)
    }
    last = (len(metadata.plan), 0, 0)
    cells = sorted(settle(run.measurements()), key=lambda m: order.get((m.workload.key, m.direction, m.variant), last))
    environment = run.environment()
    notes = tuple(redact(note) for note in run.notes())
    if redact is not unchanged:
        metadata, environment = redacted(metadata, redact), redacted(environment, redact)
        cells = [redacted(cell, redact) for cell in cells]
    return RunData(index, run, metadata, environment, tuple(cells), notes, redact)


def together(run: Run, root: Path) -> list[Run]:
    """The runs of the invocation that a run belongs to, in the order in which it made them.

    They were all made before the first started, by one process of one command: process, command and host agree, and
    less than a minute lies between the first and the last.

    Args:
        run: one of them.
        root: directory that holds the runs.
    """
    mine = run.metadata()
    found = []
    for summary in list_runs(root)[0]:
        other = Run(Path(summary.path)).metadata()
        same = (other.pid, other.host, other.command) == (mine.pid, mine.host, mine.command)
        if other.id == mine.id or (same and mine.pid is not None and _apart(mine, other) < _ONE_INVOCATION_S):
            found.append((other.created_at, Run(Path(summary.path))))
    return [one for _, one in sorted(found, key=lambda item: item[0])] or [run]


def _apart(one: RunMetadata, other: RunMetadata) -> float:
    """Seconds between two runs' beginnings; without end where a date cannot be read."""
    try:
        begin, end = datetime.fromisoformat(one.created_at), datetime.fromisoformat(other.created_at)
        return abs((end - begin).total_seconds())
    except (ValueError, TypeError):
        return math.inf


def groups_of(run: RunData) -> list[Group]:
    """The groups of a run, forward before backward within a workload, the baseline first within a group."""
    found = []
    for _, label, cells in groups(run.cells):
        for direction in Direction:
            mine = tuple(c for c in cells if c.direction is direction)
            if mine:
                found.append(Group(run, run.redact(label), direction, mine))
    return found


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are numbers."""
    return [v for v in values if v is not None and math.isfinite(v)]


def multiple(speedup: float | None) -> str:
    """A speedup with the sign that the page writes it with.

    Example:
        >>> multiple(1.0731)
        '1.07×'
    """
    return figures.ratio(speedup).replace("x", "\u00d7")


def comparable(cell: Measurement) -> bool:
    """Whether a cell stands against a baseline: timed, correct, and not the baseline itself."""
    comparison = cell.comparison
    return (
        cell.status is Status.OK
        and cell.correct is not False
        and comparison is not None
        and comparison.verdict is not Verdict.BASELINE
    )


def speedup_of(cell: Measurement) -> tuple[float, float, float] | None:
    """Low end, speedup and high end; None for the baseline and for what is withheld, wrong or no number.

    A comparison without an interval, as from one sample, has its speedup at both ends.
    """
    comparison = cell.comparison
    if not comparable(cell) or comparison is None or comparison.verdict is Verdict.WITHHELD:
        return None
    middle = comparison.speedup
    if middle is None:
        return None
    low = middle if comparison.low is None else comparison.low
    high = middle if comparison.high is None else comparison.high
    if not all(math.isfinite(v) and v > 0 for v in (low, middle, high)):
        return None
    return low, middle, high
