"""The answer before the charts: a sentence, and is it faster, why, what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fuselab.page.model import RunData, Variants, comparable, finite, speedup_of
from fuselab.page.traffic import Picture
from fuselab.page.traffic_chart import saved
from fuselab.records import Direction, Measurement, RunStatus, Status, Verdict
from fuselab.report import figures
from fuselab.report.table import headline

__all__ = ["Answer", "Tally", "answers", "device_name", "sentence", "tallies"]

_COUNTED = (Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER, Verdict.UNRESOLVED, Verdict.WITHHELD)


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
    best: Measurement | None
    worst: Measurement | None

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
        mean = math.exp(sum(math.log(s) for _, s in spans) / len(spans)) if spans else None
        ordered = sorted(spans, key=lambda item: item[1])
        found.append(
            Tally(
                variant=name,
                place=variants.place(name),
                counts=tuple((v.value, verdicts.count(v)) for v in _COUNTED),
                compared=len(cells),
                mean=mean,
                best=ordered[-1][0] if ordered else None,
                worst=ordered[0][0] if ordered else None,
            )
        )
    return sorted(found, key=lambda t: -(t.mean or 0.0))


def sentence(runs: Sequence[RunData], found: Sequence[Tally]) -> str:
    """The verdict over all runs of the page, in a sentence."""
    where = "On this CPU" if _is_cpu(runs) else f"On {device_name(runs)}"
    baselines = {c.comparison.baseline for run in runs for c in run.cells if c.comparison}
    baseline = next(iter(baselines)) if len(baselines) == 1 else "the baseline"
    if not found:
        return f"Nothing was compared: {_why_nothing(runs)}."
    parts = [
        f"{tally.variant} is {_came_out(tally, baseline if number == 0 else '')}"
        for number, tally in enumerate(_told(found))
    ]
    text = f"{where}, {'; '.join(parts)}."
    wrong = sum(c.status is Status.WRONG or c.correct is False for run in runs for c in run.cells)
    if wrong:
        text += f" {wrong} cell{'s are' if wrong > 1 else ' is'} wrong and show{'s' if wrong == 1 else ''} no speedup."
    return text


def _told(found: Sequence[Tally]) -> list[Tally]:
    """Compile, which is the question, and the best of the others."""
    compiled = [t for t in found if t.variant == "compile"]
    others = [t for t in found if t.variant != "compile"]
    return [*compiled, *others[: 1 if compiled else 2]]


def _came_out(tally: Tally, baseline: str) -> str:
    faster, slower = tally.count(Verdict.FASTER), tally.count(Verdict.SLOWER)
    than = f" than {baseline}" if baseline else ""
    if tally.compared == 1:
        verdict = next((name for name, count in tally.counts if count), "")
        words = {
            "faster": f"faster{than}",
            "slower": f"slower{than}",
            "equivalent": f"as fast{than.replace(' than', ' as')}",
        }
        speed = f" ({figures.ratio(tally.mean).replace('x', '×')})" if tally.mean is not None else ""
        return f"{words.get(verdict, verdict)}{speed}"
    counted = f"faster{than} in {faster} of {tally.compared} comparisons"
    if slower:
        counted += f" and slower in {slower}"
    best = _spoken(tally.best)
    worst = _spoken(tally.worst)
    if best is None or worst is None:
        return f"{counted}, no speedup to quote"
    return f"{counted} ({worst} to {best})"


def _spoken(cell: Measurement | None) -> str | None:
    span = speedup_of(cell) if cell is not None else None
    return figures.ratio(span[1]).replace("x", "×") if span else None


def answers(runs: Sequence[RunData], found: Sequence[Tally], pictures: Sequence[Picture]) -> list[Answer]:
    """Is it faster, why, what is left: each in a word or two, and a sentence."""
    return [_faster(found), _why(runs, pictures), _left(runs)]


def _faster(found: Sequence[Tally]) -> Answer:
    question = "Is it faster?"
    if not found or found[0].mean is None:
        return Answer(question, "no answer", "No speedup may be shown: see the table for the reason of each cell.")
    first = found[0]
    detail = "; ".join(f"{t.variant} {figures.ratio(t.mean).replace('x', '×')}" for t in found if t.mean is not None)
    word = "yes" if (first.mean or 1) > 1.01 else ("no" if (first.mean or 1) < 0.99 else "no difference")
    compiled = next((t for t in found if t.variant == "compile"), first)
    if word == "yes" and compiled.count(Verdict.SLOWER):
        word = "mostly"
    return Answer(question, word, f"Geometric mean over all workloads and both directions: {detail}.")


def _why(runs: Sequence[RunData], pictures: Sequence[Picture]) -> Answer:
    question = "Why?"
    forward = [p for p in pictures if p.group.direction is Direction.FORWARD and p.eager.moved > 0]
    if forward:
        most = max(forward, key=lambda p: (p.eager.moved - p.fused.moved) / p.eager.moved)
        share = 1 - most.fused.moved / most.eager.moved
        where = f"{most.group.run.metadata.experiment} {most.group.label}, forward"
        if share > 0.005:
            return Answer(
                question,
                f"−{share:.0%} memory traffic",
                f"{saved(most)} The most of all: {where}. {_launches(runs)}".strip(),
            )
        return Answer(
            question, "not by traffic", f"No forward has traffic that fusion could save. {_launches(runs)}".strip()
        )
    return Answer(
        question, "not captured", f"This run holds no graphs to count traffic from. {_launches(runs)}".strip()
    )


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


def _left(runs: Sequence[RunData]) -> Answer:
    question = "What is left?"
    groups: dict[tuple[int, str, str], list[float]] = {}
    for run in runs:
        for cell in run.cells:
            if cell.ceiling is None or cell.status is not Status.OK or cell.correct is False:
                continue
            if cell.comparison and cell.comparison.verdict is Verdict.WITHHELD:
                continue
            for share in finite([cell.ceiling.share]):
                groups.setdefault((run.index, cell.workload.key, cell.direction.value), []).append(share)
    best = [max(shares) for shares in groups.values() if shares and max(shares) > 0]
    if not best:
        return Answer(question, "unknown", "No memory ceiling was measured, or every cell was withheld.")
    low = min(best)
    word = (
        f"{figures.share(low)} to {figures.share(max(best))} of the ceiling"
        if len(best) > 1
        else f"{figures.share(low)} of the ceiling"
    )
    more = f"{1 / low:.2f}×" if low < 0.995 else "nothing"
    return Answer(
        question,
        word,
        f"What the fastest variant of each group reaches of plain streaming in the same run, median {figures.share(median(best))}. "
        f"The most that memory leaves anywhere: {more}.",
    )


def device_name(runs: Sequence[RunData]) -> str:
    """The device, or the devices, of the runs."""
    names = list(dict.fromkeys(headline(run.environment).plain.split(" · ")[0] for run in runs))
    return names[0] if len(names) == 1 else f"{len(names)} devices"


def _is_cpu(runs: Sequence[RunData]) -> bool:
    return all(run.environment.device_type == "cpu" for run in runs)


def _why_nothing(runs: Sequence[RunData]) -> str:
    states = {run.metadata.status for run in runs}
    if not any(run.cells for run in runs):
        if RunStatus.FAILED in states:
            return "the run failed before its first measurement"
        if RunStatus.INTERRUPTED in states or RunStatus.RUNNING in states:
            return "the run has no measurement yet"
        return "the run holds no measurements"
    return "no variant has a time beside its baseline's"
