"""Total time against calls: a line a way of starting, with bands, on logarithmic axes; a self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fuselab.report.drawing import WIDTH, document, label
from fuselab.report.table import headline
from fuselab.report.text import one_line
from fuselab.report.waterfall import rows_of
from fuselab.startup.break_even import Costs, costs_of, totals
from fuselab.startup.records import BreakEven, CompileCost, Configuration, Start, Unit

__all__ = ["break_even_svg", "count_text", "sentence"]

COLOURS: dict[Start, str] = {
    Start.EAGER: "#6e7781",
    Start.COLD: "#cf222e",
    Start.WARM: "#fb8f44",
    Start.ARTIFACTS: "#8250df",
    Start.AOTI: "#1a7f37",
}
"""Colour of each way of starting."""

_POINTS = 160
_MARGIN = 24
_LEFT, _RIGHT = 84, 150
_HEIGHT = 300
_SECTION = _HEIGHT + 84


def count_text(count: int | None) -> str:
    """A number of calls as people read it.

    Example:
        >>> count_text(12345), count_text(None)
        ('12,345', 'never')
    """
    return "never" if count is None else f"{count:,}"


def sentence(found: BreakEven) -> str:
    """A break-even in words, with its interval.

    Example:
        >>> sentence(BreakEven(start=Start.WARM, configuration=Configuration(), against=Start.EAGER, unit=Unit.CALLS,
        ...                    count=931, low=700, high=None, never=0.04, processes=3))
        '931 calls [700, never], never in 4% of the resamples'
    """
    if found.count is None:
        text = "never"
    elif found.count == 1:
        text = f"from the first {'call' if found.unit is Unit.CALLS else 'start'} on"
    else:
        text = f"{count_text(found.count)} {found.unit.value}"
    if found.never is None:
        return f"{text} (one process: no interval)"
    if found.low == found.high == found.count:
        return text
    text = f"{text} [{count_text(found.low)}, {count_text(found.high)}]"
    return f"{text}, never in {found.never:.0%} of the resamples" if 0.005 <= found.never < 1 else text


def break_even_svg(cost: CompileCost) -> str:
    """Total time of the first N calls by way of starting, from being spawned, with the spread of the processes.

    Args:
        cost: what was measured.
    """
    title = f"Total time against calls: {cost.experiment}"
    body = [
        label(_MARGIN, 36, title, "title"),
        label(_MARGIN, 58, f"{one_line(cost.workload.label, 60)} · {headline(cost.environment).plain}", "quiet"),
    ]
    y = 84
    for configuration in cost.configurations:
        lines = [(s, found) for s, records in rows_of(cost, configuration) if (found := costs_of(records))]
        if lines:
            body += _section(cost, configuration, lines, y)
            y += _SECTION
    if y == 84:
        body.append(label(_MARGIN, y, "nothing reached a steady state", "quiet"))
        y += 30
    return document(title, body, y)


def _section(
    cost: CompileCost, configuration: Configuration, lines: Sequence[tuple[Start, Costs]], y: int
) -> list[str]:
    crossings = [b for b in cost.break_even if b.configuration == configuration and b.unit is Unit.CALLS]
    calls = np.geomspace(1, _last_call(lines, crossings), _POINTS)
    curves = {start: np.array([totals(row, calls) for row in costs.rows]) / 1e9 for start, costs in lines}
    axes = _Axes(calls, list(curves.values()), y + 16)
    body = [label(_MARGIN, y, configuration.label, "head"), *axes.grid()]
    ends = _apart({start: axes.y(float(curve.mean(axis=0)[-1])) for start, curve in curves.items()})
    for start, curve in curves.items():
        colour = COLOURS[start]
        low, high = curve.min(axis=0), curve.max(axis=0)
        there = " ".join(f"{axes.x(c):.1f},{axes.y(v):.1f}" for c, v in zip(calls, high, strict=True))
        back = " ".join(f"{axes.x(c):.1f},{axes.y(v):.1f}" for c, v in zip(calls[::-1], low[::-1], strict=True))
        mean = " ".join(f"{axes.x(c):.1f},{axes.y(v):.1f}" for c, v in zip(calls, curve.mean(axis=0), strict=True))
        body.append(f'<polygon class="band" points="{there} {back}" fill="{colour}"/>')
        body.append(f'<polyline class="line" points="{mean}" stroke="{colour}"/>')
        body.append(label(axes.right + 8, ends[start] + 4, start.value))
        body.append(f'<rect x="{axes.right + 2:g}" y="{ends[start] - 4:.1f}" width="4" height="8" fill="{colour}"/>')
    for found in crossings:
        if found.against is Start.EAGER and found.count is not None and found.start in curves:
            value = float(np.interp(found.count, calls, curves[found.start].mean(axis=0)))
            x, at = axes.x(found.count), axes.y(value)
            body.append(
                f'<circle cx="{x:.1f}" cy="{at:.1f}" r="4" fill="{COLOURS[found.start]}">'
                f"<title>{found.start.value}: {sentence(found)}</title></circle>"
            )
    return body


def _last_call(lines: Sequence[tuple[Start, Costs]], crossings: Sequence[BreakEven]) -> float:
    """Calls up to which to draw: past every break-even, or until the calls cost as much as the start."""
    counts = [float(n) for b in crossings for n in (b.count, b.high) if n is not None]
    whole = [costs.mean()[0] / max(costs.mean()[-1], 1.0) for _, costs in lines]
    return float(min(max([10.0, *(4 * n for n in counts), *(2 * w for w in whole)]), 1e12))


def _apart(ends: dict[Start, float]) -> dict[Start, float]:
    """Labels at the ends of lines, pushed down until none lies on another."""
    placed: dict[Start, float] = {}
    last = -math.inf
    for start, y in sorted(ends.items(), key=lambda item: item[1]):
        last = max(y, last + 15)
        placed[start] = last
    return placed


class _Axes:
    """Two logarithmic axes: calls to the right, seconds upwards."""

    def __init__(self, calls: np.ndarray, curves: Sequence[np.ndarray], top: int) -> None:
        self.left, self.right = _MARGIN + _LEFT, WIDTH - _MARGIN - _RIGHT
        self.top, self.bottom = top, top + _HEIGHT
        self._calls = (0.0, math.log10(float(calls[-1])))
        low = min(float(curve.min()) for curve in curves)
        high = max(float(curve.max()) for curve in curves)
        self._seconds = (math.log10(max(low, 1e-9)) - 0.05, math.log10(max(high, 2e-9)) + 0.05)

    def x(self, calls: float) -> float:
        """The horizontal place of a number of calls."""
        low, high = self._calls
        return self.left + (math.log10(max(calls, 1.0)) - low) / (high - low) * (self.right - self.left)

    def y(self, seconds: float) -> float:
        """The vertical place of a time."""
        low, high = self._seconds
        return self.bottom - (math.log10(max(seconds, 1e-9)) - low) / (high - low) * (self.bottom - self.top)

    def grid(self) -> list[str]:
        """Lines at powers of ten with their numbers, and at 2 and 5 where there is room."""
        parts = []
        for exponent in range(math.floor(self._calls[1]) + 1):
            x = self.x(10.0**exponent)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}"/>')
            parts.append(label(round(x, 1), self.bottom + 18, f"{10**exponent:,}", "quiet figures", "middle"))
        parts.append(label((self.left + self.right) / 2, self.bottom + 38, "calls", "quiet", "middle"))
        digits = (1,) if self._seconds[1] - self._seconds[0] > 3 else (1, 2, 5)
        for exponent in range(math.floor(self._seconds[0]), math.ceil(self._seconds[1]) + 1):
            for digit in digits:
                value = digit * 10.0**exponent
                if self._seconds[0] <= math.log10(value) <= self._seconds[1]:
                    y = self.y(value)
                    parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
                    parts.append(label(self.left - 8, round(y + 4, 1), f"{value:g} s", "quiet figures", "end"))
        return parts
