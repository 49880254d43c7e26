"""What compiling costs, as tables: ways of starting, phases, caches, break-even counts, a stream of shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fuselab.measure.distributions import student_quantile
from fuselab.records import Status
from fuselab.report import figures
from fuselab.report.break_even import sentence
from fuselab.report.table import headline
from fuselab.report.text import one_line, printable
from fuselab.report.waterfall import NAMES, phase_medians, rows_of, waterfall
from fuselab.startup.records import (
    BreakEven,
    CacheName,
    CompileCost,
    KeyChange,
    Phase,
    Start,
    StartRecord,
)
from fuselab.startup.shape_records import StreamSummary
from fuselab.startup.shapes import shapes_text

__all__ = ["compile_cost_document", "compile_cost_view"]

CACHES: dict[CacheName, str] = {
    CacheName.AOT_AUTOGRAD: "AOTAutograd",
    CacheName.FX_GRAPH: "FX graph",
    CacheName.TRITON: "Triton",
    CacheName.CPP: "C++",
    CacheName.AUTOTUNE: "autotune",
}
"""Caches as people read them."""

_STATES = {"hit": "green", "miss": "red", "bypass": "yellow", "mixed": "yellow", "unused": "dim"}
_CONFIDENCE = 0.95
_SHOWN_CALLS = 12


def compile_cost_document(cost: CompileCost) -> dict[str, Any]:
    """The whole result for ``--json``: the records, with what they say about themselves spelled out."""
    document: dict[str, Any] = msgspec.to_builtins(cost)
    for record, plain in zip(cost.starts, document["starts"], strict=True):
        plain["unattributed_share"] = record.unattributed_share
        plain["cache_states"] = {use.cache.value: use.state for use in record.caches}
    for found, plain in zip(cost.break_even, document["break_even"], strict=True):
        plain["sentence"] = sentence(found)
    return document


def compile_cost_view(cost: CompileCost, width: int = 100) -> RenderableType:
    """Everything for a terminal.

    Args:
        cost: what was measured.
        width: columns to fill.
    """
    parts: list[RenderableType] = [
        headline(cost.environment),
        Text.assemble(
            (printable(cost.experiment), "bold cyan"),
            f"  {printable(cost.workload.label)}  {cost.calls.value} calls, ",
            f"{cost.repeats} round{'s' if cost.repeats > 1 else ''}, seed {cost.seed}",
        ),
    ]
    for configuration in cost.configurations:
        rows = rows_of(cost, configuration)
        parts += [Text(), Text(configuration.label, "bold")]
        if rows:
            parts += [
                _starts(rows),
                Text(),
                waterfall(cost, configuration, width),
                Text(),
                _phases(rows),
                Text(),
                _caches(rows),
            ]
        found = [b for b in cost.break_even if b.configuration == configuration]
        if found:
            parts += [Text(), _break_even(found)]
    parts += list(_remarks(cost))
    if cost.stream is not None:
        parts += [Text(), *_stream(cost.stream)]
    return Group(*parts)


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number < left)
    return table


def _starts(rows: Sequence[tuple[Start, list[StartRecord]]]) -> Table:
    table = _table("start", "first result", "first call", "a call then", "peak memory", "compilers'", "device", "n")
    for start, records in rows:
        memory = [r.memory for r in records]
        table.add_row(
            start.value,
            _mean([float(r.first_result_ns or 0) for r in records]),
            _mean([float(r.first_call_ns or 0) for r in records]),
            _mean([r.steady_ns for r in records if r.steady_ns is not None]),
            figures.size(max((m.process_bytes or 0 for m in memory), default=0) or None),
            figures.size(max((m.helpers_bytes or 0 for m in memory), default=0) or None),
            figures.size(max((m.device_bytes or 0 for m in memory), default=0) or None),
            str(len(records)),
        )
    return table


def _mean(values: Sequence[float]) -> str:
    """The mean over processes with Student's interval; without one for a single process."""
    if not values:
        return figures.NOTHING
    mean = fmean(values)
    if len(values) < 2:
        return figures.duration(mean)
    half = stdev(values) / len(values) ** 0.5 * student_quantile(1 - _CONFIDENCE, len(values) - 1)
    return figures.duration(mean, max(mean - half, 0.0), mean + half)


def _phases(rows: Sequence[tuple[Start, list[StartRecord]]]) -> Table:
    """Medians over processes; the share that no phase accounts for is the largest of any process."""
    table = _table("phase", *(start.value for start, _ in rows))
    medians = {start: phase_medians(records) for start, records in rows}
    for phase in Phase:
        if any(phase in times for times in medians.values()):
            table.add_row(NAMES[phase], *(figures.duration(medians[start].get(phase)) for start, _ in rows))
    worst = [max((r.unattributed_share or 0.0 for r in records), default=0.0) for _, records in rows]
    table.add_row("not attributed", *(f"at most {figures.share(share)}" for share in worst), style="dim")
    return table


def _caches(rows: Sequence[tuple[Start, list[StartRecord]]]) -> Table:
    table = _table("cache", *(start.value for start, _ in rows))
    for name, title in CACHES.items():
        cells = []
        for _, records in rows:
            uses = [record.cache(name) for record in records]
            states = list(dict.fromkeys(use.state for use in uses))
            counts = uses[0]
            state = states[0] if len(states) == 1 else "mixed"
            words = [
                f"{n} {noun}"
                for n, noun in ((counts.hits, "hit"), (counts.misses, "miss"), (counts.bypasses, "bypass"))
                if n
            ]
            cells.append(f"[{_STATES[state]}]{', '.join(words) or figures.NOTHING}[/]")
        table.add_row(title, *cells)
    return table


def _break_even(found: Sequence[BreakEven]) -> Table:
    table = _table("pays for itself", "against", "after", left=3)
    table.columns[2].no_wrap = False
    for each in found:
        table.add_row(each.start.value, each.against.value, sentence(each))
    return table


def _remarks(cost: CompileCost) -> Iterator[RenderableType]:
    """What failed, what could not be prepared, what missed a filled cache and why, what else there is to know."""
    lines: list[tuple[str, str]] = []
    for preparation in cost.preparations:
        if preparation.status is not Status.OK:
            where = f" at {preparation.place}" if preparation.place else ""
            lines.append(("yellow", f"no {preparation.start.value} start{where}: {one_line(preparation.reason, 300)}"))
    for record in cost.failures:
        where = f" at {record.place}" if record.place else ""
        lines.append(
            ("bold red", f"{record.label}: {record.status.value.replace('_', ' ')}{where}: {_shown(record.reason)}")
        )
    for record in cost.starts:
        for lookup in record.lookups:
            lines += [("yellow", f"{record.label}: {_changed(lookup.cache, change)}") for change in lookup.changed]
            if lookup.state == "bypass":
                lines.append(("yellow", f"{record.label}: {CACHES[lookup.cache]} bypassed: {_shown(lookup.reason)}"))
        lines += [("dim", f"{record.label}: compiled again: {_shown(r)}") for r in record.recompilations[:3]]
        lines += [("dim", f"{record.label}: {note}") for note in record.notes]
    for style, line in dict.fromkeys(lines):
        yield Text(printable(line), style)


def _changed(cache: CacheName, change: KeyChange) -> str:
    after, before = one_line(change.after, 60) or "gone", one_line(change.before, 60) or "not there"
    return f"{CACHES[cache]} missed: {change.component} is {after}, was {before}"


def _shown(reason: str) -> str:
    return one_line(reason, 300)


def _stream(stream: StreamSummary) -> Iterator[RenderableType]:
    texts = [shapes_text(shapes) for shapes in stream.stream]
    beginning = ", ".join(texts[:_SHOWN_CALLS]) + (", …" if len(texts) > _SHOWN_CALLS else "")
    yield Text(f"stream of {len(texts)} calls, {len(set(texts))} shapes: {beginning}", "bold")
    table = _table("strategy", "total", "of it compiling", "graphs", "compiled at call", "n")
    for total in stream.totals:
        at = ", ".join(str(number + 1) for number in total.compiled_at[:_SHOWN_CALLS])
        more = ", …" if len(total.compiled_at) > _SHOWN_CALLS else ""
        style = "bold green" if total.strategy is stream.cheapest else "dim" if total.excluded else ""
        table.add_row(
            total.strategy.value,
            figures.duration(total.total_ns, total.low_ns, total.high_ns),
            figures.duration(total.compile_ns),
            str(total.compilations),
            (at + more) or figures.NOTHING,
            str(total.processes),
            style=style,
        )
    yield table
    if stream.cheapest is not None:
        text = f"cheapest for this stream: {stream.cheapest.value}"
        if stream.cheapest_compiled is not None and stream.cheapest_compiled is not stream.cheapest:
            text += f"; of those that compile, {stream.cheapest_compiled.value}"
        if stream.totals[0].processes < 2:
            text += " (one process each: no interval)"
        elif not stream.resolved:
            text += " (its interval meets another's: more rounds may say otherwise)"
        yield Text(text, "bold")
    for total in stream.totals:
        if total.excluded:
            yield Text(printable(f"{total.strategy.value}: {one_line(total.excluded, 300)}"), "yellow")
        for reason in dict.fromkeys(total.reasons):
            yield Text(printable(f"{total.strategy.value}: {one_line(reason, 200)}"), "dim")
    for note in dict.fromkeys(f"{r.strategy.value}: {n}" for r in stream.records for n in r.notes):
        yield Text(printable(one_line(note, 300)), "yellow")
