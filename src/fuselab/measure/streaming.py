"""A plain Triton kernel that reads some streams, writes others, and does nothing else worth time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["CONFIGURATIONS", "stream"]

CONFIGURATIONS = (
    (512, 4, ""),
    (512, 4, "evict_first"),
    (1024, 4, ""),
    (1024, 4, "evict_first"),
    (1024, 8, ""),
    (2048, 8, ""),
    (4096, 8, "evict_first"),
)
"""Elements a program, warps, and what the caches are told; the fastest at a cell's size is taken. 512 elements are one
16-byte access a thread and stream, as Inductor's pointwise kernels have it: with 1024 and more alone, all told to be
evicted first, this kernel reached 4.03 TB/s at 2:1 on an H200 where a compiled SiLU backward reached 4.32."""


@triton.jit
def _stream_kernel(  # type: ignore[no-untyped-def]
    source,
    sink,
    elements,
    stride,
    READS: tl.constexpr,
    WRITES: tl.constexpr,
    BLOCK: tl.constexpr,
    POLICY: tl.constexpr,
):
    program = tl.program_id(0)
    offsets = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    total = tl.full([BLOCK], 1, tl.int32)
    for i in tl.static_range(READS):
        values = tl.load(source + i * stride.to(tl.int64) + offsets, mask=inside, other=0, eviction_policy=POLICY)
        total += values
    for i in tl.static_range(WRITES):
        tl.store(sink + i * stride.to(tl.int64) + offsets, total + i, mask=inside, eviction_policy=POLICY)
    if WRITES == 0:
        tl.store(sink + program, tl.sum(total, 0))


def stream(
    source: Tensor, sink: Tensor, elements: int, reads: int, writes: int, block: int, warps: int, policy: str = ""
) -> Tensor:
    """Read ``reads`` rows of ``source`` and write ``writes`` rows of ``sink``, both int32 of [rows, stride].

    The stride is a multiple of 16, so that the compiler may use 16-byte accesses. With no writes, each program stores
    one sum, so that the reads are not optimised away.
    """
    grid = (triton.cdiv(elements, block),)
    _stream_kernel[grid](source, sink, elements, source.stride(0), reads, writes, block, policy, num_warps=warps)
    return sink


def buffers(elements: int, reads: int, writes: int) -> tuple[Tensor, Tensor]:
    """Random source and empty sink on the current device, both with a row stride that is a multiple of 16."""
    stride = -(-max(elements, 32) // 16) * 16
    source = torch.randint(-(2**31), 2**31 - 1, (max(reads, 1), stride), dtype=torch.int32, device="cuda")
    return source, torch.empty((max(writes, 1), stride), dtype=torch.int32, device="cuda")
