"""Two pictures of a result: bars for a terminal or a README in plain text, and speedups with intervals as an SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from rich.text import Text

from fuselab.records import Direction, Environment, Measurement, Status, Verdict
from fuselab.report import figures
from fuselab.report.table import STYLES, groups, headline
from fuselab.report.text import one_line, printable

__all__ = ["picture", "svg"]

_EIGHTHS = "▏▎▍▌▋▊▉█"
_LEAST_BAR = 10


def picture(measurements: Sequence[Measurement], environment: Environment, width: int = 100) -> Text:
    """Bars of time by variant, a block a workload; ``.plain`` of the result is text to paste.

    A bar ends at the median, ``├─┤`` spans the interval where that is wide enough to be seen, and ``┊`` marks where the
    baseline ends. All bars of one workload have one scale.

    Args:
        measurements: cells, verdicts settled.
        environment: where they were measured.
        width: columns to fill.
    """
    lines = [headline(environment)]
    for experiment, workload, cells in groups(measurements):
        timed = [cell for cell in cells if _shown_time(cell) is not None]
        if timed:
            lines += [Text(), Text.assemble((experiment, "bold cyan"), "  ", workload), *_bars(timed, width)]
    if len(lines) == 1:
        lines.append(Text("nothing was measured", style="yellow"))
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _bars(cells: Sequence[Measurement], width: int) -> Iterator[Text]:
    name_width = max(len(printable(cell.variant)) for cell in cells)
    labels = {id(cell): _label(cell) for cell in cells}
    time_width = max(len(time) for time, _ in labels.values())
    verdict_width = max(len(verdict) for _, verdict in labels.values())
    room = max(width - 2 - len("backward") - 2 - name_width - 2 - 2 - time_width - 2 - verdict_width, _LEAST_BAR)
    longest = max(max(cell.median_ns or 0.0, cell.high_ns or 0.0) for cell in cells)
    baselines = {cell.direction: cell.median_ns for cell in cells if _verdict(cell) is Verdict.BASELINE}
    previous: Direction | None = None
    for cell in cells:
        time, verdict = labels[id(cell)]
        style = STYLES.get(_verdict(cell), "")
        scale = room / longest
        bar = _bar((cell.median_ns or 0.0) * scale, cell, scale, room)
        mark = baselines.get(cell.direction)
        column = math.ceil(mark * scale) - 1 if mark else -1
        marked = column >= 0 and bar[column] == " "
        direction = cell.direction.value if cell.direction is not previous else ""
        previous = cell.direction
        line = Text("  ")
        line.append(f"{direction:<8}  ", style="dim").append(f"{printable(cell.variant):<{name_width}}  ")
        if marked:
            line.append(bar[:column], style=style).append("┊", style="dim").append(bar[column + 1 :])
        else:
            line.append(bar, style=style)
        line.append(f"  {time:>{time_width}}").append(f"  {verdict}", style=style)
        line.rstrip()
        yield line


def _bar(length: float, cell: Measurement, scale: float, room: int) -> str:
    whole, part = int(length), int((length % 1) * 8)
    bar = "█" * whole + (_EIGHTHS[part - 1] if part else "")
    bar = f"{bar or _EIGHTHS[0]:<{room}}"[:room]
    if cell.low_ns is None or cell.high_ns is None:
        return bar
    low, high = int(cell.low_ns * scale), min(math.ceil(cell.high_ns * scale), room)
    if high - low < 3:
        return bar
    return f"{bar[:low]}├{'─' * (high - low - 2)}┤{bar[high:]}"


def _label(cell: Measurement) -> tuple[str, str]:
    comparison = cell.comparison
    time = figures.duration(cell.median_ns, cell.low_ns, cell.high_ns)
    if comparison is None or comparison.verdict is Verdict.BASELINE:
        return time, ""
    if comparison.verdict is Verdict.WITHHELD or comparison.speedup is None:
        return time, comparison.verdict.value
    return time, f"{figures.ratio(comparison.speedup)} {comparison.verdict.value}"


def _verdict(cell: Measurement) -> Verdict:
    return cell.comparison.verdict if cell.comparison else Verdict.UNRESOLVED


def _shown_time(cell: Measurement) -> float | None:
    """The time to draw; none for a wrong result or for what is no number."""
    if cell.status is not Status.OK or cell.median_ns is None or not math.isfinite(cell.median_ns):
        return None
    return cell.median_ns


# --- SVG ------------------------------------------------------------------------------------------------------------

_WIDTH = 880
_NAMES, _FIGURES = 256, 236
_MARGIN = 24
_ROW = 24
_CSS = """
.fuselab-plot{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.fuselab-plot .ground{fill:#ffffff}.fuselab-plot text{fill:#1f2328}.fuselab-plot .quiet{fill:#656d76}
.fuselab-plot .title{font-size:16px;font-weight:600}.fuselab-plot .head{font-weight:600}
.fuselab-plot .figures{font-variant-numeric:tabular-nums}
.fuselab-plot .grid{stroke:#d8dee4}.fuselab-plot .one{stroke:#656d76;stroke-width:1.5}
.fuselab-plot .interval line{stroke-width:4;stroke-linecap:round;opacity:.55}.fuselab-plot .interval .stem{\
stroke-width:1;opacity:.4}
.fuselab-plot .faster{fill:#1a7f37;stroke:#1a7f37}.fuselab-plot .slower{fill:#cf222e;stroke:#cf222e}
.fuselab-plot .equivalent{fill:#6e7781;stroke:#6e7781}.fuselab-plot .unresolved{fill:#9a6700;stroke:#9a6700}
@media (prefers-color-scheme:dark){
.fuselab-plot .ground{fill:#0d1117}.fuselab-plot text{fill:#e6edf3}.fuselab-plot .quiet{fill:#8d96a0}
.fuselab-plot .grid{stroke:#30363d}.fuselab-plot .one{stroke:#8d96a0}
.fuselab-plot .faster{fill:#3fb950;stroke:#3fb950}.fuselab-plot .slower{fill:#f85149;stroke:#f85149}
.fuselab-plot .equivalent{fill:#8d96a0;stroke:#8d96a0}.fuselab-plot .unresolved{fill:#d29922;stroke:#d29922}
}
"""
"""Plain rules rather than variables: viewers other than browsers know no more, and then show the light half."""

_DRAWN = frozenset({Verdict.FASTER, Verdict.SLOWER, Verdict.EQUIVALENT, Verdict.UNRESOLVED})


def svg(measurements: Sequence[Measurement], environment: Environment) -> str:
    """Speedups with their intervals on a logarithmic axis, one row a variant: a self-contained SVG, light and dark.

    Args:
        measurements: cells, verdicts settled.
        environment: where they were measured.
    """
    sections = [(e, w, rows) for e, w, cells in groups(measurements) if (rows := [c for c in cells if _drawn(c)])]
    baselines = list(dict.fromkeys(c.comparison.baseline for _, _, rows in sections for c in rows if c.comparison))
    title = f"Speedup over {' and '.join(printable(name) for name in baselines) or 'the baseline'}"
    axis = _Axis([c for _, _, rows in sections for c in rows])
    body = [
        _text(_MARGIN, 36, title, "title"),
        _text(_MARGIN, 58, f"{headline(environment).plain}{_confidence(sections)}", "quiet"),
    ]
    y = 92
    for experiment, workload, rows in sections:
        body.append(_head(y, experiment, workload))
        body += axis.grid(y + 10, y + 10 + _ROW * len(rows))
        previous = ""
        for cell in rows:
            y += _ROW
            body += _drawing(cell, axis, y, "" if cell.direction.value == previous else cell.direction.value)
            previous = cell.direction.value
        y += _ROW + _ROW // 2
    body += axis.labels(y - _ROW // 2) if sections else [_text(_MARGIN, y, "nothing to compare was measured", "quiet")]
    height = y + _ROW // 2
    described = escape(f"{title}, {headline(environment).plain}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fuselab-plot" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img"><title>{described}</title><style>{_CSS}</style>'
        f'<rect class="ground" width="100%" height="100%" rx="8"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


class _Axis:
    """A logarithmic axis of speedups that holds 1 and every interval."""

    def __init__(self, cells: Sequence[Measurement]) -> None:
        values = [value for cell in cells for value in _interval(cell)]
        low, high = min([0.9, *values]), max([1.12, *values])
        self._low, self._high = math.log(low * 0.97), math.log(high * 1.03)

    def x(self, speedup: float) -> float:
        """The horizontal place of a speedup."""
        left, right = _MARGIN + _NAMES, _WIDTH - _MARGIN - _FIGURES
        return left + (math.log(speedup) - self._low) / (self._high - self._low) * (right - left)

    def grid(self, top: int, bottom: int) -> list[str]:
        """Lines at round numbers, with 1 standing out."""
        return [
            f'<line class="{"one" if tick == 1 else "grid"}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
            for tick in self._ticks()
            for x in [f"{self.x(tick):.1f}"]
        ]

    def labels(self, y: int) -> list[str]:
        """The round numbers themselves."""
        return [_text(round(self.x(tick), 1), y, f"{tick:g}x", "quiet", "middle") for tick in self._ticks()]

    def _ticks(self) -> list[float]:
        """Round numbers, as many as stay apart."""
        span = self._high - self._low
        if span > math.log(300):
            step = math.ceil(span / math.log(10) / 6)
            candidates = [10.0 ** (step * e) for e in range(-6, 7)]
        elif span > math.log(30):
            candidates = [digit * 10.0**e for e in range(-3, 4) for digit in (1, 3)]
        elif span > math.log(12):
            candidates = [2.0**e for e in range(-5, 6)]
        elif span > math.log(3):
            candidates = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16]
        elif span > math.log(1.5):
            candidates = [0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2, 2.5, 3]
        else:
            candidates = [round(0.5 + 0.05 * n, 2) for n in range(30)]
        return [tick for tick in candidates if self._low <= math.log(tick) <= self._high]


def _drawing(cell: Measurement, axis: _Axis, y: int, direction: str) -> list[str]:
    parts = [_text(_MARGIN + 12, y, direction, "quiet"), _text(_MARGIN + 88, y, one_line(cell.variant, 22))]
    figures_at = _WIDTH - _MARGIN - _FIGURES + 20
    comparison = cell.comparison
    interval = _interval(cell)
    if comparison is None or not interval:
        why = cell.status.value.replace("_", " ") if cell.status is not Status.OK else Verdict.WITHHELD.value
        return [*parts, _text(figures_at, y, why, "quiet")]
    low, middle, high = (f"{axis.x(value):.1f}" for value in interval)
    across = f'y1="{y - 4}" y2="{y - 4}"'
    parts.append(
        f'<g class="interval {comparison.verdict.value}">'
        f'<line class="stem" x1="{axis.x(1):.1f}" x2="{middle}" {across}/>'
        f'<line x1="{low}" x2="{high}" {across}/><circle cx="{middle}" cy="{y - 4}" r="4"/></g>'
    )
    text = f"{figures.ratio(comparison.speedup, comparison.low, comparison.high)} {comparison.verdict.value}"
    return [*parts, _text(figures_at, y, text, "figures")]


def _drawn(cell: Measurement) -> bool:
    """Whether a cell has a row: everything that was tried, except the baseline itself."""
    verdict = cell.comparison.verdict if cell.comparison else None
    if verdict is Verdict.BASELINE or cell.status in (Status.UNAVAILABLE, Status.CHECKED):
        return False
    return verdict is not None or cell.status is not Status.OK


def _interval(cell: Measurement) -> tuple[float, float, float] | tuple[()]:
    """Low end, speedup and high end, if there is a speedup to show."""
    comparison = cell.comparison
    if comparison is None or cell.status is not Status.OK or cell.correct is False:
        return ()
    if comparison.verdict not in _DRAWN or comparison.speedup is None:
        return ()
    middle = comparison.speedup
    ends = [middle if end is None else end for end in (comparison.low, comparison.high)]
    if not all(math.isfinite(value) and value > 0 for value in (middle, *ends)):
        return ()
    return (ends[0], middle, ends[1])


def _confidence(sections: Sequence[tuple[str, str, Sequence[Measurement]]]) -> str:
    levels = {c.comparison.confidence for _, _, cells in sections for c in cells if c.comparison}
    return "".join(f" · {level:.0%} intervals" for level in sorted(levels))


def _head(y: int, experiment: str, workload: str) -> str:
    return (
        f'<text x="{_MARGIN}" y="{y}"><tspan class="head">{escape(one_line(experiment, 40))}</tspan>'
        f'<tspan class="quiet" dx="8">{escape(one_line(workload, 90))}</tspan></text>'
    )


def _text(x: float, y: int, text: str, kind: str = "", anchor: str = "start") -> str:
    attributes = f' class="{kind}"' if kind else ""
    if anchor != "start":
        attributes += f' text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y}"{attributes}>{escape(printable(text))}</text>'
