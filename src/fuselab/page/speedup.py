"""Speedup with its interval by variant and workload, one picture a direction: the answer to "is it faster"."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fuselab.page.drawing import NARROW, WIDE, Chart, Drawing, Scale, number
from fuselab.page.model import Group, RunData, Variants, groups_of, speedup_of
from fuselab.records import Direction, Measurement, Status, Verdict
from fuselab.report import figures

__all__ = ["speedup_chart"]

_ROW = 22
_MOST_ROWS = 240
_TICKS = (0.1, 0.2, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def speedup_chart(runs: Sequence[RunData], variants: Variants, direction: Direction) -> Chart | None:
    """The picture of one direction; None where nothing was compared.

    Args:
        runs: of one page.
        variants: colours and shapes.
        direction: whose cells.
    """
    sections = [(g, rows) for run in runs for g in groups_of(run) if g.direction is direction and (rows := _rows(g))]
    if not sections:
        return None
    spans = [span for _, rows in sections for cell in rows if (span := speedup_of(cell))]
    # An interval without an end in sight is cut, with an arrow: else one noisy cell makes all others a dot.
    low = max(min([0.92, *(s[0] for s in spans)]), min([1.0, *(s[1] for s in spans)]) / 3) / 1.03
    high = min(max([1.09, *(s[2] for s in spans)]), max([1.0, *(s[1] for s in spans)]) * 3) * 1.03
    return Chart(
        *(_draw(sections, variants, direction, width, max(low, 1e-3), min(high, 1e4)) for width in (WIDE, NARROW))
    )


def _rows(group: Group) -> list[Measurement]:
    """What was tried against the baseline; what could not run here, or only in the interpreter, is in the table."""
    return [
        c
        for c in group.cells
        if c.status not in (Status.UNAVAILABLE, Status.CHECKED)
        and not (c.comparison and c.comparison.verdict is Verdict.BASELINE)
        and (c.comparison is not None or c.status is not Status.OK)
    ]


def _draw(
    sections: Sequence[tuple[Group, list[Measurement]]],
    variants: Variants,
    direction: Direction,
    width: int,
    low: float,
    high: float,
) -> Markup:
    drawing = Drawing(width, f"Speedup over the baseline, {direction.value}, with intervals, by workload and variant")
    names = 168 if not drawing.narrow else 4
    figures_room = 212 if not drawing.narrow else 4
    left, right = names + 8, width - figures_room - 8
    scale = Scale(low, high, left, right, log=True)
    ticks = _spaced([t for t in _TICKS if low <= t <= high], scale, 44)
    y, drawn, experiment = 6.0, 0, ""
    left_out = 0
    for group, rows in sections:
        if drawn >= _MOST_ROWS:
            left_out += len(rows)
            continue
        several = group.run.metadata.experiment != experiment
        experiment = group.run.metadata.experiment
        y += 20 if drawn else 14
        if several and drawing.narrow:
            drawing.text(0, y, experiment, "head", room=width)
            y += 16
        if several and not drawing.narrow:
            drawing.heading(0, y, experiment, group.label, width)
        else:
            drawing.text(0, y, group.label, "quiet", room=width)
        top = y + 6
        if not drawing.narrow:
            _grid(drawing, scale, ticks, top, top + _ROW * len(rows))
        for cell in rows:
            y = _row(drawing, group, cell, variants, scale, ticks, y)
            drawn += 1
        y += 6
    y += 12
    for tick in ticks:
        drawing.text(scale(tick), y, f"{tick:g}\u00d7", "axis", "middle")
    if not drawing.narrow:
        drawing.text(scale(1) - 24, y + 18, "← slower", "axis", "end")
        drawing.text(scale(1) + 24, y + 18, "faster →", "axis")
        y += 18
    if left_out:
        y += 20
        drawing.text(0, y, f"and {left_out} more: the table below has all of them", "quiet")
    return drawing.markup(y + 8, "speedup")


def _grid(drawing: Drawing, scale: Scale, ticks: Sequence[float], top: float, bottom: float) -> None:
    for tick in ticks:
        drawing.line(scale(tick), top, scale(tick), bottom, "one" if tick == 1 else "grid")


def _row(
    drawing: Drawing,
    group: Group,
    cell: Measurement,
    variants: Variants,
    scale: Scale,
    ticks: Sequence[float],
    y: float,
) -> float:
    """One variant: name, interval, figures; beside each other where there is room, else above."""
    place = variants.place(cell.variant)
    span = speedup_of(cell)
    said = _figures(cell, span is not None)
    if drawing.narrow:
        y += 18
        drawing.text(0, y, cell.variant, f"name ink{place}", room=150)
        drawing.text(drawing.width, y, said, _verdict_class(cell), "end")
        y += _ROW * 0.9
        middle = y - 5
        _grid(drawing, scale, ticks, middle - 8, middle + 8)
    else:
        y += _ROW
        middle = y - 4
        drawing.text(12, y, cell.variant, f"name ink{place}", room=156)
        drawing.text(scale.end + 16, y, said, _verdict_class(cell))
    if span is None:
        return y
    a, b, c = (scale(v) for v in span)
    drawing.line(scale(1), middle, b, middle, f"stem v{place}")
    drawing.raw(
        f'<rect class="interval v{place}" x="{number(a)}" y="{number(middle - 4)}" width="{number(max(c - a, 1.5))}" '
        f'height="8" rx="2"/>'
    )
    for end, beyond, tip in ((a, span[0] < scale.low, -7), (c, span[2] > scale.high, 7)):
        if beyond:
            drawing.raw(f'<path class="mark v{place}" d="M{number(end)},{number(middle - 5)}l{tip},5l{-tip},5Z"/>')
    drawing.mark(b, middle, place, _title(group, cell, said), _href(group, cell))
    return y


def _href(group: Group, cell: Measurement) -> str:
    """To the card of the kernel where there is one, else to the samples."""
    kernels = group.run.kernels_of(cell)
    return group.run.kernel_href(kernels[0]) if kernels else f"#{group.anchor}"


def _figures(cell: Measurement, shown: bool) -> str:
    comparison = cell.comparison
    if cell.status is not Status.OK:
        return cell.status.value.replace("_", " ")
    if cell.correct is False:
        return "wrong"
    if comparison is None or not shown:
        return Verdict.WITHHELD.value
    text = figures.ratio(comparison.speedup, comparison.low, comparison.high).replace("x", "\u00d7")
    return f"{text} {comparison.verdict.value}"


def _verdict_class(cell: Measurement) -> str:
    verdict = cell.comparison.verdict.value if cell.comparison and cell.status is Status.OK else "failed"
    return f"figures {verdict}"


def _title(group: Group, cell: Measurement, said: str) -> str:
    comparison = cell.comparison
    lines = [
        f"{cell.variant}, {cell.direction.value}: {said}",
        f"{group.run.metadata.experiment} {group.label}",
        f"time {figures.duration(cell.median_ns, cell.low_ns, cell.high_ns)}",
    ]
    if comparison is not None:
        lines.append(f"against {comparison.baseline}, {comparison.rounds} rounds, {comparison.confidence:.0%} interval")
    if cell.ceiling is not None:
        lines.append(f"{figures.share(cell.ceiling.share)} of the measured ceiling")
    if "CPU" in cell.labels or group.run.environment.device_type == "cpu":
        lines.append("CPU figure")
    return "\n".join(lines)


def _spaced(ticks: Sequence[float], scale: Scale, apart: float) -> list[float]:
    """Those that stay apart, 1 before all others."""
    kept = [t for t in ticks if t == 1]
    for tick in sorted(ticks, key=lambda t: (abs(math.log10(t)) % 1 > 1e-9, abs(math.log(t)))):
        if all(abs(scale(tick) - scale(other)) >= apart for other in kept):
            kept.append(tick)
    return sorted(kept)
