"""The kernels of softmax + dropout for wide rows of 16-bit numbers: read once and kept packed (``packed_rows``)."""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.packed_rows import later_zero, load_part, packed_again, part_columns, store_part, unpacked
from fuselab.ops.philox import dropout_keep, philox_seed

__all__ = ["exponentials", "packed_backward", "packed_forward"]


@triton.jit
def exponentials(scores, peak, slope, column, N, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """exp(scale * (scores - peak)), zero outside of the row."""
    powers = tl.exp2((scores - peak) * slope)
    return powers if EVEN else tl.where(column < N, powers, 0.0)


@triton.jit
def packed_forward(  # type: ignore[no-untyped-def]
    x_ptr,
    y_ptr,
    seed_ptr,
    key_low,
    key_high,
    row,
    N,
    slope,
    threshold,
    rescale,
    DROPOUT: tl.constexpr,
    NEGATIVE: tl.constexpr,
    EVEN: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Largest score and one over the sum of the one row that ``x_ptr`` and ``y_ptr`` point to; writes the result."""
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    LEAST: tl.constexpr = float("inf") if NEGATIVE else float("-inf")
    words = ()
    for part in tl.static_range(PARTS):
        words = words + (load_part(x_ptr, part_columns(part, WIDTH), N, LEAST, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT else 0
    largest = tl.full((1, WIDTH // 8, 1), LEAST, tl.float32)
    for part in tl.static_range(PARTS):
        scores = unpacked(words[part], DTYPE)
        if NEGATIVE:
            largest = tl.minimum(largest, tl.min(scores, axis=2, keep_dims=True))
        else:
            largest = tl.maximum(largest, tl.max(scores, axis=2, keep_dims=True))
    peak = tl.min(largest, axis=1, keep_dims=True) if NEGATIVE else tl.max(largest, axis=1, keep_dims=True)
    nothing = later_zero(peak, threshold)
    total = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    for part in tl.static_range(PARTS):
        scores = unpacked(words[part] ^ nothing, DTYPE)
        total += tl.sum(exponentials(scores, peak, slope, part_columns(part, WIDTH), N, EVEN), axis=2, keep_dims=True)
    reciprocal = 1.0 / tl.sum(total, axis=1, keep_dims=True)
    nothing = later_zero(reciprocal, threshold)
    kept, dropped = reciprocal * rescale, reciprocal * 0.0
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        y = exponentials(unpacked(words[part] ^ nothing, DTYPE), peak, slope, column, N, EVEN)
        if DROPOUT:
            keep = dropout_keep(seed, row, part * WIDTH, threshold, 1, WIDTH, 8)
            y *= tl.where(keep, kept, dropped)
        else:
            y *= reciprocal
        store_part(y_ptr, y, column, N, EVEN)
    return peak, reciprocal


@triton.jit
def packed_backward(  # type: ignore[no-untyped-def]
    x_ptr,
    dy_ptr,
    dx_ptr,
    seed_ptr,
    key_low,
    key_high,
    row,
    N,
    slope,
    threshold,
    rescale,
    peak,
    reciprocal,
    slope_of_dx,
    DROPOUT: tl.constexpr,
    EVEN: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Writes the gradient of the one row that the pointers point to; ``slope_of_dx``: the reciprocal times a scale.

    Of the gradient what is dropped is set to zero in the first pass, which loses nothing, and it is packed again.
    """
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    x_words, dy_words, kept_words = (), (), ()
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        x_words = x_words + (load_part(x_ptr, column, N, 0.0, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
        dy_words = dy_words + (load_part(dy_ptr, column, N, 0.0, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT else 0
    total = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    for part in tl.static_range(PARTS):
        gradient = unpacked(dy_words[part], DTYPE)
        if DROPOUT:
            # Zero is a factor, as in eager.
            gradient *= tl.where(dropout_keep(seed, row, part * WIDTH, threshold, 1, WIDTH, 8), 1.0, 0.0)
        kept_words = kept_words + (packed_again(gradient, DTYPE),)  # type: ignore[assignment]  # noqa: RUF005
        terms = exponentials(unpacked(x_words[part], DTYPE), peak, slope, part_columns(part, WIDTH), N, EVEN) * gradient
        total += tl.sum(terms, axis=2, keep_dims=True)
    projected = tl.sum(total, axis=1, keep_dims=True) * reciprocal
    nothing = later_zero(projected, threshold)
    if DROPOUT:
        slope_of_dx *= rescale
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        powers = exponentials(unpacked(x_words[part] ^ nothing, DTYPE), peak, slope, column, N, EVEN)
        gradient = unpacked(kept_words[part] ^ nothing, DTYPE)
        store_part(dx_ptr, powers * (gradient * slope_of_dx - projected * slope_of_dx), column, N, EVEN)
