"""Softmax, numerically stable: softmax_forward(x) -> y

One program computes the softmax of one row, which fits into its block. Large inputs must not overflow.

Replace each `...`, then: fuselab course --check softmax_forward
or in a notebook: check("softmax_forward", softmax_forward); stuck: hint("softmax_forward")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_forward_kernel(x_ptr, y_ptr, N, x_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = ...  # the row, in float32, with what beyond its end?
    y = ...  # its softmax
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def softmax_forward(x):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    softmax_forward_kernel[(M,)](x, y, N, x.stride(0), BLOCK=triton.next_power_of_2(N))
    return y
