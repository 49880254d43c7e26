"""The kernels of ``rms_norm`` and ``add_rms_norm``.

Both directions are bound by memory: what decides is how many bytes a multiprocessor has on their way at any time. The
forward has a program for each row or few. The backward has as many programs as fit on the device; each goes down its
rows with a float32 partial sum of the weight's gradient in registers, and reads the next rows while it works on one.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "_rms_norm_backward_columns_kernel",
    "_rms_norm_backward_halves_kernel",
    "_rms_norm_backward_kernel",
    "_rms_norm_backward_rows_kernel",
    "_rms_norm_forward_kernel",
]


@triton.jit
def _load(pointer, row, column, M, N, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, HINT: tl.constexpr):  # type: ignore[no-untyped-def]
    # A tile as it is stored, zeros outside of the tensor. EVEN: no column of it is outside. HINT: an eviction policy or
    # a cache modifier, or "" for neither: evict_first costs 4% of the forward on an H200. One row alone is never
    # outside.
    policy: tl.constexpr = "" if HINT == ".cg" else HINT
    cache: tl.constexpr = ".cg" if HINT == ".cg" else ""
    if not EVEN:
        mask = column < N
        if BLOCK_M > 1:
            mask = (row < M) & mask
        return tl.load(pointer, mask=mask, other=0.0, eviction_policy=policy, cache_modifier=cache)
    elif BLOCK_M > 1:
        return tl.load(pointer, mask=row < M, other=0.0, eviction_policy=policy, cache_modifier=cache)
    else:
        return tl.load(pointer, eviction_policy=policy, cache_modifier=cache)


@triton.jit
def _store(pointer, value, row, column, M, N, EVEN: tl.constexpr, BLOCK_M: tl.constexpr):  # type: ignore[no-untyped-def]
    value = value.to(pointer.dtype.element_ty)
    if not EVEN:
        mask = column < N
        if BLOCK_M > 1:
            mask = (row < M) & mask
        tl.store(pointer, value, mask=mask)
    elif BLOCK_M > 1:
        tl.store(pointer, value, mask=row < M)
    else:
        tl.store(pointer, value)


@triton.jit
def _vector(pointer, column, N, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    # What there is one of for each column, in float32; all programs read it.
    if EVEN:
        return tl.load(pointer + column, eviction_policy="evict_last").to(tl.float32)
    else:
        return tl.load(pointer + column, mask=column < N, other=0.0, eviction_policy="evict_last").to(tl.float32)


@triton.jit
def _scale(x_hat, weight, CASTING: tl.constexpr, HAS_WEIGHT: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    if CASTING == "llama":
        x_hat = x_hat.to(dtype).to(tl.float32)
    if HAS_WEIGHT:
        x_hat = x_hat * (1.0 + weight) if CASTING == "gemma" else x_hat * weight
    return x_hat


@triton.jit
def _rms_norm_forward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    rstd_ptr,
    x_stride,
    residual_stride,
    M,
    N,
    eps,
    CASTING: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SAVED: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    TWICE: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Inductor passes a Python float as fp64, and everything computed with it would be fp64 as well.
    eps = tl.cast(eps, tl.float32)
    # 64-bit rows: a tensor may have more than 2^31 elements.
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    x_ptr += row * x_stride
    residual_ptr += row * residual_stride
    y_ptr += row * N
    total_ptr += row * N
    dtype: tl.constexpr = total_ptr.dtype.element_ty if HAS_RESIDUAL else x_ptr.dtype.element_ty

    if ONE_BLOCK:
        first: tl.constexpr = "evict_last" if TWICE else ""
        x = _load(x_ptr + column, row, column, M, N, EVEN, BLOCK_M, first).to(tl.float32)
        if HAS_RESIDUAL:
            residual = _load(residual_ptr + column, row, column, M, N, EVEN, BLOCK_M, "").to(tl.float32)
        if HAS_WEIGHT and not TWICE:
            # Before the sum, so that it is on its way meanwhile.
            weight = _vector(weight_ptr, column, N, EVEN)
        if HAS_RESIDUAL:
            # What is normalised is the sum as it is stored, so that the backward can start from the stored one.
            stored = (x + residual).to(dtype)
            _store(total_ptr + column, stored, row, column, M, N, EVEN, BLOCK_M)
            x = stored.to(tl.float32)
        rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / N + eps)
        if TWICE:
            # From L1: a row in registers would leave room for one program a multiprocessor.
            x = _load(x_ptr + column, row, column, M, N, EVEN, BLOCK_M, "evict_first").to(tl.float32)
            if HAS_WEIGHT:
                weight = _vector(weight_ptr, column, N, EVEN)
        if not HAS_WEIGHT:
            weight = x
        y = _scale(x * rstd, weight, CASTING, HAS_WEIGHT, dtype)
        _store(y_ptr + column, y, row, column, M, N, EVEN, BLOCK_M)
    else:
        squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, N, BLOCK_N):
            at = start + column
            x = _load(x_ptr + at, row, at, M, N, EVEN, BLOCK_M, "").to(tl.float32)
            if HAS_RESIDUAL:
                x += _load(residual_ptr + at, row, at, M, N, EVEN, BLOCK_M, "").to(tl.float32)
                stored = x.to(dtype)
                _store(total_ptr + at, stored, row, at, M, N, EVEN, BLOCK_M)
                x = stored.to(tl.float32)
            squares += x * x
        rstd = tl.rsqrt(tl.sum(squares, axis=1, keep_dims=True) / N + eps)
        for start in range(0, N, BLOCK_N):
            at = start + column
            # The second reading, of the L2 cache.
            x = _load(x_ptr + at, row, at, M, N, EVEN, BLOCK_M, "").to(tl.float32)
            if HAS_RESIDUAL:
                # Added again, not loaded from total: another thread of the program may have stored that element.
                x += _load(residual_ptr + at, row, at, M, N, EVEN, BLOCK_M, "").to(tl.float32)
                x = x.to(dtype).to(tl.float32)
            weight = _vector(weight_ptr, at, N, EVEN) if HAS_WEIGHT else x
            y = _scale(x * rstd, weight, CASTING, HAS_WEIGHT, dtype)
            _store(y_ptr + at, y, row, at, M, N, EVEN, BLOCK_M)
    if SAVED:
        tl.store(rstd_ptr + row, rstd, mask=row < M)


@triton.jit
def _upstream(dy, rstd, weight, CASTING: tl.constexpr, HAS_WEIGHT: tl.constexpr):  # type: ignore[no-untyped-def]
    # rstd times the gradient of x_hat. The gradient of x is upstream - x * (mean(x * upstream) * rstd^2).
    upstream = dy * rstd
    if HAS_WEIGHT:
        upstream = upstream * (1.0 + weight) if CASTING == "gemma" else upstream * weight
    return upstream


@triton.jit
def _weight_gradient(x, dy, rstd, CASTING: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    # Its summand for these elements; for Llama's casting with x_hat as it was rounded.
    if CASTING == "llama":
        return dy * (x * rstd).to(dtype).to(tl.float32)
    else:
        return (dy * rstd) * x


@triton.jit
def _unpacked(value):  # type: ignore[no-untyped-def]
    # bfloat16 to float32 by instructions of NVIDIA's that stay where they are: what compilers can move, they unpack
    # early and keep in twice the registers.
    unpack: tl.constexpr = "{ shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000; }"
    bits = tl.inline_asm_elementwise(unpack, "=r,=r,r", [value], dtype=tl.int32, is_pure=False, pack=2)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _rms_norm_backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    partial_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    M,
    N,
    CASTING: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_DTOTAL: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    EVEN: tl.constexpr,
    REREAD: tl.constexpr,
    PACKED: tl.constexpr,
    AHEAD: tl.constexpr,
    STAGES: tl.constexpr,
    HINT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Whole rows, BLOCK_M at a time. With STAGES above 1 the tiles of the next STAGES - 1 turns are copied to shared
    # memory while a program works on one; with AHEAD the next tile is read into registers (BLOCK_M has to be above 1).
    # With PACKED (bfloat16, EVEN, no dtotal) the weight is kept as it is stored, and so is a row while it is summed.
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    column = tl.arange(0, BLOCK_N)[None, :]
    weight = tl.zeros((1, BLOCK_N), tl.float32)
    if PACKED:
        packed = tl.load(weight_ptr + column)
    elif HAS_WEIGHT and not REREAD:
        weight = _vector(weight_ptr, column, N, EVEN)
    partial = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # 64-bit rows: a tensor may have more than 2^31 elements.
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
    if AHEAD:
        next_x = _load(x_ptr + row * x_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT)
        next_dy = _load(dy_ptr + row * dy_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT)
        if HAS_DTOTAL:
            next_dtotal = _load(dtotal_ptr + row * dtotal_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT)
        next_rstd = tl.load(rstd_ptr + row, mask=row < M, other=0.0)
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.num_programs(0), num_stages=STAGES):
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
        if AHEAD:
            x = next_x.to(tl.float32)
            dy = next_dy.to(tl.float32)
            rstd = next_rstd
            after = row + tl.num_programs(0) * BLOCK_M
            next_x = _load(x_ptr + after * x_stride + column, after, column, M, N, EVEN, BLOCK_M, HINT)
            next_dy = _load(dy_ptr + after * dy_stride + column, after, column, M, N, EVEN, BLOCK_M, HINT)
            if HAS_DTOTAL:
                dtotal = next_dtotal.to(tl.float32)
                next_dtotal = _load(
                    dtotal_ptr + after * dtotal_stride + column, after, column, M, N, EVEN, BLOCK_M, HINT
                )
            next_rstd = tl.load(rstd_ptr + after, mask=after < M, other=0.0)
        else:
            x_held = _load(x_ptr + row * x_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT)
            dy_held = _load(dy_ptr + row * dy_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT)
            if not PACKED:
                x = x_held.to(tl.float32)
                dy = dy_held.to(tl.float32)
            if HAS_DTOTAL:
                dtotal = _load(dtotal_ptr + row * dtotal_stride + column, row, column, M, N, EVEN, BLOCK_M, HINT).to(
                    tl.float32
                )
            rstd = tl.load(rstd_ptr + row)  # a tile is one row here
        if HAS_WEIGHT and REREAD and not PACKED:
            # Read for every row where it does not fit in registers; in a branch (always taken), because what is read
            # in the loop itself would be copied to shared memory along with the rows.
            weight = tl.zeros((1, BLOCK_N), tl.float32)
            if M > 0:
                weight = _vector(weight_ptr, column, N, EVEN)
        if PACKED:
            upstream = _upstream(dy_held.to(tl.float32), 1.0, _unpacked(packed), CASTING, HAS_WEIGHT)
            mean = tl.sum(x_held.to(tl.float32) * upstream, axis=1, keep_dims=True) / N * rstd
            # Unpacked again, so that nothing in float32 lives through the sum.
            x = _unpacked(x_held)
            dy = _unpacked(dy_held)
            upstream = _upstream(dy, rstd, _unpacked(packed), CASTING, HAS_WEIGHT)
        else:
            upstream = _upstream(dy, rstd, weight, CASTING, HAS_WEIGHT)
            mean = tl.sum(x * upstream, axis=1, keep_dims=True) / N
        if WEIGHT_GRAD:
            partial += _weight_gradient(x, dy, rstd, CASTING, dtype)
        dx = upstream - x * (mean * rstd * rstd)
        if HAS_DTOTAL:
            dx += dtotal
        _store(dx_ptr + row * N + column, dx, row, column, M, N, EVEN, BLOCK_M)
    if WEIGHT_GRAD:
        one = tl.arange(0, BLOCK_N)
        tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * N + one, tl.sum(partial, axis=0), mask=one < N)


@triton.jit
def _rms_norm_backward_halves_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    partial_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    M,
    N,
    CASTING: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_DTOTAL: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows of which a program can hold a half: two programs go down the same rows, a half of the columns each. The sum
    # over a row takes the other half too, which is read from the L2 cache, where the other program's reading put it.
    # Rows are not kept in L1, so that the weight is.
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    half = tl.program_id(0) % 2
    first = tl.program_id(0) // 2
    column = half * BLOCK_N + tl.arange(0, BLOCK_N)
    partial = tl.zeros((BLOCK_N,), tl.float32)
    for tile in range(first, M, tl.num_programs(0) // 2):
        row = tl.cast(tile, tl.int64)
        x_row = x_ptr + row * x_stride
        dy_row = dy_ptr + row * dy_stride
        x_held = _load(x_row + column, row, column, M, N, EVEN, 1, ".cg")
        dy_held = _load(dy_row + column, row, column, M, N, EVEN, 1, ".cg")
        rstd = tl.load(rstd_ptr + row)
        products = tl.zeros((BLOCK_O,), tl.float32)
        for k in tl.static_range(BLOCK_N // BLOCK_O):
            other = (1 - half) * BLOCK_N + k * BLOCK_O + tl.arange(0, BLOCK_O)
            x = _load(x_row + other, row, other, M, N, EVEN, 1, ".cg").to(tl.float32)
            dy = _load(dy_row + other, row, other, M, N, EVEN, 1, ".cg").to(tl.float32)
            weight = _vector(weight_ptr, other, N, EVEN) if HAS_WEIGHT else x
            products += x * _upstream(dy, rstd, weight, CASTING, HAS_WEIGHT)
        x = x_held.to(tl.float32)
        dy = dy_held.to(tl.float32)
        weight = _vector(weight_ptr, column, N, EVEN) if HAS_WEIGHT else x
        if WEIGHT_GRAD:
            partial += _weight_gradient(x, dy, rstd, CASTING, dtype)
        upstream = _upstream(dy, rstd, weight, CASTING, HAS_WEIGHT)
        mean = (tl.sum(x * upstream, axis=0) + tl.sum(products, axis=0)) / N
        dx = upstream - x * (mean * rstd * rstd)
        if HAS_DTOTAL:
            dx += _load(dtotal_ptr + row * dtotal_stride + column, row, column, M, N, EVEN, 1, ".cg").to(tl.float32)
        _store(dx_ptr + row * N + column, dx, row, column, M, N, EVEN, 1)
    if WEIGHT_GRAD:
        tl.store(partial_ptr + first.to(tl.int64) * N + column, partial, mask=column < N)


@triton.jit
def _rms_norm_backward_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    mean_ptr,
    x_stride,
    dy_stride,
    N,
    CASTING: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than that, first kernel: the one number a row that every column's gradient needs.
    row = tl.program_id(0).to(tl.int64)
    rstd = tl.load(rstd_ptr + row)
    products = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        x = _load(x_ptr + row * x_stride + column, 0, column, 1, N, False, 1, "").to(tl.float32)
        dy = _load(dy_ptr + row * dy_stride + column, 0, column, 1, N, False, 1, "").to(tl.float32)
        weight = _vector(weight_ptr, column, N, False) if HAS_WEIGHT else x
        products += x * _upstream(dy, rstd, weight, CASTING, HAS_WEIGHT)
    tl.store(mean_ptr + row, tl.sum(products, axis=0) / N)


@triton.jit
def _rms_norm_backward_columns_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    weight_ptr,
    rstd_ptr,
    dy_ptr,
    dtotal_ptr,
    mean_ptr,
    dx_ptr,
    partial_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    M,
    N,
    CASTING: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_DTOTAL: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than that, second kernel: a program goes down one block of columns, over its share of the rows.
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight = tl.zeros((BLOCK_N,), tl.float32)
    if HAS_WEIGHT:
        weight = _vector(weight_ptr, column, N, False)
    partial = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(tl.program_id(1).to(tl.int64), M, tl.num_programs(1)):
        x = _load(x_ptr + row * x_stride + column, row, column, M, N, False, 1, "").to(tl.float32)
        dy = _load(dy_ptr + row * dy_stride + column, row, column, M, N, False, 1, "").to(tl.float32)
        rstd = tl.load(rstd_ptr + row)
        upstream = _upstream(dy, rstd, weight, CASTING, HAS_WEIGHT)
        dx = upstream - x * (tl.load(mean_ptr + row) * rstd * rstd)
        if HAS_DTOTAL:
            dx += _load(dtotal_ptr + row * dtotal_stride + column, row, column, M, N, False, 1, "").to(tl.float32)
        _store(dx_ptr + row * N + column, dx, row, column, M, N, False, 1)
        if WEIGHT_GRAD:
            partial += _weight_gradient(x, dy, rstd, CASTING, x_ptr.dtype.element_ty)
    if WEIGHT_GRAD:
        tl.store(partial_ptr + tl.program_id(1).to(tl.int64) * N + column, partial, mask=column < N)
