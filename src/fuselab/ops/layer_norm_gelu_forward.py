"""The forward kernels of LayerNorm followed by GELU, and how their rows are read; see ``layer_norm_gelu``.

Instructions an element limit them, not bytes, so a row's width is a constant of the kernel, nothing is masked that need
not be, and the bfloat16 forms of GELU are shorter (``fuselab.ops.gelu``).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fuselab.ops.gelu import gelu

__all__ = ["_layer_norm_gelu_forward_kernel", "_layer_norm_gelu_forward_loop_kernel"]


@triton.jit
def _float32(value, ASSEMBLY: tl.constexpr):  # type: ignore[no-untyped-def]
    # The value in float32. Of two bfloat16 in a register NVIDIA's compiler moves the upper one down and up again; it is
    # in its place already.
    if ASSEMBLY and value.dtype == tl.bfloat16:
        unpack: tl.constexpr = "{ shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000; }"
        bits = tl.inline_asm_elementwise(unpack, "=r,=r,r", [value], dtype=tl.int32, is_pure=True, pack=2)
        return bits.to(tl.float32, bitcast=True)
    else:
        return value.to(tl.float32)


@triton.jit
def _affine(  # type: ignore[no-untyped-def]
    weight_ptr,
    bias_ptr,
    column,
    N: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    # Weight and bias of some columns: ones and zeros where there are none. Behind the last column both are zero, and so
    # is every gradient.
    weight = tl.full(column.shape, 1.0, tl.float32)
    bias = tl.zeros(column.shape, tl.float32)
    if HAS_WEIGHT:
        weight = _float32(_load(weight_ptr + column, column < N, EVEN), ASSEMBLY)
    if HAS_BIAS:
        bias = _float32(_load(bias_ptr + column, column < N, EVEN), ASSEMBLY)
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
    ASSEMBLY: tl.constexpr,
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
            _forward_tile(x, row, column, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, M, N, eps, APPROXIMATE, SHORT, HAS_WEIGHT, HAS_BIAS, ASSEMBLY, EVEN, EVEN and BLOCK_M == 1)  # fmt: skip # noqa: E501
            x = ahead
            row = after
    else:
        _forward_tile(x, row, column, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, M, N, eps, APPROXIMATE, SHORT, HAS_WEIGHT, HAS_BIAS, ASSEMBLY, EVEN, EVEN and BLOCK_M == 1)  # fmt: skip # noqa: E501


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
    ASSEMBLY: tl.constexpr,
    EVEN: tl.constexpr,
    WHOLE: tl.constexpr,
):
    x = _float32(x, ASSEMBLY)
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, ASSEMBLY)
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
    ASSEMBLY: tl.constexpr,
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
        x = _float32(_load(x_ptr + row * x_stride + start + lane, mask, EVEN), ASSEMBLY)
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
        x = _float32(_load_once(x_ptr + row * x_stride + column, mask, EVEN), ASSEMBLY)
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, EVEN, HAS_WEIGHT, HAS_BIAS, ASSEMBLY)
        y = gelu((x - row_mean) * rstd * weight + bias, APPROXIMATE, SHORT)
        tl.store(y_ptr + row * N + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + row, row_mean)
    tl.store(rstd_ptr + row, rstd)
