"""A comparison of runs on a terminal, in a sentence, and as JUnit's XML for a build server."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as Xml

import msgspec
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.text import Text

from fuselab.comparison.judging import NOT_TOGETHER
from fuselab.comparison.records import (
    CellChange,
    CellSide,
    Change,
    Judgement,
    KernelChange,
    KernelMatch,
    Pairing,
    RunsComparison,
    RunSide,
    SideComparison,
)
from fuselab.records import Direction
from fuselab.report import figures
from fuselab.report.text import for_encoding, one_line, printable

__all__ = [
    "STYLES",
    "ComparisonView",
    "change_text",
    "comparison_document",
    "fact_changes",
    "junit",
    "kernel_words",
    "sentence",
    "variant_of",
]

STYLES = {
    Judgement.REGRESSION: "bold red",
    Judgement.BROKEN: "bold red",
    Judgement.SLOWER: "red",
    Judgement.FASTER: "green",
    Judgement.MENDED: "green",
    Judgement.EQUIVALENT: "dim",
    Judgement.UNRESOLVED: "yellow",
    Judgement.NOT_COMPARABLE: "yellow",
    Judgement.NOT_JUDGED: "yellow",
    Judgement.ONLY_BASE: "dim",
    Judgement.ONLY_NEW: "dim",
}
"""Colour of what is said; the word beside it says the same."""

_PAIRINGS = {Pairing.SAME: "same cell", Pairing.TOGETHER: "paired", Pairing.APART: "apart", Pairing.NONE: ""}
_UNITS = {
    "all": "instructions",
    "shared_bytes": "shared bytes",
    "num_warps": "warps",
    "num_stages": "stages",
}
_FACTS_SHOWN = 6
_KERNELS_SHOWN = 12
_FOOTNOTES = 12
_LEAST_WIDTH = 24
_NOTE_LENGTH = 240
_GAP = 2
_MUCH = 1.5
"""Ratio of times from which on a faster one is told as a ratio."""
_NARROW = 110
"""Columns below which times are without their intervals."""
_SHORT = {Direction.FORWARD: "fwd", Direction.BACKWARD: "bwd"}


@dataclass(frozen=True)
class _Layout:
    """What is left out of the cells as the terminal gets narrower, the judgement last."""

    time_intervals: bool = False
    change_intervals: bool = False
    pairing: bool = False
    statuses: bool = False
    """Whether a side without a time says why in its column; the note does as well."""


_LAYOUTS = (
    _Layout(time_intervals=True, change_intervals=True, pairing=True, statuses=True),
    _Layout(change_intervals=True, pairing=True, statuses=True),
    _Layout(pairing=True, statuses=True),
    _Layout(statuses=True),
    _Layout(),
)


def sentence(comparison: RunsComparison, one: SideComparison) -> str:
    """The answer: how many regressions past the threshold, and what became of the other cells.

    Example:
        >>> from fuselab.comparison.records import RunsComparison, SideComparison
        >>> nothing = SideComparison(base="A", new="B", cells=[])
        >>> sentence(RunsComparison(runs=[], environment=[], comparisons=[nothing], fail_over=0.02, threshold=0.02,
        ...                         margin=0.01), nothing)
        'no regression past 2%; nothing to compare'
    """
    counts = Counter(cell.judgement for cell in one.cells)
    regressions, broken = counts.pop(Judgement.REGRESSION, 0), counts.pop(Judgement.BROKEN, 0)
    past = f"past {_threshold(comparison.threshold)}"
    parts = []
    if regressions:
        parts.append(f"{_counted(regressions, 'regression')} {past}")
    if broken:
        parts.append(f"{_counted(broken, 'cell')} broken")
    start = " and ".join(parts) or f"no regression {past}"
    rest = [f"{counts[judgement]} {judgement.value}" for judgement in Judgement if counts[judgement]]
    return f"{start}; {', '.join(rest) or 'nothing to compare'}" if rest or not parts else start


def comparison_document(comparison: RunsComparison) -> dict[str, Any]:
    """What ``--json`` prints: the record, and ``regressions`` and ``judged``, the cells that fail and those of which
    something could be said. A figure that is not a number is null, as JSON has it.
    """
    plain = msgspec.json.decode(msgspec.json.encode(comparison), type=dict[str, Any])
    return {"regressions": len(comparison.failures), "judged": comparison.judged, **plain}


def change_text(change: Change | None) -> str:
    """A change of time in per cent with its interval; what is much faster as a ratio of the times.

    Example:
        >>> change_text(Change(change=0.0512, low=0.031, high=0.072))
        '+5.1% [+3.1, +7.2]'
        >>> change_text(Change(change=-0.8569, low=-0.8576, high=-0.8561))
        '6.99x [6.95, 7.02]'
    """
    if change is None or not math.isfinite(change.change):
        return figures.NOTHING
    if -1 < change.change < 1 / _MUCH - 1:
        ends = [None if end is None or end <= -1 else 1 / (1 + end) for end in (change.high, change.low)]
        return figures.ratio(1 / (1 + change.change), *ends)
    half = None if change.low is None or change.high is None else (change.high - change.low) / 2
    decimals = 2 if half is not None and half < 0.002 else 1
    text = f"{change.change * 100:+.{decimals}f}%"
    if change.low is not None and change.high is not None:
        text += f" [{change.low * 100:+.{decimals}f}, {change.high * 100:+.{decimals}f}]"
    return text


def variant_of(cell: CellChange) -> str:
    """The variant of a cell, or both where they are two."""
    names = [side.variant for side in (cell.base, cell.new) if side is not None]
    return names[0] if len(set(names)) == 1 else " -> ".join(names)


def kernel_words(kernel: KernelChange) -> str:
    """What became of one kernel, in a few words.

    Example:
        >>> from fuselab.records import Direction
        >>> kernel_words(KernelChange(workload="", direction=Direction.FORWARD, match=KernelMatch.GONE, base=None,
        ...                           new=None))
        'gone'
    """
    if kernel.match in (KernelMatch.GONE, KernelMatch.NEW):
        return kernel.match.value
    if kernel.same:
        return "same code"
    differ = [f"{s.stage.value} +{s.added} -{s.removed}" for s in kernel.stages if s.text]
    words = "same source" if kernel.match is KernelMatch.CODE else kernel.match.value
    return f"{words}: {', '.join(differ)}" if differ else words


def fact_changes(kernel: KernelChange) -> list[tuple[str, str, str]]:
    """Name, base and new of every figure and class of instructions of a kernel that is not the same."""
    if kernel.base is None or kernel.new is None:
        return []
    found = []
    for name in kernel.changed:
        sides = [
            side.facts.get(name, None) if name in {**kernel.base.facts, **kernel.new.facts}
            else side.instructions.get(name, 0.0)
            for side in (kernel.base, kernel.new)
        ]  # fmt: skip
        before, after = (figures.NOTHING if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in sides)
        found.append((_UNITS.get(name, name), before, after))
    return found


class ComparisonView(JupyterMixin):
    """The comparison as something rich can print, and a notebook display."""

    def __init__(self, comparison: RunsComparison) -> None:
        self._comparison = comparison
        self._notes: dict[str, int] = {}

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        self._notes = {}
        width = options.max_width
        for line in self._lines(width):
            yield for_encoding(line, options)

    def _lines(self, width: int) -> Iterator[Text]:
        yield from _aligned([_run_row(run) for run in self._comparison.runs], width)
        yield Text()
        yield from self._environment(width)
        for one in self._comparison.comparisons:
            yield from self._one(one, width)
        for note, number in list(self._notes.items())[:_FOOTNOTES]:
            yield from _wrapped(f"[{number}]", one_line(note, _NOTE_LENGTH), width, "dim")
        if len(self._notes) > _FOOTNOTES:
            yield Text(f"and {len(self._notes) - _FOOTNOTES} more notes: --json", "dim")

    def _environment(self, width: int) -> Iterator[Text]:
        found = self._comparison.environment
        if not found:
            yield Text("nothing around them differs: device, versions, clocks, settings", "dim")
        else:
            head = [Text(""), Text("around them", "dim"), *(Text(run.label, "dim") for run in self._comparison.runs)]
            rows = [
                [
                    Text("!" if each.decisive else " ", "bold yellow"),
                    Text(printable(each.name)),
                    *(Text(one_line(value, 48) or figures.NOTHING) for value in each.values),
                ]
                for each in found
            ]
            yield from _aligned([head, *rows], width)
            if any(each.decisive for each in found):
                yield Text("! can change figures by itself", "dim")
        yield Text()

    def _one(self, one: SideComparison, width: int) -> Iterator[Text]:
        failing = any(cell.fails for cell in one.cells)
        words = printable(sentence(self._comparison, one))
        yield Text.assemble((f"{one.new} against {one.base}: ", "bold"), (words, "bold red" if failing else "bold"))
        for headline in one.headlines:
            yield from _wrapped("", one_line(headline, _NOTE_LENGTH), width, "red" if failing else "")
        yield Text()
        yield from self._cells(one, width)
        yield from _kernels(one, width)
        for caveat in one.caveats:
            yield from _wrapped("note", printable(caveat), width, "dim")
        if one.caveats:
            yield Text()

    def _cells(self, one: SideComparison, width: int) -> Iterator[Text]:
        sections: dict[str, list[CellChange]] = {}
        for cell in one.cells:
            sections.setdefault(cell.workload, []).append(cell)
        named = {run.label: run.variant for run in self._comparison.runs}
        alone = bool(named.get(one.base) and named.get(one.new))  # the heads say which variants
        heads = [f"{label} {printable(named.get(label) or '')}".strip() for label in (one.base, one.new)]
        for layout in _LAYOUTS[width < _NARROW :]:
            direction = "direction" if layout.pairing else ""
            words = (direction, "" if alone else "variant", *heads, "change", "", "", "")
            rows: list[list[Text] | Text] = [[Text(word, "dim") for word in words]]
            for workload, cells in sections.items():
                rows.append(Text(printable(workload), "bold cyan"))
                rows += [self._row(cell, layout, alone=alone) for cell in cells]
            if _wide(rows) <= width:
                break
        if sections:
            yield from _aligned(rows, width, right=(2, 3))
            yield Text()

    def _row(self, cell: CellChange, layout: _Layout, *, alone: bool) -> list[Text]:
        style = STYLES[cell.judgement]
        text = change_text(cell.change)
        return [
            Text(cell.direction.value if layout.time_intervals else _SHORT[cell.direction], "dim"),
            Text("" if alone else printable(variant_of(cell))),
            _time(cell.base, layout),
            _time(cell.new, layout),
            Text(text if layout.change_intervals else text.split(" ")[0], style),
            Text(cell.judgement.value, style),
            Text(_PAIRINGS[cell.pairing] if layout.pairing else "", "dim"),
            self._remark(cell),
        ]

    def _remark(self, cell: CellChange) -> Text:
        if not cell.reason or cell.judgement in (Judgement.ONLY_BASE, Judgement.ONLY_NEW):
            return Text()
        if cell.pairing is Pairing.SAME or cell.reason == NOT_TOGETHER:
            return Text()  # the column beside it says so
        number = self._notes.setdefault(printable(cell.reason), len(self._notes) + 1)
        return Text(f"[{number}]", "yellow")


def junit(comparison: RunsComparison) -> str:
    """The comparison as JUnit's XML: a suite for each run after the base, a case for each cell.

    A regression past the threshold and a broken cell are failures; what could not be judged is skipped, with the
    reason; an unresolved cell passes and says so in its output.
    """
    root = Xml.Element("testsuites", name="fuselab compare")
    for one in comparison.comparisons:
        runs = {run.label: run for run in comparison.runs}
        cells = one.cells
        suite = Xml.SubElement(
            root,
            "testsuite",
            name=printable(f"{runs[one.new].id} against {runs[one.base].id}"),
            tests=str(len(cells)),
            failures=str(sum(cell.fails for cell in cells)),
            skipped=str(sum(cell.judgement in _SKIPPED for cell in cells)),
            errors="0",
            timestamp=printable(runs[one.new].created_at),
        )
        properties = Xml.SubElement(suite, "properties")
        for each in comparison.environment:
            Xml.SubElement(properties, "property", name=printable(each.name), value=printable(" | ".join(each.values)))
        for cell in cells:
            _case(suite, runs[one.new].experiment, cell)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


_SKIPPED = (Judgement.NOT_COMPARABLE, Judgement.NOT_JUDGED, Judgement.ONLY_BASE, Judgement.ONLY_NEW)


def _case(suite: Xml.Element, experiment: str, cell: CellChange) -> None:
    median = cell.new.median_ns if cell.new is not None else None
    case = Xml.SubElement(
        suite,
        "testcase",
        classname=printable(f"{experiment}.{cell.workload}"),
        name=printable(f"{variant_of(cell)} {cell.direction.value}"),
        time=f"{(median or 0.0) / 1e9:.9f}",
    )
    said = f"{cell.judgement.value}: {change_text(cell.change)}"
    if cell.fails:
        message = cell.reason if cell.judgement is Judgement.BROKEN else said
        failure = Xml.SubElement(case, "failure", message=printable(message), type=cell.judgement.value)
        failure.text = printable(f"{said}\n{cell.reason}".strip(), keep="\n")
    elif cell.judgement in _SKIPPED:
        Xml.SubElement(case, "skipped", message=printable(f"{cell.judgement.value}: {cell.reason}"))
    else:
        output = Xml.SubElement(case, "system-out")
        output.text = printable(f"{said}; {cell.reason or _PAIRINGS[cell.pairing]}")


def _kernels(one: SideComparison, width: int) -> Iterator[Text]:
    """Kernels that are not the same, and how many are."""
    if not one.kernels:
        return
    sided = [all(side is None for side in sides) for sides in zip(*((k.base, k.new) for k in one.kernels), strict=True)]
    if any(sided):
        empty, other = (one.base, one.new) if sided[0] else (one.new, one.base)
        yield Text(f"kernels: {other} has {len(one.kernels)}, {empty} has none that were captured", "bold")
        yield Text()
        return
    same = sum(kernel.same for kernel in one.kernels)
    changed = [kernel for kernel in one.kernels if not kernel.same]
    yield Text(f"kernels: {same} of {len(one.kernels)} the same", "bold")
    for kernel in changed[:_KERNELS_SHOWN]:
        side = kernel.new or kernel.base
        if side is None:
            continue
        moved = fact_changes(kernel)
        facts = ", ".join(f"{name} {before} -> {after}" for name, before, after in moved[:_FACTS_SHOWN])
        if len(moved) > _FACTS_SHOWN:
            facts += f" and {len(moved) - _FACTS_SHOWN} more"
        title = Text.assemble("  ", (one_line(side.name, 64), "cyan"), f"  {_place(kernel)}", no_wrap=True)
        title.truncate(width, overflow="ellipsis")
        yield title
        style = {KernelMatch.GONE: "yellow", KernelMatch.NEW: "yellow"}.get(kernel.match, "")
        yield from _wrapped("   ", printable(kernel_words(kernel)), width, style)
        if facts:
            yield from _wrapped("   ", printable(facts), width, "dim")
    if len(changed) > _KERNELS_SHOWN:
        yield Text(f"  and {len(changed) - _KERNELS_SHOWN} more: --json, --html", "dim")
    if changed:
        yield Text("  source and IR as a diff: --html FILE", "dim")
    yield Text()


def _run_row(run: RunSide) -> list[Text]:
    device = printable(run.device)
    if run.device_type == "cpu" and not device.startswith("CPU"):
        device = f"CPU {device}"
    versions = " · ".join(f"{name} {run.versions[name]}" for name in ("torch", "triton") if name in run.versions)
    name = run.id + (f"@{run.variant}" if run.variant else "")
    return [Text(run.label, "bold"), Text(printable(name), "bold cyan"), Text(device), Text(printable(versions), "dim")]


def _time(side: CellSide | None, layout: _Layout) -> Text:
    if side is None:
        return Text(figures.NOTHING, "dim")
    if side.correct is False:
        return Text("wrong", "bold red")
    if side.median_ns is None:
        return Text(side.status.value.replace("_", " ") if layout.statuses else figures.NOTHING, "yellow")
    interval = (side.low_ns, side.high_ns) if layout.time_intervals else ()
    return Text(figures.duration(side.median_ns, *interval))


def _aligned(rows: Sequence[list[Text] | Text], width: int, right: Sequence[int] = ()) -> Iterator[Text]:
    """Rows of cells in columns; a text by itself is a line of its own. Cut at the width, never wrapped."""
    widths = _widths(rows)
    for row in rows:
        if isinstance(row, Text):
            yield row
            continue
        line = Text("  ", no_wrap=True, overflow="ellipsis")
        for n, cell in enumerate(row):
            if widths[n]:
                padding = " " * (widths[n] - cell_len(cell.plain))
                line.append_text(Text.assemble(padding, cell) if n in right else Text.assemble(cell, padding))
                line.append(" " * _GAP)
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        yield line


def _widths(rows: Sequence[list[Text] | Text]) -> list[int]:
    cells = [row for row in rows if isinstance(row, list)]
    columns = max(map(len, cells), default=0)
    return [max(cell_len(row[n].plain) for row in cells if n < len(row)) for n in range(columns)]


def _wide(rows: Sequence[list[Text] | Text]) -> int:
    """Columns that ``_aligned`` takes where nothing is cut."""
    widths = [wide for wide in _widths(rows) if wide]
    return 2 + sum(widths) + _GAP * (len(widths) - 1)


def _wrapped(mark: str, words: str, width: int, style: str) -> Iterator[Text]:
    """Words over as many lines as they need, behind a mark that only the first has."""
    lead = len(mark) + 1 if mark else _GAP
    for number, line in enumerate(textwrap.wrap(words, max(width - lead, _LEAST_WIDTH)) or [""]):
        yield Text.assemble((mark.ljust(lead) if number == 0 else " " * lead, "yellow"), (line, style))


def _place(kernel: KernelChange) -> str:
    return printable(f"{kernel.direction.value} {kernel.workload}")


def _threshold(share: float) -> str:
    return f"{share * 100:g}%"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
