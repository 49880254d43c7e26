"""What hardware allows at best: bytes over bandwidth, operations over rates, and a recorded cell's place below it.

The roofline (Williams, Waterman and Patterson, 2009): below the ridge memory sets the time, above it arithmetic does.
"""

from __future__ import annotations

from typing import Any

from fuselab.course import recorded
from fuselab.course.display import Rows, Shown
from fuselab.course.pictures import WIDTH, Picture, chart_of
from fuselab.errors import UsageError
from fuselab.targets import Target, find

__all__ = ["fewest_us", "intensities", "intensity", "recorded_limits", "ridge", "roofline"]


def fewest_us(words: str, target: str = "h200") -> float:
    """The fewest microseconds that a recorded cell's bytes take at a device's bandwidth.

    Example:
        >>> round(fewest_us("rms_norm 16384x4096 forward triton"), 1)
        55.9
    """
    traffic = recorded.measurement(words).traffic
    if traffic is None:
        raise UsageError(f"nobody counted the bytes of {words!r}")
    return traffic.bytes_moved / find(target).bandwidth_bytes_per_s * 1e6


def intensity(words: str) -> float:
    """Floating-point operations for each byte that a recorded cell has to move."""
    traffic = recorded.measurement(words).traffic
    if traffic is None:
        raise UsageError(f"nobody counted the bytes of {words!r}")
    return traffic.operations / traffic.bytes_moved


def ridge(target: str = "h200") -> float:
    """Operations a byte from which on float32 arithmetic and not memory sets the time."""
    device = find(target)
    if device.f32_flops is None:
        raise UsageError(f"{target} has no float32 rate in its description")
    return device.f32_flops / device.bandwidth_bytes_per_s


def intensities(target: str = "h200") -> Rows:
    """Operations a byte of the four experiments' forwards, beside those at the ridge."""
    cells = [cell for cell in _cells() if cell.variant == "eager"]
    rows = [(c.experiment, c.workload.label, f"{c.traffic.operations / c.traffic.bytes_moved:.1f}") for c in cells]
    rows.append(("the ridge", f"{find(target).device_name}, float32", f"{ridge(target):.1f}"))
    return Rows(("experiment", "workload", "operations a byte"), rows)


def roofline(target: str = "h200") -> Picture:
    """The four experiments' recorded forwards below an H200's roof: eager, compiled and ours at each intensity."""
    import altair

    points = [_point(cell) for cell in _cells()]
    span = [min(float(str(point["rate"])) for point in points) / 2, (find(target).f32_flops or 0.0) / 1e12 * 2]
    base = chart_of(points).encode(
        x=altair.X(
            "intensity:Q", scale=altair.Scale(type="log", domain=[0.5, 100], nice=False), title="operations a byte"
        ),
        y=altair.Y(
            "rate:Q", scale=altair.Scale(type="log", domain=span, nice=False), title="10^12 operations a second"
        ),
        color=altair.Color("variant:N", title=None),
        shape=altair.Shape("experiment:N", title=None),
    )
    roof = chart_of(_roof(find(target))).mark_line(color="#888").encode(x="intensity:Q", y="rate:Q")
    chart = (roof + base.mark_point(filled=True, size=90)).properties(
        title=[f"Below the roof of {find(target).device_name}", recorded.label()], width=WIDTH, height=280
    )
    return Picture(chart, f"{len(points)} recorded forwards below the roof, {recorded.label()}")


def _cells() -> list[Any]:
    cells = []
    for run in recorded.document()["runs"]:
        outcome = recorded.outcome(run["metadata"]["experiment"])
        shown = [m for m in outcome.measurements if m.variant in recorded.COMPARED and m.direction.value == "forward"]
        cells += [m for m in shown if m.median_ns and m.traffic and m.traffic.operations]
    return cells


def _point(cell: Any) -> dict[str, object]:
    return {
        "experiment": cell.experiment,
        "variant": cell.variant,
        "intensity": cell.traffic.operations / cell.traffic.bytes_moved,
        "rate": cell.traffic.operations / cell.median_ns / 1e3,
    }


def _roof(device: Target) -> list[dict[str, float]]:
    top = (device.f32_flops or 0.0) / 1e12
    slope = device.bandwidth_bytes_per_s / 1e12
    return [{"intensity": x, "rate": min(top, slope * x)} for x in (0.5, top / slope, 100.0)]


def recorded_limits() -> Shown:
    """Each recorded experiment's largest generated kernel: what limits it, found by taking one resource away."""
    rows = [
        (row["experiment"], row["workload"], row["card"]["name"], row["measured"]["judged"]["limiter"])
        for row in recorded.document("h200-limiters")["kernels"]
    ]
    return Rows(("experiment", "workload", "kernel", "is limited by"), rows, title=recorded.label())
