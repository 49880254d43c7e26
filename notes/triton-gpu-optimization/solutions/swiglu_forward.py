"""SwiGLU of two matrices whose rows may lie further apart than they are wide."""

import torch
import triton
import triton.language as tl


@triton.jit
def swiglu_forward_kernel(a_ptr, b_ptr, y_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    a = tl.load(a_ptr + row * a_stride + columns, mask=mask).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + columns, mask=mask).to(tl.float32)
    y = a * tl.sigmoid(a) * b
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def swiglu_forward(a, b):
    M, N = a.shape
    y = torch.empty(M, N, dtype=a.dtype, device=a.device)
    swiglu_forward_kernel[(M,)](a, b, y, N, a.stride(0), b.stride(0), BLOCK=triton.next_power_of_2(N))
    return y
