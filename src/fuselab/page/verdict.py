"""The answer before the charts: a sentence, and is it faster, why, what is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from fuselab.measure.verdicts import CEILING_TOLERANCE
from fuselab.page.model import RunData, Variants, comparable, finite, groups_of, multiple, speedup_of
from fuselab.page.traffic import Picture
from fuselab.page.traffic_chart import saved
from fuselab.records import Direction, Measurement, RunStatus, Status, Verdict
from fuselab.report import figures
from fuselab.report.table import headline

__all__ = ["Answer", "Tally", "answers", "device_name", "sentence", "tallies"]

_COUNTED = (Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER, Verdict.UNRESOLVED, Verdict.WITHHELD)
_RESOLVED = (Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER)
_MEMORY_BOUND = 0.3
"""Share of the ceiling below which it is not memory that the time goes to."""


@dataclass(frozen=True)
class Tally:
    """How one variant came out over all groups."""

    variant: str
    place: int
    """Number of its colour."""
    counts: tuple[tuple[str, int], ...]
    """Verdict and how often; all five, in one order."""
    compared: int
    mean: float | None
    """Geometric mean of the speedups that may be shown."""
    lowest: float | None
    """Of the speedups that are resolved."""
    highest: float | None

    def count(self, verdict: Verdict) -> int:
        """How often it came to one verdict."""
        return dict(self.counts).get(verdict.value, 0)


@dataclass(frozen=True)
class Answer:
    """One of the three answers."""

    question: str
    short: str
    detail: str


def tallies(runs: Sequence[RunData], variants: Variants) -> list[Tally]:
    """One entry a variant that was compared with the baseline, those with the higher mean first."""
    found = []
    for name in variants.names:
        cells = [c for run in runs for c in run.cells if c.variant == name and comparable(c)]
        if not cells:
            continue
        verdicts = [c.comparison.verdict for c in cells if c.comparison]
        spans = [(c, span[1]) for c in cells if (span := speedup_of(c))]
        resolved = [s for c, s in spans if c.comparison and c.comparison.verdict in _RESOLVED]
        found.append(
            Tally(
                variant=name,
                place=variants.place(name),
                counts=tuple((v.value, verdicts.count(v)) for v in _COUNTED),
                compared=len(cells),
                mean=math.exp(sum(math.log(s) for _, s in spans) / len(spans)) if spans else None,
                lowest=min(resolved, default=None),
                highest=max(resolved, default=None),
            )
        )
    return sorted(found, key=lambda t: -(t.mean or 0.0))


def sentence(runs: Sequence[RunData], found: Sequence[Tally]) -> str:
    """The verdict over all runs of the page, in a sentence."""
    where = "On this CPU" if _is_cpu(runs) else f"On {device_name(runs)}"
    if not found:
        return f"Nothing was compared: {_why_nothing(runs)}."
    baselines = {c.comparison.baseline for run in runs for c in run.cells if c.comparison}
    baseline = next(iter(baselines)) if len(baselines) == 1 else "the baseline"
    parts = [
        f"{tally.variant} is {_came_out(tally, baseline, number == 0)}" for number, tally in enumerate(_told(found))
    ]
    text = f"{where}, {'; '.join(parts)}."
    wrong = sum(c.status is Status.WRONG or c.correct is False for run in runs for c in run.cells)
    if wrong:
        text += f" {wrong} cell{'s are' if wrong > 1 else ' is'} wrong and show{'s' if wrong == 1 else ''} no speedup."
    return text


def _told(found: Sequence[Tally]) -> list[Tally]:
    """Compile, which is the question, and the best of the others that has a verdict."""
    compiled = [t for t in found if t.variant == "compile"]
    others = [t for t in found if t.variant != "compile" and (t.lowest is not None or not compiled)]
    return [*compiled, *others[: 1 if compiled else 2]]


def _came_out(tally: Tally, baseline: str, first: bool) -> str:
    """What follows "compile is": the first part of a sentence says against what, the others do without."""
    faster, slower, equal = (tally.count(v) for v in (Verdict.FASTER, Verdict.SLOWER, Verdict.EQUIVALENT))
    than = f" than {baseline}" if first else ""
    of = f"of {tally.compared}" + (" comparisons" if first else "")
    if tally.compared == 1:
        words = {
            Verdict.FASTER: f"faster{than}",
            Verdict.SLOWER: f"slower{than}",
            Verdict.EQUIVALENT: f"as fast as {baseline}",
        }
        verdict = next((v for v in _COUNTED if tally.count(v)), Verdict.UNRESOLVED)
        speed = f" ({multiple(tally.highest)})" if tally.highest is not None else ""
        return f"{words.get(verdict, verdict.value)}{speed}"
    parts = []
    if faster:
        parts.append(f"faster{than} in {faster} {of}")
    if slower:
        parts.append(f"slower{'' if parts else than} in {slower}{'' if parts else ' ' + of}")
    if equal and not parts:
        parts.append(f"as fast as {baseline} in {equal} {of}")
    if not parts:
        return f"neither faster nor slower{than}: none {of} is resolved"
    span = (
        f" ({multiple(tally.lowest)} to {multiple(tally.highest)})"
        if tally.lowest != tally.highest
        else f" ({multiple(tally.highest)})"
    )
    return " and ".join(parts) + span


def answers(runs: Sequence[RunData], found: Sequence[Tally], pictures: Sequence[Picture]) -> list[Answer]:
    """Is it faster, why, what is left: each in a word or two, and a sentence."""
    shares = list(_best_shares(runs))
    return [_faster(found), _why(runs, pictures, [s for s, _ in shares]), _left(shares)]


def _faster(found: Sequence[Tally]) -> Answer:
    question = "Is it faster?"
    if not found or all(t.mean is None for t in found):
        return Answer(question, "no answer", "No speedup may be shown: the table has the reason of each cell.")
    asked = next((t for t in found if t.variant == "compile"), found[0])
    faster, slower, equal = (asked.count(v) for v in (Verdict.FASTER, Verdict.SLOWER, Verdict.EQUIVALENT))
    if faster == asked.compared:
        word = "yes"
    elif faster:
        word = f"in {faster} of {asked.compared}"
    elif slower:
        word = "no"
    else:
        word = "no difference" if equal == asked.compared else "not resolved"
    means = "; ".join(f"{t.variant} {multiple(t.mean)}" for t in found if t.mean is not None)
    return Answer(
        question, f"{asked.variant}: {word}", f"Geometric means over all workloads, forward and backward: {means}."
    )


def _why(runs: Sequence[RunData], pictures: Sequence[Picture], shares: Sequence[float]) -> Answer:
    question = "Why?"
    said = _launches(runs)
    if shares and median(shares) < _MEMORY_BOUND:
        said = (
            f"Half of the groups stay below {figures.share(median(shares))} of the memory's speed: their time is "
            f"launching, dispatch or arithmetic. {said}"
        )
        return Answer(question, "overhead, not memory", said.strip())
    forward = [p for p in pictures if p.group.direction is Direction.FORWARD and p.eager.moved > 0]
    if not forward:
        return Answer(question, "not captured", f"There are no graphs to count traffic from. {said}".strip())
    most = max(forward, key=lambda p: (p.eager.moved - p.fused.moved) / p.eager.moved)
    share = 1 - most.fused.moved / most.eager.moved
    if share <= 0.005:
        return Answer(question, "not by traffic", f"No forward writes what fusion could keep. {said}".strip())
    where = f"{most.group.run.metadata.experiment} {most.group.label}, forward"
    return Answer(question, f"up to −{share:.0%} traffic", f"{saved(most)} That is {where}. {said}".strip())  # noqa: RUF001


def _launches(runs: Sequence[RunData]) -> str:
    """Kernels of one call, eager and compiled."""
    counts: dict[str, list[int]] = {}
    for run in runs:
        for cell in run.cells:
            if cell.kernels_launched is not None and cell.status is Status.OK:
                counts.setdefault(cell.variant, []).append(cell.kernels_launched)
    if "eager" not in counts or "compile" not in counts:
        return ""
    return f"Kernels a call, median: eager {median(counts['eager']):g}, compile {median(counts['compile']):g}."


def _best_shares(runs: Sequence[RunData]) -> Iterator[tuple[float, str]]:
    """Of each group the best share of the ceiling, and where; above it is an error of measuring, or the cache."""
    for run in runs:
        for group in groups_of(run):
            shares = [
                share
                for cell in group.cells
                if _trusted(cell) and cell.ceiling
                for share in finite([cell.ceiling.share])
            ]
            best = max(shares, default=0.0)
            if 0 < best <= 1 + CEILING_TOLERANCE:
                yield best, f"{run.metadata.experiment} {group.label}, {group.direction.value}"


def _trusted(cell: Measurement) -> bool:
    withheld = cell.comparison is not None and cell.comparison.verdict is Verdict.WITHHELD
    return cell.status is Status.OK and cell.correct is not False and not withheld


def _left(shares: Sequence[tuple[float, str]]) -> Answer:
    question = "What is left?"
    if not shares:
        return Answer(question, "unknown", "No memory ceiling was measured, or none that a cell stays below.")
    middle = median(share for share, _ in shares)
    low, where = min(shares)
    more = f", at most {multiple(1 / low)} left" if _MEMORY_BOUND <= low < 0.995 else ""
    detail = "The fastest variant of each group against plain streaming in the same run."
    if len(shares) > 1:
        high = max(shares)[0]
        detail += f" {figures.share(low)} to {figures.share(high)}; furthest from it {where}{more}."
    median_ = "median " if len(shares) > 1 else ""
    return Answer(question, f"{median_}{figures.share(middle)} of the ceiling", detail)


def device_name(runs: Sequence[RunData]) -> str:
    """The device, or the devices, of the runs."""
    names = list(dict.fromkeys(headline(run.environment).plain.split(" · ")[0] for run in runs))
    return names[0] if len(names) == 1 else f"{len(names)} devices"


def _is_cpu(runs: Sequence[RunData]) -> bool:
    return all(run.environment.device_type == "cpu" for run in runs)


def _why_nothing(runs: Sequence[RunData]) -> str:
    if all(run.environment.device_type == "described" for run in runs):
        return "the device is described, nothing was measured"
    states = {run.metadata.status for run in runs}
    if not any(run.cells for run in runs):
        if RunStatus.FAILED in states:
            return "the run failed before its first measurement"
        if RunStatus.INTERRUPTED in states or RunStatus.RUNNING in states:
            return "the run has no measurement yet"
        return "the run holds no measurements"
    return "no variant has a time beside its baseline's"
