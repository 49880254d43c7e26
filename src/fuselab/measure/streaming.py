"""A plain Triton kernel that reads some streams, writes others, and does nothing else worth time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["CONFIGURATIONS", "stream"]

CONFIGURATIONS = ((1024, 4), (2048, 4), (4096, 8), (8192, 8))
"""Elements a program and warps; the fastest at a cell's size is taken."""


@triton.jit
def _stream_kernel(  # type: ignore[no-untyped-def]
    source,
    sink,
    elements,
    stride,
    READS: tl.constexpr,
    WRITES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    offsets = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    total = tl.full([BLOCK], 1, tl.int32)
    # Nothing is used twice: evict_first keeps one stream from pushing out another's lines half used.
    for i in tl.static_range(READS):
        values = tl.load(
            source + i * stride.to(tl.int64) + offsets, mask=inside, other=0, eviction_policy="evict_first"
        )
        total += values
    for i in tl.static_range(WRITES):
        tl.store(sink + i * stride.to(tl.int64) + offsets, total + i, mask=inside, eviction_policy="evict_first")
    if WRITES == 0:
        tl.store(sink + program, tl.sum(total, 0))


def stream(source: Tensor, sink: Tensor, elements: int, reads: int, writes: int, block: int, warps: int) -> Tensor:
    """Read ``reads`` rows of ``source`` and write ``writes`` rows of ``sink``, both int32 of [rows, stride].

    The stride is a multiple of 16, so that the compiler may use 16-byte accesses. With no writes, each program stores
    one sum, so that the reads are not optimised away.
    """
    grid = (triton.cdiv(elements, block),)
    _stream_kernel[grid](source, sink, elements, source.stride(0), reads, writes, block, num_warps=warps)
    return sink


def buffers(elements: int, reads: int, writes: int) -> tuple[Tensor, Tensor]:
    """Random source and empty sink on the current device, both with a row stride that is a multiple of 16."""
    stride = -(-max(elements, 32) // 16) * 16
    source = torch.randint(-(2**31), 2**31 - 1, (max(reads, 1), stride), dtype=torch.int32, device="cuda")
    return source, torch.empty((max(writes, 1), stride), dtype=torch.int32, device="cuda")
