"""A fixed number of programs, each of which takes every so-many-th block."""

import torch
import triton
import triton.language as tl


@triton.jit
def persistent_scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
        offsets = block * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < n
        x = tl.load(x_ptr + offsets, mask=mask).to(tl.float32)
        y = x * factor
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def persistent_scale(x, factor, programs):
    y = torch.empty_like(x)
    persistent_scale_kernel[(programs,)](x, y, x.numel(), factor, BLOCK=128)
    return y
