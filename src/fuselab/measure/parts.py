"""Forward, backward and both: whether the parts of a training step add up.

Apart, all forwards of a sample are made before the first backward, so that what a forward saved has left the cache by
then; together, each backward comes right after its forward. Where a call's tensors exceed the cache the two ways have
to agree. Where they fit, a step may take less than its parts, since the backward finds them there; it must never take
more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from fuselab.measure.cell import Cell, Work
from fuselab.measure.cpu_timer import CpuCell
from fuselab.measure.cuda_timer import GraphCell
from fuselab.measure.events_timer import EventsCell, measured_by_events
from fuselab.measure.statistics import draw_order, trimmed_estimate
from fuselab.records import Parts, Sample

__all__ = ["TOLERANCE", "disagreement", "time_parts"]

TOLERANCE = 0.05
"""How much a step may differ from the sum of its parts."""

ROUNDS = 9
"""Rounds of the three; fewer than a comparison takes, since nothing is claimed of one against another."""

_APART, _BOTH = "apart", "both"


class _Step(Protocol):
    """A training step that can be taken in parts and whole."""

    calls: int

    def apart(self) -> tuple[float, float]:
        """Nanoseconds of one forward and of one backward."""

    def both(self) -> float:
        """Nanoseconds of one forward and its backward."""


def time_parts(cell: Cell, work: Work, seed: int) -> Parts | None:
    """Time forward, backward and both of what ``cell`` times the backward of; None for a cell of another kind."""
    step: _Step
    if isinstance(cell, GraphCell):
        step = _GraphStep(cell)
    elif isinstance(cell, EventsCell):
        step = _EventsStep(work, cell.stream, cell.calls)
    elif isinstance(cell, CpuCell):
        step = _CpuStep(work, cell.calls)
    else:
        return None
    step.both()
    found: dict[str, list[Sample]] = {"forward": [], "backward": [], "both": []}
    for number in range(ROUNDS):
        for position, way in enumerate(draw_order([_APART, _BOTH], seed, number)):
            times = dict(zip(("forward", "backward"), step.apart(), strict=True)) if way == _APART else {}
            for name, duration in (times or {"both": step.both()}).items():
                found[name].append(Sample(round=number, position=position, duration_ns=duration, calls=step.calls))
    estimate = trimmed_estimate(_log_gaps(found["forward"], found["backward"], found["both"]))
    low, high = estimate.interval(0.05)
    return Parts(**found, gap=math.expm1(estimate.centre), low=math.expm1(low), high=math.expm1(high))


def disagreement(parts: Parts, *, fits_cache: bool) -> str:
    """In words, how both differ from the sum of their parts by more than ``TOLERANCE``; empty where they do not.

    Args:
        parts: as timed.
        fits_cache: whether the backward may find in the cache what its forward left there: it is then quicker, and
            nothing is wrong.
    """
    if parts.low > TOLERANCE:
        return f"the parts do not add up: a forward with its backward takes {parts.gap:.0%} more than the two apart"
    if parts.high < -TOLERANCE and not fits_cache:
        return f"the parts do not add up: a forward with its backward takes {-parts.gap:.0%} less than the two apart"
    return ""


def _log_gaps(forward: Sequence[Sample], backward: Sequence[Sample], both: Sequence[Sample]) -> list[float]:
    return [
        math.log(whole.duration_ns / (first.duration_ns + second.duration_ns))
        for first, second, whole in zip(forward, backward, both, strict=True)
    ]


class _GraphStep:
    """By replays: the cell's own two graphs, and one that has each backward after its forward."""

    def __init__(self, cell: GraphCell) -> None:
        captured = cell.captured
        if captured is None or captured.forwards is None:
            raise RuntimeError("this cell does not time a backward, or was closed")
        self.stream, self.calls = cell.stream, cell.calls
        self._forwards, self._backwards = captured.forwards, captured.timed
        self._graph = cell.captured_steps()
        self.both()  # the first replay uploads the graph

    def apart(self) -> tuple[float, float]:
        forward = measured_by_events(self.stream, self._forwards.replay, wait_us=50)
        return forward / self.calls, measured_by_events(self.stream, self._backwards.replay, wait_us=50) / self.calls

    def both(self) -> float:
        return measured_by_events(self.stream, self._graph.replay, wait_us=50) / self.calls


class _CpuStep:
    """By the monotonic clock; collecting the arguments of ``autograd.grad`` counts as forward in both ways."""

    def __init__(self, work: Work, calls: int) -> None:
        self.work, self.calls = work, calls

    def apart(self) -> tuple[float, float]:
        batch = self.work.rotation.take(self.calls)
        self._free()
        with torch.enable_grad():
            start = time.perf_counter_ns()
            pending = [self.work.pending(index, inputs) for index, inputs in batch]
            between = time.perf_counter_ns()
            found: list[Any] = [graph.differentiate() for graph in pending]
            end = time.perf_counter_ns()
        self._keep(found)
        return (between - start) / self.calls, (end - between) / self.calls

    def both(self) -> float:
        batch = self.work.rotation.take(self.calls)
        self._free()
        with torch.enable_grad():
            start = time.perf_counter_ns()
            found: list[Any] = [self.work.pending(index, inputs).differentiate() for index, inputs in batch]
            duration = time.perf_counter_ns() - start
        self._keep(found)
        return duration / self.calls

    def _free(self) -> None:
        self.work.rotation.kept = [None] * len(self.work.rotation)

    def _keep(self, found: list[Any]) -> None:
        self.work.rotation.kept[: len(found)] = found[: len(self.work.rotation)]


class _EventsStep:
    """By events around eager calls, dispatch included."""

    def __init__(self, work: Work, stream: torch.cuda.Stream, calls: int) -> None:
        self.work, self.stream, self.calls = work, stream, calls

    def apart(self) -> tuple[float, float]:
        batch = self.work.rotation.take(self.calls)
        pending: list[Any] = []
        found: list[Any] = []

        def forwards() -> None:
            pending.extend(self.work.pending(index, inputs) for index, inputs in batch)

        def backwards() -> None:
            found.extend(graph.differentiate() for graph in pending)

        with torch.enable_grad():
            forward = measured_by_events(self.stream, forwards)
            return forward / self.calls, measured_by_events(self.stream, backwards) / self.calls

    def both(self) -> float:
        batch = self.work.rotation.take(self.calls)
        found: list[Any] = []

        def steps() -> None:
            found.extend(self.work.pending(index, inputs).differentiate() for index, inputs in batch)

        with torch.enable_grad():
            return measured_by_events(self.stream, steps) / self.calls
