"""Backward of SwiGLU: swiglu_backward(dy, a, b) -> (da, db)

Both gradients in one kernel, with the sigmoid computed once more instead of stored.

Replace each `...`, then: fuselab course --check swiglu_backward
or in a notebook: check("swiglu_backward", swiglu_backward); stuck: hint("swiglu_backward")
"""

import torch
import triton
import triton.language as tl


@triton.jit
def swiglu_backward_kernel(dy_ptr, a_ptr, b_ptr, da_ptr, db_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    dy = tl.load(dy_ptr + row * N + columns, mask=mask).to(tl.float32)
    a = tl.load(a_ptr + row * a_stride + columns, mask=mask).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + columns, mask=mask).to(tl.float32)
    s = tl.sigmoid(a)
    da = ...
    db = ...
    tl.store(da_ptr + row * N + columns, da.to(da_ptr.dtype.element_ty), mask=mask)
    tl.store(db_ptr + row * N + columns, db.to(db_ptr.dtype.element_ty), mask=mask)


def swiglu_backward(dy, a, b):
    M, N = a.shape
    da = torch.empty(M, N, dtype=a.dtype, device=a.device)
    db = torch.empty(M, N, dtype=b.dtype, device=b.device)
    BLOCK = triton.next_power_of_2(N)
    swiglu_backward_kernel[(M,)](dy, a, b, da, db, N, a.stride(0), b.stride(0), BLOCK=BLOCK)
    return da, db
