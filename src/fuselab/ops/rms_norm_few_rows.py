"""The backward of ``rms_norm`` for few rows, in one launch.

For many rows each program keeps a partial sum of the weight's gradient, and a second kernel adds these up: two launches
then, and launches are all that few rows cost. But the weight's gradient needs nothing that the gradient of x
does: ``sum over rows of dy * x * rstd`` has no sum over a row in it, since rstd is saved. So the programs of one launch
share the work: the first sum the weight's gradient, each for a block of columns over all rows, the others each take a
row. None waits for another. x and dy are read twice, the second time from the L2 cache, where so few rows fit.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fuselab.ops.launch import launch
from fuselab.ops.rms_norm_kernels import _load, _store, _upstream, _vector, _weight_gradient

__all__ = ["_rms_norm_backward_few_rows_kernel", "backward_few_rows", "is_few_rows"]

_MOST_ROWS = 256
_MOST_ELEMENTS = 2**20
_WIDEST = 16384
_EIGHT_WARPS = 8192
"""Columns of a row for eight warps, 32 a thread; the programs that sum are the slower for more warps."""
_TILES = ((16, 16, 64), (64, 64, 32), (_MOST_ROWS, 128, 32))
"""For up to so many rows: rows and columns that a program that sums has at once, by eight warps. Narrow blocks are more
programs, and long ones wait for memory once: measured at 16 and 256 rows of 4096 in bfloat16."""


@triton.jit
def _backward_of_row(  # type: ignore[no-untyped-def]
    row,
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    N,
    CASTING: tl.constexpr,
    HAS_DTOTAL: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column = tl.arange(0, BLOCK_N)
    x = _load(x_ptr + row * x_stride + column, row, column, 1, N, EVEN, 1, "").to(tl.float32)
    dy = _load(dy_ptr + row * dy_stride + column, row, column, 1, N, EVEN, 1, "").to(tl.float32)
    if HAS_DTOTAL:
        dtotal = _load(dtotal_ptr + row * dtotal_stride + column, row, column, 1, N, EVEN, 1, "").to(tl.float32)
    weight = _vector(weight_ptr, column, N, EVEN)
    rstd = tl.load(rstd_ptr + row)
    upstream = _upstream(dy, rstd, weight, CASTING, True)
    dx = upstream - x * (tl.sum(x * upstream, axis=0) / N * rstd * rstd)
    if HAS_DTOTAL:
        dx += dtotal
    _store(dx_ptr + row * N + column, dx, row, column, 1, N, EVEN, 1)


@triton.jit
def _backward_of_weight(  # type: ignore[no-untyped-def]
    block,
    x_ptr,
    rstd_ptr,
    dy_ptr,
    dweight_ptr,
    x_stride,
    dy_stride,
    M,
    N,
    CASTING: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    column = (block * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    partial = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, M, BLOCK_R):
        # 64-bit rows: they may be any distance apart.
        row = (start + tl.arange(0, BLOCK_R)).to(tl.int64)[:, None]
        inside = (row < M) & (column < N)
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
        partial += _weight_gradient(x, dy, rstd, CASTING, x_ptr.dtype.element_ty)
    one = block * BLOCK_C + tl.arange(0, BLOCK_C)
    tl.store(dweight_ptr + one, tl.sum(partial, axis=0).to(dweight_ptr.dtype.element_ty), mask=one < N)


@triton.jit
def _rms_norm_backward_few_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    dweight_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    M,
    N,
    CASTING: tl.constexpr,
    HAS_DTOTAL: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    blocks = tl.num_programs(0) - M
    program = tl.program_id(0)
    if program < blocks:
        _backward_of_weight(
            program, x_ptr, rstd_ptr, dy_ptr, dweight_ptr, x_stride, dy_stride, M, N, CASTING, BLOCK_R, BLOCK_C
        )
    else:
        _backward_of_row(
            (program - blocks).to(tl.int64),
            x_ptr,
            weight_ptr,
            rstd_ptr,
            dy_ptr,
            dtotal_ptr,
            dx_ptr,
            x_stride,
            dy_stride,
            dtotal_stride,
            N,
            CASTING,
            HAS_DTOTAL,
            EVEN,
            BLOCK_N,
        )


def is_few_rows(M: Any, N: Any) -> bool:
    """Whether so many rows are worth one launch; never for a symbolic number of rows, which would be asked for."""
    return isinstance(M, int) and M <= _MOST_ROWS and int(N) <= _WIDEST and M * int(N) <= _MOST_ELEMENTS


def backward_few_rows(
    kernel: Any,
    x_MN: Tensor,
    weight: Tensor,
    rstd: Tensor,
    dy_MN: Tensor,
    dtotal_MN: Tensor | None,
    dx: Tensor,
    casting: str,
) -> Tensor:
    """Launch the kernel: fills ``dx`` and returns the gradient of the weight.

    Args:
        kernel: ``_rms_norm_backward_few_rows_kernel``, as it is or as ``wrap_triton`` made it.
        x_MN, dy_MN, dtotal_MN: (M, N) with adjacent columns; ``is_few_rows(M, N)`` holds.
        weight: (N,), contiguous.
        rstd: M numbers, as the forward stored them.
        dx: M * N elements, contiguous.
        casting: as in ``rms_norm``.
    """
    M, N = x_MN.shape
    dweight = weight.new_empty(weight.shape)
    block_n = max(triton.next_power_of_2(int(N)), 16)
    block_r, block_c = next(tile for most, *tile in _TILES if most >= M)
    added = dy_MN if dtotal_MN is None else dtotal_MN
    launch(
        kernel,
        (triton.cdiv(int(N), block_c) + M,),
        x_MN.device,
        x_MN,
        weight,
        rstd,
        dy_MN,
        added,
        dx,
        dweight,
        x_MN.stride(0),
        dy_MN.stride(0),
        added.stride(0),
        M,
        N,
        CASTING=casting,
        HAS_DTOTAL=dtotal_MN is not None,
        EVEN=int(N) == block_n,
        BLOCK_N=block_n,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=8 if block_n <= _EIGHT_WARPS else 16,
    )
    return dweight
