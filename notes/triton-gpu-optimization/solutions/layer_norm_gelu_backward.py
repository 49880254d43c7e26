"""All gradients of gelu(layer_norm(x)) in one pass over the rows."""

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
        mean = tl.sum(x, axis=0) / N
        centred = tl.where(mask, x - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(centred * centred, axis=0) / N + eps)
        x_hat = centred * rstd
        z = x_hat * weight + bias
        cdf = 0.5 * (1 + tl.erf(z * 0.7071067811865476))
        density = tl.exp(-0.5 * z * z) * 0.3989422804014327
        dz = dy * (cdf + z * density)
        d = dz * weight
        mean_d = tl.sum(d, axis=0) / N
        projection = tl.sum(d * x_hat, axis=0) / N
        dx = (d - mean_d - x_hat * projection) * rstd
        tl.store(dx_ptr + row * N + columns, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        dweight += dz * x_hat
        dbias += dz
    tl.store(dweight_ptr + tl.program_id(0) * N + columns, dweight, mask=mask)
    tl.store(dbias_ptr + tl.program_id(0) * N + columns, dbias, mask=mask)


def layer_norm_gelu_backward(dy, x, weight, bias, eps):
    M, N = x.shape
    dx = torch.empty(M, N, dtype=x.dtype, device=x.device)
    dweight = torch.empty(PROGRAMS, N, dtype=torch.float32, device=x.device)
    dbias = torch.empty_like(dweight)
    layer_norm_gelu_backward_kernel[(PROGRAMS,)](
        dy, x, weight, bias, dx, dweight, dbias, M, N, x.stride(0), eps, BLOCK=triton.next_power_of_2(N)
    )
    return dx, dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)
