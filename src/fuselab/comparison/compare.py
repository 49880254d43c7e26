"""Two or more runs, each against the first: cells, kernels, surroundings, and what a reader should know first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuselab.comparison.estimates import REPEATABILITY
from fuselab.comparison.judging import compare_cells, variant_pairs
from fuselab.comparison.kernels import compare_kernels
from fuselab.comparison.records import (
    CellChange,
    Judgement,
    KernelChange,
    KernelMatch,
    Pairing,
    RunsComparison,
    SideComparison,
)
from fuselab.comparison.sides import Side, open_sides
from fuselab.comparison.surroundings import differences, same_software
from fuselab.errors import UsageError

__all__ = ["compare_runs", "parse_share"]

_SHARE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*")
_NAMED = 4
"""Cells or kernels that a headline names before it counts."""


def parse_share(text: str) -> float | None:
    """``2%`` or ``0.02`` as a share; None where nothing was given.

    Raises:
        UsageError: it is neither, or a number of one or more without the sign.

    Example:
        >>> parse_share("2%"), parse_share("0.02"), parse_share("")
        (0.02, 0.02, None)
    """
    if not text.strip():
        return None
    match = _SHARE.fullmatch(text)
    if match is None:
        raise UsageError(f"--fail-over {text!r} is no share", hint="write 2% or 0.02")
    value = float(match[1])
    if not match[2] and value >= 1:
        raise UsageError(f"--fail-over {text} would be {value:.0%}", hint=f"write {value:g}% if that is meant")
    return value / 100 if match[2] else value


def compare_runs(
    names: Sequence[str], root: Path, *, variants: Sequence[str] = (), fail_over: float | None = None
) -> RunsComparison:
    """Compare runs, or variants of runs, with the first.

    Args:
        names: ``RUN`` or ``RUN@VARIANT`` each; the first is the base.
        root: directory that holds the runs.
        variants: with one RUN: its variants to be compared, the first the base.
        fail_over: share beyond which a slower cell is a regression, 0.02 for 2%; without, the runs' margin is.

    Raises:
        UsageError: nothing to compare with, different experiments, no workload in common, or a threshold below zero.
        UnknownNameError: no such run or variant.
        StoreError: a run cannot be read.
    """
    if fail_over is not None and not 0.0 <= fail_over < 1e6:
        raise UsageError(
            f"a regression past {fail_over} is none", hint="--fail-over 2% is what a slowdown may not exceed"
        )
    sides = open_sides(names, root, variants)
    base = sides[0]
    _require_common_workloads(sides)
    margin = max(side.metadata.margin for side in sides)
    threshold = margin if fail_over is None else fail_over
    # A threshold below the margin asks for smaller differences than the margin lets be told.
    margin = min(margin, threshold) or min(side.metadata.margin for side in sides)
    return RunsComparison(
        runs=[side.record() for side in sides],
        environment=differences(sides),
        comparisons=[_against(base, side, threshold, margin) for side in sides[1:]],
        fail_over=fail_over,
        threshold=threshold,
        margin=margin,
    )


def _require_common_workloads(sides: Sequence[Side]) -> None:
    base = sides[0]
    for side in sides[1:]:
        if base.workloads and side.workloads and not base.workloads.keys() & side.workloads.keys():
            listed = [", ".join(w.label for w in s.workloads.values()) for s in (base, side)]
            raise UsageError(
                f"{base.metadata.id} and {side.metadata.id} have no workload in common",
                hint=f"{base.label} has {listed[0]}; {side.label} has {listed[1]}. Shapes, dtypes and options have to"
                " be the same: times of different ones are never compared",
            )


def _against(base: Side, new: Side, threshold: float, margin: float) -> SideComparison:
    software = same_software(base, new)
    cells = compare_cells(base, new, threshold=threshold, margin=margin, same_software=software)
    kernels = compare_kernels(base, new, variant_pairs(base, new))
    return SideComparison(
        base=base.label,
        new=new.label,
        cells=cells,
        kernels=kernels,
        headlines=list(_headlines(cells, kernels)),
        caveats=list(_caveats(base, new, cells, software)),
    )


def _headlines(cells: Sequence[CellChange], kernels: Sequence[KernelChange]) -> Iterator[str]:
    for cell in cells:
        if cell.judgement is Judgement.BROKEN:
            yield f"{_place(cell)}: {cell.reason}"
    for cell in cells:
        if cell.judgement is Judgement.REGRESSION and cell.change is not None:
            yield f"{_place(cell)}: {cell.change.change:+.1%}"
    yield from _fusion(cells, kernels)
    turned = [
        f"{_place(c)} {c.base.verdict} -> {c.new.verdict}"
        for c in cells
        if c.verdict_changed and c.base is not None and c.new is not None and c.base.verdict and c.new.verdict
        and c.base.variant == c.new.variant
    ]  # fmt: skip
    if turned:
        yield "verdicts against the run's own baseline that changed: " + _listed(turned)


def _fusion(cells: Sequence[CellChange], kernels: Sequence[KernelChange]) -> Iterator[str]:
    """Launches that changed, then kernels that are gone or new: fusion is what this is about."""
    for cell in cells:
        if cell.base is None or cell.new is None or None in (cell.base.kernels_launched, cell.new.kernels_launched):
            continue
        before, after = cell.base.kernels_launched, cell.new.kernels_launched
        if before != after:
            noun = "kernel" if after == 1 else "kernels"
            yield f"fusion changed: {_place(cell)} launches {after} {noun} instead of {before}"
    if not all(
        any(side is not None for side in sides) for sides in ([k.base for k in kernels], [k.new for k in kernels])
    ):
        return  # one of them has no kernels that could be captured, as eager
    for match, words in ((KernelMatch.GONE, "no longer generated"), (KernelMatch.NEW, "generated now")):
        sides = [(k.base or k.new, k) for k in kernels if k.match is match]
        if sides:
            yield f"{words}: " + _listed(
                [f"{side.name} ({k.direction.value} {k.workload})" for side, k in sides if side]
            )


def _caveats(base: Side, new: Side, cells: Sequence[CellChange], software: bool) -> Iterator[str]:
    for side in (base, new):
        for note in side.notes:
            yield f"{side.label}: {note}"
    if base.metadata.id == new.metadata.id and base.variant == new.variant:
        yield f"{base.label} and {new.label} are one run: every cell is compared with itself"
    apart = [cell for cell in cells if cell.pairing is Pairing.APART]
    if not apart:
        return
    moved = [abs(y.change) for cell in apart for y in cell.yardsticks if y.used]
    yard = f"; they moved by up to {max(moved):.1%}" if moved else "; there was no yardstick"
    yield (
        f"{len(apart)} of {len(cells)} cells were not measured together: their intervals are wider by what the"
        f" yardsticks moved by between the runs, and by {REPEATABILITY:.0%}{yard}."
        " To be sure, time both in one run, as two variants"
    )
    if not software:
        yield ("the software differs, so the baseline may have changed by itself: only the ceiling is a yardstick")


def _place(cell: CellChange) -> str:
    names = {side.variant for side in (cell.base, cell.new) if side is not None}
    variant = f"{names.pop()} " if len(names) == 1 else ""  # of two variants the runs' labels tell
    return f"{variant}{cell.direction.value} {cell.workload}"


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more
