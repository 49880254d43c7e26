"""A learner's cells, for tests of how a function's source is gathered and how it is run."""

import functools
import math as m

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

HALF = 0.5
INF = float("inf")
WIDTH: tl.constexpr = tl.constexpr(4)
KIND = torch.float32
TABLE = torch.ones(3)


@triton.jit
def silu_of(x):
    return x * tl.sigmoid(x)


@triton.jit
def kernel(a_ptr, b_ptr, y_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    a = tl.load(a_ptr + row * a_stride + columns, mask=mask).to(tl.float32)
    b = tl.load(b_ptr + row * b_stride + columns, mask=mask).to(tl.float32)
    y = silu_of(a) * b
    tl.store(y_ptr + row * N + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def launches(a, b):
    M, N = a.shape
    y = torch.empty(M, N, dtype=a.dtype, device=a.device)
    kernel[(M,)](a, b, y, N, a.stride(0), b.stride(0), BLOCK=triton.next_power_of_2(N))
    return y


def uses_everything(a, b):
    y = launches(a, b).to(KIND) * HALF * m.floor(2.5) if INF > HALF else None
    return (F.relu(y) - F.relu(-y)).to(a.dtype)


@functools.lru_cache
def wrapped(a, b):
    return launches(a, b)


def uses_a_tensor(a, b):
    return launches(a, b) * TABLE


@triton.autotune(configs=[triton.Config({}, num_warps=w) for w in (2, 4)], key=["N"])
@triton.jit
def autotuned(a_ptr, b_ptr, y_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    tl.store(y_ptr, 0.0)


def in_torch(a, b):
    return F.silu(a) * b


def never_ends(a, b):
    n = 0
    while True:
        n += 1


def leaves(a, b):
    import os

    os._exit(3)


def far_outside(a, b):
    import ctypes

    return ctypes.string_at(0)


def prints_and_raises(a, b):
    print("<b>", a.shape, flush=True)
    raise ValueError("after printing")


def raises(a, b):
    return a.nope(b)


def writes_to_its_input(a, b):
    y = in_torch(a, b)
    a.zero_()
    return y


def another_shape(a, b):
    return a[:1]


def another_dtype(a, b):
    return a.double()


def nothing(a, b):
    pass


def two(a, b):
    return a, b


@triton.jit
def does_not_compile(a_ptr, b_ptr, y_ptr, N, a_stride, b_stride, BLOCK: tl.constexpr):
    tl.store(y_ptr, no_such_name)  # noqa: F821
