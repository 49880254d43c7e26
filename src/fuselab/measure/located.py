"""Results of a replayed graph by their addresses: the memory is the graph's, and nobody holds a tensor of it.

All graphs of a group share one pool, and each gives its blocks back when it was captured, so that the next graph's
results lie where this one's do: a variant is then no faster or slower for where its results lie. What a graph wrote can
be read after its own replay, until another one is replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Located", "SharedPool", "located"]


@dataclass(frozen=True)
class Located:
    """Where a tensor is, and its form; a tensor that is not on a GPU is kept as it is."""

    pointer: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    kept: Tensor | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Located:
        """Where ``tensor`` is now."""
        return cls(
            pointer=tensor.data_ptr() if tensor.is_cuda else 0,
            shape=tuple(tensor.shape),
            stride=tensor.stride(),
            dtype=tensor.dtype,
            device=tensor.device,
            kept=None if tensor.is_cuda else tensor,
        )

    def read(self) -> Tensor:
        """A copy of what is there."""
        if self.kept is not None:
            return self.kept.clone()
        if not self.pointer or 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype, device=self.device)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        block = torch.as_tensor(_Bytes(self.pointer, extent * self.dtype.itemsize), device=self.device)
        return block.view(self.dtype).as_strided(self.shape, self.stride).clone()


class SharedPool:
    """A pool for graphs that come and go: one small graph of its own keeps it there."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self._anchor = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._anchor, pool=self.handle, stream=stream):
            torch.zeros(1, device="cuda")


class _Bytes:
    """Memory on a GPU as numba's array interface has it, which torch reads."""

    def __init__(self, pointer: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,),
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }


def located(tensors: Sequence[Tensor]) -> list[Located]:
    """Where each of the tensors is."""
    return [Located.of(tensor) for tensor in tensors]
