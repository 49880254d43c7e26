"""RMSNorm, alone or after a residual addition, forward and backward (Zhang and Sennrich, 2019).

One program holds whole rows up to ``_FORWARD_WIDEST`` columns; above, it passes over them twice. The backward keeps the
input and one float32 a row (``rstd``) and recomputes the rest. Its weight gradient is summed without atomics: a fixed
number of programs each keep a float32 partial sum over their rows, and torch adds those up, so that repeated calls
agree to the bit. The casting orders are those of Llama's, Gemma's and torch's own RMSNorm; see ``rms_norm``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.inputs import check_choice, check_tensors, check_vector, compute_dtype, is_traced, needs_grad, rows
from fuselab.ops.launch import empty, fewer, launch, operator, persistent_programs, row_tile, wrap_triton

__all__ = ["AddRMSNorm", "RMSNorm", "add_rms_norm", "add_rms_norm_reference", "rms_norm", "rms_norm_reference"]

Casting = Literal["llama", "gemma", "none"]

_CASTINGS = ("llama", "gemma", "none")
_FORWARD_WIDEST = 16384
# The backward holds x, dy, the weight and the weight's partial sum: more columns than this spill.
_BACKWARD_WIDEST = 8192
# Columns of a tile in rows wider than that; twice as many where a program has fewer numbers a column to hold.
_WIDE = 2048


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama") -> Tensor:
    """``rms_norm`` in torch's own operators, differentiable any number of times; float64 is computed in float64."""
    wide = x.to(compute_dtype(x))
    normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if casting == "llama":
        normalised = normalised.to(x.dtype)
        return normalised if weight is None else weight * normalised
    if weight is not None:
        scale = weight.to(wide.dtype)
        normalised = normalised * (1 + scale if casting == "gemma" else scale)
    return normalised.to(x.dtype)


def add_rms_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama"
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm`` in torch's own operators."""
    total = x + residual
    return rms_norm_reference(total, weight, eps, casting), total


@triton.jit
def _scale(x_hat, weight, CASTING: tl.constexpr, HAS_WEIGHT: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    if CASTING == "llama":
        x_hat = x_hat.to(dtype).to(tl.float32)
    if HAS_WEIGHT:
        x_hat = x_hat * (1.0 + weight) if CASTING == "gemma" else x_hat * weight
    return x_hat


@triton.jit
def _rms_norm_forward_kernel(  # type: ignore[no-untyped-def]
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
    ONE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Inductor passes a Python float as fp64, and everything computed with it would be fp64 as well.
    eps = tl.cast(eps, tl.float32)
    # 64-bit rows: a tensor may have more than 2^31 elements.
    row = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    inside = row < M
    x_ptr += row * x_stride
    residual_ptr += row * residual_stride
    y_ptr += row * N
    total_ptr += row * N
    dtype: tl.constexpr = total_ptr.dtype.element_ty if HAS_RESIDUAL else x_ptr.dtype.element_ty

    if ONE_BLOCK:
        mask = inside & (column < N)
        x = tl.load(x_ptr + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        if HAS_RESIDUAL:
            x += tl.load(residual_ptr + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
            # What is normalised is the sum as it is stored, so that the backward can start from the stored one.
            stored = x.to(dtype)
            tl.store(total_ptr + column, stored, mask=mask)
            x = stored.to(tl.float32)
        rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / N + eps)
        weight = x
        if HAS_WEIGHT:
            weight = tl.load(weight_ptr + column, mask=column < N, other=0.0).to(tl.float32)
        y = _scale(x * rstd, weight, CASTING, HAS_WEIGHT, dtype)
        tl.store(y_ptr + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        squares = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, N, BLOCK_N):
            mask = inside & (start + column < N)
            x = tl.load(x_ptr + start + column, mask=mask, other=0.0).to(tl.float32)
            if HAS_RESIDUAL:
                x += tl.load(residual_ptr + start + column, mask=mask, other=0.0).to(tl.float32)
                stored = x.to(dtype)
                tl.store(total_ptr + start + column, stored, mask=mask)
                x = stored.to(tl.float32)
            squares += x * x
        rstd = tl.rsqrt(tl.sum(squares, axis=1, keep_dims=True) / N + eps)
        for start in range(0, N, BLOCK_N):
            mask = inside & (start + column < N)
            x = tl.load(x_ptr + start + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
            if HAS_RESIDUAL:
                # Added again, not loaded from total: another thread of the program may have stored that element.
                x += tl.load(residual_ptr + start + column, mask=mask, other=0.0).to(tl.float32)
                x = x.to(dtype).to(tl.float32)
            weight = x
            if HAS_WEIGHT:
                weight = tl.load(weight_ptr + start + column, mask=start + column < N, other=0.0).to(tl.float32)
            y = _scale(x * rstd, weight, CASTING, HAS_WEIGHT, dtype)
            tl.store(y_ptr + start + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(rstd_ptr + row, rstd, mask=inside)


@triton.jit
def _gradients(x, dy, rstd, weight, CASTING: tl.constexpr, HAS_WEIGHT: tl.constexpr, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    # Returns x_hat, the gradient of x_hat, and the summand of the weight's gradient.
    x_hat = x * rstd
    dx_hat = dy
    if HAS_WEIGHT:
        dx_hat = dy * (1.0 + weight) if CASTING == "gemma" else dy * weight
    dweight = dy * (x_hat.to(dtype).to(tl.float32) if CASTING == "llama" else x_hat)
    return x_hat, dx_hat, dweight


@triton.jit
def _rms_norm_backward_kernel(  # type: ignore[no-untyped-def]
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    column = tl.arange(0, BLOCK_N)[None, :]
    weight = tl.zeros((1, BLOCK_N), tl.float32)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + column, mask=column < N, other=0.0).to(tl.float32)
    partial = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tile in range(tl.program_id(0).to(tl.int64), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        inside = row < M
        mask = inside & (column < N)
        x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=mask, other=0.0, eviction_policy="evict_first").to(
            tl.float32
        )
        rstd = tl.load(rstd_ptr + row, mask=inside, other=0.0)
        x_hat, dx_hat, dweight = _gradients(x, dy, rstd, weight, CASTING, HAS_WEIGHT, dtype)
        mean = tl.sum(x_hat * dx_hat, axis=1, keep_dims=True) / N
        dx = (dx_hat - x_hat * mean) * rstd
        if HAS_DTOTAL:
            dx += tl.load(
                dtotal_ptr + row * dtotal_stride + column, mask=mask, other=0.0, eviction_policy="evict_first"
            ).to(tl.float32)
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if WEIGHT_GRAD:
            partial += dweight
    if WEIGHT_GRAD:
        column_1d = tl.arange(0, BLOCK_N)
        partial_ptr += tl.program_id(0).to(tl.int64) * N
        tl.store(partial_ptr + column_1d, tl.sum(partial, axis=0), mask=column_1d < N)


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
    # Rows wider than a block, first kernel: the one number a row that every column's gradient needs.
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_N)
    rstd = tl.load(rstd_ptr + row)
    products = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, N, BLOCK_N):
        mask = start + column < N
        x = tl.load(x_ptr + row * x_stride + start + column, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + start + column, mask=mask, other=0.0).to(tl.float32)
        weight = x
        if HAS_WEIGHT:
            weight = tl.load(weight_ptr + start + column, mask=mask, other=0.0).to(tl.float32)
        x_hat, dx_hat, _ = _gradients(x, dy, rstd, weight, CASTING, HAS_WEIGHT, x_ptr.dtype.element_ty)
        products += x_hat * dx_hat
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
    # Rows wider than a block, second kernel: a program goes down one block of columns, over its share of the rows.
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = column < N
    weight = tl.zeros((BLOCK_N,), tl.float32)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    partial = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(tl.program_id(1).to(tl.int64), M, tl.num_programs(1)):
        x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=mask, other=0.0, eviction_policy="evict_first").to(
            tl.float32
        )
        rstd = tl.load(rstd_ptr + row)
        x_hat, dx_hat, dweight = _gradients(x, dy, rstd, weight, CASTING, HAS_WEIGHT, x_ptr.dtype.element_ty)
        dx = (dx_hat - x_hat * tl.load(mean_ptr + row)) * rstd
        if HAS_DTOTAL:
            dx += tl.load(dtotal_ptr + row * dtotal_stride + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if WEIGHT_GRAD:
            partial += dweight
    if WEIGHT_GRAD:
        tl.store(partial_ptr + tl.program_id(1).to(tl.int64) * N + column, partial, mask=mask)


def _forward_outputs(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, casting: str
) -> tuple[Tensor, Tensor, Tensor]:
    # y, x + residual (without elements when there is no residual), rstd
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    total = empty(x) if residual is None else torch.empty(x.shape, dtype=dtype, device=x.device)
    if casting == "llama" and weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    return y, total, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


def _forward(
    kernel: Any, x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
) -> tuple[Tensor, Tensor, Tensor]:
    y, total, rstd = _forward_outputs(x, residual, weight, casting)
    if x.numel() == 0:
        return y, total, rstd
    x_MN = rows(x)
    residual_MN = x_MN if residual is None else rows(residual)
    M, N = x_MN.shape
    tile = row_tile(N, widest=_FORWARD_WIDEST, looped=2 * _WIDE)
    launch(
        kernel,
        (triton.cdiv(M, tile.BLOCK_M),),
        x.device,
        x_MN,
        residual_MN,
        x_MN if weight is None else weight.contiguous(),
        y,
        total,
        rstd,
        x_MN.stride(0),
        residual_MN.stride(0),
        M,
        N,
        eps,
        CASTING=casting,
        HAS_WEIGHT=weight is not None,
        HAS_RESIDUAL=residual is not None,
        ONE_BLOCK=tile.BLOCK_N >= N,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=tile.BLOCK_N,
        num_warps=tile.num_warps,
    )
    return y, total, rstd


def _backward_outputs(x: Tensor, weight: Tensor | None, weight_grad: bool) -> tuple[Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return dx, torch.zeros_like(weight) if weight_grad and weight is not None else empty(x)


def _backward(
    kernels: tuple[Any, Any, Any],
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    casting: str,
    weight_grad: bool,
) -> tuple[Tensor, Tensor]:
    if x.numel() == 0:
        return _backward_outputs(x, weight, weight_grad)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x_MN, dy_MN = rows(x), rows(dy)
    dtotal_MN = dy_MN if dtotal is None else rows(dtotal)
    M, N = x_MN.shape
    weight_grad = weight_grad and weight is not None
    weight_N = x_MN if weight is None else weight.contiguous()
    strides = x_MN.stride(0), dy_MN.stride(0), dtotal_MN.stride(0)
    flags = {"CASTING": casting, "HAS_WEIGHT": weight is not None}
    more = {"HAS_DTOTAL": dtotal is not None, "WEIGHT_GRAD": weight_grad}
    tile = row_tile(N, widest=_BACKWARD_WIDEST, looped=_WIDE)
    if tile.BLOCK_N >= N:
        programs = persistent_programs(triton.cdiv(M, tile.BLOCK_M), x.device)
        partial = torch.empty((programs, N) if weight_grad else (0,), dtype=torch.float32, device=x.device)
        pointers = x_MN, weight_N, rstd, dy_MN, dtotal_MN, dx, partial
        sizes = {"BLOCK_M": tile.BLOCK_M, "BLOCK_N": tile.BLOCK_N, "num_warps": tile.num_warps}
        launch(kernels[0], (programs,), x.device, *pointers, *strides, M, N, **flags, **more, **sizes)
    else:
        mean = torch.empty(M, dtype=torch.float32, device=x.device)
        row_pointers = x_MN, weight_N, rstd, dy_MN, mean
        launch(kernels[1], (M,), x.device, *row_pointers, *strides[:2], N, **flags, BLOCK_N=2 * _WIDE, num_warps=8)
        blocks = triton.cdiv(N, _WIDE)
        programs = fewer(M, triton.cdiv(4 * persistent_programs(M * blocks, x.device), blocks))
        partial = torch.empty((programs, N) if weight_grad else (0,), dtype=torch.float32, device=x.device)
        column_pointers = x_MN, weight_N, rstd, dy_MN, dtotal_MN, mean, dx, partial
        launch(
            kernels[2],
            (blocks, programs),
            x.device,
            *column_pointers,
            *strides,
            M,
            N,
            **flags,
            **more,
            BLOCK_N=_WIDE,
            num_warps=4,
        )
    if not weight_grad or weight is None:
        return dx, empty(x)
    return dx, partial.sum(0).to(weight.dtype)


_BACKWARD_KERNELS = (_rms_norm_backward_kernel, _rms_norm_backward_rows_kernel, _rms_norm_backward_columns_kernel)


@operator("rms_norm", lambda x, residual, weight, eps, casting: _forward_outputs(x, residual, weight, casting))
def _rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(wrap_triton(_rms_norm_forward_kernel), x, residual, weight, eps, casting)


@operator("rms_norm_backward", lambda x, weight, rstd, dy, dtotal, casting, grad: _backward_outputs(x, weight, grad))
def _rms_norm_backward(
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    casting: str,
    weight_grad: bool,
) -> tuple[Tensor, Tensor]:
    kernels = (
        wrap_triton(_rms_norm_backward_kernel),
        wrap_triton(_rms_norm_backward_rows_kernel),
        wrap_triton(_rms_norm_backward_columns_kernel),
    )
    return _backward(kernels, x, weight, rstd, dy, dtotal, casting, weight_grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, _, casting = inputs
    _, total, rstd = output
    ctx.save_for_backward(x if residual is None else total, weight, rstd)
    ctx.casting = casting
    ctx.dtypes = x.dtype, None if residual is None else residual.dtype
    ctx.set_materialize_grads(False)


def _differentiate(
    run: Any, ctx: Any, dy: Tensor | None, dtotal: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    x, weight, rstd = ctx.saved_tensors
    dtype, residual_dtype = ctx.dtypes
    if residual_dtype is None:
        dtotal = None  # the gradient of the output without elements, which a compiler fills in
    dx: Tensor | None = dtotal
    dweight: Tensor | None = None
    with torch.no_grad():
        if dy is not None:
            dx, dweight = run(x, weight, rstd, dy, dtotal, ctx.casting, ctx.needs_input_grad[2])
        dresidual = dx.to(residual_dtype) if dx is not None and residual_dtype is not None else None
        dx = None if dx is None else dx.to(dtype)
    if not ctx.needs_input_grad[2]:
        dweight = None
    name = "rms_norm" if residual_dtype is None else "add_rms_norm"
    dx, dresidual, dweight = refuse_second_derivative(name, (dx, dresidual, dweight), (dy, dtotal, x, weight))
    return dx, dresidual, dweight, None, None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
    ) -> tuple[Tensor, Tensor]:
        output = _forward(_rms_norm_forward_kernel, x, residual, weight, eps, casting)
        _save(ctx, (x, residual, weight, eps, casting), output)
        return output[0], output[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        def run(*args: Any) -> tuple[Tensor, Tensor]:
            return _backward(_BACKWARD_KERNELS, *args)

        return _differentiate(run, ctx, grads[0], grads[1])


_rms_norm.register_autograd(
    lambda ctx, dy, dtotal, _rstd: _differentiate(_rms_norm_backward, ctx, dy, dtotal),
    setup_context=_save,
)


def _apply(
    name: str, x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
) -> tuple[Tensor, Tensor]:
    check_tensors(name, x=x, residual=residual, weight=weight)
    if x.dim() == 0:
        raise ValueError(f"{name}: x has no axes; expected at least one, (..., N)")
    check_vector(name, "weight", weight, x.shape[-1])
    check_choice(name, "casting", casting, _CASTINGS)
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{name}: residual has shape {tuple(residual.shape)}; expected that of x, {tuple(x.shape)}")
    if is_traced(x):
        y, total, _ = _rms_norm(x, residual, weight, eps, casting)
        return y, total
    if needs_grad(x, residual, weight):
        y, total = _RMSNorm.apply(x, residual, weight, eps, casting)  # type: ignore[no-untyped-call]
        return y, total
    return _forward(_rms_norm_forward_kernel, x, residual, weight, eps, casting)[:2]


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama") -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, in one kernel.

    Args:
        x: (..., N), float32, float16 or bfloat16, any strides.
        weight: (N,), any of these dtypes, or None.
        eps: added to the mean of the squares.
        casting: where float32 ends. ``"llama"``: the normalised row is rounded to x's dtype, then multiplied by the
            weight, and the result has the promoted dtype of both. ``"gemma"``: multiplied by ``1 + weight`` in float32,
            rounded last. ``"none"``: multiplied by ``weight`` in float32, rounded last, as torch's own does on a GPU.

    Returns:
        The shape of x, contiguous; x's dtype, but for ``"llama"`` with a wider weight.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an unknown casting.
        RuntimeError: a device without Triton kernels; a second derivative.

    Autocast does not change dtypes here: the sums are in float32 in any case.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        >>> rms_norm_reference(x, None, eps=0.0)
        tensor([[0.8485, 1.1314]], dtype=torch.float64)
    """
    return _apply("rms_norm", x, None, weight, eps, casting)[0]


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama"
) -> tuple[Tensor, Tensor]:
    """``total = x + residual`` and ``rms_norm(total, weight)``, in one kernel.

    Args:
        x: (..., N), float32, float16 or bfloat16, any strides.
        residual: the shape of x.
        weight: (N,) or None.
        eps: as in ``rms_norm``.
        casting: as in ``rms_norm``, with the dtype of the sum in the place of x's.

    Returns:
        The normalised sum and the sum itself, the latter in the promoted dtype of x and residual.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an unknown casting.
        RuntimeError: a device without Triton kernels; a second derivative.
    """
    return _apply("add_rms_norm", x, residual, weight, eps, casting)


class RMSNorm(nn.Module):
    """``rms_norm`` with a weight of its own: ones, or zeros for Gemma's ``1 + weight``."""

    def __init__(
        self,
        width: int,
        eps: float = 1e-6,
        casting: Casting = "llama",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "casting", casting, _CASTINGS)
        self.eps = eps
        self.casting: Casting = casting
        initial = torch.zeros if casting == "gemma" else torch.ones
        self.weight = nn.Parameter(initial(width, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x; see ``rms_norm``."""
        return rms_norm(x, self.weight, self.eps, self.casting)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"{self.weight.numel()}, eps={self.eps}, casting={self.casting!r}"


class AddRMSNorm(RMSNorm):
    """``add_rms_norm`` with a weight of its own."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Add, then normalise; returns both; see ``add_rms_norm``."""
        return add_rms_norm(x, residual, self.weight, self.eps, self.casting)
