"""gelu(x + bias) in one kernel, with the exact GELU."""

import torch
import triton
import triton.language as tl


@triton.jit
def bias_gelu_kernel(x_ptr, bias_ptr, y_ptr, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    x = tl.load(x_ptr + row * N + columns, mask=mask).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=mask).to(tl.float32)
    z = x + bias
    y = 0.5 * z * (1 + tl.erf(z * 0.7071067811865476))
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def bias_gelu(x, bias):
    M, N = x.shape
    y = torch.empty_like(x)
    bias_gelu_kernel[(M,)](x, bias, y, N, BLOCK=triton.next_power_of_2(N))
    return y
