"""The engine measured by itself: how often it is wrong about what is known, bar by bar.

Groups hold eight copies of one function, which make four disjoint pairs that are equally fast, and two controls with
exactly 1% and 2% more rows. All rounds are taken; the looks of a run are then gone through on the recording, so that
one recording tells both the raw level of the test and the verdicts that a run would have reached.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.group import Arm, Timing, time_group
from fuselab.measure.sequential import MIN_ROUNDS, Monitor, plan_looks
from fuselab.measure.statistics import benjamini_hochberg, median, paired_log_ratios, trimmed_estimate
from fuselab.measure.timing import by_round
from fuselab.measure.verdicts import ABOVE_CEILING
from fuselab.records import Clock, Comparison, Direction, Sample, Traffic, Verdict, Workload

__all__ = ["Bar", "Calibration", "Case", "calibrate", "cases", "certify"]

Progress = Callable[[str, int, int], None]

PAIRS_A_GROUP = 4
MARGIN = 0.01
_DIFFERENT = (Verdict.FASTER, Verdict.SLOWER)
_LONG_CASES = 2
_BLOCK_ROUNDS = 20
_AGREEMENT_FROM_NS = 10_000


@dataclass(frozen=True)
class Case:
    """One function at one size, with rows that 1% and 2% more can be made of."""

    name: str
    rows: int
    columns: int
    dtype: str
    direction: Direction

    def function(self) -> Callable[[Tensor], Tensor]:
        """What is timed."""
        return _FUNCTIONS[self.name]

    def inputs(self, device_type: str, percent: int, index: int) -> Inputs:
        """Random rows, ``percent`` more of them than the case has."""
        generator = torch.Generator(device=device_type).manual_seed(index)
        shape = (self.rows + self.rows * percent // 100, self.columns)
        x = torch.randn(shape, generator=generator, device=device_type, dtype=getattr(torch, self.dtype))
        return Inputs((x.requires_grad_(),), names=("x",))

    @property
    def traffic(self) -> Traffic:
        """One read and one write of the tensor; two reads in the backward."""
        size = self.rows * self.columns * getattr(torch, self.dtype).itemsize
        reads = 1 if self.direction is Direction.FORWARD else 2
        return Traffic(bytes_read=reads * size, bytes_written=size, reads=reads)


def _rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "rms_norm": _rms_norm, "softmax": _softmax}


def cases(device_type: str) -> list[Case]:
    """What is calibrated with: cells of 20 us and more on a GPU of today, of some 100 us on a CPU."""
    sizes = [(8000, 4096), (24000, 4096)] if device_type == "cuda" else [(400, 512), (1200, 512)]
    dtype = "bfloat16" if device_type == "cuda" else "float32"
    return [Case(n, *size, dtype, direction) for size in sizes for n in _FUNCTIONS for direction in Direction]


@dataclass(frozen=True)
class Bar:
    """One bar with the value it was measured at."""

    name: str
    target: str
    value: float | None
    passed: bool | None
    """None where there was nothing to measure it on; ``detail`` says why."""
    detail: str = ""


@dataclass
class Calibration:
    """Everything that a calibration found."""

    device_type: str
    bars: list[Bar] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no bar failed."""
        return all(bar.passed is not False for bar in self.bars)


@dataclass(frozen=True)
class _Recording:
    case: Case
    timings: dict[str, Timing]
    seconds: float

    def ratios(self, baseline: str, variant: str) -> list[float]:
        """Log-ratios by round."""
        halves = (by_round(self.timings[name].samples) for name in (baseline, variant))
        return [float(ratio) for ratio in paired_log_ratios(*halves)]


def calibrate(
    device_type: str, pairs: int = 100, *, seed: int = 0, repeats: int = 5, progress: Progress | None = None
) -> Calibration:
    """Measure every bar.

    Args:
        device_type: ``cpu`` or ``cuda``.
        pairs: A/A pairs, rounded up to whole groups of four.
        seed: of the orders.
        repeats: fresh processes that repeat one comparison; 0 leaves that bar out.
        progress: called with what is being done, how far it is, and out of how much.
    """
    started = time.perf_counter()
    calibration = Calibration(device_type)
    known = cases(device_type)
    groups = math.ceil(pairs / PAIRS_A_GROUP)
    recordings = []
    for number in range(groups):
        recordings.append(_record(known[number % len(known)], device_type, seed + number))
        if progress is not None:
            progress("A/A pairs and controls", number + 1, groups)
    calibration.bars += _pair_bars(recordings, device_type)
    calibration.bars += _other_bars(recordings, device_type)
    calibration.bars.append(_coverage_bar(known, device_type, seed, progress))
    if repeats:
        calibration.bars.append(_repeatability_bar(known, device_type, seed, repeats, progress))
    calibration.seconds = time.perf_counter() - started
    return calibration


def certify(device_type: str, *, seed: int = 0, budget_s: float = 0.5) -> tuple[bool, str, list[Comparison]]:
    """The short form that a run carries: one A/A pair and one control with 2% more rows.

    Returns:
        Whether both came out as they must, why not in words, and the two comparisons. On a GPU the control has to be
        found; on a CPU it must not be called equivalent. The pair must not be called different.
    """
    case = cases(device_type)[-2]
    function = case.function()
    arms = [_arm("a", function, case, device_type, 0), _arm("same", function, case, device_type, 0)]
    arms.append(_arm("2% more", function, case, device_type, 2))
    found = _time(arms, case, device_type, seed, budget_s, stop_early=True, max_rounds=100)
    same, more = found["same"].comparison, found["2% more"].comparison
    if same is None or more is None:
        errors = [f"{name}: {timing.error}" for name, timing in found.items() if timing.error is not None]
        return False, f"self-certification could not be timed: {'; '.join(errors)}", []
    if same.verdict in _DIFFERENT and (same.p_value or 0.0) < 0.01:
        return False, f"two copies of {case.name} came out {same.verdict} ({same.speedup:.4f})", [same, more]
    accepted = (Verdict.SLOWER,) if device_type == "cuda" else (Verdict.SLOWER, Verdict.UNRESOLVED)
    if more.verdict not in accepted:
        return False, f"2% more rows of {case.name} came out {more.verdict} ({more.speedup:.4f})", [same, more]
    return True, "", [same, more]


def _arm(name: str, function: Callable[[Tensor], Tensor], case: Case, device_type: str, percent: int) -> Arm:
    # The sets are shared by arms of one size: the same factory object.
    return Arm(name, function, _factory(case, device_type, percent))


@functools.lru_cache(maxsize=8)
def _factory(case: Case, device_type: str, percent: int) -> Callable[[int], Inputs]:
    return functools.partial(case.inputs, device_type, percent)


def _time(
    arms: Sequence[Arm], case: Case, device_type: str, seed: int, budget_s: float, *, stop_early: bool, max_rounds: int
) -> dict[str, Timing]:
    workload = Workload(shape=(case.rows, case.columns), seed=seed)
    return time_group(
        arms,
        workload=workload,
        direction=case.direction,
        device_type=device_type,
        baseline=arms[0].name,
        traffic=case.traffic,
        seed=seed,
        budget_s=budget_s,
        max_rounds=max_rounds,
        margin=MARGIN,
        stop_early=stop_early,
    )


def _record(case: Case, device_type: str, seed: int) -> _Recording:
    function = case.function()
    arms = [_arm(f"copy {i}", function, case, device_type, 0) for i in range(2 * PAIRS_A_GROUP)]
    arms += [_arm(f"{percent}% more", function, case, device_type, percent) for percent in (1, 2)]
    started = time.perf_counter()
    budget_s, rounds = (0.3, 60) if device_type == "cuda" else (1.0, 60)
    timings = _time(arms, case, device_type, seed, budget_s, stop_early=False, max_rounds=rounds)
    for timing in timings.values():
        if timing.error is not None:
            raise timing.error
    return _Recording(case, timings, (time.perf_counter() - started) / len(arms))


def _verdict(ratios: Sequence[float]) -> tuple[Verdict, float]:
    """What a run would have said, stopping where it would have stopped, and its p-value."""
    looks = plan_looks(min(MIN_ROUNDS, len(ratios)), len(ratios))
    monitor = Monitor(margin=MARGIN)
    for rounds, share in zip(looks.rounds, looks.shares, strict=True):
        monitor.look(ratios[:rounds], share)
        if monitor.settled:
            break
    comparison = monitor.comparison("")
    return comparison.verdict, comparison.p_value or 0.0


def _pair_bars(recordings: Sequence[_Recording], device_type: str) -> list[Bar]:
    series = [
        (0, recording.ratios(f"copy {2 * i}", f"copy {2 * i + 1}"))
        for recording in recordings
        for i in range(PAIRS_A_GROUP)
    ]
    series += [(percent, r.ratios("copy 0", f"{percent}% more")) for r in recordings for percent in (1, 2)]
    raw = [trimmed_estimate(ratios).p_value < 0.05 for percent, ratios in series if percent == 0]
    judged = [_verdict(ratios) for _, ratios in series]
    adjusted = benjamini_hochberg([p for _, p in judged])
    final: dict[int, list[Verdict]] = {0: [], 1: [], 2: []}
    for (percent, _), (verdict, _), p in zip(series, judged, adjusted, strict=True):
        final[percent].append(Verdict.UNRESOLVED if verdict in _DIFFERENT and p > 0.05 else verdict)

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


def _other_bars(recordings: Sequence[_Recording], device_type: str) -> list[Bar]:
    timings = [timing for recording in recordings for timing in recording.timings.values()]
    above = sum(any(w.startswith(ABOVE_CEILING) for w in timing.warnings) for timing in timings)
    seconds = median([recording.seconds for recording in recordings])
    bars = [Bar("cells above their ceiling + 2%", "0", float(above), above == 0, f"of {len(timings)} cells")]
    if device_type != "cuda":
        return [*bars, Bar("seconds a variant and cell", "no bar on a CPU", seconds, None)]
    bars.append(Bar("seconds a variant and cell", "at most 1", seconds, seconds <= 1.0))
    gaps = [
        abs(math.log(timing.median_ns / kernel[0].duration_ns))
        for timing in timings
        if timing.median_ns and timing.kernels_launched == 1 and (kernel := _kernel(timing))
        and kernel[0].duration_ns >= _AGREEMENT_FROM_NS
    ]  # fmt: skip
    if not gaps:
        nothing = "no cell of one kernel with a CUPTI time"
        return [*bars, Bar("within 3% of CUPTI's kernel time", "in 95% of cells", None, None, nothing)]
    agreeing = sum(gap <= math.log1p(0.03) for gap in gaps) / len(gaps)
    detail = f"of {len(gaps)} cells of one kernel; median gap {median(gaps):.1%}"
    return [*bars, Bar("within 3% of CUPTI's kernel time", "in 95% of cells", agreeing, agreeing >= 0.95, detail)]


def _kernel(timing: Timing) -> list[Sample]:
    return timing.other_clocks.get(Clock.KERNEL, [])


def _coverage_bar(known: Sequence[Case], device_type: str, seed: int, progress: Progress | None) -> Bar:
    """Long recordings, cut into blocks of rounds: how many blocks' intervals cover the centre of the whole."""
    covered = []
    for number, case in enumerate(known[:: max(1, len(known) // _LONG_CASES)][:_LONG_CASES]):
        function = case.function()
        arms = [_arm(name, function, case, device_type, 0) for name in ("a", "b", "c", "d")]
        timings = _time(arms, case, device_type, seed + number, 6.0, stop_early=False, max_rounds=100 * _BLOCK_ROUNDS)
        recording = _Recording(case, timings, 0.0)
        for pair in (("a", "b"), ("c", "d")):
            ratios = recording.ratios(*pair)
            truth = trimmed_estimate(ratios).centre
            for start in range(0, len(ratios) - _BLOCK_ROUNDS + 1, _BLOCK_ROUNDS):
                low, high = trimmed_estimate(ratios[start : start + _BLOCK_ROUNDS]).interval(0.05)
                covered.append(low <= truth <= high)
        if progress is not None:
            progress("coverage of intervals", number + 1, _LONG_CASES)
    share = sum(covered) / len(covered)
    # The bar is about the method; on few blocks the figure itself is uncertain by twice this.
    error = math.sqrt(0.95 * 0.05 / len(covered))
    passed = 0.93 - 2 * error <= share <= 0.97 + 2 * error
    return Bar(
        "intervals that cover the centre of a long recording",
        "93 to 97%",
        share,
        passed,
        f"of {len(covered)} blocks of {_BLOCK_ROUNDS} rounds; the figure is uncertain by {2 * error:.1%}",
    )


def _speedup(case: Case, device_type: str, seed: int) -> float:
    """Of the function against itself applied twice, in this process."""
    function = case.function()
    arms = [_arm("once", function, case, device_type, 0)]
    arms.append(_arm("twice", lambda x: function(function(x)), case, device_type, 0))
    found = _time(arms, case, device_type, seed, 1.0, stop_early=True, max_rounds=200)
    comparison = found["twice"].comparison
    if comparison is None or comparison.speedup is None:
        raise found["twice"].error or RuntimeError(f"{case} could not be timed")
    return comparison.speedup


def _repeatability_bar(
    known: Sequence[Case], device_type: str, seed: int, repeats: int, progress: Progress | None
) -> Bar:
    """Speedups of several cases, each taken in fresh processes."""
    spreads = []
    chosen = known if device_type == "cuda" else known[:2]
    spawn = multiprocessing.get_context("spawn")
    for number, case in enumerate(chosen):
        speedups = []
        for repeat in range(repeats):
            with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
                speedups.append(pool.submit(_speedup, case, device_type, seed + repeat).result())
        spreads.append((max(speedups) - min(speedups)) / 2 / median(speedups))
        if progress is not None:
            progress("repeatability", number + 1, len(chosen))
    within = sum(spread <= 0.01 for spread in spreads) / len(spreads)
    detail = f"of {len(spreads)} cells in {repeats} processes; median half-range {median(spreads):.1%}"
    name, target = "speedup repeated within 1%", "in 90% of cells"
    return Bar(name, target, within, within >= 0.9 if device_type == "cuda" else None, detail)
