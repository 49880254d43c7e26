"""What a run knows the truth of, in one line: copies of the baselines, and controls with 2% more work."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from fuselab.records import Comparison, Measurement

__all__ = ["certificate_line"]


def certificate_line(measurements: Sequence[Measurement]) -> Text | None:
    """How second copies of the baselines and the known 2% came out; None where none were timed, as on a CPU."""
    copies = [m.self_comparison for m in measurements if m.self_comparison is not None]
    controls = [m.control_comparison for m in measurements if m.control_comparison is not None]
    said = []
    if copies:
        said.append(f"{_counted(copies, 'copy', 'copies')} of a baseline within {_furthest(copies):.1%} of it")
    if controls:
        found = sorted(1 / (c.speedup or 1.0) - 1 for c in controls)
        span = f"{found[0]:.1%}" if len(found) == 1 else f"{found[0]:.1%} to {found[-1]:.1%}"
        said.append(f"{_counted(controls, 'control', 'controls')} of exactly 2% more found as {span}")
    return Text(f"self-certification: {'; '.join(said)}", style="dim") if said else None


def _furthest(comparisons: Sequence[Comparison]) -> float:
    return max(abs((c.speedup or 1.0) - 1) for c in comparisons)


def _counted(found: Sequence[Comparison], one: str, many: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else many}"
