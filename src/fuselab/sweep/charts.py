"""A sweep's charts: heat maps of the speedup over two axes, and time against memory with the cells nobody beats.

Altair checks the specifications, vl-convert draws them as SVG without a browser. Measurements of two models of device
never share a chart.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import Measurement, Status, Verdict

__all__ = ["Chart", "axes_of", "charts", "heat_map", "pareto", "pareto_front"]

LARGEST_SIDE = 24
"""Values on a side of a heat map beyond which nobody reads it."""

MOST_POINTS = 2000
"""Points of one chart; more are a grey cloud."""

MOST_CHARTS = 24
"""Charts of a page; what is beyond is said and left to the export."""


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One chart, drawn."""

    title: str
    """What it shows."""
    caption: str
    """How to read it, and what is left out."""
    svg: str
    """The picture."""


def axes_of(cells: Iterable[Measurement]) -> dict[str, list[Any]]:
    """Axes along which the cells differ, with their values in order: sizes, dtype, options.

    Example:
        >>> from fuselab.records import Direction, Workload
        >>> def cell(rows):
        ...     workload = Workload(shape=(rows, 256), dtype="f32")
        ...     return Measurement(
        ...         experiment="silu", variant="eager", workload=workload, direction=Direction.FORWARD, status=Status.OK
        ...     )
        >>> axes_of([cell(64), cell(8)])
        {'rows': [8, 64]}
    """
    found: dict[str, set[Any]] = {}
    for cell in cells:
        for name, value in _point(cell).items():
            found.setdefault(name, set()).add(value)
    return {name: _ordered(values) for name, values in found.items() if len(values) > 1}


def charts(cells: Sequence[Measurement], x: str | None = None, y: str | None = None) -> tuple[list[Chart], list[str]]:
    """All charts of a sweep, and what was left out of them.

    Args:
        cells: of all runs, verdicts settled.
        x, y: axes of the heat maps; the two with most values unless given.

    Raises:
        UnknownNameError: no such axis.
        UsageError: one axis was named twice.
    """
    drawn: list[Chart] = []
    notes: list[str] = []
    by_run: dict[tuple[str, str], list[Measurement]] = {}
    for cell in cells:
        by_run.setdefault((cell.experiment, cell.device), []).append(cell)
    for (experiment, device), found in by_run.items():
        across, down = _two_axes(found, x, y)
        where = f"{experiment} on {device or 'an unknown device'}"
        front = pareto(found, where)
        drawn += [front] if front else []
        if across is None:
            notes.append(f"{where}: no heat map, since its workloads differ along no axis")
            continue
        for variant, direction in _groups(found):
            group = [m for m in found if (m.variant, m.direction.value) == (variant, direction)]
            if len(drawn) >= MOST_CHARTS:
                notes.append(f"{where}: {variant} {direction} is not drawn; the export has it")
            elif chart := heat_map(group, across, down, f"{variant} {direction}, {where}"):
                drawn.append(chart)
    return drawn, notes


def heat_map(cells: Sequence[Measurement], x: str, y: str | None, title: str) -> Chart | None:
    """Speedups over two axes, one square a point: the median where other axes leave several; None without a speedup.

    Args:
        cells: of one variant, direction and model.
        x, y: the axes; without ``y`` one row.
        title: what the cells are of.
    """
    squares: dict[tuple[Any, Any], list[Measurement]] = {}
    for cell in cells:
        point = _point(cell)
        squares.setdefault((point.get(x), point.get(y) if y else ""), []).append(cell)
    rows = [_square(across, down, found) for (across, down), found in squares.items()]
    if not any(row["speedup"] is not None for row in rows):
        return None
    order_x = list(map(str, _ordered({across for across, _ in squares})))
    order_y = list(map(str, _ordered({down for _, down in squares})))
    kept_x, kept_y = set(order_x[:LARGEST_SIDE]), set(order_y[:LARGEST_SIDE])
    kept = [row for row in rows if row["x"] in kept_x and row["y"] in kept_y]
    several = max(len(found) for found in squares.values())
    caption = "speedup over the baseline; grey: no verdict that may be quoted; white letters: the status of what failed"
    caption += f"; each square is the median of up to {several} workloads" if several > 1 else ""
    caption += f"; {len(rows) - len(kept)} squares are left out" if len(kept) < len(rows) else ""
    alt = importlib.import_module("altair")
    axis_x = alt.X("x:N", title=x, sort=order_x, axis=alt.Axis(labelAngle=-45))
    axis_y = alt.Y("y:N", title=y or "", sort=order_y[::-1])
    widest = max(0.05, *(abs(row["log2"]) for row in kept if row["log2"] is not None))
    base = alt.Chart(alt.Data(values=kept)).encode(x=axis_x, y=axis_y)
    fill = alt.Color(
        "log2:Q",
        title="log2 speedup",
        scale=alt.Scale(domain=[-widest, 0, widest], range=["#b2182b", "#f7f7f7", "#2166ac"]),
    )
    valid = base.transform_filter("datum.quoted").mark_rect().encode(color=fill)
    other = base.transform_filter("!datum.quoted").mark_rect(color="#8a8a8a")
    words = base.mark_text(fontSize=9).encode(
        text="text:N", color=alt.condition("datum.dark", alt.value("white"), alt.value("black"))
    )
    chart = alt.layer(other, valid, words).properties(
        title=title, width=max(120, 44 * len(kept_x)), height=max(40, 22 * len(kept_y))
    )
    return Chart(title=title, caption=caption, svg=_svg(chart))


def pareto(cells: Sequence[Measurement], title: str) -> Chart | None:
    """Time against peak memory of every variant, by workload relative to the baseline; None where memory is unknown.

    Both are ratios to the baseline of the same workload and direction, so that workloads can share one picture. A
    variant is on the front of its group when no other is at least as fast and at least as small, and better in one.
    """
    rows: list[dict[str, Any]] = []
    for group in _workload_groups(cells):
        timed = [m for m in group if _plottable(m)]
        base = next((m for m in timed if m.comparison and m.comparison.verdict is Verdict.BASELINE), None)
        if base is None:
            continue
        front = {id(m) for m in pareto_front(timed)}
        rows += [
            {
                "variant": m.variant,
                "time": (m.median_ns or 0.0) / (base.median_ns or 1.0),
                "memory": (m.peak_memory_bytes or 0) / (base.peak_memory_bytes or 1),
                "front": id(m) in front,
                "what": f"{m.workload.label} {m.direction.value}",
            }
            for m in timed
        ]
    if not rows:
        return None
    alt = importlib.import_module("altair")
    chart = (
        alt.Chart(alt.Data(values=rows[:MOST_POINTS]))
        .mark_point(filled=True, size=36)
        .encode(
            x=alt.X("time:Q", title="time, relative to the baseline", scale=alt.Scale(type="log")),
            y=alt.Y("memory:Q", title="peak memory, relative to the baseline"),
            color=alt.Color("variant:N", title="variant"),
            shape=alt.Shape("variant:N", title="variant"),
            opacity=alt.condition("datum.front", alt.value(1.0), alt.value(0.25)),
        )
        .properties(title=f"time and memory, {title}", width=420, height=280)
    )
    caption = "lower left is better; solid: no other variant of the same workload is as fast and as small"
    caption += f"; {len(rows) - MOST_POINTS} points are left out" if len(rows) > MOST_POINTS else ""
    return Chart(title=f"time and memory, {title}", caption=caption, svg=_svg(chart))


def pareto_front(cells: Sequence[Measurement]) -> list[Measurement]:
    """The cells that no other beats in both time and peak memory; those without either are left out."""
    known = [m for m in cells if _plottable(m)]

    def beaten(m: Measurement) -> bool:
        time, memory = m.median_ns or 0.0, m.peak_memory_bytes or 0
        return any(
            (o.median_ns or 0.0) <= time
            and (o.peak_memory_bytes or 0) <= memory
            and ((o.median_ns or 0.0), (o.peak_memory_bytes or 0)) != (time, memory)
            for o in known
        )

    return [m for m in known if not beaten(m)]


def _plottable(m: Measurement) -> bool:
    withheld = m.comparison is not None and m.comparison.verdict is Verdict.WITHHELD
    return m.status is Status.OK and bool(m.median_ns) and bool(m.peak_memory_bytes) and not withheld


def _square(across: Any, down: Any, found: Sequence[Measurement]) -> dict[str, Any]:
    """One square: a speedup only where every cell behind it is right and its verdict may be quoted."""
    import math
    from statistics import median

    fine = [m for m in found if m.status in (Status.OK, Status.CHECKED)]
    quoted = [
        m.comparison.speedup
        for m in fine
        if m.comparison and m.comparison.speedup and m.comparison.verdict is not Verdict.WITHHELD
    ]
    whole = len(quoted) == len(found)
    speedup = median(quoted) if whole and quoted else None
    log2 = math.log2(speedup) if speedup else None
    failed = next((m.status.value.replace("_", " ") for m in found if m not in fine), "")
    unresolved = any(m.comparison and m.comparison.verdict is Verdict.UNRESOLVED for m in fine)
    text = f"{speedup:.2f}{'?' if unresolved else ''}" if speedup else failed or "-"
    return {
        "x": str(across),
        "y": str(down),
        "speedup": speedup,
        "log2": log2,
        "quoted": speedup is not None,
        "dark": speedup is None or abs(log2 or 0.0) > 1.0,
        "text": text,
    }


def _two_axes(cells: Sequence[Measurement], x: str | None, y: str | None) -> tuple[str | None, str | None]:
    axes = axes_of(cells)
    known = set().union(*(_point(cell) for cell in cells))
    for name in (x, y):
        if name is not None and name not in known:
            raise UnknownNameError("axis", name, known, plural="axes")
    if x is not None and x == y:
        raise UsageError(f"{x} is named for both axes", hint="--x and --y are two")
    left = sorted((name for name in axes if name not in (x, y)), key=lambda name: -len(axes[name]))
    across = x or (left.pop(0) if left else None)
    down = y or (left.pop(0) if left else None)
    return across, down


def _groups(cells: Sequence[Measurement]) -> list[tuple[str, str]]:
    """Variants other than the baseline and their directions, in order of appearance."""
    return list(
        dict.fromkeys(
            (m.variant, m.direction.value)
            for m in cells
            if not (m.comparison and m.comparison.verdict is Verdict.BASELINE)
        )
    )


def _workload_groups(cells: Sequence[Measurement]) -> list[list[Measurement]]:
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for m in cells:
        groups.setdefault((m.workload.key, m.direction.value), []).append(m)
    return list(groups.values())


def _point(cell: Measurement) -> Mapping[str, Any]:
    """Where a cell lies: sizes by name, dtype, options, arguments of a user's function."""
    workload = cell.workload
    point: dict[str, Any] = {}
    if workload.shape:
        point = {"rows": workload.rows, "width": workload.shape[-1], "dtype": workload.dtype}
    return {**point, **workload.options, **workload.arguments}


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Numbers by size, then words by letter."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return [*sorted(numbers), *sorted((v for v in values if v not in numbers), key=str)]


def _svg(chart: Any) -> str:
    return str(importlib.import_module("vl_convert").vegalite_to_svg(chart.to_dict()))
