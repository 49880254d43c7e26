"""The bars of a calibration, from comparisons whose truth is known. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fuselab.measure.sequential import MIN_ROUNDS, Monitor, plan_looks
from fuselab.measure.statistics import median, trimmed_estimate
from fuselab.measure.verdicts import controlled
from fuselab.records import Verdict

__all__ = [
    "MARGIN",
    "Agreement",
    "Bar",
    "PairRecord",
    "agreement_bars",
    "pair_bars",
    "pair_record",
    "repeatability_bar",
]

MARGIN = 0.01
_DIFFERENT = (Verdict.FASTER, Verdict.SLOWER)


@dataclass(frozen=True)
class Bar:
    """One bar with the value it was measured at."""

    name: str
    target: str
    value: float | None
    passed: bool | None
    """None where there was nothing to measure it on; ``detail`` says why."""
    detail: str = ""


@dataclass(frozen=True)
class PairRecord:
    """One comparison whose truth is known."""

    case: str
    """Function, size and direction."""
    percent: int
    """How many more rows the second has: 0 for an A/A pair."""
    speedup: float
    """As measured over all rounds."""
    p_value: float
    """Raw, over all rounds."""
    look_p_value: float
    """Of the look at which a run would have stopped, over its share of the level."""
    verdict: Verdict
    """What a run would have said, before control over many comparisons."""
    rounds: int
    """Rounds after which a run would have stopped."""


@dataclass(frozen=True)
class Agreement:
    """One cell of one kernel by two clocks."""

    case: str
    """Function, size, direction and variant."""
    replay_ns: float
    """One call, under graph replay."""
    kernel_ns: float
    """Its kernel, as CUPTI reports it for such a replay."""
    gaps_ns: float
    """Until the next kernel, as CUPTI reports it."""


def pair_record(case: str, percent: int, ratios: Sequence[float]) -> PairRecord:
    """The raw test over all rounds, and what a run would have said, stopping where it would have stopped."""
    estimate = trimmed_estimate(ratios)
    looks = plan_looks(min(MIN_ROUNDS, len(ratios)), len(ratios))
    monitor = Monitor(margin=MARGIN)
    for rounds, share in zip(looks.rounds, looks.shares, strict=True):
        monitor.look(ratios[:rounds], share)
        if monitor.settled:
            break
    comparison = monitor.comparison("")
    return PairRecord(
        case=case,
        percent=percent,
        speedup=math.exp(estimate.centre),
        p_value=estimate.p_value,
        look_p_value=comparison.p_value or 0.0,
        verdict=comparison.verdict,
        rounds=comparison.rounds,
    )


def pair_bars(pairs: Sequence[PairRecord], device_type: str) -> list[Bar]:
    """False verdicts, raw and after margin and control, and what was found of the known differences."""
    raw = [pair.p_value < 0.05 for pair in pairs if pair.percent == 0]
    adjusted = controlled([(pair.verdict, pair.look_p_value) for pair in pairs])
    final: dict[int, list[Verdict]] = {0: [], 1: [], 2: []}
    for pair, p in zip(pairs, adjusted, strict=True):
        lost = pair.verdict in _DIFFERENT and p > 0.05
        final[pair.percent].append(Verdict.UNRESOLVED if lost else pair.verdict)

    def share(percent: int, *verdicts: Verdict) -> float:
        return sum(v in verdicts for v in final[percent]) / len(final[percent])

    level, false = sum(raw) / len(raw), share(0, *_DIFFERENT)
    on_gpu = device_type == "cuda"
    most = 0.005 if on_gpu else 0.02
    counted = f"of {len(raw)} pairs"
    # The bar is for 400 pairs and more; on fewer the figure itself is more uncertain than the bar is wide.
    more = 2 * math.sqrt(0.05 * 0.95) * max(0.0, 1 / math.sqrt(len(raw)) - 1 / math.sqrt(400))
    within = 0.029 - more <= level <= 0.071 + more
    bars = [
        Bar("A/A pairs called different, raw at 95%", "2.9 to 7.1%", level, within, counted),
        Bar("A/A pairs called different, margin and control", f"at most {most:.1%}", false, false <= most, counted),
    ]
    found = {percent: share(percent, Verdict.SLOWER) for percent in (1, 2)}
    counted = f"of {len(final[2])} controls"
    if on_gpu:
        bars += [
            Bar("2% more rows found slower", "at least 95%", found[2], found[2] >= 0.95, counted),
            Bar("1% more rows found slower", "at least 80%", found[1], found[1] >= 0.80, counted),
        ]
    missed = share(2, Verdict.EQUIVALENT, Verdict.FASTER)
    undecided = f"{counted}; found {found[2]:.0%}, unresolved {share(2, Verdict.UNRESOLVED):.0%}"
    bars.append(Bar("2% more rows called equivalent", "at most 5%", missed, missed <= 0.05, undecided))
    return bars


def agreement_bars(agreements: Sequence[Agreement]) -> list[Bar]:
    """Replay against kernel time, and against kernel time with the gap to the next kernel, of which a replay has one a
    call and a kernel none."""
    names = ("within 3% of CUPTI's kernel time", "within 3% of CUPTI's kernel time and gaps")
    target = "in 95% of cells"
    if not agreements:
        return [Bar(name, target, None, None, "no cell of one kernel with a CUPTI time") for name in names]
    bars = []
    for name, gaps in zip(names, (0.0, 1.0), strict=True):
        apart = [abs(math.log(each.replay_ns / (each.kernel_ns + gaps * each.gaps_ns))) for each in agreements]
        agreeing = sum(distance <= math.log1p(0.03) for distance in apart) / len(apart)
        detail = f"of {len(apart)} cells of one kernel; median {median(apart):.1%} apart"
        bars.append(Bar(name, target, agreeing, agreeing >= 0.95, detail))
    return bars


def repeatability_bar(speedups: Mapping[str, Sequence[float]], device_type: str, repeats: int) -> Bar:
    """How far the speedup of one comparison differs between processes; at most 1%, as half of the range."""
    spreads = [(max(each) - min(each)) / 2 / median(list(each)) for each in speedups.values()]
    within = sum(spread <= 0.01 for spread in spreads) / len(spreads)
    detail = f"of {len(spreads)} cells in {repeats} processes; median half-range {median(spreads):.1%}"
    name, target = "speedup repeated within 1%", "in 90% of cells"
    return Bar(name, target, within, within >= 0.9 if device_type == "cuda" else None, detail)
