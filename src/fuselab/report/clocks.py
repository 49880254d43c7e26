"""The clocks of a run side by side: the device's, the profiler's, an eager loop's, the host's; and the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fuselab.records import Clock, Measurement, Parts, Sample, Status
from fuselab.report import figures
from fuselab.report.table import groups
from fuselab.report.text import printable

__all__ = ["clocks_view"]

_COLUMNS = {
    Clock.CUDA_GRAPH: "graph replay",
    Clock.KERNEL: "kernels (CUPTI)",
    Clock.GAPS: "gaps",
    Clock.CUDA_EVENTS: "eager loop",
    Clock.HOST: "host call",
    Clock.CPU_MONOTONIC: "wall",
}


def clocks_view(measurements: Sequence[Measurement]) -> Group | None:
    """Medians by clock, and forward with backward against the sum of the two; None where nothing was timed.

    On a GPU: device time under graph replay, the sum of kernel times and of the gaps between them as CUPTI reports
    them, what a user waits for in an eager loop, the host's time of issuing a call. On a CPU host and device are one,
    and the wall clock is the only one.
    """
    timed = [m for m in measurements if m.status is Status.OK and m.samples]
    clocks = [clock for clock in _COLUMNS if any(_samples(m, clock) for m in timed)]
    width = max((len(printable(m.variant)) for m in timed), default=0)
    parts: list[RenderableType] = []
    for experiment, workload, cells in groups(timed):
        parts += [Text(f"  {experiment}  {workload}", "cyan"), _table(cells, clocks, width)]
    return Group(*parts) if parts else None


def _table(cells: Sequence[Measurement], clocks: Sequence[Clock], width: int) -> Table:
    whole = any(cell.parts for cell in cells)
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    table.add_column("direction", no_wrap=True)
    table.add_column("variant", no_wrap=True, min_width=width)
    for clock in clocks:
        table.add_column(_COLUMNS[clock], justify="right", no_wrap=True)
    if whole:
        table.add_column("both", justify="right", no_wrap=True)
        table.add_column("to parts", justify="right", no_wrap=True)
    previous = ""
    for cell in cells:
        direction = cell.direction.value
        row = [Text("" if direction == previous else direction, "dim"), Text(printable(cell.variant))]
        row += [Text(_time(_samples(cell, clock))) for clock in clocks]
        table.add_row(*row, *(_step(cell.parts) if whole else ()))
        previous = direction
    return table


def _samples(cell: Measurement, clock: Clock) -> list[Sample]:
    return cell.samples if cell.clock is clock else cell.other_clocks.get(clock.value, [])


def _time(samples: Sequence[Sample]) -> str:
    return figures.duration(median(s.duration_ns for s in samples)) if samples else figures.NOTHING


def _step(parts: Parts | None) -> tuple[str, str]:
    return ("", "") if parts is None else (_time(parts.both), f"{parts.gap:+.1%}")
