"""What a person sees while a run goes on: a status line on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fuselab.plan import Plan
from fuselab.records import Measurement, Status
from fuselab.store import Run

__all__ = ["TerminalWatcher"]

LINE_EVERY_S = 15.0
"""Where there is no terminal, a sign of life this often; logs of CI stay short."""

QUIET = frozenset({Status.OK, Status.CHECKED, Status.UNAVAILABLE})


class TerminalWatcher:
    """Shows progress; a ``runner.Watcher``."""

    def __init__(self, console: Console, plans: Sequence[Plan], finished: int = 0) -> None:
        self._console = console
        self._done = finished
        self._total = sum(plan.cells for plan in plans)
        self._lock = threading.Lock()
        self._last_line = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[progress.description]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=self._total, completed=finished)

    def __enter__(self) -> TerminalWatcher:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, run: Run, plan: Plan) -> None:
        """Name the experiment and its directory."""
        self._console.print(
            f"[bold]{escape(plan.experiment.name)}[/]  {escape(plan.experiment.description)}  "
            f"[dim]{escape(str(run.path))}[/]",
            highlight=False,
        )

    def working(self, text: str) -> None:
        """Show what is being done."""
        with self._lock:
            self._progress.update(self._task, description=escape(text[:78]))
            if not self._console.is_terminal and time.monotonic() - self._last_line > LINE_EVERY_S:
                self._last_line = time.monotonic()
                self._console.print(f"  [{self._done}/{self._total} cells] {text}", markup=False, highlight=False)

    def finished_cells(self, measurements: Sequence[Measurement]) -> None:
        """Count the cells, and name what went wrong at once."""
        with self._lock:
            self._done += len(measurements)
            self._progress.update(self._task, completed=self._done)
            for m in measurements:
                if m.status not in QUIET:
                    self._console.print(
                        f"  [red]{m.status.value}[/] {escape(m.experiment)} {escape(m.variant)} "
                        f"{escape(m.workload.label)} {m.direction.value}: {escape(m.reason)}",
                        highlight=False,
                    )
