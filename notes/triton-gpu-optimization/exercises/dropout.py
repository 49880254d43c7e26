"""Dropout from a seed: dropout(x, p, seed) -> y

Drop element i where tl.rand(seed, i) < p, and scale the others so that the mean stays. x is a vector; nothing
but the seed has to be stored for the backward.

Replace each `...`, then: fuselab course --check dropout
or in a notebook: check("dropout", dropout); stuck: hint("dropout")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def dropout_kernel(x_ptr, y_ptr, n, p, seed, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask).to(tl.float32)
    keep = ...  # a random number for each element, compared with p
    y = ...  # what is kept makes up for what is dropped
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


def dropout(x, p, seed):
    y = torch.empty_like(x)
    n = x.numel()
    dropout_kernel[(triton.cdiv(n, 128),)](x, y, n, p, seed, BLOCK=128)
    return y
