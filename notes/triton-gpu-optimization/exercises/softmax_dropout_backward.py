"""Backward of softmax and dropout: softmax_dropout_backward(dy, probabilities, p, seed) -> dx

The gradient of the input from dy and the softmax before dropout. The mask is drawn again from the seed, with
the forward's offsets row * N + column.

Replace each `...`, then: fuselab course --check softmax_dropout_backward
or in a notebook: check("softmax_dropout_backward", softmax_dropout_backward); stuck: hint("softmax_dropout_backward")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_dropout_backward_kernel(dy_ptr, probabilities_ptr, dx_ptr, N, p, seed, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    dy = tl.load(dy_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
    probabilities = tl.load(probabilities_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
    d = ...  # the gradient of the probabilities
    dx = ...  # through the softmax
    tl.store(dx_ptr + row * N + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def softmax_dropout_backward(dy, probabilities, p, seed):
    M, N = dy.shape
    dx = torch.empty_like(dy)
    softmax_dropout_backward_kernel[(M,)](dy, probabilities, dx, N, p, seed, BLOCK=triton.next_power_of_2(N))
    return dx
