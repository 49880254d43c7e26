"""What is said of a cell on two sides: whether it can be compared, what broke, and which slower cell is a regression.

A cell is a **regression** when its verdict is *slower*, with the false discovery rate controlled over all judged cells
of the two runs, and its estimate is past the threshold. A cell that was correct and measured and is now wrong, or
fails, is **broken**: that counts whatever its speed, and needs no statistics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from fuselab.comparison.estimates import (
    FEWEST_ROUNDS,
    allowance_of,
    apart,
    common_clock,
    paired,
    relative,
    share_spent,
    timed_together,
    yardstick,
)
from fuselab.comparison.records import CellChange, CellSide, Change, Judgement, Pairing, Yardstick
from fuselab.comparison.sides import Side
from fuselab.measure.verdicts import TIMED_OUTPUT_WRONG, WITHHOLDING, controlled
from fuselab.records import Clock, Direction, Measurement, Sample, Status, Verdict

__all__ = ["FALSE_DISCOVERY_RATE", "NOT_TOGETHER", "compare_cells", "variant_pairs"]

FALSE_DISCOVERY_RATE = 0.05

_DONE = (Status.OK, Status.CHECKED)
_FAILED = (Status.WRONG, Status.ERROR, Status.EXITED, Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY)
_DIFFERENCES = (Verdict.FASTER, Verdict.SLOWER)
_SAID = {
    Verdict.FASTER: Judgement.FASTER,
    Verdict.SLOWER: Judgement.SLOWER,
    Verdict.EQUIVALENT: Judgement.EQUIVALENT,
}
_TUNED = re.compile(r", \d+ elements a program")
NOT_TOGETHER = "not measured together"
"""The reason of a cell that was timed in two processes and about which nothing else is to be said."""
_WORDS = {
    Status.WRONG: "is wrong",
    Status.ERROR: "raises",
    Status.EXITED: "ends its process",
    Status.CRASHED: "crashes",
    Status.TIMED_OUT: "does not end",
    Status.OUT_OF_MEMORY: "runs out of memory",
}


def compare_cells(base: Side, new: Side, *, threshold: float, margin: float, same_software: bool) -> list[CellChange]:
    """Every cell of either side, in the order of the base's plan.

    Args:
        base, new: the sides; with a variant each, that of the one is compared with that of the other.
        threshold: share beyond which a slower cell is a regression.
        margin: share below which two times count as equal.
        same_software: whether the baseline's own code is the same in both, so that it is a yardstick.
    """
    pairs = variant_pairs(base, new)
    workloads = list(dict.fromkeys([*base.workloads, *new.workloads]))
    directions = [d for d in Direction if d in {k[1] for k in (*base.cells, *new.cells)}]
    found = []
    for workload in workloads:
        for direction in directions:
            for before, after in pairs:
                old = base.cells.get((workload, direction, before)) if before else None
                young = new.cells.get((workload, direction, after)) if after else None
                if old is not None or young is not None:
                    found.append(_Pair(base, new, old, young, margin, same_software).compared())
    return [_judged(cell, threshold) for cell in _controlled(found)]


def variant_pairs(base: Side, new: Side) -> list[tuple[str, str]]:
    """Names to compare; an empty name where one side has no such variant."""
    if base.variant is not None and new.variant is not None:
        return [(base.variant, new.variant)]
    ours, theirs = base.variants, new.variants
    shared = [(v, v if v in theirs else "") for v in ours]
    return shared + [("", v) for v in theirs if v not in ours]


class _Pair:
    """One cell on both sides, on its way to what is said of it."""

    def __init__(
        self,
        base: Side,
        new: Side,
        old: Measurement | None,
        young: Measurement | None,
        margin: float,
        same_software: bool,
    ) -> None:
        self.sides = base, new
        self.old, self.young = old, young
        self.margin = margin
        self.same_software = same_software

    def compared(self) -> CellChange:
        """The cell with its change, not yet controlled over the others."""
        known = self.young or self.old
        assert known is not None  # noqa: S101 - at least one side has the cell
        first = self.old or known
        cell = CellChange(
            workload=first.workload.label,
            workload_key=first.workload.key,
            direction=first.direction,
            base=None if self.old is None else _side_of(self.old),
            new=None if self.young is None else _side_of(self.young),
            pairing=Pairing.NONE,
            judgement=Judgement.NOT_JUDGED,
        )
        if self.old is None or self.young is None:
            side, missing = (Judgement.ONLY_BASE, self.sides[1]) if self.young is None else (
                Judgement.ONLY_NEW, self.sides[0]
            )  # fmt: skip
            return _replace(cell, judgement=side, reason=f"{missing.label} has no such cell")
        return self._both(cell, self.old, self.young)

    def _both(self, cell: CellChange, old: Measurement, young: Measurement) -> CellChange:
        clocked = common_clock(old, young)
        for judgement, reason in (
            (Judgement.BROKEN, _broken(old, young)),
            (Judgement.MENDED, _mended(old, young)),
            (Judgement.NOT_JUDGED, _unusable(cell)),
            (Judgement.NOT_COMPARABLE, self._not_comparable(old, young)),
        ):
            if reason:
                return _replace(cell, judgement=judgement, reason=reason)
        if clocked is None:
            reason = f"no clock in common: {old.clock} and {young.clock}"
            return _replace(cell, judgement=Judgement.NOT_COMPARABLE, reason=reason)
        clock, above, below = clocked
        try:
            compared = self._timed(cell, old, young, above, below)
        except ValueError as error:
            return _replace(cell, reason=str(error))
        if clock is not old.clock or clock is not young.clock:
            by = "CUDA events around eager calls" if clock is Clock.CUDA_EVENTS else str(clock)
            compared = _replace(compared, reason=_joined(compared.reason, f"compared by {by}, which both have"))
        return compared

    def _timed(
        self, cell: CellChange, old: Measurement, young: Measurement, above: list[Sample], below: list[Sample]
    ) -> CellChange:
        """The change; raises ``ValueError`` where samples are too few or no times."""
        one_run = len({(side.metadata.id, side.metadata.created_at) for side in self.sides}) == 1
        # Another clock may have been read after the group's rounds: rounds of one number are then not the same.
        together = one_run and timed_together(old, young) and {s.round for s in above} == {s.round for s in below}
        same = one_run and old == young
        if same or together:
            share = share_spent(self._group(0, old))
            return _replace(
                cell,
                pairing=Pairing.SAME if same else Pairing.TOGETHER,
                change=paired(above, below, share=share, margin=self.margin),
                reason="it is the same cell" if same else "",
            )
        yardsticks = self._yardsticks(old, young)
        allowance = allowance_of(yardsticks)
        share = min(share_spent(self._group(0, old)), share_spent(self._group(1, young)))
        change = apart(above, below, allowance=allowance or 0.0, share=share, margin=self.margin)
        reason = NOT_TOGETHER
        if allowance is None:
            reason = f"{NOT_TOGETHER}, and nothing else that could be a yardstick was measured in both"
            change = _replace(change, low=None, high=None, p_value=None, verdict=Verdict.UNRESOLVED)
        return _replace(
            cell,
            pairing=Pairing.APART,
            change=change,
            relative=self._relative(old, young, share),
            yardsticks=yardsticks,
            allowance=allowance,
            reason=reason,
        )

    def _group(self, which: int, cell: Measurement) -> dict[str, Measurement]:
        """The stored cells that were timed with one, and itself."""
        stored = self.sides[which].raw
        return {
            m.variant: m
            for m in stored
            if m.workload == cell.workload
            and m.direction is cell.direction
            and (m.variant == cell.variant or timed_together(m, cell))
        }

    def _yardsticks(self, old: Measurement, young: Measurement) -> list[Yardstick]:
        found = []
        if old.ceiling is not None and young.ceiling is not None:
            found.append(
                yardstick("ceiling", old.ceiling.duration_ns, young.ceiling.duration_ns,
                          used=_mix(old.ceiling.method) == _mix(young.ceiling.method))
            )  # fmt: skip
        before, after = self._baselines(old, young)
        if before is not None and after is not None and before.median_ns and after.median_ns:
            used = self.same_software and before.correct is not False and after.correct is not False
            found.append(yardstick(before.variant, before.median_ns, after.median_ns, used=used))
        return found

    def _baselines(self, old: Measurement, young: Measurement) -> tuple[Measurement | None, Measurement | None]:
        """The baseline's cells beside two others, where it is one variant and neither of them."""
        names = {side.metadata.baseline for side in self.sides}
        name = next(iter(names))
        if len(names) > 1 or name in (old.variant, young.variant):
            return None, None
        before, after = self._group(0, old).get(name), self._group(1, young).get(name)
        if before is None or after is None or before.clock is not after.clock or before.status is not after.status:
            return None, None
        return before, after

    def _relative(self, old: Measurement, young: Measurement, share: float) -> Change | None:
        before, after = self._baselines(old, young)
        if before is None or after is None:
            return None
        halves = common_clock(before, old), common_clock(after, young)
        if halves[0] is None or halves[1] is None or halves[0][0] is not halves[1][0]:
            return None
        try:
            return relative(halves[0][2], halves[0][1], halves[1][2], halves[1][1], share)
        except ValueError:  # too few rounds in common: there is no such figure
            return None

    def _not_comparable(self, old: Measurement, young: Measurement) -> str:
        before, after = (side.environment for side in self.sides)
        if before.device_type != after.device_type:
            names = (f"{e.device} ({e.device_type})" for e in (before, after))
            return f"figures of a CPU and of a GPU are never pooled: {' and '.join(names)}"
        if before.device != after.device:
            return f"other devices: {before.device} and {after.device}"
        if old.cold is not young.cold:
            words = {True: "cold", False: "warm", None: "unknown"}
            return f"other caches: {words[old.cold]} and {words[young.cold]}"
        return ""


def _controlled(cells: Sequence[CellChange]) -> list[CellChange]:
    """Differences that do not pass Benjamini and Hochberg's procedure over all cells become unresolved."""
    compared = {
        n: (c.change.verdict, c.change.p_value)
        for n, c in enumerate(cells)
        if c.change is not None and c.change.p_value is not None
    }
    adjusted = dict(zip(compared, controlled(list(compared.values())), strict=True))
    settled = list(cells)
    for n, p_value in adjusted.items():
        change = cells[n].change
        assert change is not None  # noqa: S101 - only those have p-values
        verdict = change.verdict
        if verdict in _DIFFERENCES and p_value > FALSE_DISCOVERY_RATE:
            verdict = Verdict.UNRESOLVED
        settled[n] = _replace(cells[n], change=_replace(change, adjusted_p_value=p_value, verdict=verdict))
    return settled


def _judged(cell: CellChange, threshold: float) -> CellChange:
    if cell.change is None:
        return cell
    said = _SAID.get(cell.change.verdict, Judgement.UNRESOLVED)
    if said is Judgement.SLOWER and cell.change.change > threshold:
        said = Judgement.REGRESSION
    return _replace(cell, judgement=said)


def _broken(old: Measurement, young: Measurement) -> str:
    """Why a cell that was right is not any more; empty where it is, or was not."""
    if old.status not in _DONE or old.correct is False or _warned(old, TIMED_OUTPUT_WRONG):
        return ""
    if young.correct is False or young.status is Status.WRONG:
        why = young.correctness.reason if young.correctness is not None else ""
        return f"it was correct and is wrong: {why or young.reason}".rstrip(": ")
    if young.status in _FAILED:
        return f"it was measured and now {_WORDS[young.status]}: {young.reason}".rstrip(": ")
    if warning := _warned(young, TIMED_OUTPUT_WRONG):
        return f"it was correct and {warning}"
    return ""


def _mended(old: Measurement, young: Measurement) -> str:
    """What a cell was that is right now; empty where it was right, or still is not."""
    return f"it was {_reason(old)}" if old.status in _FAILED and young.status in _DONE else ""


def _unusable(cell: CellChange) -> str:
    """Why one of the sides has no figure to compare; empty where both have."""
    for label, side in (("base", cell.base), ("new", cell.new)):
        assert side is not None  # noqa: S101 - both were given
        words = "the base" if label == "base" else "the new side"
        if side.status is Status.CHECKED:
            return f"{words} was checked and not timed on purpose"
        if side.status is not Status.OK:
            return f"{words}: {side.reason or side.status.value}"
        if side.correct is False:
            return f"{words} is wrong: {side.reason}".rstrip(": ")
        if side.reason:
            return f"{words} is not to be trusted: {side.reason}"
        if side.rounds < FEWEST_ROUNDS:
            return (
                f"{words} has {side.rounds} round{'' if side.rounds == 1 else 's'}; an interval needs {FEWEST_ROUNDS}"
            )
    return ""


def _side_of(cell: Measurement) -> CellSide:
    comparison = cell.comparison
    return CellSide(
        variant=cell.variant,
        status=cell.status,
        reason=_reason(cell),
        correct=cell.correct,
        median_ns=_finite(cell.median_ns),
        low_ns=_finite(cell.low_ns),
        high_ns=_finite(cell.high_ns),
        rounds=len({sample.round for sample in cell.samples}),
        baseline=comparison.baseline if comparison else "",
        verdict=comparison.verdict if comparison else None,
        speedup=_finite(comparison.speedup) if comparison else None,
        speedup_low=_finite(comparison.low) if comparison else None,
        speedup_high=_finite(comparison.high) if comparison else None,
        ceiling_share=_finite(cell.ceiling.share) if cell.ceiling else None,
        kernels_launched=cell.kernels_launched,
        peak_memory_bytes=cell.peak_memory_bytes,
        durations_ns=[s.duration_ns for s in sorted(cell.samples, key=lambda s: s.round)],
    )


def _reason(cell: Measurement) -> str:
    """Why there is no figure to trust; empty where there is."""
    if cell.status is not Status.OK:
        return f"{cell.status.value.replace('_', ' ')}: {cell.reason}".rstrip(": ")
    if cell.correct is False:
        return (cell.correctness.reason if cell.correctness else "") or "wrong"
    return next((w for w in cell.warnings if w.startswith(WITHHOLDING)), "")


def _warned(cell: Measurement, beginning: str) -> str:
    return next((w for w in cell.warnings if w.startswith(beginning)), "")


def _mix(method: str) -> str:
    """The ceiling's method without what its tuning chose."""
    return _TUNED.sub("", method)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


_replace = msgspec.structs.replace
