"""The sum of dy * x_hat over all rows, in two stages and without atomics."""

import torch
import triton
import triton.language as tl

PROGRAMS = 3


@triton.jit
def partial_kernel(dy_ptr, x_hat_ptr, partial_ptr, M, N, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    partial = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        dy = tl.load(dy_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
        x_hat = tl.load(x_hat_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
        partial += dy * x_hat
    tl.store(partial_ptr + tl.program_id(0) * N + columns, partial, mask=mask)


@triton.jit
def total_kernel(partial_ptr, dweight_ptr, N, programs, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    total = tl.zeros((BLOCK,), tl.float32)
    for program in range(0, programs):
        total += tl.load(partial_ptr + program * N + columns, mask=mask, other=0.0)
    tl.store(dweight_ptr + columns, total.to(dweight_ptr.dtype.element_ty), mask=mask)


def weight_gradient(dy, x_hat):
    M, N = dy.shape
    BLOCK = triton.next_power_of_2(N)
    partial = torch.empty(PROGRAMS, N, dtype=torch.float32, device=dy.device)
    dweight = torch.empty(N, dtype=dy.dtype, device=dy.device)
    partial_kernel[(PROGRAMS,)](dy, x_hat, partial, M, N, BLOCK=BLOCK)
    total_kernel[(1,)](partial, dweight, N, PROGRAMS, BLOCK=BLOCK)
    return dweight
