"""Sums of columns: the second half of a weight gradient whose first half are the partial sums of programs.

Partial sums that are added up in an order of their own, rather than by atomic additions as they come, make repeated
calls agree to the bit.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fuselab.ops.launch import launch

__all__ = ["column_sums", "column_sums_kernel"]

_ELEMENTS = 16384
"""Elements that a program of 16 warps loads at once, eight 16-byte loads a thread: they wait for memory once."""


@triton.jit
def column_sums_kernel(  # type: ignore[no-untyped-def]
    partial_ptr, out_ptr, P, N, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr
):
    """``out[n] = sum over p of partial[p, n]``, in float32, rounded to the dtype of ``out`` last."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for start in range(0, P, BLOCK_P):
        row = start + tl.arange(0, BLOCK_P)[:, None]
        # 64-bit offsets: programs times columns can be more than 2^31.
        offset = row.to(tl.int64) * N + column[None, :]
        sums += tl.load(partial_ptr + offset, mask=(row < P) & (column[None, :] < N), other=0.0)
    tl.store(out_ptr + column, tl.sum(sums, axis=0).to(out_ptr.dtype.element_ty), mask=column < N)


def column_sums(kernel: Any, partial: Tensor, out: Tensor, most: int) -> None:
    """Sum ``partial`` of shape (P, N), float32, over its rows into ``out`` of shape (N,), any floating dtype.

    Args:
        kernel: ``column_sums_kernel``, as it is or as ``wrap_triton`` made it.
        partial: contiguous, on a GPU.
        out: is written.
        most: upper bound of P, a number even where P is a symbol: the tile is chosen for it.
    """
    N = partial.shape[1]
    # Few columns a program where there are few of them, so that there are programs enough: 32 bytes of a row at least.
    block_n = 32 if N >= 4096 else 16 if N >= 1024 else 8
    block_p = min(triton.next_power_of_2(most), _ELEMENTS // block_n)
    num_warps = min(max(block_p * block_n // 1024, 4), 16)
    grid = (triton.cdiv(N, block_n),)
    launch(
        kernel,
        grid,
        partial.device,
        partial,
        out,
        partial.shape[0],
        N,
        BLOCK_P=block_p,
        BLOCK_N=block_n,
        num_warps=num_warps,
    )
