"""Every sample by round and by variant, so that noise can be seen: a strip by round, and where the samples lie.

One picture a group (one workload and direction, timed together). All strips of a picture have one scale: per cent of
the variant's own median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from fuselab.page.drawing import NARROW, WIDE, Chart, Drawing, Scale, number
from fuselab.page.model import Group, Variants
from fuselab.records import Measurement, Status
from fuselab.report import figures

__all__ = ["SampleSection", "noise", "samples_chart", "timed"]

_STRIP = 40
_MOST_POINTS = 400
"""Samples drawn a variant; of more every n-th round, and the picture says so."""


@dataclass(frozen=True)
class SampleSection:
    """The samples of one group with its headings."""

    anchor: str
    label: str
    direction: str
    noise: str
    chart: Chart


def timed(cells: Sequence[Measurement]) -> list[Measurement]:
    """The cells that have samples which are numbers."""
    return [c for c in cells if c.status is Status.OK and any(_good(s.duration_ns) for s in c.samples)]


def noise(cells: Sequence[Measurement]) -> str:
    """How far single samples lie from their medians, in words: half of them, and the furthest.

    Example:
        >>> noise([])
        ''
    """
    away = [abs(value) for cell in timed(cells) for _, value in _deviations(cell)]
    if not away:
        return ""
    if len(away) == 1:
        return "one sample: no spread to see"
    return f"half of {len(away)} samples within {_away(median(away))} of the median, the furthest {_away(max(away))}"


def samples_chart(group: Group, variants: Variants) -> Chart | None:
    """The picture of one group; None where nothing has samples."""
    cells = timed(group.cells)
    if not cells:
        return None
    return Chart(*(_draw(group, cells, variants, width) for width in (WIDE, NARROW)))


def _draw(group: Group, cells: Sequence[Measurement], variants: Variants, width: int) -> Markup:
    drawing = Drawing(width, f"Samples of {group.label}, {group.direction.value}, per cent of each variant's median")
    deviations = {id(c): _deviations(c) for c in cells}
    rounds = max((r for found in deviations.values() for r, _ in found), default=0)
    reach = _reach([abs(v) for found in deviations.values() for _, v in found])
    beyond = [v for found in deviations.values() for _, v in found if abs(v) > reach]
    names, room = (180, 250) if not drawing.narrow else (0, 0)
    left = names + 46 if not drawing.narrow else 44
    right = width - room - 24 if not drawing.narrow else width - 6
    x = Scale(-0.5, rounds + 0.5, left, right)
    y = 4.0
    thinned = False
    for cell in cells:
        place = variants.place(cell.variant)
        found = deviations[id(cell)]
        time = figures.duration(cell.median_ns, cell.low_ns, cell.high_ns)
        if drawing.narrow:
            y += 16
            drawing.text(0, y, cell.variant, f"name ink{place}", room=width / 2)
            drawing.text(width, y, time, "figures", "end")
            y += 6
        top, bottom = y + 4, y + _STRIP
        scale = Scale(-reach, reach, bottom, top)
        if not drawing.narrow:
            drawing.text(0, (top + bottom) / 2 + 4, cell.variant, f"name ink{place}", room=names - 10)
        drawing.rect(left, top, right - left, bottom - top, "strip")
        drawing.line(left, scale(0), right, scale(0), "grid")
        drawing.text(left - 6, top + 8, f"+{_away(reach)}", "axis", "end")
        drawing.text(left - 6, bottom, f"\u2212{_away(reach)}", "axis", "end")
        shown = found[:: max(1, math.ceil(len(found) / _MOST_POINTS))]
        thinned = thinned or len(shown) < len(found)
        drawing.path([(x(r), scale(v)) for r, v in shown], f"trace v{place}")
        drawing.strokes([(x(r), scale(v) - 2, scale(v) + 2) for r, v in shown], f"dots v{place}")
        if not drawing.narrow:
            _distribution(drawing, right + 16, (top + bottom) / 2, [v for _, v in found], reach, place)
            drawing.text(width, (top + bottom) / 2 + 4, time, "figures", "end")
        y = bottom + 4
    y += 14
    for tick in x.ticks(5 if drawing.narrow else 9):
        if tick >= 0 and tick == int(tick):
            drawing.text(x(tick), y, f"{tick:g}", "axis", "middle")
    drawing.text(left - 6, y, "round", "axis", "end")
    if not drawing.narrow:
        drawing.text(right + 66, y, "where they lie", "axis", "middle")
    if beyond:
        y += 18
        many = f"{len(beyond)} sample{'s lie' if len(beyond) > 1 else ' lies'}"
        drawing.text(0, y, f"{many} beyond the strips, up to {_away(max(beyond, key=abs))}", "quiet")
    if thinned:
        y += 18
        drawing.text(0, y, f"more than {_MOST_POINTS} samples: every n-th round is drawn", "quiet")
    return drawing.markup(y + 8)


def _distribution(
    drawing: Drawing, left: float, middle: float, values: Sequence[float], reach: float, place: int
) -> None:
    """Samples on a line from -reach to reach: a stroke each, a bar over the middle half, the median at 0."""
    scale = Scale(-reach, reach, left, left + 100)
    ordered = sorted(values)
    drawing.line(left, middle, left + 100, middle, "grid")
    if len(ordered) >= 4:
        low, high = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
        drawing.raw(
            f'<rect class="interval v{place}" x="{number(scale(low))}" y="{number(middle - 7)}" '
            f'width="{number(max(scale(high) - scale(low), 1))}" height="14"/>'
        )
    step = max(1, math.ceil(len(ordered) / _MOST_POINTS))
    drawing.strokes([(scale(v), middle - 5, middle + 5) for v in ordered[::step]], f"ticks v{place}")


def _reach(away: Sequence[float]) -> float:
    """Half the height of a strip: all samples, unless a few are so far out that the others would be a line."""
    ordered = sorted(away)
    most = ordered[len(ordered) * 9 // 10] if ordered else 1.0
    furthest = ordered[-1] if ordered else 1.0
    return max((furthest if furthest <= 6 * most else 3 * most) * 1.05, 0.5)


def _away(percent: float) -> str:
    """A distance from the median.

    Example:
        >>> _away(0.0821), _away(9800.0)
        ('0.082%', '98 times')
    """
    size = abs(percent)
    if size < 999.5:
        return f"{size:.2g}%" if size < 99.5 else f"{size:.0f}%"
    return f"{size / 100:.2g} times"


def _deviations(cell: Measurement) -> list[tuple[int, float]]:
    """Round and per cent from the median, in order of rounds."""
    samples = [s for s in cell.samples if _good(s.duration_ns)]
    if not samples:
        return []
    middle = median(s.duration_ns for s in samples)
    return sorted((s.round, 100 * (s.duration_ns / middle - 1)) for s in samples)


def _good(duration: float) -> bool:
    return math.isfinite(duration) and duration > 0
