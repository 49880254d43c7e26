"""Copy a matrix whose rows may lie further apart than they are wide."""

import torch
import triton
import triton.language as tl


@triton.jit
def strided_copy_kernel(x_ptr, y_ptr, M, N, x_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rows[:, None] < M) & (columns[None, :] < N)
    x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=mask)
    tl.store(y_ptr + rows[:, None] * N + columns[None, :], x, mask=mask)


def strided_copy(x):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(M, 2), triton.cdiv(N, 64))
    strided_copy_kernel[grid](x, y, M, N, x.stride(0), BLOCK_M=2, BLOCK_N=64)
    return y
