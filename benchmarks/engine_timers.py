"""The timers that are compared, each used as its users use it: one function after the other, its own settings but for
the time it may take.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from engine_rules import LEVEL, MARGIN, Decision, Timed

from fuselab.experiment import Inputs
from fuselab.measure.group import Arm, time_group
from fuselab.measure.sequential import MIN_ROUNDS, Monitor, plan_looks
from fuselab.measure.statistics import paired_log_ratios, trimmed_estimate
from fuselab.measure.timing import by_round
from fuselab.records import Direction, Sample, Verdict, Workload

OURS = "fuselab"
_ROUNDS = 40


@dataclass(frozen=True)
class Source:
    """Inputs of one size: functions that have the same source object share them."""

    rows: int
    columns: int
    dtype: torch.dtype
    device: str
    seed: int

    def __call__(self, index: int) -> Inputs:
        """Input set number ``index``."""
        generator = torch.Generator(device=self.device).manual_seed(1000 * self.seed + index)
        shape = (self.rows, self.columns)
        return Inputs((torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype),), names=("x",))


@dataclass(frozen=True)
class Function:
    """Something to be timed."""

    name: str
    call: Callable[[torch.Tensor], torch.Tensor]
    source: Source

    def bound(self, made: dict[int, torch.Tensor]) -> Callable[[], torch.Tensor]:
        """The function on input set 0 of its source, without arguments: what the foreign timers take."""
        if id(self.source) not in made:
            (made[id(self.source)],) = self.source(0).args
        x = made[id(self.source)]
        return lambda: self.call(x)


@dataclass(frozen=True)
class Timer:
    """A timer of somebody else's."""

    name: str
    clock: str
    summary: str
    """What it returns by default."""
    time: Callable[[Callable[[], torch.Tensor], float], Timed]
    """Times one function within about so many seconds."""


def timers(device: str) -> list[Timer]:
    """All of them; what does not work here raises when it is called, with the reason."""
    on_gpu = device == "cuda"
    return [
        Timer(
            "triton.testing.do_bench",
            "events around one call, L2 cleared before it (cold)",
            "mean",
            _do_bench if on_gpu else _needs_a_gpu,
        ),
        Timer(
            "triton.testing.do_bench_cudagraph",
            "events around a graph of calls on the same buffers (warm)",
            "mean",
            _do_bench_cudagraph if on_gpu else _needs_a_gpu,
        ),
        Timer(
            "torch._inductor benchmarker",
            "events around one call, L2 cleared before it (cold)" if on_gpu else "host clock around one call (warm)",
            "min" if on_gpu else "median",
            _inductor_gpu if on_gpu else _inductor_cpu,
        ),
        Timer(
            "torch.utils.benchmark.Timer",
            "host clock around a block of calls on the same buffers, dispatch included (warm)",
            "median",
            _blocked_autorange,
        ),
    ]


def _needs_a_gpu(_function: Callable[[], torch.Tensor], _seconds: float) -> Timed:
    raise RuntimeError("it times on a GPU only")


def _do_bench(function: Callable[[], torch.Tensor], seconds: float) -> Timed:
    import triton.testing

    warmup = 25  # its default, in ms
    times = triton.testing.do_bench(
        function, warmup=warmup, rep=max(10, round(1e3 * seconds) - warmup), return_mode="all"
    )
    return _of_milliseconds(times, "mean")


def _do_bench_cudagraph(function: Callable[[], torch.Tensor], seconds: float) -> Timed:
    import triton.testing

    # ``rep`` is the length of one replay, and it makes ten of them.
    times = triton.testing.do_bench_cudagraph(function, rep=max(1, round(1e2 * seconds)), return_mode="all")
    return _of_milliseconds(times, "mean")


def _benchmarker() -> object:
    try:
        from torch._inductor.runtime.benchmarking import benchmarker
    except ImportError as error:
        raise RuntimeError(f"this torch has no torch._inductor.runtime.benchmarking ({error})") from error
    return benchmarker


def _inductor_gpu(function: Callable[[], torch.Tensor], seconds: float) -> Timed:
    benchmark = _benchmarker().benchmark_gpu  # type: ignore[attr-defined]
    if "max_benchmark_duration" not in inspect.signature(benchmark).parameters:
        return Timed(float(benchmark(function)) * 1e6)
    milliseconds = max(5, round(1e3 * seconds))
    times = benchmark(function, benchmark_iters=100_000, max_benchmark_duration=milliseconds, return_mode="all")
    return _of_milliseconds(times, "min")


def _inductor_cpu(function: Callable[[], torch.Tensor], seconds: float) -> Timed:
    milliseconds = max(5, round(1e3 * seconds))
    benchmark = _benchmarker().benchmark_cpu  # type: ignore[attr-defined]
    return Timed(float(benchmark(function, warmup=milliseconds // 6, rep=milliseconds - milliseconds // 6)) * 1e6)


def _blocked_autorange(function: Callable[[], torch.Tensor], seconds: float) -> Timed:
    from torch.utils.benchmark import Timer as TorchTimer

    timer = TorchTimer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    found = timer.blocked_autorange(min_run_time=max(0.01, 0.8 * seconds))  # the rest goes into finding the block
    return Timed(found.median * 1e9, tuple(t * 1e9 for t in found.times), figures=found.significant_figures)


def _of_milliseconds(times: list[float], summary: str) -> Timed:
    samples = tuple(t * 1e6 for t in times)
    if not samples or min(samples) <= 0:
        raise RuntimeError("it returned no time above 0")
    return Timed(min(samples) if summary == "min" else sum(samples) / len(samples), samples)


def time_ours(
    functions: list[Function], device: str, seed: int, budget_s: float
) -> tuple[dict[str, list[Sample]], float]:
    """All functions in rounds: samples by name, and wall seconds a function, preparation included."""
    started = time.perf_counter()
    arms = [Arm(function.name, function.call, function.source) for function in functions]
    shape = (functions[0].source.rows, functions[0].source.columns)
    found = time_group(
        arms,
        workload=Workload(shape=shape, seed=seed),
        direction=Direction.FORWARD,
        device_type=device,
        baseline=arms[0].name,
        traffic=None,
        seed=seed,
        budget_s=budget_s,
        max_rounds=_ROUNDS,
        margin=MARGIN,
        stop_early=False,
        observe=False,
    )
    for timing in found.values():
        if timing.error is not None:
            raise timing.error
    seconds = (time.perf_counter() - started) / len(functions)
    return {name: timing.samples for name, timing in found.items()}, seconds


def decide_ours(first: list[Sample], second: list[Sample]) -> Decision:
    """The raw test of all rounds, and the verdict of a run that stops where it is settled."""
    ratios = [float(r) for r in paired_log_ratios(by_round(first), by_round(second))]
    raw = trimmed_estimate(ratios).p_value < LEVEL
    looks = plan_looks(min(MIN_ROUNDS, len(ratios)), len(ratios))
    monitor = Monitor(margin=MARGIN)
    for rounds, share in zip(looks.rounds, looks.shares, strict=True):
        monitor.look(ratios[:rounds], share)
        if monitor.settled:
            break
    comparison = monitor.comparison("")
    speedup = comparison.speedup if comparison.speedup is not None else math.nan
    return Decision(speedup, raw, comparison.verdict in (Verdict.FASTER, Verdict.SLOWER))
