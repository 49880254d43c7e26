"""The backward kernels of LayerNorm followed by GELU; see ``layer_norm_gelu``.

A row's gradient needs two sums over the row, a weight's one over all rows. Up to 8192 columns a program goes down the
rows with both (of most 16-bit rows the kernel of ``layer_norm_gelu_packed_backward``, otherwise the one here); for
wider ones a kernel takes the rows' sums, and another goes down blocks of columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.gelu import GELU_SCALE, gelu_derivative, gelu_gradient_doubled
from fuselab.ops.layer_norm_gelu_forward import _affine, _float32, _load_once

__all__ = [
    "_layer_norm_gelu_backward_columns_kernel",
    "_layer_norm_gelu_backward_kernel",
    "_layer_norm_gelu_backward_rows_kernel",
    "_layer_norm_gelu_sums_kernel",
]


@triton.jit
def _add_both(a, b, c, d):  # type: ignore[no-untyped-def]
    return a + c, b + d


@triton.jit
def _scaled_affine(  # type: ignore[no-untyped-def]
    weight_ptr,
    bias_ptr,
    column,
    N: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    SCALED: tl.constexpr,
):
    # Weight and bias as _slope wants them: a multiplication for each column saves one for each element.
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, ASSEMBLY)
    if SCALED:
        # NaN where one of them is infinite: so is the derivative of GELU there, and the scaled one would not be.
        return (weight + 0.0 * weight + 0.0 * bias) * GELU_SCALE, bias * GELU_SCALE
    else:
        return weight, bias


@triton.jit
def _gradient(dy, z, APPROXIMATE: tl.constexpr, SHORT: tl.constexpr):  # type: ignore[no-untyped-def]
    # Of LayerNorm's output: what the bias's gradient sums. Twice that where it is SHORT.
    if SHORT:
        return gelu_gradient_doubled(dy, z, APPROXIMATE)
    else:
        return dy * gelu_derivative(z, APPROXIMATE, SHORT)


@triton.jit
def _normalised(x, mean, rstd, ASSEMBLY: tl.constexpr):  # type: ignore[no-untyped-def]
    # For 16 bits as they were read, one instruction less: what that loses where the mean is large, x had lost before.
    if x.dtype == tl.float32:
        return (x - mean) * rstd
    else:
        return _float32(x, ASSEMBLY) * rstd - mean * rstd


@triton.jit
def _layer_norm_gelu_backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915 - one loop over rows
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
    AHEAD: tl.constexpr,
    PARTS: tl.constexpr,
    RELOAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SUM_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A few programs share the rows: each keeps its partial sums of the weight's and the bias's gradients in registers,
    # for SUM_M rows apart, and with AHEAD it loads the next rows before it works on these. Registers are what is
    # short: with RELOAD weight and bias are read for every tile.
    EVEN: tl.constexpr = BLOCK_N == N
    column = tl.arange(0, BLOCK_N)[None, :]
    if not RELOAD:
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, False)
    dweight = tl.zeros((SUM_M, BLOCK_N), tl.float32)
    dbias = tl.zeros((SUM_M, BLOCK_N), tl.float32)
    first = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0).to(tl.int64) * BLOCK_M
    row = (first * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    if AHEAD:
        mask = (row < M) & (column < N)
        next_x = _load_once(x_ptr + row * x_stride + column, mask, False)
        next_dy = _load_once(dy_ptr + row * dy_stride + column, mask, False)
        next_mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
        next_rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
    for _ in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        after = row + step
        if AHEAD:
            x, dy = next_x, next_dy.to(tl.float32)
            mean, rstd = next_mean, next_rstd
            mask = (after < M) & (column < N)
            next_x = _load_once(x_ptr + after * x_stride + column, mask, False)
            next_dy = _load_once(dy_ptr + after * dy_stride + column, mask, False)
            next_mean = tl.load(mean_ptr + after, mask=after < M, other=0.0)
            next_rstd = tl.load(rstd_ptr + after, mask=after < M, other=0.0)
        else:
            mask = (row < M) & (column < N)
            x = _load_once(x_ptr + row * x_stride + column, mask, False)
            dy = _load_once(dy_ptr + row * dy_stride + column, mask, False).to(tl.float32)
            mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
            rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
        if RELOAD:
            weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, False)
        x_hat = _normalised(x, mean, rstd, False)
        if not EVEN:
            # dy is zero there, which times an infinite x_hat would not be.
            x_hat = tl.where(column < N, x_hat, 0.0)
        dz = dy * gelu_derivative(x_hat * weight + bias, APPROXIMATE, SHORT)
        if BIAS_GRAD:
            if SUM_M == BLOCK_M:
                dbias += dz
            else:
                dbias += tl.sum(tl.reshape(dz, (BLOCK_M // SUM_M, SUM_M, BLOCK_N)), axis=0)
        if WEIGHT_GRAD:
            if SUM_M == BLOCK_M:
                dweight += dz * x_hat
            else:
                dweight += tl.sum(tl.reshape(dz * x_hat, (BLOCK_M // SUM_M, SUM_M, BLOCK_N)), axis=0)
        dx_hat = dz * weight
        if PARTS == 1:
            average = tl.sum(dx_hat, axis=1, keep_dims=True)
            projected = tl.sum(x_hat * dx_hat, axis=1, keep_dims=True)
        else:
            # What a thread holds of a row first, then one exchange for both.
            average, projected = tl.reduce(
                (_within(dx_hat, BLOCK_M, PARTS, BLOCK_N), _within(x_hat * dx_hat, BLOCK_M, PARTS, BLOCK_N)),
                axis=1,
                combine_fn=_add_both,
                keep_dims=True,
            )
        scale = rstd * (1.0 / N)
        dx = dx_hat * rstd - (x_hat * (projected * scale) + average * scale)
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=(row < M) & (column < N))
        row = after
    # Of a program alone these are the gradients themselves; otherwise partial sums, one row a program.
    column_1d = tl.arange(0, BLOCK_N)
    partial = first * N + column_1d
    if WEIGHT_GRAD:
        total = tl.sum(dweight, axis=0).to(dweight_ptr.dtype.element_ty)
        tl.store(dweight_ptr + partial, total, mask=column_1d < N)
    if BIAS_GRAD:
        total = tl.sum(dbias, axis=0).to(dbias_ptr.dtype.element_ty)
        tl.store(dbias_ptr + partial, total, mask=column_1d < N)


@triton.jit
def _within(values, BLOCK_M: tl.constexpr, PARTS: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    # Sums over PARTS columns that lie BLOCK_N // PARTS apart: in one thread's registers, when it holds PARTS groups.
    return tl.sum(tl.reshape(values, (BLOCK_M, PARTS, BLOCK_N // PARTS)), axis=1)


@triton.jit
def _layer_norm_gelu_backward_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    dy_ptr,
    average_ptr,
    projected_ptr,
    x_stride,
    dy_stride,
    M,
    N: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    STAGES: tl.constexpr,
    THREAD_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a tile, first kernel: the two numbers a row that every column's gradient needs. A thread sums the
    # THREAD_N columns that it holds of a row at once; the next tiles are on their way to shared memory.
    EVEN: tl.constexpr = N % BLOCK_N == 0
    SCALED: tl.constexpr = SHORT and APPROXIMATE == "none"
    UNSCALE: tl.constexpr = (0.5 if SHORT else 1.0) / (GELU_SCALE if SCALED else 1.0)
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    lane = tl.arange(0, BLOCK_N)[None, :]
    x_ptr += row * x_stride + lane
    dy_ptr += row * dy_stride + lane
    mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
    average = tl.zeros((BLOCK_M, BLOCK_N // THREAD_N), tl.float32)
    projected = tl.zeros((BLOCK_M, BLOCK_N // THREAD_N), tl.float32)
    for start in tl.range(0, N, BLOCK_N, num_stages=STAGES):
        column = start + lane
        mask = (row < M) & (column < N)
        x = tl.load(x_ptr + start, mask=mask, other=0.0)
        dy = _float32(tl.load(dy_ptr + start, mask=mask, other=0.0), ASSEMBLY)
        weight, bias = _scaled_affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, ASSEMBLY, SCALED)
        x_hat = _normalised(x, mean, rstd, ASSEMBLY)
        if not EVEN:
            x_hat = tl.where(column < N, x_hat, 0.0)
        dx_hat = _gradient(dy, x_hat * weight + bias, APPROXIMATE, SHORT) * weight
        average += tl.sum(tl.reshape(dx_hat, (BLOCK_M, BLOCK_N // THREAD_N, THREAD_N)), axis=2)
        projected += tl.sum(tl.reshape(x_hat * dx_hat, (BLOCK_M, BLOCK_N // THREAD_N, THREAD_N)), axis=2)
    scale = rstd * (UNSCALE / N)
    tl.store(average_ptr + row, tl.sum(average, axis=1, keep_dims=True) * scale, mask=row < M)
    tl.store(projected_ptr + row, tl.sum(projected, axis=1, keep_dims=True) * scale, mask=row < M)


@triton.jit
def _layer_norm_gelu_backward_columns_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    dy_ptr,
    average_ptr,
    projected_ptr,
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
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a tile, second kernel: a program goes down one block of columns, over its share of the rows; the
    # next ones are on their way to shared memory. Nothing is summed over threads.
    BLOCKS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    EVEN: tl.constexpr = N % BLOCK_N == 0
    SCALED: tl.constexpr = SHORT and APPROXIMATE == "none"
    UNSCALE: tl.constexpr = (0.5 if SHORT else 1.0) / (GELU_SCALE if SCALED else 1.0)
    first = (tl.program_id(0) // BLOCKS).to(tl.int64)
    step = tl.num_programs(0) // BLOCKS
    column = ((tl.program_id(0) % BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    weight, bias = _scaled_affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, False, SCALED)
    dweight = tl.zeros((1, BLOCK_N), tl.float32)
    dbias = tl.zeros((1, BLOCK_N), tl.float32)
    for tile in tl.range(first, tl.cdiv(M, BLOCK_M), step, num_stages=STAGES):
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        mask = (row < M) & (column < N)
        x = _load_once(x_ptr + row * x_stride + column, mask, False)
        dy = _load_once(dy_ptr + row * dy_stride + column, mask, False).to(tl.float32)
        mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
        average = tl.load(average_ptr + row, mask=row < M, other=0.0)
        projected = tl.load(projected_ptr + row, mask=row < M, other=0.0)
        x_hat = _normalised(x, mean, rstd, False)
        if not EVEN:
            x_hat = tl.where(column < N, x_hat, 0.0)
        dz = _gradient(dy, x_hat * weight + bias, APPROXIMATE, SHORT)
        if WEIGHT_GRAD:
            dweight += tl.sum(dz * x_hat, axis=0, keep_dims=True)
        if BIAS_GRAD:
            dbias += tl.sum(dz, axis=0, keep_dims=True)
        dx = (dz * weight) * (rstd * UNSCALE) - (x_hat * projected + average)
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=(row < M) & (column < N))
    partial = first * N + column
    if SHORT:
        dweight *= 0.5
        dbias *= 0.5
    if WEIGHT_GRAD:
        tl.store(dweight_ptr + partial, dweight.to(dweight_ptr.dtype.element_ty), mask=column < N)
    if BIAS_GRAD:
        tl.store(dbias_ptr + partial, dbias.to(dbias_ptr.dtype.element_ty), mask=column < N)


@triton.jit
def _layer_norm_gelu_sums_kernel(  # type: ignore[no-untyped-def]
    weight_partial_ptr,
    bias_partial_ptr,
    dweight_ptr,
    dbias_ptr,
    programs,
    N: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # The gradients of weight and bias from partial sums (programs, N) of each, always added in the same order. Programs
    # for the weight's columns come first.
    BLOCKS: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if WEIGHT_GRAD and BIAS_GRAD:
        if tl.program_id(0) < BLOCKS:
            _add_up(weight_partial_ptr, dweight_ptr, tl.program_id(0), programs, N, BLOCK_M, BLOCK_N)
        else:
            _add_up(bias_partial_ptr, dbias_ptr, tl.program_id(0) - BLOCKS, programs, N, BLOCK_M, BLOCK_N)
    elif WEIGHT_GRAD:
        _add_up(weight_partial_ptr, dweight_ptr, tl.program_id(0), programs, N, BLOCK_M, BLOCK_N)
    else:
        _add_up(bias_partial_ptr, dbias_ptr, tl.program_id(0), programs, N, BLOCK_M, BLOCK_N)


@triton.jit
def _add_up(  # type: ignore[no-untyped-def]
    partial_ptr, out_ptr, block, programs, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, programs, BLOCK_M):
        program = (start + tl.arange(0, BLOCK_M))[:, None]
        mask = (program < programs) & (column < N)[None, :]
        total += tl.load(partial_ptr + program.to(tl.int64) * N + column[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + column, tl.sum(total, axis=0).to(out_ptr.dtype.element_ty), mask=column < N)
