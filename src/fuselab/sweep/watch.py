"""What a person sees while a sweep goes on: cells done, failed and left, the time left, what happened to workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from fuselab.records import Measurement, Status
from fuselab.report.figures import elapsed

__all__ = ["SweepWatcher"]

LINE_EVERY_S = 15.0
"""Where there is no terminal, a sign of life this often."""

RECENT = 64
"""Units whose time the estimate of the time left is made from."""

_FINE = frozenset({Status.OK, Status.CHECKED, Status.UNAVAILABLE})


class SweepWatcher:
    """Shows how a sweep gets on; on a terminal as a bar, elsewhere as a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failed = 0
        self._done = 0
        self._planned = 0
        self._units_left = 0
        self._ends: list[float] = []
        self._last_line = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("cells{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None, state="")

    def __enter__(self) -> SweepWatcher:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is waited for before the first unit."""
        with self._console.status(text):
            yield

    def started(self, path: Path, dashboard: str) -> None:
        """Name the sweep's directory and Dask's dashboard."""
        self._console.print(f"[bold]sweep[/]  [dim]{escape(str(path))}[/]", highlight=False)
        if dashboard:
            self._console.print(f"Dask's dashboard: {escape(dashboard)}", highlight=False)

    def planned(self, cells: int, done: int, units: int) -> None:
        """How much there is."""
        self._planned, self._done, self._units_left = cells, done, units
        self._show()

    def working(self, text: str) -> None:
        """A unit was begun."""
        self._progress.update(self._task, description=escape(text[:60]))
        if not self._console.is_terminal and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(
                f"  [{self._done}/{self._planned} cells{self._state()}] {text}", markup=False, highlight=False
            )

    def finished_cells(self, measurements: Sequence[Measurement]) -> None:
        """Cells are in the store; what went wrong is named at once."""
        self._done += len(measurements)
        for m in measurements:
            if m.status not in _FINE:
                self._failed += 1
                self._console.print(
                    f"  [red]{m.status.value}[/] {escape(m.experiment)} {escape(m.variant)} "
                    f"{escape(m.workload.label)} {m.direction.value}: {escape(m.reason)}",
                    highlight=False,
                )
        self._show()

    def unit_done(self, _seconds: float) -> None:
        """A unit is done for good."""
        self._units_left -= 1
        self._ends = [*self._ends[-RECENT:], time.monotonic()]
        self._show()

    def note(self, text: str) -> None:
        """Something happened to a worker or a device."""
        self._console.print(f"  [yellow]{escape(text)}[/]", highlight=False)

    def seconds_left(self) -> float | None:
        """Time left by the rate at which units ended lately, over all workers; None before the third."""
        if len(self._ends) < 3:
            return None
        rate = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-6)
        return self._units_left / rate

    def _state(self) -> str:
        left = self.seconds_left()
        parts = [f"{self._failed} failed" if self._failed else ""]
        parts += [f"{self._planned - self._done} left", f"{elapsed(left)} to go" if left is not None else ""]
        return "".join(f", {part}" for part in parts if part)

    def _show(self) -> None:
        self._progress.update(self._task, total=self._planned, completed=self._done, state=self._state())
