"""Memory of one call: the peak on the device, and what a forward keeps for its backward."""

from __future__ import annotations

import torch
from torch import Tensor

from fuselab.measure.calls import forward, parameters
from fuselab.measure.cell import Work
from fuselab.records import Direction

__all__ = ["peak_bytes", "saved_bytes"]


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


def peak_bytes(work: Work, stream: torch.cuda.Stream) -> int:
    """Most device memory that one call on set 0 had allocated beyond what was allocated before it.

    For a backward that is counted from the end of the forward.
    """
    inputs = work.rotation.sets[0]
    with torch.cuda.stream(stream), torch.enable_grad():
        pending = work.pending(0, inputs) if work.direction is Direction.BACKWARD else None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = pending.differentiate() if pending is not None else work.call(inputs)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    del result
    return max(0, peak - before)
