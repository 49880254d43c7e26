"""Where the time to the first result went: bars of phases for a terminal, and the same on the clock as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.text import Text

from fuselab.report import figures
from fuselab.report.drawing import WIDTH, document, label
from fuselab.report.table import headline
from fuselab.report.text import one_line
from fuselab.startup.records import CompileCost, Configuration, Phase, Start, StartRecord

__all__ = ["NAMES", "STYLES", "html", "phase_medians", "rows_of", "typical", "waterfall", "waterfall_svg"]

NAMES: dict[Phase, str] = {
    Phase.INTERPRETER: "interpreter",
    Phase.IMPORT: "imports",
    Phase.CONSTRUCTION: "construction",
    Phase.DYNAMO: "Dynamo",
    Phase.AOT_AUTOGRAD: "AOTAutograd",
    Phase.CACHE_KEYS: "cache keys",
    Phase.LOWERING: "Inductor lowering",
    Phase.CODEGEN: "scheduling and code generation",
    Phase.COMPILATION: "Triton or C++ compilation",
    Phase.AUTOTUNING: "autotuning",
    Phase.LOAD: "load",
    Phase.CUDA_GRAPH: "CUDA graphs",
    Phase.FIRST_LAUNCH: "first launch",
}
"""Phases as people read them."""

STYLES: dict[Phase, tuple[str, str]] = {
    Phase.INTERPRETER: ("#8c959f", "grey58"),
    Phase.IMPORT: ("#6e7781", "grey42"),
    Phase.CONSTRUCTION: ("#57606a", "grey30"),
    Phase.DYNAMO: ("#0969da", "dodger_blue2"),
    Phase.AOT_AUTOGRAD: ("#54aeff", "deep_sky_blue1"),
    Phase.CACHE_KEYS: ("#d4a72c", "gold3"),
    Phase.LOWERING: ("#8250df", "medium_purple3"),
    Phase.CODEGEN: ("#c297ff", "medium_purple1"),
    Phase.COMPILATION: ("#cf222e", "red3"),
    Phase.AUTOTUNING: ("#fb8f44", "dark_orange"),
    Phase.LOAD: ("#1a7f37", "green4"),
    Phase.CUDA_GRAPH: ("#2da4a0", "dark_cyan"),
    Phase.FIRST_LAUNCH: ("#4ac26b", "green3"),
}
"""Colour of each phase in an SVG and on a terminal."""

_LETTERS = "abcdefghijklm"
_MARGIN = 24
_ROW = 30
_LABELS = 128
_TIMES = 84
_LEAST_BAR = 20


def typical(records: Sequence[StartRecord]) -> StartRecord | None:
    """The process whose time to the first result is the middle one: phases of one process add up, medians do not."""
    ordered = sorted((r for r in records if r.first_result_ns), key=lambda r: r.first_result_ns or 0)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def rows_of(cost: CompileCost, configuration: Configuration) -> list[tuple[Start, list[StartRecord]]]:
    """The ways of starting that were measured, with their processes."""
    found = [(start, cost.measured(start, configuration)) for start in Start]
    return [(start, records) for start, records in found if records]


def waterfall(cost: CompileCost, configuration: Configuration, width: int = 100) -> Text:
    """Bars of phases, one a way of starting, all on one scale; every phase has a letter, to be read without colour.

    Args:
        cost: what was measured.
        configuration: whose starts to show.
        width: columns to fill.
    """
    rows = [(start, found) for start, records in rows_of(cost, configuration) if (found := typical(records))]
    if not rows:
        return Text("nothing was measured", style="yellow")
    name_width = max(len(start.value) for start, _ in rows)
    times = {start: figures.duration(float(record.first_result_ns or 0)) for start, record in rows}
    time_width = max(map(len, times.values()))
    room = max(width - name_width - time_width - 4, _LEAST_BAR)
    longest = max(record.first_result_ns or 1 for _, record in rows)
    lines = []
    shown: list[Phase] = []
    for start, record in rows:
        line = Text(f"{start.value:<{name_width}}  ")
        cells = _cells(record, room / longest)
        for phase, count in cells:
            letter = "?" if phase is None else _LETTERS[list(Phase).index(phase)]
            line.append(letter * count, style="" if phase is None else f"black on {STYLES[phase][1]}")
            if phase is not None and phase not in shown:
                shown.append(phase)
        line.append(" " * (room - sum(count for _, count in cells)))
        line.append(f"  {times[start]:>{time_width}}")
        lines.append(line)
    legend = Text()
    for phase in Phase:
        if phase in shown:
            legend.append(f" {_LETTERS[list(Phase).index(phase)]} ", style=f"black on {STYLES[phase][1]}")
            legend.append(f" {NAMES[phase]}  ")
    legend.append(" ? ").append(" not attributed")
    return Text("\n").join([*lines, Text(), legend])


def _cells(record: StartRecord, scale: float) -> list[tuple[Phase | None, int]]:
    """Columns by phase in the order of ``Phase``, rounded so that the bar has the right length."""
    parts: list[tuple[Phase | None, int]] = [(p.phase, p.duration_ns) for p in record.phases]
    parts.append((None, record.unattributed_ns))
    cells: list[tuple[Phase | None, int]] = []
    at, drawn = 0.0, 0
    for phase, duration in parts:
        at += duration * scale
        count = round(at) - drawn
        if count > 0:
            cells.append((phase, count))
            drawn += count
    return cells


def waterfall_svg(cost: CompileCost) -> str:
    """Each way of starting on its clock, from being spawned to the first result: a self-contained SVG.

    Args:
        cost: what was measured.
    """
    title = f"Time to the first result: {cost.experiment}"
    body = [
        label(_MARGIN, 36, title, "title"),
        label(_MARGIN, 58, f"{one_line(cost.workload.label, 60)} · {headline(cost.environment).plain}", "quiet"),
    ]
    y = 84
    shown: set[Phase] = set()
    sections = [(c, rows_of(cost, c)) for c in cost.configurations]
    everything = [record for _, rows in sections for _, records in rows if (record := typical(records))]
    longest = max((record.first_result_ns or 0 for record in everything), default=0)
    left, right = _MARGIN + _LABELS, WIDTH - _MARGIN - _TIMES
    for configuration, rows in sections:
        body.append(label(_MARGIN, y, configuration.label, "head"))
        for start, records in rows:
            record = typical(records)
            if record is None:
                continue
            y += _ROW
            body.append(label(_MARGIN + 8, y, start.value))
            body += _bar(record, left, y - 14, (right - left) / longest, shown)
            body.append(label(right + 10, y, figures.duration(float(record.first_result_ns or 0)), "figures"))
        y += _ROW + 12
    if not everything:
        body.append(label(_MARGIN, y, "nothing was measured", "quiet"))
        y += _ROW
    body += _legend(shown, y)
    return document(title, body, y + 22 * ((len(shown) + 3) // 4) + 16)


def _bar(record: StartRecord, left: float, top: float, scale: float, shown: set[Phase]) -> list[str]:
    total = record.first_result_ns or 0
    parts = [f'<rect class="rest" x="{left:.1f}" y="{top:g}" width="{total * scale:.2f}" height="18" fill="#afb8c1"/>']
    for interval in record.intervals:
        shown.add(interval.phase)
        x, width = left + interval.begin_ns * scale, (interval.end_ns - interval.begin_ns) * scale
        time = figures.duration(float(interval.end_ns - interval.begin_ns))
        parts.append(
            f'<rect x="{x:.2f}" y="{top:g}" width="{max(width, 0.2):.2f}" height="18" '
            f'fill="{STYLES[interval.phase][0]}"><title>{NAMES[interval.phase]}: {time}</title></rect>'
        )
    return parts


def _legend(shown: set[Phase], y: int) -> list[str]:
    parts = []
    entries = [(STYLES[phase][0], NAMES[phase]) for phase in Phase if phase in shown]
    for number, (colour, name) in enumerate([*entries, ("#afb8c1", "not attributed")]):
        x, row = _MARGIN + (number % 4) * 208, y + 22 * (number // 4)
        parts.append(f'<rect x="{x}" y="{row - 10}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(label(x + 18, row, name, "quiet"))
    return parts


def html(cost: CompileCost) -> str:
    """Both pictures, for a notebook."""
    from fuselab.report.break_even import break_even_svg

    return f"<div>{waterfall_svg(cost)}{break_even_svg(cost)}</div>"


def phase_medians(records: Sequence[StartRecord]) -> dict[Phase, float]:
    """Median time of each phase over processes, in nanoseconds; a phase that a process has not counts as nothing."""
    times = [{p.phase: p.duration_ns for p in record.phases} for record in records]
    return {phase: float(median(t.get(phase, 0) for t in times)) for phase in Phase if any(phase in t for t in times)}
