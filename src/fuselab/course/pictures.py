"""The course's pictures: SVG drawn by Altair and vl-convert here, so that a notebook shows them without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fuselab.course.display import Shown, bars
from fuselab.errors import UsageError

__all__ = ["Picture", "line", "log_bars", "traffic"]

COLOURS = {"read": "#4c78a8", "written": "#f58518"}
WIDTH = 560
EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""Operators that get memory and touch none of it."""
FILLING = frozenset({"bernoulli_", "exponential_", "fill_", "normal_", "random_", "uniform_", "zero_"})
"""Operators that write over their argument without reading it."""


class Picture(Shown):
    """A chart as SVG, with the same as text."""

    def __init__(self, chart: Any, text: str) -> None:
        import vl_convert

        svg = vl_convert.vegalite_to_svg(chart.to_json())
        super().__init__(f'<div style="background:#fff;max-width:100%;overflow-x:auto">{svg}</div>', text)


def chart_of(rows: Sequence[Mapping[str, object]]) -> Any:
    """An empty chart of some rows."""
    import altair

    data: Any = altair.Data
    return altair.Chart(data(values=[dict(row) for row in rows]))


def log_bars(title: str, values: Mapping[str, float], unit: str) -> Picture:
    """Few values that may lie far apart: points on a logarithmic axis.

    Raises:
        UsageError: there are none, or one is not above zero.
    """
    import altair

    if not values or min(values.values()) <= 0:
        raise UsageError(f"{title}: values have to be above zero", hint="a logarithm has no place for others")
    rows = [{"what": name, "value": value, "text": f"{three_figures(value)} {unit}"} for name, value in values.items()]
    span = [min(values.values()) / 2, max(values.values()) * 3]
    base = chart_of(rows).encode(
        x=altair.X(
            "value:Q",
            title=unit,
            scale=altair.Scale(type="log", domain=span),
            axis=altair.Axis(tickCount=5, format=",~r"),
        ),
        y=altair.Y("what:N", title=None, sort=None),
    )
    points = base.mark_point(filled=True, size=120).encode(color=altair.Color("what:N", legend=None, sort=None))
    words = base.mark_text(align="left", dx=10).encode(text="text:N")
    chart = (points + words).properties(title=title, width=WIDTH, height=28 * len(values))
    return Picture(chart, f"{title} ({unit})\n{bars(values)}")


def three_figures(value: float) -> str:
    """A value with three figures, thousands set apart and no exponent where it is large.

    Example:
        >>> three_figures(122_917.0), three_figures(5.247), three_figures(0.00123)
        ('123,000', '5.25', '0.00123')
    """
    if value < 1000:
        return f"{value:.3g}"
    return f"{round(value, 2 - math.floor(math.log10(value))):,.0f}"


def line(title: str, rows: Sequence[Mapping[str, object]], x: str, y: str, color: str, log: bool = False) -> Picture:
    """Lines over ``x``, one for each ``color``.

    Args:
        title: above the chart.
        rows: one mapping a point.
        x, y, color: names in the mappings; used as titles of the axes.
        log: whether both axes are logarithmic.
    """
    import altair

    scale = altair.Scale(type="log") if log else altair.Scale(zero=False)
    chart = (
        chart_of([dict(row) for row in rows])
        .mark_line(point=True)
        .encode(
            x=altair.X(f"{x}:Q", scale=scale, title=x),
            y=altair.Y(f"{y}:Q", scale=scale, title=y),
            color=altair.Color(f"{color}:N", title=color, sort=None),
        )
        .properties(title=title, width=WIDTH, height=240)
    )
    names = list(dict.fromkeys(str(row[color]) for row in rows))
    return Picture(chart, f"{title}: {y} over {x}, by {color} ({', '.join(names)}), {len(rows)} points")


def traffic(function: Callable[..., Any], *args: Any, title: str = "") -> Picture:
    """What each operator of an eager call reads and writes, beside one kernel that reads and writes everything once.

    The operators are watched while they run: the bytes of the tensors that each takes and returns. Views and memory
    that is only made move nothing.

    Args:
        function: of the tensors.
        args: its arguments.
        title: above the picture.
    """
    import altair

    steps, fewest = moved_bytes(function, *args)
    named = [(f"{i} {name}", read, written) for i, (name, read, written) in enumerate(steps, 1)]
    together = sum(read for _, read, _ in steps), sum(written for _, _, written in steps)
    rows = [
        {"step": name, "what": what, "MB": count / 1e6}
        for name, read, written in [*named, ("eager, together", *together), ("all of it in one kernel", *fewest)]
        for what, count in (("read", read), ("written", written))
    ]
    chart = (
        chart_of(rows)
        .mark_bar()
        .encode(
            x=altair.X("sum(MB):Q", title="MB through memory"),
            y=altair.Y("step:N", title=None, sort=None),
            color=altair.Color(
                "what:N", title=None, scale=altair.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
            ),
        )
        .properties(title=title, width=WIDTH, height=26 * (len(steps) + 2))
    )
    words = (
        f"eager moves {sum(together) / 1e6:.3g} MB in {len(steps)} operators; the fewest are {sum(fewest) / 1e6:.3g} MB"
    )
    return Picture(chart.properties(title=[title, words] if title else words), f"{title}\n{words}")


def moved_bytes(function: Callable[..., Any], *args: Any) -> tuple[list[tuple[str, int, int]], tuple[int, int]]:
    """Bytes read and written by each operator of an eager call, and by one kernel that does all of it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    steps: list[tuple[str, int, int]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = operator(*args, **(kwargs or {}))
            name = operator.overloadpacket.__name__
            if not operator.is_view and name not in EMPTY:
                read, written = _bytes_of((args, kwargs)), _bytes_of(out)
                if name in FILLING:
                    read -= _bytes_of(args[0])
                if read or written:
                    steps.append((name, read, written))
            return out

    watch: Any = Watch
    with watch(), torch.no_grad():
        result = function(*args)
    return steps, (_bytes_of(args), _bytes_of(result))


def _bytes_of(value: Any) -> int:
    import torch

    leaves, _ = torch.utils._pytree.tree_flatten(value)
    return sum(t.numel() * t.element_size() for t in leaves if isinstance(t, torch.Tensor))
