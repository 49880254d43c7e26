"""Sweeps on a terminal: what a plan will take, how a sweep gets on, where it failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fuselab.records import Measurement, RunStatus, Status, Verdict
from fuselab.report import figures
from fuselab.report.text import one_line, printable

if TYPE_CHECKING:  # the room above hands its records in
    from fuselab.sweep.cost import BlockCost
    from fuselab.sweep.record import SweepRecord

__all__ = ["cost_view", "sweep_view", "sweeps_view"]

_STYLES = {
    RunStatus.COMPLETE: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.FAILED: "bold red",
    RunStatus.INTERRUPTED: "yellow",
}
_FINE = frozenset({Status.OK, Status.CHECKED, Status.UNAVAILABLE})
_FAILURES_SHOWN = 20
_REASON = 120


def cost_view(name: str, device_type: str, blocks: Sequence[BlockCost], models: Sequence[str] = ()) -> RenderableType:
    """Cells, time and memory that a plan will take; a prediction, and called one.

    Args:
        name: of the sweep.
        device_type: ``cpu`` or ``cuda``.
        blocks: by block of the plan.
        models: the models of device that the plan names.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("experiment", no_wrap=True)
    for head in ("workloads", "variants", "directions", "cells", "time", "memory"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("largest workload", overflow="fold")
    for block in blocks:
        table.add_row(
            printable(block.experiment),
            str(block.workloads),
            str(block.variants),
            str(block.directions),
            str(block.cells),
            figures.elapsed(block.seconds),
            "unknown" if block.memory_bytes is None else figures.size(block.memory_bytes),
            Text(printable(block.largest)),
        )
    cells, seconds = sum(b.cells for b in blocks), sum(b.seconds for b in blocks)
    known = [b.experiment for b in blocks if b.measured]
    basis = f"from earlier sweeps for {', '.join(sorted(set(known)))}" if known else "by rule of thumb"
    lines: list[RenderableType] = [Text.assemble((printable(name), "bold"), f"  {cells} cells on {device_type}"), table]
    lines.append(
        Text(f"about {figures.elapsed(seconds)} on one device, {basis}; memory is of a check, float64 included", "dim")
    )
    if models:
        lines.append(Text(f"on each of: {', '.join(map(printable, models))}", style="dim"))
    left_out = sum(b.left_out for b in blocks)
    if left_out:
        lines.append(Text(f"{left_out} workloads need more memory than the budget allows and are left out", "yellow"))
    return Group(*lines)


def sweep_view(
    record: SweepRecord,
    measurements: Mapping[str, Sequence[Measurement]],
    planned: Mapping[str, int],
    models: Sequence[str],
) -> RenderableType:
    """A sweep as it stands: cells by run, verdicts, failures with their reasons, what happened to workers.

    Args:
        record: of the sweep.
        measurements: cells by run id, verdicts settled.
        planned: number of cells by run id.
        models: the model of device of each run, in the order of ``planned``.
    """
    parts: list[RenderableType] = [
        Text.assemble((printable(record.id), "bold"), "  ", (record.status.value, _STYLES[record.status])),
        Text(f"started {printable(record.created_at[:19])} UTC", style="dim"),
    ]
    if record.command:
        parts.append(Text(f"$ {' '.join(map(printable, record.command))}", style="dim"))
    if record.dashboard and record.status is RunStatus.RUNNING:
        parts.append(Text(f"Dask's dashboard: {printable(record.dashboard)}", style="dim"))
    if record.error:
        parts.append(Text(printable(record.error, keep="\n"), style="red"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("run", "device"):
        table.add_column(head, overflow="fold")
    for head in ("cells", "failed", "faster", "equal", "slower", "unclear"):
        table.add_column(head, justify="right", no_wrap=True)
    for (run, cells), model in zip(planned.items(), models, strict=True):
        found = measurements.get(run, ())
        verdicts = Counter(m.comparison.verdict for m in found if m.comparison)
        failed = sum(m.status not in _FINE for m in found)
        table.add_row(
            printable(run),
            printable(model),
            f"{len(found)}/{cells}",
            Text(str(failed), "red" if failed else ""),
            *(str(verdicts[v]) for v in (Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER, Verdict.UNRESOLVED)),
        )
    parts += [Text(), table]
    parts += _failures([m for found in measurements.values() for m in found if m.status not in _FINE])
    parts += [Text(one_line(note, 400), style="yellow") for note in record.notes]
    if record.status in (RunStatus.INTERRUPTED, RunStatus.FAILED):
        parts.append(Text(f"to go on where it stopped: fuselab sweep --resume {printable(record.id)}", style="dim"))
    return Group(*parts)


def sweeps_view(records: Sequence[SweepRecord]) -> RenderableType:
    """The sweeps below a root, the newest first."""
    if not records:
        return Text("no sweeps here; make one: fuselab sweep PLAN.toml", style="yellow")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("sweep", "status", "started"):
        table.add_column(head, no_wrap=True)
    for record in records:
        table.add_row(
            printable(record.id), Text(record.status.value, _STYLES[record.status]), printable(record.created_at[:19])
        )
    return table


def _failures(failed: Sequence[Measurement]) -> list[RenderableType]:
    if not failed:
        return []
    counts = Counter(m.status for m in failed)
    words = ", ".join(f"{count} {status.value.replace('_', ' ')}" for status, count in counts.items())
    parts: list[RenderableType] = [Text(), Text(f"failed cells: {words}", style="red")]
    for m in failed[:_FAILURES_SHOWN]:
        where = f"{m.experiment} {m.variant} {m.workload.label} {m.direction.value}"
        parts.append(Text(f"  {m.status.value}  {printable(where)}: {one_line(m.reason, _REASON)}"))
    if len(failed) > _FAILURES_SHOWN:
        parts.append(Text(f"  and {len(failed) - _FAILURES_SHOWN} more: fuselab sweep-export has all of them"))
    return parts
