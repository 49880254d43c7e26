"""The forward kernel of LayerNorm + GELU for wide rows of 16-bit numbers: read once and kept packed (``packed_rows``).

A row is few warps' own, so that its sums cost little, and many rows are on a multiprocessor at once. Mean and variance
come of one pass: each thread has both of its own columns, about the first of them, and they are put together as by
Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.gelu import gelu
from fuselab.ops.packed_rows import in_eights, later_zero, load_part, packed_words, part_columns, store_part, unpacked

__all__ = ["_layer_norm_gelu_packed_kernel"]


@triton.jit(do_not_specialize=["M"])
def _layer_norm_gelu_packed_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    x_stride,
    M,
    N: tl.constexpr,
    eps,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EIGHTS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A row a program, unpacked twice: for mean and variance, for the result.
    eps = tl.cast(eps, tl.float32)
    EVEN: tl.constexpr = BLOCK_N == N
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * in_eights(x_stride, EIGHTS)
    y_ptr += row * N
    words = ()
    for part in tl.static_range(PARTS):
        words = words + (load_part(x_ptr, part_columns(part, WIDTH), N, 0.0, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
    # A thread's deviations are from a number that is one of its own, so their squares' sum is at most as many times the
    # sum about the mean as it has numbers: what the difference below cancels is a few bits, wherever the row lies.
    octet = tl.arange(0, 8)[None, None, :]
    about = tl.sum(tl.where(octet == 0, unpacked(words[0], DTYPE), 0.0), axis=2, keep_dims=True)  # type: ignore[misc]
    total = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    squares = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    count = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    for part in tl.static_range(PARTS):
        apart = unpacked(words[part], DTYPE) - about
        if not EVEN:
            inside = part_columns(part, WIDTH) < N
            apart = tl.where(inside, apart, 0.0)
            count += tl.sum(tl.where(inside, 1.0, 0.0), axis=2, keep_dims=True)
        total += tl.sum(apart, axis=2, keep_dims=True)
        squares += tl.sum(apart * apart, axis=2, keep_dims=True)
    if EVEN:
        count += 8 * PARTS
    own = total * (1.0 / tl.maximum(count, 1.0))
    mean = tl.sum((about + own) * count, axis=1, keep_dims=True) * (1.0 / N)
    apart = about + own - mean
    squares = squares - own * total + apart * apart * count
    rstd = tl.rsqrt(tl.sum(squares, axis=1, keep_dims=True) * (1.0 / N) + eps)
    nothing = later_zero(rstd, M)
    # One multiply-add for a difference and a product: what it rounds away is as much as the mean's own rounding.
    shift = -mean * rstd
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        z = unpacked(words[part] ^ nothing, DTYPE) * rstd + shift
        if HAS_WEIGHT:
            z *= _parameter(weight_ptr, column, N, EVEN)
        if HAS_BIAS:
            z += _parameter(bias_ptr, column, N, EVEN)
        store_part(y_ptr, gelu(z, APPROXIMATE, SHORT), column, N, EVEN)
    first = tl.arange(0, 1)[:, None, None]
    tl.store(mean_ptr + row + first, mean)
    tl.store(rstd_ptr + row + first, rstd)


@triton.jit
def _parameter(pointer, column, N: tl.constexpr, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    # Weight or bias of some columns, in float32. They are read for every row, so they stay in the caches.
    value = tl.load(pointer + column) if EVEN else tl.load(pointer + column, mask=column < N, other=0.0)
    if pointer.dtype.element_ty.primitive_bitwidth == 16:
        return unpacked(packed_words(value), pointer.dtype.element_ty)
    else:
        return value.to(tl.float32)
