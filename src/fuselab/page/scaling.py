"""Time and share of the ceiling over the sizes of the workloads, one panel an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fuselab.page.drawing import NARROW, WIDE, Chart, Drawing, Scale, beside, number
from fuselab.page.model import RunData, Variants, finite, groups_of
from fuselab.records import Direction, Measurement, Status
from fuselab.report import figures

__all__ = ["scaling_chart"]

_HEIGHT = 190
_PANELS = 4
_MOST_POINTS = 240
"""Cells drawn a panel; the table has all of them."""


@dataclass(frozen=True)
class _Point:
    cell: Measurement
    label: str
    moved: int
    time: float
    share: float | None
    href: str


def scaling_chart(runs: Sequence[RunData], variants: Variants, direction: Direction) -> Chart | None:
    """The picture of one direction; None where no experiment was timed at two sizes.

    Workloads of one dtype and the same options are joined by a line: between others there is nothing to read.
    """
    panels = [(run, _points(run, direction)) for run in runs]
    panels = [(run, points) for run, points in panels if len({p.moved for p in points}) > 1]
    if not panels:
        return None
    return Chart(_wide(panels, variants, direction), _narrow(panels, variants, direction))


def _points(run: RunData, direction: Direction) -> list[_Point]:
    found: list[_Point] = []
    for group in groups_of(run):
        for cell in group.cells:
            times = finite([cell.median_ns])
            if group.direction is not direction or cell.status is not Status.OK or cell.correct is False:
                continue
            if cell.traffic is None or cell.traffic.bytes_moved <= 0 or not times or times[0] <= 0:
                continue
            share = finite([cell.ceiling.share]) if cell.ceiling else []
            if len(found) >= _MOST_POINTS:
                return found
            found.append(
                _Point(cell, group.label, cell.traffic.bytes_moved, times[0], share[0] if share else None, group.anchor)
            )
    return found


def _wide(panels: Sequence[tuple[RunData, list[_Point]]], variants: Variants, direction: Direction) -> Markup:
    drawing = Drawing(WIDE, f"Time and share of the ceiling against bytes, {direction.value}")
    columns = min(len(panels), _PANELS)
    step = WIDE / columns
    y = 0.0
    for start in range(0, len(panels), columns):
        for place, (run, points) in enumerate(panels[start : start + columns]):
            _panel(drawing, run, points, variants, (place * step, (place + 1) * step - 28), y)
        y += 2 * _HEIGHT + 84
    return drawing.markup(y)


def _narrow(panels: Sequence[tuple[RunData, list[_Point]]], variants: Variants, direction: Direction) -> Markup:
    drawing = Drawing(NARROW, f"Time and share of the ceiling against bytes, {direction.value}")
    y = 0.0
    for run, points in panels:
        _panel(drawing, run, points, variants, (0, NARROW - 8), y)
        y += 2 * _HEIGHT + 84
    return drawing.markup(y)


def _panel(
    drawing: Drawing,
    run: RunData,
    points: Sequence[_Point],
    variants: Variants,
    span: tuple[float, float],
    top: float,
) -> None:
    left, right = span[0] + 56, span[1]
    moved = [float(p.moved) for p in points]
    x = Scale(min(moved) / 1.6, max(moved) * 1.6, left, right, log=True)
    times = [p.time for p in points]
    drawing.heading(span[0], top + 14, run.metadata.experiment, "time", span[1] - span[0])
    upper = Scale(min(times) / 1.5, max(times) * 1.5, top + _HEIGHT, top + 34, log=True)
    for tick in upper.ticks(5):
        drawing.line(left, upper(tick), right, upper(tick), "grid")
        drawing.text(left - 6, upper(tick) + 4, _time(tick), "axis", "end")
    shares = [p.share for p in points if p.share is not None]
    base = top + _HEIGHT + 26
    lower = Scale(0, max([1.05, *shares]), base + _HEIGHT - 30, base)
    drawing.text(span[0], base - 8, "share of the measured ceiling" if shares else "no ceiling was measured", "axis")
    for tick in (0, 0.5, 1):
        if shares:
            drawing.line(left, lower(tick), right, lower(tick), "one" if tick == 1 else "grid")
            drawing.text(left - 6, lower(tick) + 4, f"{tick:.0%}", "axis", "end")
    bottom = base + _HEIGHT - 30
    for tick in x.ticks(4 if right - left > 200 else 3):
        drawing.text(x(tick), bottom + 18, _bytes(tick), "axis", "middle")
    drawing.text(right, bottom + 34, "fewest bytes that have to be moved", "axis", "end")
    names = list(dict.fromkeys(p.cell.variant for p in points))
    for series in _series(points):
        place = variants.place(series[0].cell.variant)
        drawing.path([(x(p.moved), upper(p.time)) for p in series], f"trace v{place}")
        drawing.path([(x(p.moved), lower(p.share)) for p in series if p.share is not None], f"trace v{place}")
    for point in points:
        place = variants.place(point.cell.variant)
        title = _title(run, point)
        at = x(point.moved) + beside(names.index(point.cell.variant), len(names), 4.0)
        drawing.mark(at, upper(point.time), place, title, f"#{point.href}", size=4)
        if point.share is not None:
            drawing.mark(at, lower(point.share), place, title, f"#{point.href}", size=4)
    drawing.raw(f'<line class="axisline" x1="{number(left)}" x2="{number(right)}" y1="{bottom}" y2="{bottom}"/>')


def _series(points: Sequence[_Point]) -> list[list[_Point]]:
    """Points of one variant, dtype and options, by size."""
    found: dict[tuple[object, ...], list[_Point]] = {}
    for point in points:
        workload = point.cell.workload
        key = (point.cell.variant, workload.dtype, tuple(sorted(map(str, workload.options.items()))), workload.layout)
        found.setdefault(key, []).append(point)
    return [sorted(series, key=lambda p: p.moved) for series in found.values()]


def _title(run: RunData, point: _Point) -> str:
    lines = [
        f"{point.cell.variant}, {point.cell.direction.value}",
        f"{run.metadata.experiment} {point.label}",
        f"time {figures.duration(point.cell.median_ns, point.cell.low_ns, point.cell.high_ns)}",
        f"at least {figures.size(point.moved)}, moved at {figures.bandwidth(point.moved / point.time * 1e9)}",
    ]
    if point.share is not None:
        lines.append(f"{figures.share(point.share)} of the measured ceiling")
    if run.environment.device_type == "cpu":
        lines.append("CPU figure")
    return "\n".join(lines)


def _time(ns: float) -> str:
    for scale, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= scale * 0.9999:
            return f"{ns / scale:g} {unit}"
    return f"{ns:g} ns"


def _bytes(count: float) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale * 0.9999:
            return f"{count / scale:g} {unit}"
    return f"{count:g} B"
