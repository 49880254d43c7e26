"""A plain Triton kernel that reads some streams, writes others, and does nothing else worth time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["CONFIGURATIONS", "buffers", "stream"]

CONFIGURATIONS = ((256, 4), (512, 4), (512, 8), (1024, 4), (1024, 8), (2048, 8))
"""Elements a program and warps; the fastest at a cell's size is taken. Measured on an H200 (16384x4096 bf16, TB/s at
1:1, 2:1 and 3:2): 4.15, 4.30 and 4.27 with an allocation of its own for each stream and the caches' default policy;
4.06, 4.10 and 4.12 where the streams are rows of one allocation, which is less than compiled SiLU reaches; telling the
caches to evict first never helped."""


@triton.jit
def _stream_kernel(  # type: ignore[no-untyped-def]
    sources,
    sinks,
    elements,
    READS: tl.constexpr,
    WRITES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    offsets = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    total = tl.full([BLOCK], 1, tl.int32)
    for i in tl.static_range(READS):
        total += tl.load(sources[i] + offsets, mask=inside, other=0)
    for i in tl.static_range(WRITES):
        tl.store(sinks[i] + offsets, total + i, mask=inside)
    if WRITES == 0:
        tl.store(sinks[0] + program, tl.sum(total, 0))


def stream(
    sources: Sequence[Tensor], sinks: Sequence[Tensor], elements: int, reads: int, writes: int, block: int, warps: int
) -> Sequence[Tensor]:
    """Read ``reads`` of the ``sources`` and write ``writes`` of the ``sinks``, all int32 of one axis.

    With no writes, each program stores one sum into the first sink, so that the reads are not optimised away.
    """
    grid = (triton.cdiv(elements, block),)
    _stream_kernel[grid](tuple(sources), tuple(sinks), elements, reads, writes, block, num_warps=warps)
    return sinks


def buffers(elements: int, reads: int, writes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Random sources and empty sinks on the current device, each an allocation of its own."""
    sources = [
        torch.randint(-(2**31), 2**31 - 1, (elements,), dtype=torch.int32, device="cuda") for _ in range(max(reads, 1))
    ]
    return sources, [torch.empty(elements, dtype=torch.int32, device="cuda") for _ in range(max(writes, 1))]
