"""The backward kernel of LayerNorm + GELU for 16-bit numbers: rows kept packed, and copied to shared memory ahead.

What a width is worth is decided by what waits for what. Here few threads have many columns of a row each: weight, bias
and their partial gradients stay in registers, most of 255; the two sums over a row go through few warps; and the next
rows are on their way to shared memory, where they take no registers, while a program works on this one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.gelu import GELU_SCALE, gelu_derivative, gelu_gradient_doubled
from fuselab.ops.packed_rows import in_eights, packed_words, part_columns, unpacked

__all__ = ["_layer_norm_gelu_packed_backward_kernel"]


@triton.jit
def _add_both(a, b, c, d):  # type: ignore[no-untyped-def]
    return a + c, b + d


@triton.jit
def _load(pointer, row, column, M, N: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr):  # type: ignore[no-untyped-def]
    # A part of some rows, two numbers a word.
    if EVEN and BLOCK_M == 1:
        x = tl.load(pointer + column, eviction_policy="evict_first")
    else:
        x = tl.load(pointer + column, mask=(row < M) & (column < N), other=0.0, eviction_policy="evict_first")
    return packed_words(x)


@triton.jit
def _vector(pointer, column, N: tl.constexpr, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    # Weight or bias of some columns, in float32.
    value = tl.load(pointer + column) if EVEN else tl.load(pointer + column, mask=column < N, other=0.0)
    return value.to(tl.float32)


@triton.jit(do_not_specialize=["M"])
def _layer_norm_gelu_packed_backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915 - one loop over rows
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    dy_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    x_stride,
    dy_stride,
    M,
    N: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
    EIGHTS: tl.constexpr,
    STAGES: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A few programs share the rows, BLOCK_M at a time. The tiles of the next STAGES - 1 turns are on their way.
    EVEN: tl.constexpr = BLOCK_N == N
    WIDTH: tl.constexpr = BLOCK_N // PARTS
    DTYPE: tl.constexpr = x_ptr.dtype.element_ty
    # For results in bfloat16 the derivative comes doubled, and x_hat is scaled as that of erf's GELU wants it: a few
    # multiplications a row save some an element.
    SCALED: tl.constexpr = SHORT and APPROXIMATE == "none"
    SCALE: tl.constexpr = GELU_SCALE if SCALED else 1.0
    HALF: tl.constexpr = 0.5 if SHORT else 1.0
    x_stride = in_eights(x_stride, EIGHTS)
    dy_stride = in_eights(dy_stride, EIGHTS)
    weights = ()
    biases = ()
    dweights = ()
    dbiases = ()
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        weight = tl.full((1, WIDTH // 8, 8), 1.0, tl.float32)
        bias = tl.zeros((1, WIDTH // 8, 8), tl.float32)
        if HAS_WEIGHT:
            weight = _vector(weight_ptr, column, N, EVEN)
        if HAS_BIAS:
            bias = _vector(bias_ptr, column, N, EVEN)
        if SCALED:
            # NaN where one of them is infinite: so is the derivative of GELU there, and the scaled one would not be.
            weight += 0.0 * weight + 0.0 * bias
        weights = weights + (weight,)  # type: ignore[assignment]  # noqa: RUF005
        biases = biases + (bias * SCALE,)  # type: ignore[assignment]  # noqa: RUF005
        dweights = dweights + (tl.zeros((1, WIDTH // 8, 8), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
        dbiases = dbiases + (tl.zeros((1, WIDTH // 8, 8), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0), num_stages=STAGES):
        # 64-bit rows: a tensor may have more than 2^31 elements.
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None, None]
        words = ()
        dy_words = ()
        for part in tl.static_range(PARTS):
            column = part_columns(part, WIDTH)
            words = words + (_load(x_ptr + row * x_stride, row, column, M, N, EVEN, BLOCK_M),)  # type: ignore[assignment]  # noqa: RUF005
            dy_words = dy_words + (_load(dy_ptr + row * dy_stride, row, column, M, N, EVEN, BLOCK_M),)  # type: ignore[assignment]  # noqa: RUF005
        if BLOCK_M == 1:
            mean = tl.load(mean_ptr + row)
            rstd = tl.load(rstd_ptr + row)
        else:
            mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
            rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
        # One multiply-add for a difference and a product: what that loses where the mean is large, x had lost before.
        factor = rstd * SCALE
        shift = -mean * factor
        average = tl.zeros((BLOCK_M, WIDTH // 8, 1), tl.float32)
        projected = tl.zeros((BLOCK_M, WIDTH // 8, 1), tl.float32)
        x_hats = ()
        dx_hats = ()
        weight_sums = ()
        bias_sums = ()
        for part in tl.static_range(PARTS):
            x_hat = unpacked(words[part], DTYPE) * factor + shift
            if not EVEN:
                # dy is zero there, which times an infinite x_hat would not be.
                x_hat = tl.where(part_columns(part, WIDTH) < N, x_hat, 0.0)
            z = x_hat * weights[part] + biases[part]
            if SHORT:
                dz = gelu_gradient_doubled(unpacked(dy_words[part], DTYPE), z, APPROXIMATE)
            else:
                dz = unpacked(dy_words[part], DTYPE) * gelu_derivative(z, APPROXIMATE, SHORT)
            if BIAS_GRAD:
                bias_sums = bias_sums + (dbiases[part] + tl.sum(dz, axis=0, keep_dims=True),)  # type: ignore[assignment]  # noqa: RUF005
            if WEIGHT_GRAD:
                weight_sums = weight_sums + (dweights[part] + tl.sum(dz * x_hat, axis=0, keep_dims=True),)  # type: ignore[assignment]  # noqa: RUF005
            dx_hat = dz * weights[part]
            average += tl.sum(dx_hat, axis=2, keep_dims=True)
            projected += tl.sum(dx_hat * x_hat, axis=2, keep_dims=True)
            dx_hats = dx_hats + (dx_hat,)  # type: ignore[assignment]  # noqa: RUF005
            x_hats = x_hats + (x_hat,)  # type: ignore[assignment]  # noqa: RUF005
        if WEIGHT_GRAD:
            dweights = weight_sums
        if BIAS_GRAD:
            dbiases = bias_sums
        average, projected = tl.reduce((average, projected), axis=1, combine_fn=_add_both, keep_dims=True)
        # dx = rstd * (dx_hat - average / N - x_hat * projected / N), of what was scaled and doubled.
        outer = rstd * HALF
        slope = projected * (outer * (1.0 / (N * SCALE * SCALE)))
        offset = average * (outer * (1.0 / N))
        for part in tl.static_range(PARTS):
            column = part_columns(part, WIDTH)
            dx = (dx_hats[part] * outer - (x_hats[part] * slope + offset)).to(DTYPE)
            if EVEN and BLOCK_M == 1:
                tl.store(dx_ptr + row * N + column, dx, eviction_policy="evict_first")
            else:
                tl.store(dx_ptr + row * N + column, dx, mask=(row < M) & (column < N), eviction_policy="evict_first")
    # Of a program alone these are the gradients themselves; otherwise partial sums, one row a program.
    partial = tl.program_id(0).to(tl.int64) * N
    for part in tl.static_range(PARTS):
        column = part_columns(part, WIDTH)
        if WEIGHT_GRAD:
            dweight = (dweights[part] * (HALF / SCALE)).to(dweight_ptr.dtype.element_ty)
            tl.store(dweight_ptr + partial + column, dweight, mask=column < N)
        if BIAS_GRAD:
            dbias = (dbiases[part] * HALF).to(dbias_ptr.dtype.element_ty)
            tl.store(dbias_ptr + partial + column, dbias, mask=column < N)
