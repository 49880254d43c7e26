"""Times on a CPU: wall time of a loop of calls, threads fixed.

A sample is long against the clock's resolution and against a scheduler's hiccup. A backward is timed apart from the
forwards that it needs: all forwards of a sample are made first, then all backwards timed, so that what the forward
saved has left the cache by then when the sample goes round all sets.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.calls import named_outputs
from fuselab.measure.cell import Work
from fuselab.records import Clock, Direction

__all__ = ["SAMPLE_NS", "CpuCell", "Threads", "fixed_threads"]

SAMPLE_NS = 2_000_000
"""Length of a sample: 2 ms."""

_MAX_CALLS = 4096

_MAX_ROUND_TRIP_NS = 80_000_000
"""A backward goes round all sets in one sample unless that takes longer than 80 ms."""


@dataclass(frozen=True)
class Threads:
    """What a CPU timing ran on."""

    count: int
    """Threads that torch uses inside an operator."""
    cpus: tuple[int, ...]
    """Cores that this process may run on."""


@contextlib.contextmanager
def fixed_threads(count: int | None = None) -> Iterator[Threads]:
    """Fix torch's threads to ``count`` (as many as there are cores for this process), collect no garbage meanwhile.

    Everything is put back at the end.
    """
    before = torch.get_num_threads()
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = tuple(sorted(affinity(0))) if affinity else tuple(range(os.cpu_count() or 1))
    collecting = gc.isenabled()
    torch.set_num_threads(count or len(cpus))
    gc.collect()
    gc.disable()
    try:
        yield Threads(torch.get_num_threads(), cpus)
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


class CpuCell:
    """Times ``work`` by the monotonic clock."""

    clock = Clock.CPU_MONOTONIC

    def __init__(self, work: Work, *, sample_ns: int = SAMPLE_NS, like: CpuCell | None = None) -> None:
        """Warm up, and choose the calls of a sample.

        Args:
            work: what to time.
            sample_ns: shortest sample.
            like: what it will be compared with. A backward then goes round all sets in one sample, without which it is
                not cold, if that does; and a sample has as many calls, unless the two differ more than twofold.
        """
        self.work = work
        self._last: tuple[Inputs, list[Tensor]] | None = None
        self.calls = 1
        self.sample()
        # The fastest of a few: a slow one was disturbed, and would leave the sample too short.
        call_ns = max(min(self.sample()[0] for _ in range(7)), 1.0)
        self.calls = min(_MAX_CALLS, _rounded_up(sample_ns / call_ns))
        if like is not None and like.calls <= 2 * self.calls <= 4 * like.calls:
            self.calls = like.calls
        self.cold = work.rotation.cold
        self.round_trip = False
        if work.direction is Direction.BACKWARD:
            if like is not None:
                self.round_trip = like.round_trip
            else:
                started = time.perf_counter_ns()
                self.sample()
                wall_ns = (time.perf_counter_ns() - started) / self.calls  # the forward that it needs included
                self.round_trip = len(work.rotation) * wall_ns <= _MAX_ROUND_TRIP_NS
            if self.round_trip:
                self.calls = max(self.calls, len(work.rotation))
            self.cold = self.cold and self.calls >= len(work.rotation)

    def sample(self) -> tuple[float, int]:
        """Time ``calls`` calls: nanoseconds of one, and their number."""
        with torch.enable_grad():
            if self.work.direction is Direction.FORWARD:
                return self._forward(), self.calls
            return self._backward(), self.calls

    def _forward(self) -> float:
        batch = self.work.rotation.take(self.calls)
        call, kept = self.work.implementation, self.work.rotation.kept
        # The graph behind a result is let go of here, whoever made it, and not within the sample.
        for index, _ in batch:
            kept[index] = [t.detach() for _, t in named_outputs(kept[index])]
        start = time.perf_counter_ns()
        for index, inputs in batch:
            kept[index] = call(*inputs.args, **inputs.kwargs)
        duration = time.perf_counter_ns() - start
        if any(index == 0 for index, _ in batch):
            self._last = self.work.rotation.sets[0], [t.detach() for _, t in named_outputs(kept[0])]
        return duration / self.calls

    def _backward(self) -> float:
        batch = self.work.rotation.take(self.calls)
        self.work.rotation.kept = [None] * len(self.work.rotation)  # freed before the sample, not within it
        pending = [self.work.pending(index, inputs) for index, inputs in batch]
        found: list[Any] = []
        start = time.perf_counter_ns()
        for graph in pending:
            found.append(graph.differentiate())  # noqa: PERF401 - a comprehension would be no faster, and hides the loop
        duration = time.perf_counter_ns() - start
        self.work.rotation.kept[: len(found)] = found[: len(self.work.rotation)]
        for (index, inputs), gradients in zip(batch, found, strict=True):
            if index == 0:
                self._last = inputs, [g for g in gradients if g is not None]
        return duration / self.calls

    def timed_output(self) -> tuple[Inputs, list[Tensor]] | None:
        """Set 0 and the results of the last timed call on it."""
        return self._last

    def renew(self) -> None:
        """Nothing: outputs get other addresses from the allocator, inputs from the rotation."""

    def close(self) -> None:
        """Let go of all results."""
        self._last = None


def _rounded_up(calls: float) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: equally fast variants get equally many calls, whatever noise there is.

    Example:
        >>> [_rounded_up(n) for n in (0.1, 3, 4.5, 13, 33)]
        [1, 3, 6, 16, 48]
    """
    power = 1
    while power < calls:
        power *= 2
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= calls else power
