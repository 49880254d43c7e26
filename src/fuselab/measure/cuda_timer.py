"""Device time on a GPU: replays of captured graphs between two events.

A graph holds all calls of a sample, on rotating inputs and into rotating outputs, so that nothing but the device's
own work lies between two of them. A backward has two graphs that share a pool: the first makes the forwards of a
sample, untimed, the second differentiates them, between two events. Buffers that a compiled backward takes over are
thus made anew for every replay. A short wait on the device before the first event lets the host get ahead, so that no
launch is timed.

Where results lie decides over up to 4% of a kernel's time: two copies of one function that wrote to memory of their own
differed for as long as they lived, by more than the margin in 4 of 96 pairs on an H200. So every call of a graph
writes to a place of its own, all graphs of a group share one pool, equally fast ones have equally many calls and thus
the same places, and which input goes with which place is drawn anew with each capture, alike for all. What is then left
is some 0.05% by capture, which all samples of one capture have in common: with one capture for all rounds 41% of A/A
pairs were different at 95%, with one between two looks 12%. So each sample has a capture of its own, and a round is one
independent observation. Where capturing takes too long for that (many kernels), a cell has a few captures, a sample
replays one of them at random, and they are made anew as rounds go on.

What cannot be captured (a function that waits for the device, works on the CPU or on a stream of its own) raises
``CaptureError``, and is then timed between events, dispatch included.
"""

from __future__ import annotations

import contextlib
import functools
import gc
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
from fuselab.measure.cell import Work
from fuselab.measure.events_timer import SAMPLE_NS, WARM_CALLS, measured_by_events
from fuselab.measure.located import Located, SharedPool, located
from fuselab.records import Clock, Direction

__all__ = ["CaptureError", "Captured", "GraphCell"]

_MAX_CALLS = 1024
"""Calls in one graph."""

_MAX_REPLAYS = 64

_FRESH_S = 0.015
"""A capture that takes no longer is made anew for each sample."""

_CAPTURES = 5
"""Captures that samples are drawn from, where each takes longer than that."""

_CAPTURES_S = 0.1
"""Most time for all captures of such a cell."""

_FEWEST_CALLS = 8
"""Calls in one graph where that takes no more than four samples: so many places are written to."""


class CaptureError(Exception):
    """A call cannot be captured into a CUDA graph; the message says why."""


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


@contextlib.contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> Iterator[None]:
    """Capture what is called on ``stream``.

    ``torch.cuda.graph`` also waits for the device and gives all cached memory back, which takes longer than to capture.
    Garbage that Python collects meanwhile may hold memory of the device, and to free that invalidates a capture.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool)
            try:
                yield
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()


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
        like: GraphCell | None = None,
        sample_ns: int = SAMPLE_NS,
    ) -> None:
        """Warm up, choose the calls of a sample, and capture them.

        Args:
            work: what to time.
            stream: where to replay.
            pool: which cells that are compared share; one of its own where None.
            seed: of which set of inputs goes with which place in the pool; cells of one seed have the same.
            like: what it will be compared with: it gets as many calls, unless the two differ more than twofold.
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
        wanted = max(sample_ns, min(_FEWEST_CALLS * call_ns, 4 * sample_ns)) / max(call_ns, 1.0)
        laps = max(1, math.ceil(wanted / len(work.rotation)))
        self.calls = len(work.rotation) * min(laps, max(1, _MAX_CALLS // len(work.rotation)))
        # Fewer calls than there are sets would leave some out.
        if like is not None and not (
            like.calls <= 2 * self.calls <= 4 * like.calls and like.calls >= len(work.rotation)
        ):
            like = None
        if like is not None:
            self.calls = like.calls
        self._all = [self._capture()]
        started = time.perf_counter()
        self._all = [self._capture()]
        once_s = time.perf_counter() - started
        self.fresh = once_s <= _FRESH_S
        if not self.fresh:
            self._all += [self._capture() for _ in range(min(_CAPTURES, int(_CAPTURES_S / once_s)) - 1)]
        self.capture_s = once_s * len(self._all)
        self._samples = 0
        self.replays = 1
        self._upload()
        once_ns = min(self._replay(self._all[0]) for _ in range(3))
        self.replays = min(_MAX_REPLAYS, max(1, math.ceil(sample_ns / max(once_ns, 1.0))))
        if like is not None:
            self.replays = like.replays

    def sample(self) -> tuple[float, int]:
        """Time one sample: nanoseconds of one call, and the number of calls."""
        if not self._all:
            raise RuntimeError("this cell was closed")
        calls = self.calls * self.replays
        if self.fresh:
            self._all = [self._capture()]
            self._upload()
            return self._replay(self._all[0]) / calls, calls
        # Alike for all cells of a seed: in one round, all replay the captures of one permutation.
        drawn = np.random.default_rng([self._seed & (2**64 - 1), 1, self._samples]).integers(len(self._all))
        self._samples += 1
        return self._replay(self._all[int(drawn)]) / calls, calls

    @property
    def captured(self) -> Captured | None:
        """Graphs that can be replayed; None after ``close``."""
        return self._all[0] if self._all else None

    def _upload(self) -> None:
        """Replay each capture once: the first replay uploads a graph."""
        replays, self.replays = self.replays, 1
        for captured in self._all:
            self._replay(captured)
        self.replays = replays

    def _replay(self, captured: Captured) -> float:
        replays = self.replays
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
            for i in range(WARM_CALLS):
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
        if self._captures == 1:
            # The pool grows in the first capture, where the allocator cannot give cached memory back. Later ones find
            # theirs there.
            torch.cuda.empty_cache()
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
        kept: dict[int, Any] = {}
        everything = []  # kept until the capture is over, so that no two calls write to one place
        with _capturing(graph, self._pool.handle, self.stream):
            for number in numbers:
                kept[number] = self.work.call(self.work.rotation.sets[number])
                everything.append(kept[number])
        return Captured(graph, None, located([t for _, t in named_outputs(kept[0])]))

    def _capture_backward(self, numbers: Sequence[int]) -> Captured:
        sets, pool = self.work.rotation.sets, self._pool.handle
        forwards, graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _capturing(forwards, pool, self.stream):
            pending = [self.work.pending(number, sets[number]) for number in numbers]
        found: dict[int, Any] = {}
        everything = []
        with _capturing(graph, pool, self.stream):
            for number, waiting in zip(numbers, pending, strict=True):
                found[number] = waiting.differentiate()
                everything.append(found[number])
        return Captured(graph, forwards, located([g for g in found[0] if g is not None]))

    def captured_steps(self) -> torch.cuda.CUDAGraph:
        """A graph of as many calls in which each backward follows its forward."""
        sets = self.work.rotation.sets
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # these forwards keep what two graphs had in turn
        with torch.enable_grad(), _capturing(graph, self._pool.handle, self.stream):
            kept = [self.work.pending(number, sets[number]).differentiate() for number in self._numbers]
        del kept
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
        """Capture again, where samples do not: other inputs go with the places that are written to."""
        if self.fresh:
            return
        self._all = [self._capture() for _ in self._all]
        self._upload()

    def close(self) -> None:
        """Let go of the graphs and their memory."""
        torch.cuda.synchronize()
        self._all = []
