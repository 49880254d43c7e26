"""The table of results: what ran, how long it took, how much faster, how close to the ceiling, correct or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.jupyter import JupyterMixin
from rich.text import Text

from fuselab.experiment import BASELINE
from fuselab.records import Direction, Environment, Measurement, Status, Verdict
from fuselab.report import figures
from fuselab.report.certificate import certificate_line
from fuselab.report.text import for_encoding, one_line, printable

__all__ = ["STYLES", "ResultsTable", "groups", "headline", "results_table"]

STYLES = {
    Verdict.BASELINE: "dim",
    Verdict.FASTER: "green",
    Verdict.SLOWER: "red",
    Verdict.EQUIVALENT: "dim",
    Verdict.UNRESOLVED: "yellow",
    Verdict.WITHHELD: "yellow",
}
"""Colour of a speedup by its verdict."""

_FOOTNOTES = 12
_FOOTNOTE_LENGTH = 240
_LONG_REASON = 50
_ABOVE_CEILING = 1.02
_INDENT = 2


def results_table(measurements: Sequence[Measurement], environment: Environment) -> RenderableType:
    """The table over cells of one or several experiments; lays itself out to the width it is given.

    Args:
        measurements: cells, verdicts settled.
        environment: where they were measured.
    """
    return ResultsTable(measurements, environment)


def headline(environment: Environment) -> Text:
    """The device and the versions that figures belong to, in one line; a CPU is called one."""
    device = printable(environment.device)
    if environment.device_type == "cpu" and not device.startswith("CPU"):
        device = f"CPU {device}"
    versions = [f"{name} {environment.versions[name]}" for name in ("torch", "triton") if name in environment.versions]
    line = Text(device, style="bold")
    for version in versions:
        line.append(f" · {printable(version)}", style="not bold dim")
    return line


def groups(measurements: Sequence[Measurement]) -> Iterator[tuple[str, str, list[Measurement]]]:
    """Experiment, workload label and cells of each workload, in order of appearance.

    Within a workload: forward first, the baseline first, what was not timed on purpose last.
    """
    by_workload: dict[tuple[str, str], list[Measurement]] = {}
    baselines = {BASELINE} | {cell.comparison.baseline for cell in measurements if cell.comparison}
    appeared: dict[str, int] = {}
    for cell in measurements:
        by_workload.setdefault((cell.experiment, cell.workload.key), []).append(cell)
        if cell.status is not Status.CHECKED:
            appeared.setdefault(cell.variant, len(appeared))

    def place(cell: Measurement) -> tuple[bool, bool, int]:
        order = appeared.get(cell.variant, len(appeared))
        return cell.direction is Direction.BACKWARD, cell.variant not in baselines, order

    for cells in by_workload.values():
        yield printable(cells[0].experiment), printable(cells[0].workload.label), sorted(cells, key=place)


@dataclass
class _Row:
    """One line: figures by column, or one sentence instead of them."""

    direction: str
    variant: Text
    cells: dict[str, Text] = field(default_factory=dict)
    sentence: Text | None = None
    reason: str = ""
    """Why it failed, which a footnote has whole where its row has no room for it."""
    correct: Text = field(default_factory=Text)
    labels: list[str] = field(default_factory=list)
    """Labels, where there is room for the words."""
    warnings: list[int] = field(default_factory=list)
    """Numbers of footnotes."""
    explained: list[int] = field(default_factory=list)
    """Numbers of the footnotes that stand for the labels, where there is not."""


@dataclass(frozen=True)
class _Layout:
    """What is left out as the terminal gets narrower."""

    gap: int = 2
    direction_column: bool = True
    labels: bool = True
    short: bool = False
    columns: tuple[str, ...] = ("time", "speedup", "verdict", "ceiling", "kernels")


_LAYOUTS = (
    _Layout(),
    _Layout(labels=False),
    _Layout(gap=1, labels=False),
    _Layout(gap=1, labels=False, direction_column=False, short=True),
    _Layout(gap=1, labels=False, direction_column=False, short=True, columns=("time", "speedup", "verdict", "ceiling")),
    _Layout(gap=1, labels=False, direction_column=False, short=True, columns=("time", "speedup", "verdict")),
    _Layout(gap=1, labels=False, direction_column=False, short=True, columns=("time", "verdict")),
)
_LONG_HEADS = {"time": "time", "speedup": "speedup", "verdict": "", "ceiling": "ceiling", "kernels": "kernels"}
_SHORT_HEADS = {"time": "time", "speedup": "speedup", "verdict": "", "ceiling": "ceil", "kernels": "k"}
_SHORT_VERDICTS = {"equivalent": "equal", "unresolved": "unclear"}
_MEANINGS = {
    "warm": "warm: the buffers did not exceed twice the last-level cache, which held a part of them",
    "launch-bound": "launch-bound: issuing the kernels took longer than running them",
}
"""What a label says, where it stands in a footnote."""
_RIGHT = frozenset({"time", "ceiling", "kernels"})


class ResultsTable(JupyterMixin):
    """The table as something rich can print, and a notebook display."""

    def __init__(self, measurements: Sequence[Measurement], environment: Environment) -> None:
        self._environment = environment
        self._cells = list(measurements)
        self._warnings: dict[str, int] = {}
        for cell in self._cells:
            for warning in _footnotes(cell):
                self._warnings.setdefault(warning, len(self._warnings) + 1)
        self._labels: dict[str, int] = {}
        shown = [cell for cell in self._cells if cell.status is not Status.UNAVAILABLE]
        timed = [set(cell.labels) for cell in shown if cell.status is Status.OK]
        self._common = set.intersection(*timed) if timed else set()
        self._sections = [
            (experiment, workload, [self._row(cell) for cell in cells]) for experiment, workload, cells in groups(shown)
        ]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        layout, widths = self._fitted(options.max_width)
        if self._note_cut_reasons(layout, widths):
            layout, widths = self._fitted(options.max_width)
        table = self._lines(layout, widths) if self._sections else [Text("nothing was measured", style="yellow")]
        certificate = certificate_line(self._cells)
        known = [certificate] if certificate else []
        for line in (self._title(), Text(), *table, *known, *self._absent(), *self._notes(layout)):
            yield for_encoding(line, options)

    # --- rows ---------------------------------------------------------------------------------------------------

    def _row(self, cell: Measurement) -> _Row:
        row = _Row(cell.direction.value, Text(printable(cell.variant)))
        if cell.correct is not None:
            row.correct = Text("yes", "green") if cell.correct else Text("no", "bold red")
        row.warnings = [self._warnings[warning] for warning in _footnotes(cell)]
        if cell.status is not Status.OK:
            row.sentence = _sentence(cell)
            row.reason = "" if cell.status is Status.CHECKED else cell.reason
            return row
        row.labels = [label for label in cell.labels if label not in self._common]
        for label in row.labels:
            self._labels.setdefault(label, len(self._warnings) + len(self._labels) + 1)
        row.explained = [self._labels[label] for label in row.labels]
        speedup, verdict, style = _compared(cell)
        short = _compared(cell, most_decimals=2)[0]
        row.cells = {
            "time": Text(figures.duration(cell.median_ns, cell.low_ns, cell.high_ns)),
            "speedup": Text(speedup, style),
            "short speedup": Text(short, style),
            "verdict": Text(verdict, style),
            "ceiling": _share(cell),
            "kernels": Text(figures.NOTHING if cell.kernels_launched is None else str(cell.kernels_launched)),
        }
        return row

    def _note_cut_reasons(self, layout: _Layout, widths: dict[str, int]) -> bool:
        """Give every reason that its row cuts a footnote, if it has none; whether there was one."""
        cut = [
            row
            for row in self._rows()
            if row.sentence is not None
            and row.reason
            and self._warnings.get(row.reason) not in row.warnings
            and len(one_line(row.sentence.plain, _FOOTNOTE_LENGTH)) > _room(layout, widths)
        ]
        for row in cut:
            number = self._warnings.setdefault(row.reason, len(self._warnings) + len(self._labels) + 1)
            row.warnings.insert(0, number)
        return bool(cut)

    def _rows(self) -> Iterator[_Row]:
        for _, _, rows in self._sections:
            yield from rows

    # --- lines --------------------------------------------------------------------------------------------------

    def _lines(self, layout: _Layout, widths: dict[str, int]) -> Iterator[Text]:
        heads = _SHORT_HEADS if layout.short else _LONG_HEADS
        table_width = _total(layout, widths)
        head = {
            "direction": Text("direction"),
            "variant": Text("variant"),
            "correct": Text("ok" if layout.short else "correct"),
        }
        head |= {name: Text(heads[name]) for name in layout.columns}
        line = self._joined(head, widths, layout)
        line.stylize("dim")
        yield line
        for experiment, workload, rows in self._sections:
            yield Text("─" * table_width, style="dim", no_wrap=True, overflow="crop")
            title = Text.assemble((experiment, "bold cyan"), "  ", workload)
            if layout.direction_column:
                yield title
            previous = ""
            for row in rows:
                if not layout.direction_column and row.direction != previous:
                    yield Text.assemble(title, "  ", (row.direction, "dim"))
                yield self._line(row, widths, layout, "" if row.direction == previous else row.direction)
                previous = row.direction
        yield Text("─" * table_width, style="dim", no_wrap=True, overflow="crop")

    def _fitted(self, width: int) -> tuple[_Layout, dict[str, int]]:
        for layout in _LAYOUTS:
            widths = self._widths(layout)
            if _total(layout, widths) <= width:
                break
        return layout, widths

    def _widths(self, layout: _Layout) -> dict[str, int]:
        heads = _SHORT_HEADS if layout.short else _LONG_HEADS
        rows = list(self._rows())
        widths = {"direction": len("direction")} if layout.direction_column else {}
        widths["variant"] = max(len("variant"), *(cell_len(row.variant.plain) for row in rows), 0)
        for name in layout.columns:
            cells = [cell_len(_cell(row, name, layout).plain) for row in rows]
            widths[name] = max(len(heads[name]), *cells, 0)
        widths["correct"] = 3 if layout.short else len("correct")
        notes = max((cell_len(_remarks(row, layout).plain) for row in rows), default=0)
        return widths | ({"notes": notes} if notes else {})

    def _line(self, row: _Row, widths: dict[str, int], layout: _Layout, direction: str) -> Text:
        cells = {"direction": Text(direction, "dim"), "variant": row.variant, "correct": row.correct}
        cells["notes"] = _remarks(row, layout)
        if row.sentence is None:
            return self._joined(cells | {name: _cell(row, name, layout) for name in layout.columns}, widths, layout)
        room = _room(layout, widths)
        sentence = Text(one_line(row.sentence.plain, room), row.sentence.style)
        merged = {name: wide for name, wide in widths.items() if name not in layout.columns}
        order = ("direction", "variant", "sentence", "correct", "notes")
        merged = {name: {**merged, "sentence": room}[name] for name in order if name in merged or name == "sentence"}
        return self._joined({**cells, "sentence": sentence}, merged, layout)

    @staticmethod
    def _joined(cells: dict[str, Text], widths: dict[str, int], layout: _Layout) -> Text:
        line = Text(" " * _INDENT, no_wrap=True, overflow="ellipsis")
        for name, wide in widths.items():
            cell = cells.get(name, Text()).copy()
            padding = " " * max(wide - cell_len(cell.plain), 0)
            line.append_text(Text.assemble(padding, cell) if name in _RIGHT else Text.assemble(cell, padding))
            line.append(" " * layout.gap)
        line.rstrip()
        return line

    # --- above and below ----------------------------------------------------------------------------------------

    def _title(self) -> Text:
        line = headline(self._environment)
        if self._environment.device_type == "cpu":
            line.append(" · CPU figures, they say nothing about a GPU", style="not bold yellow")
        common = [label for label in sorted(self._common) if label != "CPU"]
        if common:
            line.append(f" · all {', '.join(map(printable, common))}", style="not bold yellow")
        return line

    def _absent(self) -> Iterator[Text]:
        """The variants that cannot run here in one sentence: each with its most frequent reason, the others counted."""
        cells_of: dict[str, int] = {}
        missing: dict[str, list[Measurement]] = {}
        for cell in self._cells:
            cells_of[cell.variant] = cells_of.get(cell.variant, 0) + 1
            if cell.status is Status.UNAVAILABLE:
                missing.setdefault(cell.variant, []).append(cell)
        alike: dict[str, list[str]] = {}
        for variant, cells in missing.items():
            reasons = Counter(cell.reason for cell in cells)
            words = one_line(reasons.most_common(1)[0][0], _FOOTNOTE_LENGTH)
            if len(reasons) > 1:
                words += f"; {len(reasons) - 1} more reason{'s' if len(reasons) > 2 else ''} in `show --json`"
            where = "" if len(cells) == cells_of[variant] else f" in {_places(cells)}"
            alike.setdefault(f"{where} ({words})", []).append(printable(variant))
        parts = [", ".join(variants) + why for why, variants in alike.items()]
        if parts:
            yield Text("not here: ", style="dim").append("; ".join(parts))

    def _notes(self, layout: _Layout) -> Iterator[Text]:
        notes = {number: warning for warning, number in self._warnings.items()}
        if not layout.labels:
            notes |= {number: _MEANINGS.get(label, label) for label, number in self._labels.items()}
        for number, note in sorted(notes.items()):
            if number in self._labels.values() or number <= _FOOTNOTES:
                yield Text.assemble((f"[{number}] ", "yellow"), (one_line(note, _FOOTNOTE_LENGTH), "dim"))
        more = len(self._warnings) - _FOOTNOTES
        if more > 0:
            yield Text(f"and {more} more warnings: fuselab show RUN --json", style="dim")


def _room(layout: _Layout, widths: dict[str, int]) -> int:
    """Columns that a sentence has in place of the figures."""
    return sum(widths[name] for name in layout.columns) + layout.gap * (len(layout.columns) - 1)


def _total(layout: _Layout, widths: dict[str, int]) -> int:
    return sum(widths.values()) + layout.gap * (len(widths) - 1) + _INDENT


def _footnotes(cell: Measurement) -> list[str]:
    """What is said below the table: warnings, and a reason for failing that is too long for its row."""
    if cell.status is Status.UNAVAILABLE:
        return []
    shown = one_line(cell.reason, _FOOTNOTE_LENGTH)  # without the hint below it
    long = cell.status not in (Status.OK, Status.CHECKED) and len(shown) > _LONG_REASON
    return [*([cell.reason] if long else []), *cell.warnings]


def _compared(cell: Measurement, most_decimals: int = 3) -> tuple[str, str, str]:
    """Speedup, verdict and style; what is not to be trusted has no figure."""
    comparison = cell.comparison
    if comparison is None or cell.correct is False:
        return figures.NOTHING, "", "dim"
    style = STYLES[comparison.verdict]
    if comparison.verdict is Verdict.BASELINE:
        return "baseline", "", style
    if comparison.verdict is Verdict.WITHHELD:
        return figures.NOTHING, "withheld", style
    speedup = figures.ratio(comparison.speedup, comparison.low, comparison.high, most_decimals=most_decimals)
    return speedup, comparison.verdict.value, style


def _share(cell: Measurement) -> Text:
    """Share of the ceiling; more than all of it is nothing to be proud of and stands out."""
    share = cell.ceiling.share if cell.ceiling else None
    return Text(figures.share(share), "yellow" if share is not None and share > _ABOVE_CEILING else "")


def _sentence(cell: Measurement) -> Text:
    """What stands instead of figures."""
    if cell.status is Status.CHECKED:
        shape = cell.correctness.checked_shape if cell.correctness else None
        how = "in Triton's interpreter" if "interpreter" in cell.labels else ""
        where = f"on {'x'.join(map(str, shape))}" if shape else ""
        detail = " ".join(part for part in (how, where) if part)
        return Text(f"checked, not timed{f' ({detail})' if detail else ''}", "dim")
    status = cell.status.value.replace("_", " ")
    return Text(f"{status}: {cell.reason}" if cell.reason else status, "red")


def _cell(row: _Row, name: str, layout: _Layout) -> Text:
    if layout.short and name == "speedup":
        name = "short speedup"
    cell = row.cells.get(name, Text())
    if layout.short and name == "verdict":
        return Text(_SHORT_VERDICTS.get(cell.plain, cell.plain), cell.style)
    return cell


def _remarks(row: _Row, layout: _Layout) -> Text:
    words = ", ".join(map(printable, row.labels)) if layout.labels else ""
    numbers = [number for number in row.warnings if number <= _FOOTNOTES]
    numbers += [] if layout.labels else row.explained
    marks = f"[{','.join(map(str, numbers))}]" if numbers else ""
    return Text.assemble((words, "yellow"), " " if words and marks else "", (marks, "dim"))


def _places(cells: Sequence[Measurement]) -> str:
    """Where a variant is missing, as shortly as the cells allow."""
    experiments = list(dict.fromkeys(printable(cell.experiment) for cell in cells))
    directions = list(dict.fromkeys(cell.direction.value for cell in cells))
    return " and ".join(experiments) + (f" {directions[0]}" if len(directions) == 1 else "")
