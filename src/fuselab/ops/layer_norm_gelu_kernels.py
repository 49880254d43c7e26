"""The kernels of LayerNorm followed by GELU; see ``layer_norm_gelu`` for what they compute and how they are launched.

Instructions an element limit them, not bytes, so a row's width is a constant of the kernel, nothing is masked that need
not be, and the bfloat16 forms of GELU are shorter (``fuselab.ops.gelu``).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.gelu import gelu, gelu_derivative

__all__ = [
    "_layer_norm_gelu_backward_columns_kernel",
    "_layer_norm_gelu_backward_kernel",
    "_layer_norm_gelu_backward_rows_kernel",
    "_layer_norm_gelu_forward_kernel",
    "_layer_norm_gelu_forward_loop_kernel",
    "_layer_norm_gelu_sums_kernel",
]


@triton.jit
def _affine(  # type: ignore[no-untyped-def]
    weight_ptr, bias_ptr, column, N: tl.constexpr, EVEN: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr
):
    # Weight and bias of some columns: ones and zeros where there are none. Behind the last column both are zero, and so
    # is every gradient.
    weight = tl.full(column.shape, 1.0, tl.float32)
    bias = tl.zeros(column.shape, tl.float32)
    if HAS_WEIGHT:
        weight = _load(weight_ptr + column, column < N, EVEN).to(tl.float32)
    if HAS_BIAS:
        bias = _load(bias_ptr + column, column < N, EVEN).to(tl.float32)
    return weight, bias


@triton.jit
def _load(pointer, mask, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    if EVEN:
        return tl.load(pointer)
    else:
        return tl.load(pointer, mask=mask, other=0.0)


@triton.jit
def _load_once(pointer, mask, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    # x and the incoming gradient are read once: they leave the caches first.
    if EVEN:
        return tl.load(pointer, eviction_policy="evict_first")
    else:
        return tl.load(pointer, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _add_both(a, b, c, d):  # type: ignore[no-untyped-def]
    return a + c, b + d


@triton.jit
def _layer_norm_gelu_forward_kernel(  # type: ignore[no-untyped-def]
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
    PERSISTENT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A tile of whole rows a program; or many tiles, and the next one's loads before the work on this one.
    # Inductor passes a Python float as fp64, and everything computed with it would be fp64 as well.
    eps = tl.cast(eps, tl.float32)
    # What is masked in every program; rows need no mask where a tile is one.
    EVEN: tl.constexpr = BLOCK_N == N
    column = tl.arange(0, BLOCK_N)[None, :]
    # 64-bit rows: a tensor may have more than 2^31 elements.
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    x = _load_once(x_ptr + row * x_stride + column, (row < M) & (column < N), EVEN and BLOCK_M == 1)
    if PERSISTENT:
        step = tl.num_programs(0).to(tl.int64) * BLOCK_M
        for _ in range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
            after = row + step
            ahead = _load_once(x_ptr + after * x_stride + column, (after < M) & (column < N), False)
            _forward_tile(x, row, column, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, M, N, eps, APPROXIMATE, SHORT, HAS_WEIGHT, HAS_BIAS, EVEN, EVEN and BLOCK_M == 1)  # fmt: skip # noqa: E501
            x = ahead
            row = after
    else:
        _forward_tile(x, row, column, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, M, N, eps, APPROXIMATE, SHORT, HAS_WEIGHT, HAS_BIAS, EVEN, EVEN and BLOCK_M == 1)  # fmt: skip # noqa: E501


@triton.jit
def _forward_tile(  # type: ignore[no-untyped-def]
    x,
    row,
    column,
    weight_ptr,
    bias_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    M,
    N: tl.constexpr,
    eps,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    x = x.to(tl.float32)
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
    mean = tl.sum(x, axis=1, keep_dims=True) * (1.0 / N)
    centred = x - mean
    if not EVEN:
        centred = tl.where(column < N, centred, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) * (1.0 / N) + eps)
    y = gelu(centred * rstd * weight + bias, APPROXIMATE, SHORT).to(y_ptr.dtype.element_ty)
    if WHOLE:
        tl.store(y_ptr + row * N + column, y)
    else:
        tl.store(y_ptr + row * N + column, y, mask=(row < M) & (column < N))
    tl.store(mean_ptr + row, mean, mask=row < M)
    tl.store(rstd_ptr + row, rstd, mask=row < M)


@triton.jit
def _layer_norm_gelu_forward_loop_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    x_stride,
    N: tl.constexpr,
    eps,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a tile: two passes, the second from the second-level cache. Each place in the block keeps mean and
    # squared deviations of its own columns (Welford, 1962), and they are merged once (Chan et al., 1979): the mean of
    # squares less the square of the mean would cancel where the mean is large.
    eps = tl.cast(eps, tl.float32)
    EVEN: tl.constexpr = N % BLOCK_N == 0
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_N)
    mean = tl.zeros((BLOCK_N,), tl.float32)
    deviations = tl.zeros((BLOCK_N,), tl.float32)
    count = 0.0
    for start in range(0, N, BLOCK_N):
        mask = start + lane < N
        x = _load(x_ptr + row * x_stride + start + lane, mask, EVEN).to(tl.float32)
        count += 1.0
        delta = x - mean
        if not EVEN:
            delta = tl.where(mask, delta, 0.0)
        mean += delta * (1.0 / count)
        deviations += delta * (x - mean)
    counts = ((N - 1 - lane) // BLOCK_N + 1).to(tl.float32)
    row_mean = tl.sum(mean * counts, axis=0) * (1.0 / N)
    apart = mean - row_mean
    rstd = tl.rsqrt(tl.sum(deviations + apart * apart * counts, axis=0) * (1.0 / N) + eps)
    for start in range(0, N, BLOCK_N):
        column = start + lane
        mask = column < N
        x = _load_once(x_ptr + row * x_stride + column, mask, EVEN).to(tl.float32)
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
        y = gelu((x - row_mean) * rstd * weight + bias, APPROXIMATE, SHORT)
        tl.store(y_ptr + row * N + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + row, row_mean)
    tl.store(rstd_ptr + row, rstd)


@triton.jit
def _layer_norm_gelu_backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915 - one loop over rows
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    rstd_ptr,
    dy_ptr,
    dx_ptr,
    partial_ptr,
    x_stride,
    dy_stride,
    M,
    N: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFFINE_GRAD: tl.constexpr,
    AHEAD: tl.constexpr,
    PARTS: tl.constexpr,
    RELOAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    SUM_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # A few programs share the rows: each keeps its partial sums of the weight's and the bias's gradients in registers,
    # for SUM_M rows apart, and with AHEAD it loads the next rows before it works on these.
    EVEN: tl.constexpr = BLOCK_N == N
    column = tl.arange(0, BLOCK_N)[None, :]
    if not RELOAD:
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
    dweight = tl.zeros((SUM_M, BLOCK_N), tl.float32)
    dbias = tl.zeros((SUM_M, BLOCK_N), tl.float32)
    first = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0).to(tl.int64)
    if AHEAD:
        row = (first * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        mask = (row < M) & (column < N)
        next_x = _load_once(x_ptr + row * x_stride + column, mask, False)
        next_dy = _load_once(dy_ptr + row * dy_stride + column, mask, False)
        next_mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
        next_rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
    for tile in range(first, tl.cdiv(M, BLOCK_M), step):
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        if AHEAD:
            x, dy = next_x.to(tl.float32), next_dy.to(tl.float32)
            mean, rstd = next_mean, next_rstd
            after = row + step * BLOCK_M
            mask = (after < M) & (column < N)
            next_x = _load_once(x_ptr + after * x_stride + column, mask, False)
            next_dy = _load_once(dy_ptr + after * dy_stride + column, mask, False)
            next_mean = tl.load(mean_ptr + after, mask=after < M, other=0.0)
            next_rstd = tl.load(rstd_ptr + after, mask=after < M, other=0.0)
        else:
            mask = (row < M) & (column < N)
            x = _load_once(x_ptr + row * x_stride + column, mask, False).to(tl.float32)
            dy = _load_once(dy_ptr + row * dy_stride + column, mask, False).to(tl.float32)
            mean = tl.load(mean_ptr + row, mask=row < M, other=0.0)
            rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
        if RELOAD:
            weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
        # In 16 bits one instruction less: what that loses where the mean is large, x had lost before.
        x_hat = (x - mean) * rstd if x_ptr.dtype.element_ty == tl.float32 else x * rstd - mean * rstd
        if not EVEN:
            # dy is zero there, which times an infinite x_hat would not be.
            x_hat = tl.where(column < N, x_hat, 0.0)
        dz = dy * gelu_derivative(x_hat * weight + bias, APPROXIMATE, SHORT)
        if AFFINE_GRAD:
            if SUM_M == BLOCK_M:
                dweight += dz * x_hat
                dbias += dz
            else:
                dweight += tl.sum(tl.reshape(dz * x_hat, (BLOCK_M // SUM_M, SUM_M, BLOCK_N)), axis=0)
                dbias += tl.sum(tl.reshape(dz, (BLOCK_M // SUM_M, SUM_M, BLOCK_N)), axis=0)
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
        dx = (dx_hat * rstd - (x_hat * (projected * scale) + average * scale)).to(dx_ptr.dtype.element_ty)
        tl.store(dx_ptr + row * N + column, dx, mask=(row < M) & (column < N))
    if AFFINE_GRAD:
        column_1d = tl.arange(0, BLOCK_N)
        partial_ptr += tl.program_id(0).to(tl.int64) * 2 * N + column_1d
        tl.store(partial_ptr, tl.sum(dweight, axis=0), mask=column_1d < N)
        tl.store(partial_ptr + N, tl.sum(dbias, axis=0), mask=column_1d < N)


@triton.jit
def _within(values, BLOCK_M: tl.constexpr, PARTS: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    # Sums over PARTS columns that lie BLOCK_N // PARTS apart: in one thread's registers, when it holds PARTS groups.
    return tl.sum(tl.reshape(values, (BLOCK_M, PARTS, BLOCK_N // PARTS)), axis=1)


@triton.jit
def _gradients(  # type: ignore[no-untyped-def]
    x, dy, mean, rstd, weight, bias, mask, APPROXIMATE: tl.constexpr, SHORT: tl.constexpr
):
    # Returns x_hat, the gradient of x_hat, and that of LayerNorm's output: what the bias's gradient sums.
    x_hat = tl.where(mask, (x - mean) * rstd, 0.0)
    dz = dy * gelu_derivative(x_hat * weight + bias, APPROXIMATE, SHORT)
    return x_hat, dz * weight, dz


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
    N: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a tile, first kernel: the two numbers a row that every column's gradient needs.
    EVEN: tl.constexpr = N % BLOCK_N == 0
    row = tl.program_id(0).to(tl.int64)
    mean = tl.load(mean_ptr + row)
    rstd = tl.load(rstd_ptr + row)
    average = tl.zeros((BLOCK_N,), tl.float32)
    projected = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        mask = column < N
        x = _load(x_ptr + row * x_stride + column, mask, EVEN).to(tl.float32)
        dy = _load(dy_ptr + row * dy_stride + column, mask, EVEN).to(tl.float32)
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
        x_hat, dx_hat, _ = _gradients(x, dy, mean, rstd, weight, bias, mask, APPROXIMATE, SHORT)
        average += dx_hat
        projected += x_hat * dx_hat
    tl.store(average_ptr + row, tl.sum(average, axis=0) / N)
    tl.store(projected_ptr + row, tl.sum(projected, axis=0) / N)


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
    partial_ptr,
    x_stride,
    dy_stride,
    M,
    N: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SHORT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFFINE_GRAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a tile, second kernel: a program goes down one block of columns, over its share of the rows.
    EVEN: tl.constexpr = N % BLOCK_N == 0
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = column < N
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS)
    dweight = tl.zeros((BLOCK_N,), tl.float32)
    dbias = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(tl.program_id(1).to(tl.int64), M, tl.num_programs(1)):
        x = _load_once(x_ptr + row * x_stride + column, mask, EVEN).to(tl.float32)
        dy = _load_once(dy_ptr + row * dy_stride + column, mask, EVEN).to(tl.float32)
        mean = tl.load(mean_ptr + row)
        rstd = tl.load(rstd_ptr + row)
        x_hat, dx_hat, dz = _gradients(x, dy, mean, rstd, weight, bias, mask, APPROXIMATE, SHORT)
        dx = (dx_hat - tl.load(average_ptr + row) - x_hat * tl.load(projected_ptr + row)) * rstd
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if AFFINE_GRAD:
            dweight += dz * x_hat
            dbias += dz
    if AFFINE_GRAD:
        partial_ptr += tl.program_id(1).to(tl.int64) * 2 * N + column
        tl.store(partial_ptr, dweight, mask=mask)
        tl.store(partial_ptr + N, dbias, mask=mask)


@triton.jit
def _layer_norm_gelu_sums_kernel(  # type: ignore[no-untyped-def]
    partial_ptr,
    dweight_ptr,
    dbias_ptr,
    programs,
    N: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # The gradients of weight and bias from the partial sums (programs, 2, N), always added in the same order.
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, programs, BLOCK_M):
        program = (start + tl.arange(0, BLOCK_M))[:, None]
        mask = (program < programs) & (column < 2 * N)[None, :]
        total += tl.load(partial_ptr + program.to(tl.int64) * (2 * N) + column[None, :], mask=mask, other=0.0)
    total = tl.sum(total, axis=0)
    if HAS_WEIGHT:
        tl.store(dweight_ptr + column, total.to(dweight_ptr.dtype.element_ty), mask=column < N)
    if HAS_BIAS:
        inside = (column >= N) & (column < 2 * N)
        tl.store(dbias_ptr + column - N, total.to(dbias_ptr.dtype.element_ty), mask=inside)
