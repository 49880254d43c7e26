"""Times on a GPU: device time under graph replay, eager calls between events, host time of a call.

A graph holds all calls of a sample, on rotating inputs and into rotating outputs, so that nothing but the device's
own work lies between two of them. A backward has two graphs that share a pool: the first makes the forwards of a
sample, untimed, the second differentiates them, between two events. Buffers that a compiled backward takes over are
thus made anew for every replay. A short wait on the device before the first event lets the host get ahead, so that no
launch is timed.

Where results lie decides over up to 2% of a kernel's time: two copies of one function that wrote to memory of their own
differed for as long as they lived, by more than the margin in 4 of 96 pairs on an H200. So all graphs of a group share
one pool and write to the same places, and which input goes with which place is drawn anew with each capture, alike
for all.

What cannot be captured (a function that waits for the device, works on the CPU or on a stream of its own) raises
``CaptureError``, and is then timed between events, dispatch included.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.calls import named_outputs
from fuselab.measure.cell import Pending, Work
from fuselab.measure.located import Located, SharedPool, located
from fuselab.records import Clock, Direction

__all__ = ["SAMPLE_NS", "CaptureError", "Captured", "EventsCell", "GraphCell", "measured_by_events"]

SAMPLE_NS = 1_000_000
"""Length of a sample: 1 ms, two thousand times the resolution of an event."""

_MAX_CALLS = 1024
"""Calls in one graph."""

_MAX_REPLAYS = 64

_WARM_CALLS = 3
"""Calls before a capture: they compile, tune, create handles and workspaces."""

_CYCLES_PER_US = 2000
"""A little more than any GPU's clock has."""


class CaptureError(Exception):
    """A call cannot be captured into a CUDA graph; the message says why."""


def _wait_on_device(microseconds: float) -> None:
    """Keep the current stream busy, so that what follows is queued before it starts."""
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(int(microseconds * _CYCLES_PER_US))


@contextlib.contextmanager
def _refusing_synchronisation() -> Iterator[None]:
    """Raise where torch would wait for the device (``.item()``, ``nonzero``, a copy to the host)."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _renew_generator() -> None:
    """Give the default generator a state of its own again: after a failed capture it still believes to be captured."""
    device = torch.cuda.current_device()
    generator = torch.cuda.default_generators[device]
    fresh = torch.Generator(device=torch.device("cuda", device))
    fresh.manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(fresh.graphsafe_get_state())


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


@dataclass(frozen=True)
class Captured:
    """Graphs that are ready to be replayed."""

    timed: torch.cuda.CUDAGraph
    forwards: torch.cuda.CUDAGraph | None
    """What has to be replayed before ``timed``: the forwards of a backward."""
    results: list[Located]
    """Where the results of set 0 are after a replay."""


class GraphCell:
    """Times ``work`` as replays of a captured graph."""

    clock = Clock.CUDA_GRAPH

    def __init__(
        self,
        work: Work,
        stream: torch.cuda.Stream,
        *,
        pool: SharedPool | None = None,
        seed: int = 0,
        sample_ns: int = SAMPLE_NS,
    ) -> None:
        """Warm up, choose the calls of a sample, and capture them.

        Args:
            work: what to time.
            stream: where to replay.
            pool: which cells that are compared share; one of its own where None.
            seed: of which set of inputs goes with which place in the pool; cells of one seed have the same.
            sample_ns: shortest sample.

        Raises:
            CaptureError: the call cannot be captured.
        """
        self.work = work
        self.stream = stream
        self._pool = pool or SharedPool(stream)
        self._seed = seed
        self._captures = 0
        self.cold = work.rotation.cold
        call_ns = self._warm_up()
        laps = max(1, math.ceil(sample_ns / max(call_ns, 1.0) / len(work.rotation)))
        self.calls = len(work.rotation) * min(laps, max(1, _MAX_CALLS // len(work.rotation)))
        started = time.perf_counter()
        self.captured: Captured | None = self._capture()
        """The graphs that are replayed; None after ``close``."""
        self.capture_s = time.perf_counter() - started
        self.replays = 1
        self._replay()  # the first replay uploads the graph
        once_ns = min(self._replay() for _ in range(3))
        self.replays = min(_MAX_REPLAYS, max(1, math.ceil(sample_ns / max(once_ns, 1.0))))

    def sample(self) -> tuple[float, int]:
        """Time one sample: nanoseconds of one call, and the number of calls."""
        calls = self.calls * self.replays
        return self._replay() / calls, calls

    def _replay(self) -> float:
        captured, replays = self.captured, self.replays
        if captured is None:
            raise RuntimeError("this cell was closed")
        if captured.forwards is None:

            def replay() -> None:
                for _ in range(replays):
                    captured.timed.replay()

            return measured_by_events(self.stream, replay, wait_us=50 + 20 * replays)
        total = 0.0
        for _ in range(replays):
            with torch.cuda.stream(self.stream):
                captured.forwards.replay()
            total += measured_by_events(self.stream, captured.timed.replay, wait_us=50)
        return total

    def _warm_up(self) -> float:
        """Call as often as needed for everything to be compiled; nanoseconds of one eager call, roughly."""
        sets = self.work.rotation.sets
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for i in range(_WARM_CALLS):
                self.work.once(i % len(sets))
            torch.cuda.synchronize()
            try:
                with _refusing_synchronisation():
                    self.work.once(0)
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                raise CaptureError(
                    "it waits for the device within a call (.item(), nonzero, a copy to the host)"
                ) from error
        torch.cuda.synchronize()
        durations = []
        for number in range(2):
            with torch.cuda.stream(self.stream):
                timed: Callable[[], object] = functools.partial(self.work.once, number)
                if self.work.direction is Direction.BACKWARD:
                    timed = self.work.pending(number, sets[number]).differentiate
            durations.append(measured_by_events(self.stream, timed, wait_us=200))
        return min(durations)

    def _capture(self) -> Captured:
        sets = self.work.rotation.sets
        order = np.random.default_rng([self._seed & (2**64 - 1), self._captures]).permutation(len(sets))
        self._captures += 1
        self._numbers = [int(order[i % len(sets)]) for i in range(self.calls)]
        if self.work.direction is Direction.BACKWARD:
            with torch.cuda.stream(self.stream):
                self.work.draw_grad_outputs()
        torch.cuda.synchronize()
        outside = torch.cuda.current_stream()
        try:
            with torch.enable_grad():
                if self.work.direction is Direction.FORWARD:
                    return self._capture_forward(self._numbers)
                return self._capture_backward(self._numbers)
        except RuntimeError as error:
            # Up to torch 2.13 a capture that fails in its end leaves its stream current.
            torch.cuda.set_stream(outside)
            torch.cuda.synchronize()
            _renew_generator()
            first: BaseException = error
            while first.__context__ is not None:  # the end of the capture complains, too; what came first says why
                first = first.__context__
            lines = str(first).strip().splitlines()
            raise CaptureError(lines[0] if lines else type(first).__name__) from error

    def _capture_forward(self, numbers: Sequence[int]) -> Captured:
        graph = torch.cuda.CUDAGraph()
        # A ring: as many outputs as there are sets are alive at once, and each lap writes over those of the last.
        kept: list[Any] = [None] * len(self.work.rotation)
        with torch.cuda.graph(graph, pool=self._pool.handle, stream=self.stream):
            for number in numbers:
                kept[number] = None
                kept[number] = self.work.call(self.work.rotation.sets[number])
        return Captured(graph, None, located([t for _, t in named_outputs(kept[0])]))

    def _capture_backward(self, numbers: Sequence[int]) -> Captured:
        sets, pool = self.work.rotation.sets, self._pool.handle
        forwards, graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forwards, pool=pool, stream=self.stream):
            pending = [self.work.pending(number, sets[number]) for number in numbers]
        found: list[Any] = [None] * len(sets)
        with torch.cuda.graph(graph, pool=pool, stream=self.stream):
            for number, waiting in zip(numbers, pending, strict=True):
                found[number] = None
                found[number] = waiting.differentiate()
        return Captured(graph, forwards, located([g for g in found[0] if g is not None]))

    def captured_steps(self) -> torch.cuda.CUDAGraph:
        """A graph of as many calls in which each backward follows its forward."""
        sets = self.work.rotation.sets
        graph = torch.cuda.CUDAGraph()
        found: list[Any] = [None] * len(sets)
        torch.cuda.synchronize()
        with torch.enable_grad(), torch.cuda.graph(graph, pool=self._pool.handle, stream=self.stream):
            for number in self._numbers:
                found[number] = None
                found[number] = self.work.pending(number, sets[number]).differentiate()
        return graph

    def timed_output(self) -> tuple[Inputs, list[Tensor]] | None:
        """Set 0 and the results on it of the graph that was timed, replayed once more: the memory is shared."""
        if self.captured is None:
            return None
        self.prepare_replay()
        self.replay_once()
        return self.work.rotation.sets[0], [result.read() for result in self.captured.results]

    def prepare_replay(self) -> None:
        """Make the forwards that a backward needs, and wait for them."""
        if self.captured is not None and self.captured.forwards is not None:
            with torch.cuda.stream(self.stream):
                self.captured.forwards.replay()
        torch.cuda.synchronize()

    def replay_once(self) -> None:
        """Replay what is timed, and wait for it."""
        if self.captured is not None:
            with torch.cuda.stream(self.stream):
                self.captured.timed.replay()
        torch.cuda.synchronize()

    def renew(self) -> None:
        """Capture again: other inputs go with the places that are written to."""
        self.captured = self._capture()
        replays, self.replays = self.replays, 1
        self._replay()
        self.replays = replays

    def close(self) -> None:
        """Let go of the graphs and their memory."""
        torch.cuda.synchronize()
        self.captured = None


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
        for _ in range(_WARM_CALLS):
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
