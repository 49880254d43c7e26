"""What compiling cost: the first call of every variant, after how many calls it has paid, and the measured starts.

A run has the wall time of each first call. After how many calls that has paid is a prediction from it and the times of
one call, and says so. What ``fuselab compile-cost`` measured, by phase and in fresh processes, is shown where its
directory lies beside the run's and is of the same experiment, device and torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fuselab.errors import StoreError
from fuselab.page.drawing import NARROW, WIDE, Chart, Drawing, Scale
from fuselab.page.model import Group, RunData, Variants, finite, groups_of
from fuselab.records import Measurement, Status
from fuselab.report import figures
from fuselab.report.break_even import break_even_svg
from fuselab.report.waterfall import waterfall_svg
from fuselab.startup.journal import load_compile_cost
from fuselab.startup.records import CompileCost
from fuselab.store.files import safe_name

__all__ = ["FirstCall", "Measured", "cost_chart", "costs_beside", "first_calls", "pictures"]

FOLDER = "compile-cost"
_ROW = 24
_MOST = 120
_NEWEST = 3


@dataclass(frozen=True)
class FirstCall:
    """The first call of one compiled variant."""

    group: Group
    cell: Measurement
    first_ns: int
    calls: float | None
    """Calls after which it has paid, predicted; None where it never does, or nothing says."""

    @property
    def payback(self) -> str:
        """The prediction in words."""
        if self.calls is None:
            return "never, at these times"
        return f"after {round(self.calls, -max(0, math.floor(math.log10(max(self.calls, 1))) - 1)):,.0f} calls"


@dataclass(frozen=True)
class Measured:
    """What ``fuselab compile-cost`` measured of one experiment, drawn."""

    title: str
    waterfall: Markup
    break_even: Markup


def first_calls(runs: Sequence[RunData]) -> list[FirstCall]:
    """One entry a compiled variant of a workload: its first call is a forward with its backward, timed together."""
    found: dict[tuple[int, str, str], FirstCall] = {}
    for run in runs:
        compiled = {k.variant for k in run.metadata.kernels} | {a.variant for a in run.metadata.artifacts}
        groups = groups_of(run)
        for group in groups:
            for cell in group.cells:
                key = (run.index, cell.workload.key, cell.variant)
                good = cell.variant in compiled and cell.status in (Status.OK, Status.CHECKED)
                if good and cell.compile_ns and key not in found:
                    step = [g for g in groups if g.cells[0].workload.key == cell.workload.key]
                    found[key] = FirstCall(group, cell, cell.compile_ns, _calls(step, cell))
    return list(found.values())


def _calls(step: Sequence[Group], cell: Measurement) -> float | None:
    """First call over what each further call saves; eager's own first call is left out, which favours eager.

    Args:
        step: the groups of the workload: what a call consists of.
        cell: of the variant, in any of them.
    """
    saved = 0.0
    for group in step:
        mine = next((c for c in group.cells if c.variant == cell.variant), None)
        baseline = mine.comparison.baseline if mine and mine.comparison else ""
        before = finite(c.median_ns for c in group.cells if c.variant == baseline)
        after = finite([mine.median_ns]) if mine else []
        if not before or not after:
            return None
        saved += before[0] - after[0]
    return cell.compile_ns / saved if saved > 0 and cell.compile_ns is not None else None


def cost_chart(calls: Sequence[FirstCall], variants: Variants) -> Chart | None:
    """Bars of the first calls; None where none was timed."""
    if not calls:
        return None
    return Chart(*(_draw(calls, variants, width) for width in (WIDE, NARROW)))


def _draw(calls: Sequence[FirstCall], variants: Variants, width: int) -> Markup:
    drawing = Drawing(width, "Time of the first call, compilation included")
    left, right = (200.0, width - 250.0) if not drawing.narrow else (0.0, float(width))
    scale = Scale(0, max(c.first_ns for c in calls), left, right)
    y, heading = 0.0, ""
    for call in calls[:_MOST]:
        group = call.group
        title = f"{group.run.metadata.experiment}  {group.label}"
        if title != heading:
            y += 22
            drawing.text(0, y, title, "head", room=width)
            heading = title
            y += 4
        place = variants.place(call.cell.variant)
        name = call.cell.variant
        said = f"{figures.duration(float(call.first_ns))}, pays {call.payback}"
        if drawing.narrow:
            y += 16
            drawing.text(0, y, name, f"name ink{place}", room=150)
            drawing.text(width, y, said, "figures", "end", room=205)
            y += 5
            drawing.rect(left, y, max(scale(call.first_ns) - left, 1), 8, f"bar v{place}", f"{name}: {said}", radius=2)
            y += 12
        else:
            drawing.text(12, y + 16, name, f"name ink{place}", room=left - 20)
            drawing.rect(
                left, y + 5, max(scale(call.first_ns) - left, 1), 14, f"bar v{place}", f"{name}: {said}", radius=2
            )
            drawing.text(scale(call.first_ns) + 8, y + 16, said, "figures")
            y += _ROW
    if len(calls) > _MOST:
        y += 18
        drawing.text(0, y, f"and {len(calls) - _MOST} more: --json has all of them", "quiet")
    return drawing.markup(y + 8, "cost")


def costs_beside(run: RunData) -> list[CompileCost]:
    """What was measured of the same experiment on the same kind of device and torch, the newest first.

    What cannot be read counts as not there.
    """
    parent = run.path.parent.parent / FOLDER
    name = run.run.path.parent.name
    try:
        found = sorted((p for p in parent.glob(f"{name}-*") if p.is_dir()), key=lambda p: p.name, reverse=True)
    except OSError:
        return []
    costs = [cost for path in found[:_NEWEST] if (cost := _loaded(path)) is not None]
    return [
        c
        for c in costs
        if c.starts
        and safe_name(c.experiment) == name  # "silu-" begins the names of others as well
        and c.environment.device_type == run.environment.device_type
        and c.environment.versions.get("torch") == run.environment.versions.get("torch")
    ]


def _loaded(path: Path) -> CompileCost | None:
    try:
        return load_compile_cost(path)
    except StoreError:
        return None


def pictures(cost: CompileCost, redact: Callable[[str], str]) -> Measured:
    """The waterfall and the break-even of one measurement, without the style sheet that they carry as files."""
    return Measured(
        title=redact(f"{cost.experiment}  {cost.workload.label}"),
        waterfall=_plain(redact(waterfall_svg(cost))),
        break_even=_plain(redact(break_even_svg(cost))),
    )


def _plain(svg: str) -> Markup:
    """The picture without its style element, which the policy would refuse; the page's style sheet has the rules."""
    before, _, rest = svg.partition("<style>")
    return Markup(before + rest.partition("</style>")[2])  # noqa: S704 - drawn by report, which escapes its texts
