"""Add two vectors: vector_add(x, y) -> z

Write the mask: the last program has more elements in its block than there are left.

Replace each `...`, then: fuselab course --check vector_add
or in a notebook: check("vector_add", vector_add); stuck: hint("vector_add")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def vector_add_kernel(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = ...  # which of the offsets exist?
    x = tl.load(x_ptr + offsets, mask=mask)
    y = tl.load(y_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + y, mask=mask)


def vector_add(x, y):
    z = torch.empty_like(x)
    n = x.numel()
    vector_add_kernel[(triton.cdiv(n, 128),)](x, y, z, n, BLOCK=128)
    return z
