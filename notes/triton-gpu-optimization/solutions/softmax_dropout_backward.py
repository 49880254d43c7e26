"""The gradient of softmax and dropout; the mask is drawn again from the seed."""

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
    keep = tl.rand(seed, row * N + columns) >= p
    d = tl.where(keep, dy / (1 - p), 0.0)
    dx = probabilities * (d - tl.sum(probabilities * d, axis=0))
    tl.store(dx_ptr + row * N + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def softmax_dropout_backward(dy, probabilities, p, seed):
    M, N = dy.shape
    dx = torch.empty_like(dy)
    softmax_dropout_backward_kernel[(M,)](dy, probabilities, dx, N, p, seed, BLOCK=triton.next_power_of_2(N))
    return dx
