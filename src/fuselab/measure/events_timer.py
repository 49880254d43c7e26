"""Times between two events on a GPU: eager calls with their dispatch, and the host's time of issuing them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.calls import named_outputs
from fuselab.measure.cell import Pending, Work
from fuselab.records import Clock, Direction

__all__ = ["SAMPLE_NS", "WARM_CALLS", "EventsCell", "measured_by_events"]

SAMPLE_NS = 1_000_000
"""Length of a sample: 1 ms, two thousand times the resolution of an event."""

WARM_CALLS = 3
"""Calls before anything is timed or captured: they compile, tune, create handles and workspaces."""

_CYCLES_PER_US = 2000
"""A little more than any GPU's clock has."""


def _wait_on_device(microseconds: float) -> None:
    """Keep the current stream busy, so that what follows is queued before it starts."""
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(int(microseconds * _CYCLES_PER_US))


def measured_by_events(stream: torch.cuda.Stream, work: Callable[[], object], wait_us: float = 0.0) -> float:
    """Nanoseconds between two events around ``work()``, which only enqueues on ``stream``."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        if wait_us:
            _wait_on_device(wait_us)
        start.record()
        work()
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e6


class EventsCell:
    """Times ``work`` as eager calls between two events, and the host's time of issuing them beside."""

    clock = Clock.CUDA_EVENTS

    def __init__(
        self, work: Work, stream: torch.cuda.Stream, *, sample_ns: int = SAMPLE_NS, max_calls: int = 64
    ) -> None:
        """Warm up and choose the calls of a sample.

        Args:
            work: what to time.
            stream: where to enqueue.
            sample_ns: shortest sample.
            max_calls: more calls than this could fill the launch queue, and the host would wait within a call.
        """
        self.work = work
        self.stream = stream
        self.cold = work.rotation.cold
        self.host_ns = 0.0
        self.calls = 1
        self._kept: list[Any] = []
        self._last: tuple[Inputs, list[Tensor]] | None = None
        for _ in range(WARM_CALLS):
            self.sample()
        call_ns = min(self.sample()[0] for _ in range(3))
        self.calls = min(max_calls, max(1, math.ceil(sample_ns / max(call_ns, 1.0))))

    def sample(self) -> tuple[float, int]:
        """Time one sample: nanoseconds of one call, and the number of calls. ``host_ns`` is then the host's share."""
        batch = self.work.rotation.take(self.calls)
        found: list[Any] = []
        pending: list[Pending] = []
        self._kept = []
        with torch.enable_grad(), torch.cuda.stream(self.stream):
            if self.work.direction is Direction.BACKWARD:
                pending = [self.work.pending(index, inputs) for index, inputs in batch]
        torch.cuda.synchronize()

        def calls() -> None:
            start = time.perf_counter_ns()
            if pending:
                for graph in pending:
                    found.append(graph.differentiate())  # noqa: PERF401 - the loop is what is timed
            else:
                for _, inputs in batch:
                    found.append(self.work.call(inputs))
            self.host_ns = (time.perf_counter_ns() - start) / len(batch)

        with torch.enable_grad():
            duration = measured_by_events(self.stream, calls)
        self._kept = found
        for (index, inputs), result in zip(batch, found, strict=True):
            if index == 0:
                tensors = [g for g in result if g is not None] if pending else [t for _, t in named_outputs(result)]
                self._last = inputs, [t.detach() for t in tensors]
        return duration / self.calls, self.calls

    def timed_output(self) -> tuple[Inputs, list[Tensor]] | None:
        """Set 0 and the results of the last timed call on it."""
        return self._last

    def renew(self) -> None:
        """Nothing: the allocator decides on addresses."""

    def close(self) -> None:
        """Let go of all results."""
        self._kept, self._last = [], None
