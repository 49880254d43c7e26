"""Wide rows of 16-bit numbers, packed: read once and kept as they were read, in half the registers of float32.

With twice as many rows on chip a multiprocessor has something to read while it computes. The price is a second
exponential for each element. A row comes in parts, each finished before the next: of one large tensor the compiler
writes every operation out for all elements before the next operation, and keeps all that lies between them at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.philox import dropout_keep, philox_seed

__all__ = ["exponentials", "packed_backward", "packed_forward"]


@triton.jit
def _part_columns(part, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    # Eight neighbours, a 16-byte access, are an axis.
    return part * WIDTH + tl.arange(0, WIDTH // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]


@triton.jit
def _load_part(pointer, column, N, other, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    if EVEN:
        x = tl.load(pointer + column, eviction_policy="evict_first")
    else:
        x = tl.load(pointer + column, mask=column < N, other=other, eviction_policy="evict_first")
    return _words(x)


@triton.jit
def _store_part(pointer, value, column, N, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    value = value.to(pointer.dtype.element_ty)
    if EVEN:
        tl.store(pointer + column, value, eviction_policy="evict_first")
    else:
        tl.store(pointer + column, value, mask=column < N, eviction_policy="evict_first")


@triton.jit
def _words(x):  # type: ignore[no-untyped-def]
    # (1, G, 8) of 16 bits as (1, G, 4) of 32: as they were read, for the compiler too.
    low, high = tl.split(tl.reshape(x.to(tl.int16, bitcast=True), (x.shape[0], x.shape[1], 4, 2)))
    return (low.to(tl.int32) & 0xFFFF) | (high.to(tl.int32) << 16)


@triton.jit
def _numbers(words, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    # As float32. Of bfloat16 a shift or a mask each, where a conversion takes two instructions for the upper half.
    if DTYPE is tl.bfloat16:
        low, high = (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)
    else:
        low = words.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
        high = (words >> 16).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return tl.reshape(tl.join(low, high), (words.shape[0], words.shape[1], 8))


@triton.jit
def _zero(number, threshold):  # type: ignore[no-untyped-def]
    # Zero, because a threshold is not negative, which the compiler does not know, and not before the number is known.
    # Words are combined with it before they are unpacked again: else their numbers would be kept from the first time.
    return number.to(tl.int32, bitcast=True) & (threshold >> 31)


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
        words = words + (_load_part(x_ptr, _part_columns(part, WIDTH), N, LEAST, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT else 0
    largest = tl.full((1, WIDTH // 8, 1), LEAST, tl.float32)
    for part in tl.static_range(PARTS):
        scores = _numbers(words[part], DTYPE)
        if NEGATIVE:
            largest = tl.minimum(largest, tl.min(scores, axis=2, keep_dims=True))
        else:
            largest = tl.maximum(largest, tl.max(scores, axis=2, keep_dims=True))
    peak = tl.min(largest, axis=1, keep_dims=True) if NEGATIVE else tl.max(largest, axis=1, keep_dims=True)
    nothing = _zero(peak, threshold)
    total = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    for part in tl.static_range(PARTS):
        scores = _numbers(words[part] ^ nothing, DTYPE)
        total += tl.sum(exponentials(scores, peak, slope, _part_columns(part, WIDTH), N, EVEN), axis=2, keep_dims=True)
    reciprocal = 1.0 / tl.sum(total, axis=1, keep_dims=True)
    nothing = _zero(reciprocal, threshold)
    kept, dropped = reciprocal * rescale, reciprocal * 0.0
    for part in tl.static_range(PARTS):
        column = _part_columns(part, WIDTH)
        y = exponentials(_numbers(words[part] ^ nothing, DTYPE), peak, slope, column, N, EVEN)
        if DROPOUT:
            keep = dropout_keep(seed, row, part * WIDTH, threshold, 1, WIDTH, 8)
            y *= tl.where(keep, kept, dropped)
        else:
            y *= reciprocal
        _store_part(y_ptr, y, column, N, EVEN)
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
        column = _part_columns(part, WIDTH)
        x_words = x_words + (_load_part(x_ptr, column, N, 0.0, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
        dy_words = dy_words + (_load_part(dy_ptr, column, N, 0.0, EVEN),)  # type: ignore[assignment]  # noqa: RUF005
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT else 0
    total = tl.zeros((1, WIDTH // 8, 1), tl.float32)
    for part in tl.static_range(PARTS):
        gradient = _numbers(dy_words[part], DTYPE)
        if DROPOUT:
            # Zero is a factor, as in eager.
            gradient *= tl.where(dropout_keep(seed, row, part * WIDTH, threshold, 1, WIDTH, 8), 1.0, 0.0)
        kept_words = kept_words + (_words(gradient.to(DTYPE)),)  # type: ignore[assignment]  # noqa: RUF005
        terms = (
            exponentials(_numbers(x_words[part], DTYPE), peak, slope, _part_columns(part, WIDTH), N, EVEN) * gradient
        )
        total += tl.sum(terms, axis=2, keep_dims=True)
    projected = tl.sum(total, axis=1, keep_dims=True) * reciprocal
    nothing = _zero(projected, threshold)
    if DROPOUT:
        slope_of_dx *= rescale
    for part in tl.static_range(PARTS):
        column = _part_columns(part, WIDTH)
        powers = exponentials(_numbers(x_words[part] ^ nothing, DTYPE), peak, slope, column, N, EVEN)
        gradient = _numbers(kept_words[part] ^ nothing, DTYPE)
        _store_part(dx_ptr, powers * (gradient * slope_of_dx - projected * slope_of_dx), column, N, EVEN)
