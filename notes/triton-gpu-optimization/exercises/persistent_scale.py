"""A fixed number of programs: persistent_scale(x, factor, programs) -> y

Multiply x by factor with exactly `programs` programs: each takes a block, then the one `programs` further on.

Replace each `...`, then: fuselab course --check persistent_scale
or in a notebook: check("persistent_scale", persistent_scale); stuck: hint("persistent_scale")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def persistent_scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    for block in range(...):  # from which block, to which, how far apart?
        offsets = block * BLOCK + tl.arange(0, BLOCK)
        mask = ...
        x = tl.load(x_ptr + offsets, mask=mask).to(tl.float32)
        y = x * factor
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def persistent_scale(x, factor, programs):
    y = torch.empty_like(x)
    persistent_scale_kernel[(programs,)](x, y, x.numel(), factor, BLOCK=128)
    return y
