"""RMSNorm: rms_norm_forward(x, weight, eps) -> y

x / sqrt(mean(x^2) + eps) * weight, one row a program, in float32 inside.

Replace each `...`, then: fuselab course --check rms_norm_forward
or in a notebook: check("rms_norm_forward", rms_norm_forward); stuck: hint("rms_norm_forward")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def rms_norm_forward_kernel(x_ptr, weight_ptr, y_ptr, N, x_stride, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = ...  # the row, in which dtype?
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    rstd = ...
    y = ...
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def rms_norm_forward(x, weight, eps):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    rms_norm_forward_kernel[(M,)](x, weight, y, N, x.stride(0), eps, BLOCK=triton.next_power_of_2(N))
    return y
