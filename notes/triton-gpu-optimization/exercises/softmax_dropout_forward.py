"""Softmax and dropout in one kernel: softmax_dropout_forward(x, p, seed) -> (y, probabilities)

The softmax of each row, then dropout with tl.rand(seed, row * N + column). The softmax before dropout is the
second result: the backward needs it, and not the mask.

Replace each `...`, then: fuselab course --check softmax_dropout_forward
or in a notebook: check("softmax_dropout_forward", softmax_dropout_forward); stuck: hint("softmax_dropout_forward")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_dropout_forward_kernel(x_ptr, y_ptr, probabilities_ptr, N, x_stride, p, seed, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=-float("inf")).to(tl.float32)
    probabilities = ...  # the softmax
    keep = ...  # no two elements share a random number
    y = ...
    tl.store(probabilities_ptr + row * N + columns, probabilities.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def softmax_dropout_forward(x, p, seed):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    probabilities = torch.empty_like(y)
    BLOCK = triton.next_power_of_2(N)
    softmax_dropout_forward_kernel[(M,)](x, y, probabilities, N, x.stride(0), p, seed, BLOCK=BLOCK)
    return y, probabilities
