"""Planted: RMSNorm with a mistake that is made often. Which one?"""

import torch
import triton
import triton.language as tl


@triton.jit
def rms_norm_forward_kernel(x_ptr, weight_ptr, y_ptr, N, x_stride, eps, BLOCK: tl.constexpr):
    """One row a program."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    rstd = 1.0 / (tl.sqrt(tl.sum(x * x) / N) + eps)
    tl.store(y_ptr + row * N + columns, (x * rstd * weight).to(y_ptr.dtype.element_ty), mask=mask)


def rms_norm_forward(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise each row of x by its root mean square."""
    M, N = x.shape
    y = torch.empty(M, N, dtype=x.dtype, device=x.device)
    rms_norm_forward_kernel[(M,)](x, weight, y, N, x.stride(0), eps, BLOCK=triton.next_power_of_2(N))
    return y
