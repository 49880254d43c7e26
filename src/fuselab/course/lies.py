"""The lies that naive timing tells, each shown live, and how the measuring engine catches it.

A lie has what was told and what is so. ``caught`` puts beside it what an engine's run says: its clock, whether buffers
were cold, and how the baseline compares with a second copy of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuselab.course.display import Rows, Shown, Stack
from fuselab.course.pictures import log_bars
from fuselab.measure.statistics import draw_order, paired_log_ratios, trimmed_estimate

__all__ = ["Lie", "drift", "no_waiting", "order", "warm_cache"]

ROUNDS = 40
DRIFT = 0.02
NOISE = 0.004
LEVEL = 0.05


@dataclass(frozen=True)
class Lie:
    """A figure that naive timing gives, and the true one."""

    name: str
    """What it is called."""
    unit: str
    """Of the values."""
    values: Mapping[str, float]
    """What was told and what is so."""
    why: str
    """How it comes about, and what the engine does instead."""

    def caught(self, outcome: Any) -> Shown:
        """What a run of the engine says of the same points."""
        cell = outcome.measurements[0]
        again = cell.self_comparison
        copy = f"{again.speedup:.3f}x, {again.verdict.value}" if again and again.speedup else "timed on a GPU only"
        rows = [
            ("clock", cell.clock.value if cell.clock else "none", "a clock that stops too early"),
            ("buffers", "cold" if cell.cold else "warm, and labelled so", "data that lie in a cache"),
            (
                "rounds, each in an order drawn anew",
                str(len({s.round for s in cell.samples})),
                "drift, and whoever comes first",
            ),
            ("the baseline against a second copy of itself", copy, "what none of these saw"),
        ]
        return Rows(("the engine", "in this run", "which catches"), rows, note=self.why)

    def _shown(self) -> Shown:
        return Stack(log_bars(self.name, self.values, self.unit), Shown(f"<p>{self.why}</p>", self.why))

    def _repr_html_(self) -> str:
        return self._shown()._repr_html_()

    def __repr__(self) -> str:
        return repr(self._shown())


def no_waiting(device: str = "cpu", size: int = 1024) -> Lie:
    """A call that only asks for work returns before the work is done.

    On a GPU it is a matrix product on a stream. On a CPU a queue with one worker stands in for the stream: handing over
    takes as little time as a launch.
    """
    import torch

    a = torch.randn(size, size, device=device)
    if device == "cuda":
        wait, ask = torch.cuda.synchronize, lambda: a @ a
        told, so = _asked(ask), _finished(ask, wait)
    else:
        with ThreadPoolExecutor(1) as stream:
            pending: list[Any] = []
            told = _asked(lambda: pending.append(stream.submit(torch.mm, a, a)))
            _ = [future.result() for future in pending]
            so = _finished(lambda: pending.append(stream.submit(torch.mm, a, a)), lambda: pending.pop().result())
    why = "The clock stopped when the work was handed over. The engine's clock stops when the result is there."
    return Lie("no synchronisation: one matrix product", "us", {"the clock says": told, "it takes": so}, why)


def _asked(ask: Callable[[], object], times: int = 5) -> float:
    ask()
    start = time.perf_counter()
    for _ in range(times):
        ask()
    return (time.perf_counter() - start) / times * 1e6


def _finished(ask: Callable[[], object], wait: Callable[[], object], times: int = 5) -> float:
    ask()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        ask()
        wait()
    return (time.perf_counter() - start) / times * 1e6


def warm_cache(device: str = "cpu") -> Lie:
    """The same small buffers again and again lie in a cache; a model comes back to a buffer after a step of others.

    On a GPU the calls are replayed as a graph: one by one, issuing them would take longer than either.
    """
    import torch

    kilobytes, total_mb = (8192, 1024) if device == "cuda" else (512, 256)
    count = total_mb * 1024 // kilobytes
    tensors = [torch.ones(kilobytes * 256, device=device) for _ in range(count)]
    outs = [torch.empty_like(tensors[0]) for _ in range(count)] if device == "cuda" else [torch.empty_like(tensors[0])]
    over = _over_graph if device == "cuda" else _over
    same = over(lambda i: torch.add(tensors[0], 1.0, out=outs[0]), count)
    rotating = over(lambda i: torch.add(tensors[i], 1.0, out=outs[i % len(outs)]), count)
    why = (
        f"The same {kilobytes} kB were added to {count} times. The engine rotates over more than twice the last cache."
    )
    values = {"one buffer, again and again": same, "many buffers in turn": rotating}
    return Lie("warm cache: adding one", "us", values, why)


def _over(call: Callable[[int], object], count: int) -> float:
    seconds = []
    for _ in range(4):  # the first pass warms up, and the best of the others is not what a neighbour did meanwhile
        start = time.perf_counter()
        for index in range(count):
            call(index)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / count * 1e6


def _over_graph(call: Callable[[int], object], count: int) -> float:
    import torch

    call(0)  # what happens once happens before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(count):
            call(index)
    graph.replay()
    torch.cuda.synchronize()
    start = time.perf_counter()
    graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count * 1e6


def order(device: str = "cpu", elements: int = 1 << 20) -> Lie:
    """Whoever is timed first pays for what both need: memory from the system, threads, code that is not loaded yet."""
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    x = torch.randn(elements, device=device)

    def silu() -> object:
        return torch.nn.functional.silu(x.clone())

    wait()
    first = _once(silu, wait)
    second = min(_once(silu, wait) for _ in range(9))
    why = "Both are the same function. The engine warms up, then draws the order of every round anew."
    return Lie(
        "order: one function, timed twice", "us", {"the first one timed": first, "the same, timed later": second}, why
    )


def _once(call: Callable[[], object], wait: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    wait()
    return (time.perf_counter() - start) * 1e6


def drift(pairs: int = 300, seed: int = 0) -> Lie:
    """A clock that sinks while A and then B is timed makes equal functions differ; pairs of a round share the clock.

    Simulated, so that it is the same everywhere: two equal functions on a machine that slows down by 2% in the course
    of the timing, and 0.4% of noise. A and then B with a t-test, against rounds in drawn order with the engine's
    statistics.
    """
    generator = np.random.default_rng(seed)
    blocks = sum(_differs_in_blocks(generator) for _ in range(pairs)) / pairs
    rounds = sum(_differs_in_rounds(generator, number) for number in range(pairs)) / pairs
    why = f"Of {pairs} pairs of equal functions, the share that is called different; {LEVEL:.0%} are allowed."
    values = {"A, then B, t-test": 100 * blocks, "the engine: rounds, drawn order": max(100 * rounds, 0.1)}
    return Lie("drift: equal functions called different", "%", values, why)


def _machine(generator: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    slower = 1.0 + DRIFT * np.arange(count) / count
    times: np.ndarray[Any, np.dtype[np.float64]] = slower * np.exp(NOISE * generator.standard_normal(count))
    return times


def _differs_in_blocks(generator: np.random.Generator) -> bool:
    times = _machine(generator, 2 * ROUNDS)
    a, b = times[:ROUNDS], times[ROUNDS:]
    error = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / ROUNDS))
    return bool(abs(a.mean() - b.mean()) / error > 1.99)  # Student's 5% with 78 degrees of freedom


def _differs_in_rounds(generator: np.random.Generator, seed: int) -> bool:
    times = iter(_machine(generator, 2 * ROUNDS))
    taken: dict[str, dict[int, float]] = {"a": {}, "b": {}}
    for number in range(ROUNDS):
        for name in draw_order(["a", "b"], seed, number):
            taken[name][number] = float(next(times))
    return trimmed_estimate(paired_log_ratios(taken["a"], taken["b"])).p_value < LEVEL
