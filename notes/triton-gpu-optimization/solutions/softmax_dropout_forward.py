"""Softmax, then dropout, in one kernel; the softmax is kept for the backward."""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_dropout_forward_kernel(x_ptr, y_ptr, probabilities_ptr, N, x_stride, p, seed, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    probabilities = e / tl.sum(e, axis=0)
    keep = tl.rand(seed, row * N + columns) >= p
    y = tl.where(keep, probabilities / (1 - p), 0.0)
    tl.store(probabilities_ptr + row * N + columns, probabilities.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def softmax_dropout_forward(x, p, seed):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    probabilities = torch.empty_like(y)
    BLOCK = triton.next_power_of_2(N)
    softmax_dropout_forward_kernel[(M,)](x, y, probabilities, N, x.stride(0), p, seed, BLOCK=BLOCK)
    return y, probabilities
