"""Memory of one call: the peak on the device, what a forward keeps for its backward, and what is never given back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fuselab.measure.calls import forward, parameters
from fuselab.measure.cell import Work
from fuselab.measure.launches import trace_of
from fuselab.records import Direction

__all__ = ["growth_bytes", "peak_bytes", "saved_bytes"]


def growth_bytes(work: Work) -> int:
    """Bytes that each call allocates and never gives back; 0 where it does not.

    Of two calls the smaller growth: the first may fill a cache once.
    """
    results = work.once(0)
    on_cuda = any(t.is_cuda for t in results)
    del results
    return max(0, min(_kept_after(work, on_cuda) for _ in range(2)))


def _kept_after(work: Work, on_cuda: bool) -> int:
    if not on_cuda:
        return sum(_allocations(lambda: work.once(0)))
    before = torch.cuda.memory_allocated()
    work.once(0)
    return int(torch.cuda.memory_allocated()) - before


def _allocations(call: Callable[[], object]) -> list[int]:
    """Allocations (positive) and deallocations (negative) on the CPU, in order, until the results of ``call`` are
    gone."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    events = [e for e in trace_of(call, activities, memory=True) if e.get("name") == "[memory]"]
    return [int(e["args"]["Bytes"]) for e in sorted(events, key=lambda e: float(e["ts"]))]


def saved_bytes(work: Work) -> int:
    """Bytes of the distinct tensors that a forward on set 0 saves for its backward, inputs included, parameters not.

    An input counts because saving it keeps it alive: to a network it is somebody's activation.
    """
    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in parameters(work.implementation).values()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward(work.implementation, work.rotation.sets[0])
    del outputs
    return sum(storages.values())


def peak_bytes(work: Work, stream: torch.cuda.Stream | None) -> int:
    """Most memory that one call on set 0 had allocated beyond what was allocated before it.

    For a backward that is counted from the end of the forward. On a CPU (no stream) it is torch's own allocations, from
    the profiler; on a GPU the caching allocator's peak.
    """
    inputs = work.rotation.sets[0]
    with torch.enable_grad():
        if stream is None:
            pending = work.pending(0, inputs) if work.direction is Direction.BACKWARD else None
            call = pending.differentiate if pending is not None else lambda: work.call(inputs)
            total, most = 0, 0
            for size in _allocations(call):
                total += size
                most = max(most, total)
            return most
        with torch.cuda.stream(stream):
            pending = work.pending(0, inputs) if work.direction is Direction.BACKWARD else None
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            result = pending.differentiate() if pending is not None else work.call(inputs)
            torch.cuda.synchronize()
            peak = int(torch.cuda.max_memory_allocated())
            del result
    return max(0, peak - before)
