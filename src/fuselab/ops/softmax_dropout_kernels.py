"""The kernels of ``softmax_dropout``: a row at a time where it fits on chip, packed or not, else in two passes over it.

Scores are kept as they are read, and their differences to the largest are multiplied by ``scale * log2(e)`` for an
exponential to base 2: the scores themselves, multiplied by it, could overflow, as those masked with the lowest number
of their dtype would. Instructions, not bytes, have to be saved in the forward: see ``benchmarks/notes.md``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.philox import dropout_keep, philox_seed
from fuselab.ops.score_mask import mask_pointers
from fuselab.ops.softmax_dropout_packed import exponentials, packed_backward, packed_forward

__all__ = ["_softmax_dropout_backward_kernel", "_softmax_dropout_forward_kernel"]

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(pointer, row, column, M, N, other, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, READ: tl.constexpr):  # type: ignore[no-untyped-def]
    # A tile, `other` outside of the tensor. READ: "once", or for the "first" time of two, or "again".
    policy: tl.constexpr = "evict_last" if READ == "first" else "evict_first"
    if not EVEN:
        return tl.load(pointer, mask=(row < M) & (column < N), other=other, eviction_policy=policy)
    elif BLOCK_M > 1:
        return tl.load(pointer, mask=row < M, other=other, eviction_policy=policy)
    else:
        return tl.load(pointer, eviction_policy=policy)


@triton.jit
def _store(pointer, value, row, column, M, N, EVEN: tl.constexpr, BLOCK_M: tl.constexpr):  # type: ignore[no-untyped-def]
    value = value.to(pointer.dtype.element_ty)
    if not EVEN:
        tl.store(pointer, value, mask=(row < M) & (column < N), eviction_policy="evict_first")
    elif BLOCK_M > 1:
        tl.store(pointer, value, mask=row < M, eviction_policy="evict_first")
    else:
        tl.store(pointer, value, eviction_policy="evict_first")


@triton.jit
def _float32(x, READ: tl.constexpr):  # type: ignore[no-untyped-def]
    # bfloat16 by a shift, one instruction for either half of a word; a conversion takes two for the upper one. That
    # pays where everything is converted twice.
    if x.dtype == tl.bfloat16 and READ != "once":
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    x_ptr,
    mask_ptr,
    row,
    column,
    M,
    N,
    scale,
    mask_size_1,
    mask_size_2,
    mask_stride_0,
    mask_stride_1,
    mask_stride_2,
    mask_stride_n,
    MASK: tl.constexpr,
    MASK_AXES: tl.constexpr,
    NEGATIVE: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    READ: tl.constexpr,
):
    # x itself without a mask: then the scale is applied to differences. Outside of the row what is never the largest.
    # And what a boolean mask keeps, whatever else where there is none.
    outside: tl.constexpr = float("inf") if NEGATIVE else float("-inf")
    scores = _float32(_load(x_ptr + column, row, column, M, N, outside, EVEN, BLOCK_M, READ), READ)
    kept = scores
    if MASK != "none":
        # The type that the number of rows needs; M by itself may be a constant, which has none.
        count = tl.zeros((1,), tl.int32) + M
        pointer = mask_pointers(
            mask_ptr, row.to(count.dtype), column,
            mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n, MASK_AXES,
        )  # fmt: skip
        added = _load(pointer, row, column, M, N, 0, EVEN, BLOCK_M, "first")
        scores *= scale
        if MASK == "keep":
            kept = added != 0
            scores = tl.where(kept, scores, float("-inf"))
        else:
            scores = scores + added.to(tl.float32)
        if not EVEN:
            scores = tl.where(column < N, scores, float("-inf"))
    return scores, kept


@triton.jit
def _peak(scores, NEGATIVE: tl.constexpr):  # type: ignore[no-untyped-def]
    # The score that is largest after scaling.
    if NEGATIVE:
        return tl.min(tl.min(scores, axis=2, keep_dims=True), axis=1, keep_dims=True)
    else:
        return tl.max(tl.max(scores, axis=2, keep_dims=True), axis=1, keep_dims=True)


@triton.jit
def _sum(terms):  # type: ignore[no-untyped-def]
    return tl.sum(tl.sum(terms, axis=2, keep_dims=True), axis=1, keep_dims=True)


@triton.jit
def _columns(start, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr):  # type: ignore[no-untyped-def]
    # (1, BLOCK_N // NEIGHBOURS, NEIGHBOURS): what a thread has of a row is an axis.
    return (
        start
        + tl.arange(0, BLOCK_N // NEIGHBOURS)[None, :, None] * NEIGHBOURS
        + tl.arange(0, NEIGHBOURS)[None, None, :]
    )


@triton.jit(do_not_specialize=["threshold", "M", "key_low", "key_high"])
def _softmax_dropout_forward_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    mask_ptr,
    seed_ptr,
    y_ptr,
    peak_ptr,
    reciprocal_ptr,
    x_stride,
    M,
    N,
    scale,
    threshold,
    rescale,
    key_low,
    key_high,
    mask_size_1,
    mask_size_2,
    mask_stride_0,
    mask_stride_1,
    mask_stride_2,
    mask_stride_n,
    MASK: tl.constexpr,
    MASK_AXES: tl.constexpr,
    DROPOUT: tl.constexpr,
    SAVED: tl.constexpr,
    NEGATIVE: tl.constexpr,
    EVEN: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Inductor passes a Python float as fp64, and everything computed with it would be fp64 as well.
    scale = tl.cast(scale, tl.float32)
    rescale = tl.cast(rescale, tl.float32)
    slope = scale * _LOG2_E if MASK == "none" else tl.cast(_LOG2_E, tl.float32)
    # 64-bit rows: a tensor may have more than 2^31 elements.
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None, None]
    x_ptr += row * x_stride
    y_ptr += row * N
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT and PARTS == 1 else 0

    if PARTS > 1:
        peak, reciprocal = packed_forward(
            x_ptr, y_ptr, seed_ptr, key_low, key_high, row, N, slope, threshold, rescale,
            DROPOUT, NEGATIVE, EVEN, PARTS, BLOCK_N,
        )  # fmt: skip
    elif ONE_BLOCK:
        column = _columns(0, BLOCK_N, NEIGHBOURS)
        scores, _ = _scores(
            x_ptr, mask_ptr, row, column, M, N, scale,
            mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
            MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "once",
        )  # fmt: skip
        peak = _peak(scores, NEGATIVE)
        y = exponentials(scores, peak, slope, column, N, EVEN)
        reciprocal = 1.0 / _sum(y)
        if DROPOUT:
            # Zero is a factor, as in eager: where a row is not a number, what is dropped is none either.
            keep = dropout_keep(seed, row, 0, threshold, BLOCK_M, BLOCK_N, NEIGHBOURS)
            y *= tl.where(keep, reciprocal * rescale, reciprocal * 0.0)
        else:
            y *= reciprocal
        _store(y_ptr + column, y, row, column, M, N, EVEN, BLOCK_M)
    else:
        # One pass for peak and sum together (Milakov and Gimelshein, 2018), one for the result; a sum for each column
        # of the tile, so that the threads join theirs at the end only.
        least: tl.constexpr = float("inf") if NEGATIVE else float("-inf")
        peak = tl.full((BLOCK_M, 1, 1), least, tl.float32)
        total = tl.zeros((BLOCK_M, BLOCK_N // NEIGHBOURS, NEIGHBOURS), tl.float32)
        for start in range(0, N, BLOCK_N):
            column = _columns(start, BLOCK_N, NEIGHBOURS)
            scores, _ = _scores(
                x_ptr, mask_ptr, row, column, M, N, scale,
                mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
                MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "first",
            )  # fmt: skip
            before = peak
            peak = tl.minimum(peak, _peak(scores, NEGATIVE)) if NEGATIVE else tl.maximum(peak, _peak(scores, NEGATIVE))
            # While everything seen is -inf, -inf - -inf = NaN would spoil the finite columns that follow.
            base = tl.where(peak == least, 0.0, peak)
            total *= tl.where(before == least, 0.0, tl.exp2((before - base) * slope))
            total += exponentials(scores, base, slope, column, N, EVEN)
        reciprocal = 1.0 / _sum(total)
        for start in range(0, N, BLOCK_N):
            column = _columns(start, BLOCK_N, NEIGHBOURS)
            scores, _ = _scores(
                x_ptr, mask_ptr, row, column, M, N, scale,
                mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
                MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "again",
            )  # fmt: skip
            y = exponentials(scores, peak, slope, column, N, EVEN)
            if DROPOUT:
                keep = dropout_keep(seed, row, start, threshold, BLOCK_M, BLOCK_N, NEIGHBOURS)
                y *= tl.where(keep, reciprocal * rescale, reciprocal * 0.0)
            else:
                y *= reciprocal
            _store(y_ptr + column, y, row, column, M, N, EVEN, BLOCK_M)
    if SAVED:
        tl.store(peak_ptr + row, peak, mask=row < M)
        tl.store(reciprocal_ptr + row, reciprocal, mask=row < M)


@triton.jit(do_not_specialize=["threshold", "M", "key_low", "key_high"])
def _softmax_dropout_backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915
    x_ptr,
    mask_ptr,
    seed_ptr,
    peak_ptr,
    reciprocal_ptr,
    dy_ptr,
    dx_ptr,
    x_stride,
    dy_stride,
    M,
    N,
    scale,
    dx_scale,
    threshold,
    rescale,
    key_low,
    key_high,
    mask_size_1,
    mask_size_2,
    mask_stride_0,
    mask_stride_1,
    mask_stride_2,
    mask_stride_n,
    MASK: tl.constexpr,
    MASK_AXES: tl.constexpr,
    DROPOUT: tl.constexpr,
    NEGATIVE: tl.constexpr,
    EVEN: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    BITS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    scale = tl.cast(scale, tl.float32)
    dx_scale = tl.cast(dx_scale, tl.float32)
    rescale = tl.cast(rescale, tl.float32)
    slope = scale * _LOG2_E if MASK == "none" else tl.cast(_LOG2_E, tl.float32)
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None, None]
    x_ptr += row * x_stride
    dy_ptr += row * dy_stride
    dx_ptr += row * N
    peak = tl.load(peak_ptr + row, mask=row < M, other=0.0)
    reciprocal = tl.load(reciprocal_ptr + row, mask=row < M, other=0.0)
    slope_of_dx = reciprocal * dx_scale
    seed = philox_seed(seed_ptr, key_low, key_high) if DROPOUT and PARTS == 1 else 0

    # With probabilities p = powers * reciprocal: dx = p * (gradient - sum(p * gradient)) * dx_scale.
    if PARTS > 1:
        packed_backward(
            x_ptr, dy_ptr, dx_ptr, seed_ptr, key_low, key_high, row, N, slope, threshold, rescale, peak, reciprocal,
            slope_of_dx, DROPOUT, EVEN, PARTS, BLOCK_N,
        )  # fmt: skip
    elif ONE_BLOCK:
        column = _columns(0, BLOCK_N, NEIGHBOURS)
        scores, kept = _scores(
            x_ptr, mask_ptr, row, column, M, N, scale,
            mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
            MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "once",
        )  # fmt: skip
        gradient = _load(dy_ptr + column, row, column, M, N, 0.0, EVEN, BLOCK_M, "once").to(tl.float32)
        powers = exponentials(scores, peak, slope, column, N, EVEN)
        if DROPOUT:
            keep = dropout_keep(seed, row, 0, threshold, BLOCK_M, BLOCK_N, NEIGHBOURS)
            gradient *= tl.where(keep, rescale, 0.0)
        projected = _sum(powers * gradient) * reciprocal
        dx = powers * (gradient * slope_of_dx - projected * slope_of_dx)
        if MASK == "keep":
            # Also in a row of which nothing is kept, which is not a number.
            dx = tl.where(kept, dx, 0.0)
        _store(dx_ptr + column, dx, row, column, M, N, EVEN, BLOCK_M)
    else:
        # Two passes. What Philox decides in the first is kept for the second, one bit an element, where a thread's fit
        # one register.
        total = tl.zeros((BLOCK_M, BLOCK_N // NEIGHBOURS, 1), tl.float32)
        bits = tl.zeros((BLOCK_M, BLOCK_N // NEIGHBOURS, 1), tl.int32)
        bit = 1 << tl.arange(0, NEIGHBOURS)[None, None, :]
        for start in range(0, N, BLOCK_N):
            column = _columns(start, BLOCK_N, NEIGHBOURS)
            scores, _ = _scores(
                x_ptr, mask_ptr, row, column, M, N, scale,
                mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
                MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "first",
            )  # fmt: skip
            gradient = _float32(_load(dy_ptr + column, row, column, M, N, 0.0, EVEN, BLOCK_M, "first"), "first")
            if DROPOUT:
                keep = dropout_keep(seed, row, start, threshold, BLOCK_M, BLOCK_N, NEIGHBOURS)
                gradient *= tl.where(keep, rescale, 0.0)
                if BITS:
                    bits = (bits << NEIGHBOURS) | tl.sum(tl.where(keep, bit, 0), axis=2, keep_dims=True)
            total += tl.sum(exponentials(scores, peak, slope, column, N, EVEN) * gradient, axis=2, keep_dims=True)
        projected = _sum(total) * reciprocal
        shift = (tl.cdiv(N, BLOCK_N) - 1) * NEIGHBOURS
        for start in range(0, N, BLOCK_N):
            column = _columns(start, BLOCK_N, NEIGHBOURS)
            scores, kept = _scores(
                x_ptr, mask_ptr, row, column, M, N, scale,
                mask_size_1, mask_size_2, mask_stride_0, mask_stride_1, mask_stride_2, mask_stride_n,
                MASK, MASK_AXES, NEGATIVE, EVEN, BLOCK_M, "again",
            )  # fmt: skip
            gradient = _float32(_load(dy_ptr + column, row, column, M, N, 0.0, EVEN, BLOCK_M, "again"), "again")
            if BITS:
                keep = ((bits >> shift) & bit) != 0
                shift -= NEIGHBOURS
            elif DROPOUT:
                keep = dropout_keep(seed, row, start, threshold, BLOCK_M, BLOCK_N, NEIGHBOURS)
            if DROPOUT:
                gradient *= tl.where(keep, rescale * slope_of_dx, 0.0)
            else:
                gradient *= slope_of_dx
            powers = exponentials(scores, peak, slope, column, N, EVEN)
            dx = powers * (gradient - projected * slope_of_dx)
            if MASK == "keep":
                dx = tl.where(kept, dx, 0.0)
            _store(dx_ptr + column, dx, row, column, M, N, EVEN, BLOCK_M)
