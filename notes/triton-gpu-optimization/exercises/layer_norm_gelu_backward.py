"""A whole fused backward: layer_norm_gelu_backward(dy, x, weight, bias, eps) -> (dx, dweight, dbias)

All three gradients of gelu(layer_norm(x)): statistics and GELU are computed again from x, dx is stored row by
row, dweight and dbias are summed by 3 programs into rows of their own and added up at the end.

Replace each `...`, then: fuselab course --check layer_norm_gelu_backward
or in a notebook: check("layer_norm_gelu_backward", layer_norm_gelu_backward); stuck: hint("layer_norm_gelu_backward")
"""

import torch
import triton
import triton.language as tl

PROGRAMS = 3


@triton.jit
def layer_norm_gelu_backward_kernel(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, dx_ptr, dweight_ptr, dbias_ptr, M, N, x_stride, eps, BLOCK: tl.constexpr
):
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    dweight = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * N + columns, mask=mask, other=0.0).to(tl.float32)
        ...  # statistics, z and dz again; dx stored; dweight and dbias added to
    ...  # this program's sums go into its rows of dweight_ptr and dbias_ptr


def layer_norm_gelu_backward(dy, x, weight, bias, eps):
    M, N = x.shape
    dx = torch.empty(M, N, dtype=x.dtype, device=x.device)
    dweight = torch.empty(PROGRAMS, N, dtype=torch.float32, device=x.device)
    dbias = torch.empty_like(dweight)
    layer_norm_gelu_backward_kernel[(PROGRAMS,)](
        dy, x, weight, bias, dx, dweight, dbias, M, N, x.stride(0), eps, BLOCK=triton.next_power_of_2(N)
    )
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)
