"""What is observed of a variant beside its samples: the other clocks, launches, and what it returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fuselab.measure.calls import gradient_targets
from fuselab.measure.cell import Cell, Work
from fuselab.measure.cuda_timer import GraphCell
from fuselab.measure.evaluation import Evaluation
from fuselab.measure.events_timer import EventsCell
from fuselab.measure.launches import DeviceProfile, count_operators, is_compiled, profile_device
from fuselab.measure.memory import growth_bytes, peak_bytes, saved_bytes
from fuselab.measure.parts import disagreement, time_parts
from fuselab.measure.statistics import draw_order
from fuselab.records import Clock, Direction, Sample

__all__ = ["differs", "eager_loops", "observe_arm", "on_stream", "operators", "profiled"]

_PROFILED_CALLS = 16


@contextmanager
def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work on ``stream``, after what was enqueued before, and wait for it; on a CPU, nothing."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def observe_arm(
    evaluation: Evaluation, name: str, cell: Cell, work: Work, stream: torch.cuda.Stream | None, seed: int
) -> None:
    """Memory, launches, kernel time and the parts of a step of one arm, into ``evaluation``."""
    evaluation.cold[name] = cell.cold
    if work.direction is Direction.BACKWARD:
        parts = time_parts(cell, work, seed)
        if parts is not None:
            evaluation.add_parts(name, parts, disagreement(parts, fits_cache=work.rotation.fits_cache))
    elif gradient_targets(work.rotation.sets[0], work.implementation):
        with on_stream(stream):
            evaluation.saved[name] = saved_bytes(work)
    with on_stream(stream):
        grown = growth_bytes(work)
    if grown:
        kept = f"{grown} bytes of it are never given back; let go of what it keeps between calls"
        evaluation.warn(name, f"allocates more with each call: {kept}")
    evaluation.peaks[name] = peak_bytes(work, stream)
    if stream is None:
        evaluation.launches[name] = operators(work)
        return
    if isinstance(cell, GraphCell):
        cell.prepare_replay()
        profile = profile_device(cell.replay_once, cell.calls)  # of the very replay that is timed
    else:
        profile = profiled(work, stream)
    if profile is not None:
        evaluation.add_profile(name, profile)


def eager_loops(cells: Mapping[str, EventsCell], rounds: int, seed: int) -> dict[str, dict[Clock, list[Sample]]]:
    """Time eager loops of all cells in rounds: between events, and the host's time of issuing a call."""
    found: dict[str, dict[Clock, list[Sample]]] = {name: {Clock.CUDA_EVENTS: [], Clock.HOST: []} for name in cells}
    for number in range(rounds):
        for position, name in enumerate(draw_order(list(cells), seed, number)):
            duration, calls = cells[name].sample()
            for clock, value in ((Clock.CUDA_EVENTS, duration), (Clock.HOST, cells[name].host_ns)):
                found[name][clock].append(Sample(round=number, position=position, duration_ns=value, calls=calls))
    return found


def profiled(work: Work, stream: torch.cuda.Stream) -> DeviceProfile | None:
    """Kernels and their times of one call, on rotating inputs; forwards that a backward needs are not in it."""
    calls = min(_PROFILED_CALLS, len(work.rotation))
    batch = work.rotation.take(calls)
    kept: list[Any] = []
    with torch.enable_grad(), torch.cuda.stream(stream):
        if work.direction is Direction.BACKWARD:
            pending = [work.pending(index, inputs) for index, inputs in batch]
            profile = profile_device(lambda: kept.extend(graph.differentiate() for graph in pending), calls)
        else:
            profile = profile_device(lambda: kept.extend(work.call(inputs) for _, inputs in batch), calls)
    return profile


def operators(work: Work) -> int | None:
    """Operators that one call executes on a CPU; None for compiled code, whose kernels are not operators."""
    if is_compiled(work.implementation):
        return None
    inputs = work.rotation.sets[0]
    with torch.enable_grad():
        if work.direction is Direction.FORWARD:
            return count_operators(lambda: work.call(inputs))
        return count_operators(work.pending(0, inputs).differentiate)


def differs(expected: list[Tensor], timed: list[Tensor]) -> str:
    """How results differ from those of an earlier call by more than rounding, in words."""
    if len(expected) != len(timed):
        return f"{len(timed)} results instead of {len(expected)}"
    for i, (a, b) in enumerate(zip(expected, timed, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {i} is {tuple(b.shape)} {b.dtype}, was {tuple(a.shape)} {a.dtype}"
        tolerance = 16 * torch.finfo(a.dtype).eps if a.dtype.is_floating_point or a.dtype.is_complex else 0.0
        scale = float(a.abs().nan_to_num(0.0, 0.0, 0.0).max()) if a.numel() and tolerance else 0.0
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            return f"result {i} is not what a call before the timing gave"
    return ""
