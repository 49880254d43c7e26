"""The engine measured by itself: how often it is wrong about what is known, bar by bar.

Groups hold copies of one function, which make disjoint pairs that are equally fast, and controls with exactly 1% and 2%
more rows, each against a copy of its own. All rounds are taken; the looks of a run are then gone through on the
recording, so that one recording tells both the raw level of the test and the verdicts that a run would have reached.
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
from fuselab.measure.bars import (
    MARGIN,
    Agreement,
    Bar,
    PairRecord,
    agreement_bars,
    pair_bars,
    pair_record,
    repeatability_bar,
)
from fuselab.measure.group import Arm, Timing, time_group
from fuselab.measure.statistics import median, paired_log_ratios, trimmed_estimate
from fuselab.measure.timing import by_round
from fuselab.measure.verdicts import ABOVE_CEILING
from fuselab.records import Clock, Direction, Traffic, Workload

__all__ = ["Bar", "Calibration", "Case", "PairRecord", "calibrate", "cases"]

Progress = Callable[[str, int, int], None]

PAIRS_A_GROUP = {"cpu": 4, "cuda": 8}
"""A GPU's groups are larger, so that 400 pairs with their controls take minutes."""
_LONG_CASES = 2
_BLOCK_ROUNDS = 20
_BLOCKS = 60
_AGREEMENT_FROM_NS = 10_000


@dataclass(frozen=True)
class Case:
    """One function at one size, with rows that 1% and 2% more can be made of."""

    name: str
    rows: int
    columns: int
    dtype: str
    direction: Direction

    def __str__(self) -> str:
        return f"{self.name} {self.rows}x{self.columns} {self.dtype} {self.direction}"

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
    def proportional(self) -> bool:
        """Whether 2% more rows are 2% more work.

        The backward of RMSNorm on an H200 takes 1.3% less for 8160 rows than for 8000, by CUPTI as by replay: no engine
        could find it slower.
        """
        return not (self.name == "rms_norm" and self.direction is Direction.BACKWARD)

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


@dataclass
class Calibration:
    """Everything that a calibration found."""

    device_type: str
    bars: list[Bar] = field(default_factory=list)
    pairs: list[PairRecord] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    speedups: dict[str, list[float]] = field(default_factory=dict)
    """Of one comparison for each case, by process."""
    seconds: float = 0.0
    interrupted: bool = False
    """Whether it was stopped early: the bars are those of what had been recorded."""

    @property
    def passed(self) -> bool:
        """Whether no bar failed."""
        return all(bar.passed is not False for bar in self.bars)


@dataclass(frozen=True)
class _Recording:
    case: Case
    timings: dict[str, Timing]
    seconds: float | None
    """Time for each variant and cell, where everything was observed that a run observes."""

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
        pairs: A/A pairs, rounded up to whole groups: four on a CPU, eight on a GPU.
        seed: of the orders.
        repeats: fresh processes that repeat one comparison; 0 leaves that bar out.
        progress: called with what is being done, how far it is, and out of how much.
    """
    started = time.perf_counter()
    calibration = Calibration(device_type)
    known = cases(device_type)
    recordings: list[_Recording] = []
    try:
        _record_pairs(recordings, known, device_type, pairs, seed, progress)
        _judge_pairs(calibration, recordings)
        recordings.clear()
        calibration.bars.append(_coverage_bar(known, device_type, seed, progress))
        if repeats:
            _repeat(calibration.speedups, known, device_type, seed, repeats, progress)
            calibration.bars.append(repeatability_bar(calibration.speedups, device_type, repeats))
    except KeyboardInterrupt:
        calibration.interrupted = True
        if len(recordings) > 1:
            _judge_pairs(calibration, recordings)
    calibration.seconds = time.perf_counter() - started
    return calibration


def _judge_pairs(calibration: Calibration, recordings: Sequence[_Recording]) -> None:
    calibration.pairs = _pairs(recordings)
    calibration.bars += pair_bars(calibration.pairs, calibration.device_type)
    calibration.bars += _other_bars(recordings, calibration.device_type)
    if calibration.device_type == "cuda":
        calibration.agreements = _agreements(recordings)
        calibration.bars += agreement_bars(calibration.agreements)


def _record_pairs(
    into: list[_Recording],
    known: Sequence[Case],
    device_type: str,
    pairs: int,
    seed: int,
    progress: Progress | None,
) -> None:
    groups = math.ceil(pairs / PAIRS_A_GROUP[device_type])
    for number in range(groups):
        # Each case once with all that a run observes; the pairs need the samples alone.
        observe = number < len(known)
        into.append(_record(known[number % len(known)], device_type, seed + number, observe=observe))
        if progress is not None:
            progress("A/A pairs and controls", number + 1, groups)


def _arm(name: str, function: Callable[[Tensor], Tensor], case: Case, device_type: str, percent: int) -> Arm:
    # The sets are shared by arms of one size: the same factory object.
    return Arm(name, function, _factory(case, device_type, percent))


@functools.lru_cache(maxsize=8)
def _factory(case: Case, device_type: str, percent: int) -> Callable[[int], Inputs]:
    return functools.partial(case.inputs, device_type, percent)


def _time(
    arms: Sequence[Arm],
    case: Case,
    device_type: str,
    seed: int,
    budget_s: float,
    *,
    stop_early: bool,
    max_rounds: int,
    observe: bool = True,
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
        observe=observe,
    )


def _record(case: Case, device_type: str, seed: int, *, observe: bool) -> _Recording:
    function = case.function()
    pairs = PAIRS_A_GROUP[device_type]
    arms = [_arm(f"copy {i}", function, case, device_type, 0) for i in range(2 * pairs)]
    for i in range(pairs // PAIRS_A_GROUP["cpu"] if case.proportional else 0):
        arms += [_arm(f"{percent}% more {i}", function, case, device_type, percent) for percent in (1, 2)]
    started = time.perf_counter()
    budget_s, rounds = (0.3, 32) if device_type == "cuda" else (1.0, 60)
    timings = _time(arms, case, device_type, seed, budget_s, stop_early=False, max_rounds=rounds, observe=observe)
    for timing in timings.values():
        if timing.error is not None:
            raise timing.error
    seconds = (time.perf_counter() - started) / len(arms)
    return _Recording(case, timings, seconds if observe else None)


def _pairs(recordings: Sequence[_Recording]) -> list[PairRecord]:
    found = []
    for recording in recordings:
        names = list(recording.timings)
        copies = [name for name in names if name.startswith("copy")]
        series = [(0, recording.ratios(a, b)) for a, b in zip(copies[::2], copies[1::2], strict=True)]
        controls = [name for name in names if not name.startswith("copy")]
        series += [
            (int(name.partition("%")[0]), recording.ratios(copy, name))
            for copy, name in zip(copies, controls, strict=False)
        ]
        found += [pair_record(str(recording.case), percent, ratios) for percent, ratios in series]
    return found


def _other_bars(recordings: Sequence[_Recording], device_type: str) -> list[Bar]:
    timings = [timing for recording in recordings for timing in recording.timings.values()]
    above = sum(any(w.startswith(ABOVE_CEILING) for w in timing.warnings) for timing in timings)
    seconds = median([recording.seconds for recording in recordings if recording.seconds is not None])
    bars = [Bar("cells above their ceiling + 2%", "0", float(above), above == 0, f"of {len(timings)} cells")]
    if device_type != "cuda":
        return [*bars, Bar("seconds a variant and cell", "no bar on a CPU", seconds, None)]
    bars.append(Bar("seconds a variant and cell", "at most 1", seconds, seconds <= 1.0))
    return bars


def _agreements(recordings: Sequence[_Recording]) -> list[Agreement]:
    """Replay against CUPTI's kernel time, cells of one kernel and 10 us or more."""
    found = []
    for recording in recordings:
        for name, timing in recording.timings.items():
            kernel, gaps = (timing.other_clocks.get(clock) for clock in (Clock.KERNEL, Clock.GAPS))
            if timing.median_ns and timing.kernels_launched == 1 and kernel and gaps:
                case = f"{recording.case} {name}"
                found.append(Agreement(case, timing.median_ns, kernel[0].duration_ns, gaps[0].duration_ns))
    return [each for each in found if each.kernel_ns >= _AGREEMENT_FROM_NS]


def _coverage_bar(known: Sequence[Case], device_type: str, seed: int, progress: Progress | None) -> Bar:
    """Long recordings, cut into blocks of rounds: how many blocks' intervals cover the centre of the whole."""
    covered = []
    for number, case in enumerate(known[:: max(1, len(known) // _LONG_CASES)][:_LONG_CASES]):
        function = case.function()
        arms = [_arm(name, function, case, device_type, 0) for name in ("a", "b", "c", "d")]
        timings = _time(
            arms,
            case,
            device_type,
            seed + number,
            6.0,
            stop_early=False,
            max_rounds=_BLOCKS * _BLOCK_ROUNDS,
            observe=False,
        )
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


def _speedups(known: Sequence[Case], device_type: str, seed: int) -> list[float]:
    """Of each function against itself applied twice, in this process."""
    found = []
    for case in known:
        once = case.function()

        def twice(x: Tensor, once: Callable[[Tensor], Tensor] = once) -> Tensor:
            return once(once(x))

        arms = [_arm("once", once, case, device_type, 0), _arm("twice", twice, case, device_type, 0)]
        timing = _time(arms, case, device_type, seed, 1.0, stop_early=True, max_rounds=200, observe=False)["twice"]
        if timing.comparison is None or timing.comparison.speedup is None:
            raise timing.error or RuntimeError(f"{case} could not be timed")
        found.append(timing.comparison.speedup)
    return found


def _repeat(
    into: dict[str, list[float]],
    known: Sequence[Case],
    device_type: str,
    seed: int,
    repeats: int,
    progress: Progress | None,
) -> None:
    """Speedups of several cases, each taken in fresh processes."""
    chosen = known if device_type == "cuda" else known[:2]
    spawn = multiprocessing.get_context("spawn")
    for repeat in range(repeats):
        with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
            speedups = pool.submit(_speedups, chosen, device_type, seed + repeat).result()
        for case, speedup in zip(chosen, speedups, strict=True):
            into.setdefault(str(case), []).append(speedup)
        if progress is not None:
            progress("repeatability in fresh processes", repeat + 1, repeats)
