"""The roofline: operations a second against operations a byte, below the memory ceilings that the run measured.

A kernel is a point where it has a time of its own: the profiler's, of a cell that launches one kernel and has captured
one. Any other cell is a point itself, with its kernels in its title. Bytes and operations are the fewest that the cell
has to spend (``records.Traffic``), so that a point under its roof has moved more, or waited. The sloped lines are what
plain streaming reached in the same run, by its mix of reads and writes. The flat lines are the device's described
rates: nothing measured them, and they say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from fuselab.page.drawing import NARROW, WIDE, Chart, Drawing, Scale, beside
from fuselab.page.model import RunData, Variants, finite, groups_of
from fuselab.records import Clock, Direction, Measurement, Status
from fuselab.report import figures
from fuselab.targets import match

__all__ = ["roofline_chart", "uncounted"]

_MOST_POINTS = 400
"""Cells drawn a run; the table has all of them."""
_HEIGHT = {True: 340, False: 430}


@dataclass(frozen=True)
class _Point:
    run: RunData
    label: str
    cell: Measurement
    intensity: float
    rate: float
    time: float
    kernel: str
    """Name of the kernel where the time is its own."""
    href: str
    kernels: tuple[str, ...]


def roofline_chart(runs: Sequence[RunData], variants: Variants, direction: Direction) -> Chart | None:
    """The picture of one direction; None where no timed cell has counted operations."""
    points = [p for run in runs for p in _points(run, direction)]
    if not points:
        return None
    return Chart(*(_draw(runs, points, variants, direction, width) for width in (WIDE, NARROW)))


def uncounted(runs: Sequence[RunData]) -> list[str]:
    """Experiments whose operations nobody counted: they have no place in a roofline."""
    return [
        run.metadata.experiment
        for run in runs
        if any(c.status is Status.OK for c in run.cells)
        and not any(c.traffic and c.traffic.operations > 0 for c in run.cells)
    ]


def _points(run: RunData, direction: Direction) -> list[_Point]:
    found: list[_Point] = []
    for group in groups_of(run):
        for cell in group.cells:
            if group.direction is not direction or cell.status is not Status.OK or cell.correct is False:
                continue
            traffic = cell.traffic
            if traffic is None or traffic.operations <= 0 or traffic.bytes_moved <= 0:
                continue
            kernels = run.kernels_of(cell)
            own = finite(s.duration_ns for s in cell.other_clocks.get(Clock.KERNEL.value, []))
            alone = len(kernels) == 1 and cell.kernels_launched == 1 and bool(own)
            times = finite([median(own) if alone else cell.median_ns])
            if not times or times[0] <= 0:
                continue
            if len(found) >= _MOST_POINTS:
                return found
            found.append(
                _Point(
                    run=run,
                    label=group.label,
                    cell=cell,
                    intensity=traffic.operations / traffic.bytes_moved,
                    rate=traffic.operations / times[0] * 1e9,
                    time=times[0],
                    kernel=kernels[0].name if alone else "",
                    href=run.kernel_href(kernels[0]) if kernels else f"#{group.anchor}",
                    kernels=tuple(k.name for k in kernels),
                )
            )
    return found


def _ceilings(runs: Sequence[RunData], direction: Direction) -> list[tuple[str, float]]:
    """The best that each mix of streaming reached in this direction, the fastest first."""
    best: dict[str, float] = {}
    for run in runs:
        for cell in run.cells:
            if cell.direction is direction and cell.ceiling is not None:
                for rate in finite([cell.ceiling.bytes_per_s]):
                    method = cell.ceiling.method
                    best[method] = max(best.get(method, 0.0), rate)
    return sorted(((m, r) for m, r in best.items() if r > 0), key=lambda item: -item[1])


def _peaks(runs: Sequence[RunData]) -> list[tuple[str, float]]:
    """Rates of arithmetic that the device is described with; none for one that is not."""
    target = next((t for run in runs if (t := match(run.environment.device))), None)
    rate = target.f32_flops if target else None
    return [] if rate is None else [("float32, described, not measured", rate)]


def _draw(
    runs: Sequence[RunData], points: Sequence[_Point], variants: Variants, direction: Direction, width: int
) -> Markup:
    drawing = Drawing(width, f"Roofline, {direction.value}: operations a second against operations a byte")
    ceilings, peaks = _ceilings(runs, direction), _peaks(runs)
    height = _HEIGHT[drawing.narrow]
    left, right, top, bottom = 74.0, width - 12.0, 24.0, float(height)
    intensities, rates = [p.intensity for p in points], [p.rate for p in points]
    low_x, high_x = min(intensities) / 2.2, max(intensities) * 2.5
    high_y = max([*rates, *(r * high_x for _, r in ceilings[:1])]) * 1.3
    if peaks and ceilings:
        high_x = max(high_x, peaks[0][1] / ceilings[0][1] * 1.6)
        high_y = max(high_y, peaks[0][1] * 1.6)
    low_y = min(min(rates) / 2, *(r * low_x * 0.8 for _, r in ceilings[-1:]), max(rates) / 20)
    x = Scale(low_x, high_x, left, right, log=True)
    y = Scale(low_y, high_y, bottom, top, log=True)
    for tick in x.ticks(5 if drawing.narrow else 9):
        drawing.line(x(tick), top, x(tick), bottom, "grid")
        drawing.text(x(tick), bottom + 18, f"{tick:g}", "axis", "middle")
    for tick in y.ticks(7):
        drawing.line(left, y(tick), right, y(tick), "grid")
        drawing.text(left - 8, y(tick) + 4, _rate(tick), "axis", "end")
    drawing.text(right, bottom + 36, "operations a byte that has to be moved", "axis", "end")
    drawing.text(0, 12, "operations a second", "axis")
    flat = peaks[0][1] if peaks else None
    below = bottom + 58
    for order, (_, rate) in enumerate(ceilings[:3]):
        _roof(drawing, x, y, rate, flat, order)
    for name, rate in peaks:
        drawing.line(
            x(max(rate / ceilings[0][1], low_x)) if ceilings else left, y(rate), right, y(rate), "roof described"
        )
        drawing.text(right, y(rate) - 7, f"{_rate(rate)} {name}", "axis", "end")
    names = list(dict.fromkeys(p.cell.variant for p in points))
    for point in points:
        place = variants.place(point.cell.variant)
        aside = beside(names.index(point.cell.variant), len(names))
        drawing.mark(x(point.intensity) + aside, y(point.rate), place, _title(point), point.href, size=5)
    start = 0.0 if drawing.narrow else left
    for order, (method, rate) in enumerate(ceilings[:3]):
        drawing.line(start, below - 4, start + 26, below - 4, f"roof measured r{order}")
        drawing.text(start + 34, below, f"{figures.bandwidth(rate)}, {method}", "axis", room=width - start - 34)
        below += 18
    if not ceilings:
        drawing.text(left, below, "no memory ceiling was measured in this run", "axis")
        below += 18
    return drawing.markup(below)


def _roof(drawing: Drawing, x: Scale, y: Scale, rate: float, flat: float | None, order: int) -> None:
    """The slope of one ceiling, clipped to the picture and to the flat roof."""
    start = max(x.low, y.low / rate)
    end = min(x.high, y.high / rate, flat / rate if flat else x.high)
    if end > start:
        drawing.path([(x(start), y(start * rate)), (x(end), y(end * rate))], f"roof measured r{order}")


def _title(point: _Point) -> str:
    cell = point.cell
    lines = [
        f"kernel {point.kernel}" if point.kernel else f"{cell.variant}, {cell.direction.value}, the whole cell",
        f"{point.run.metadata.experiment} {point.label}",
        f"{figures.duration(point.time)}, {_rate(point.rate)}, {point.intensity:.2g} operations a byte",
    ]
    if point.kernel:
        lines.insert(1, f"{cell.variant}, {cell.direction.value}, time by the profiler")
    elif point.kernels:
        lines.append(
            f"{len(point.kernels)} kernel{'s' if len(point.kernels) > 1 else ''}: {', '.join(point.kernels[:4])}"
        )
    if cell.ceiling is not None:
        lines.append(
            f"{figures.share(cell.ceiling.share)} of its ceiling, {figures.bandwidth(cell.ceiling.bytes_per_s)}"
        )
    if point.run.environment.device_type == "cpu":
        lines.append("CPU figure")
    return "\n".join(lines)


def _rate(per_second: float) -> str:
    for scale, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= scale * 0.9999:
            return f"{per_second / scale:.3g} {unit}op/s"
    return f"{per_second:.3g} op/s"
