"""A residual addition and the RMSNorm of the sum, in one kernel."""

import torch
import triton
import triton.language as tl


@triton.jit
def add_rms_norm_forward_kernel(
    x_ptr, residual_ptr, weight_ptr, y_ptr, total_ptr, N, x_stride, eps, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    total = x + residual
    tl.store(total_ptr + row * N + columns, total.to(total_ptr.dtype.element_ty), mask=mask)
    rstd = tl.rsqrt(tl.sum(total * total, axis=0) / N + eps)
    y = total * rstd * weight
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def add_rms_norm_forward(x, residual, weight, eps):
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    total = torch.empty_like(y)
    BLOCK = triton.next_power_of_2(N)
    add_rms_norm_forward_kernel[(M,)](x, residual, weight, y, total, N, x.stride(0), eps, BLOCK=BLOCK)
    return y, total
