"""Backward of RMSNorm: rms_norm_backward(dy, x, weight, eps) -> (dx, dweight)

Both gradients in one kernel: 3 programs go over their rows, store dx and keep a float32 sum of dy * x_hat;
torch adds up the three sums.

Replace each `...`, then: fuselab course --check rms_norm_backward
or in a notebook: check("rms_norm_backward", rms_norm_backward); stuck: hint("rms_norm_backward")
"""

import torch
import triton
import triton.language as tl

PROGRAMS = 3


@triton.jit
def rms_norm_backward_kernel(dy_ptr, x_ptr, weight_ptr, dx_ptr, dweight_ptr, M, N, x_stride, eps, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps)
        dx = ...  # two terms
        tl.store(dx_ptr + row * N + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        dweight += ...
    ...  # this program's sums go into its row of dweight_ptr


def rms_norm_backward(dy, x, weight, eps):
    M, N = x.shape
    dx = torch.empty(M, N, dtype=x.dtype, device=x.device)
    dweight = torch.empty(PROGRAMS, N, dtype=torch.float32, device=x.device)
    BLOCK = triton.next_power_of_2(N)
    rms_norm_backward_kernel[(PROGRAMS,)](dy, x, weight, dx, dweight, M, N, x.stride(0), eps, BLOCK=BLOCK)
    return dx, dweight.sum(0).to(weight.dtype)
