"""LayerNorm followed by GELU, forward and backward (Ba et al., 2016; Hendrycks and Gimpel, 2016).

One program holds whole rows up to ``_FORWARD_WIDEST`` columns; above, it passes over them twice. Between the two
operators nothing is rounded and nothing is stored: the backward keeps the input and two float32 a row (mean and rstd)
and recomputes the rest. Weight and bias gradients are summed without atomics, as in ``rms_norm``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import triton
import triton.language as tl
from torch import Tensor, nn

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.gelu import gelu, gelu_derivative
from fuselab.ops.inputs import check_choice, check_tensors, check_vector, compute_dtype, is_traced, needs_grad, rows
from fuselab.ops.launch import empty, fewer, launch, operator, persistent_programs, row_tile, wrap_triton

__all__ = ["LayerNormGELU", "layer_norm_gelu", "layer_norm_gelu_reference"]

Approximate = Literal["none", "tanh"]

_APPROXIMATIONS = ("none", "tanh")
_FORWARD_WIDEST = 16384
# The backward holds x, dy, weight, bias and two partial sums: more columns than this spill.
_BACKWARD_WIDEST = 8192
# Columns of a tile in rows wider than that; twice as many where a program has fewer numbers a column to hold.
_WIDE = 2048


def layer_norm_gelu_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5, approximate: Approximate = "none"
) -> Tensor:
    """``layer_norm_gelu`` in torch's own operators, differentiable any number of times; float64 stays float64."""
    dtype = compute_dtype(x)
    weight = None if weight is None else weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    normalised = F.layer_norm(x.to(dtype), x.shape[-1:], weight, bias, eps)
    return F.gelu(normalised, approximate=approximate).to(x.dtype)


@triton.jit
def _affine(weight_ptr, bias_ptr, column, N, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    # Weight and bias of some columns: ones and zeros where there are none.
    weight = tl.full(column.shape, 1.0, tl.float32)
    bias = tl.zeros(column.shape, tl.float32)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + column, mask=column < N, other=0.0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + column, mask=column < N, other=0.0).to(tl.float32)
    return weight, bias


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
    N,
    eps,
    APPROXIMATE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
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
    y_ptr += row * N

    if ONE_BLOCK:
        mask = inside & (column < N)
        x = tl.load(x_ptr + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        mean = tl.sum(x, axis=1, keep_dims=True) / N
        centred = tl.where(mask, x - mean, 0.0)
        rstd = tl.rsqrt(tl.sum(centred * centred, axis=1, keep_dims=True) / N + eps)
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, HAS_WEIGHT, HAS_BIAS)
        y = gelu(centred * rstd * weight + bias, APPROXIMATE)
        tl.store(y_ptr + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        # Mean and squared deviations of one block of columns after the other, merged (Chan et al., 1979): the mean of
        # squares less the square of the mean would cancel where the mean is large.
        mean = tl.zeros((BLOCK_M, 1), tl.float32)
        deviations = tl.zeros((BLOCK_M, 1), tl.float32)
        for start in range(0, N, BLOCK_N):
            mask = inside & (start + column < N)
            x = tl.load(x_ptr + start + column, mask=mask, other=0.0).to(tl.float32)
            count = tl.minimum(N - start, BLOCK_N)
            block_mean = tl.sum(x, axis=1, keep_dims=True) / count
            centred = tl.where(mask, x - block_mean, 0.0)
            delta = block_mean - mean
            share = count / (start + count)
            deviations += tl.sum(centred * centred, axis=1, keep_dims=True) + delta * delta * (start * share)
            mean += delta * share
        rstd = tl.rsqrt(deviations / N + eps)
        for start in range(0, N, BLOCK_N):
            mask = inside & (start + column < N)
            x = tl.load(x_ptr + start + column, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
            weight, bias = _affine(weight_ptr, bias_ptr, start + column, N, HAS_WEIGHT, HAS_BIAS)
            y = gelu((x - mean) * rstd * weight + bias, APPROXIMATE)
            tl.store(y_ptr + start + column, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + row, mean, mask=inside)
    tl.store(rstd_ptr + row, rstd, mask=inside)


@triton.jit
def _gradients(x, dy, mean, rstd, weight, bias, mask, APPROXIMATE: tl.constexpr):  # type: ignore[no-untyped-def]
    # Returns x_hat, the gradient of x_hat, and that of LayerNorm's output: what the bias's gradient sums.
    x_hat = tl.where(mask, (x - mean) * rstd, 0.0)
    dz = tl.where(mask, dy * gelu_derivative(x_hat * weight + bias, APPROXIMATE), 0.0)
    return x_hat, dz * weight, dz


@triton.jit
def _layer_norm_gelu_backward_kernel(  # type: ignore[no-untyped-def]
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
    N,
    APPROXIMATE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFFINE_GRAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    column = tl.arange(0, BLOCK_N)[None, :]
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, HAS_WEIGHT, HAS_BIAS)
    dweight = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    dbias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for tile in range(tl.program_id(0).to(tl.int64), tl.cdiv(M, BLOCK_M), tl.num_programs(0)):
        row = (tile * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
        inside = row < M
        mask = inside & (column < N)
        x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0, eviction_policy="evict_first")
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=mask, other=0.0, eviction_policy="evict_first")
        mean = tl.load(mean_ptr + row, mask=inside, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=inside, other=0.0)
        x_hat, dx_hat, dz = _gradients(x.to(tl.float32), dy.to(tl.float32), mean, rstd, weight, bias, mask, APPROXIMATE)
        projected = tl.sum(x_hat * dx_hat, axis=1, keep_dims=True) / N
        dx = (dx_hat - tl.sum(dx_hat, axis=1, keep_dims=True) / N - x_hat * projected) * rstd
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if AFFINE_GRAD:
            dweight += dz * x_hat
            dbias += dz
    if AFFINE_GRAD:
        column_1d = tl.arange(0, BLOCK_N)
        partial_ptr += tl.program_id(0).to(tl.int64) * N + column_1d
        tl.store(partial_ptr, tl.sum(dweight, axis=0), mask=column_1d < N)
        partial_ptr += tl.num_programs(0).to(tl.int64) * N
        tl.store(partial_ptr, tl.sum(dbias, axis=0), mask=column_1d < N)


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
    N,
    APPROXIMATE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a block, first kernel: the two numbers a row that every column's gradient needs.
    row = tl.program_id(0).to(tl.int64)
    mean = tl.load(mean_ptr + row)
    rstd = tl.load(rstd_ptr + row)
    average = tl.zeros((BLOCK_N,), tl.float32)
    projected = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, N, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        mask = column < N
        x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=mask, other=0.0).to(tl.float32)
        weight, bias = _affine(weight_ptr, bias_ptr, column, N, HAS_WEIGHT, HAS_BIAS)
        x_hat, dx_hat, _ = _gradients(x, dy, mean, rstd, weight, bias, mask, APPROXIMATE)
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
    N,
    APPROXIMATE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    AFFINE_GRAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Rows wider than a block, second kernel: a program goes down one block of columns, over its share of the rows.
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = column < N
    weight, bias = _affine(weight_ptr, bias_ptr, column, N, HAS_WEIGHT, HAS_BIAS)
    dweight = tl.zeros((BLOCK_N,), tl.float32)
    dbias = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(tl.program_id(1).to(tl.int64), M, tl.num_programs(1)):
        x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0, eviction_policy="evict_first")
        dy = tl.load(dy_ptr + row * dy_stride + column, mask=mask, other=0.0, eviction_policy="evict_first")
        mean = tl.load(mean_ptr + row)
        rstd = tl.load(rstd_ptr + row)
        x_hat, dx_hat, dz = _gradients(x.to(tl.float32), dy.to(tl.float32), mean, rstd, weight, bias, mask, APPROXIMATE)
        dx = (dx_hat - tl.load(average_ptr + row) - x_hat * tl.load(projected_ptr + row)) * rstd
        tl.store(dx_ptr + row * N + column, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if AFFINE_GRAD:
            dweight += dz * x_hat
            dbias += dz
    if AFFINE_GRAD:
        partial_ptr += tl.program_id(1).to(tl.int64) * N + column
        tl.store(partial_ptr, dweight, mask=mask)
        partial_ptr += tl.num_programs(1).to(tl.int64) * N
        tl.store(partial_ptr, dbias, mask=mask)


def _forward_outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return y, mean, torch.empty_like(mean)


def _forward(
    kernel: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = _forward_outputs(x)
    if x.numel() == 0:
        return y, mean, rstd
    x_MN = rows(x)
    M, N = x_MN.shape
    tile = row_tile(N, widest=_FORWARD_WIDEST, looped=2 * _WIDE)
    launch(
        kernel,
        (triton.cdiv(M, tile.BLOCK_M),),
        x.device,
        x_MN,
        x_MN if weight is None else weight.contiguous(),
        x_MN if bias is None else bias.contiguous(),
        y,
        mean,
        rstd,
        x_MN.stride(0),
        M,
        N,
        eps,
        APPROXIMATE=approximate,
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        ONE_BLOCK=tile.BLOCK_N >= N,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=tile.BLOCK_N,
        num_warps=tile.num_warps,
    )
    return y, mean, rstd


def _backward_outputs(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, affine_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros_like(weight) if affine_grad and weight is not None else empty(x)
    return dx, dweight, torch.zeros_like(bias) if affine_grad and bias is not None else empty(x)


def _backward(
    kernels: tuple[Any, Any, Any],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    dy: Tensor,
    approximate: str,
    affine_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return _backward_outputs(x, weight, bias, affine_grad)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x_MN, dy_MN = rows(x), rows(dy)
    M, N = x_MN.shape
    affine = x_MN if weight is None else weight.contiguous(), x_MN if bias is None else bias.contiguous()
    strides = x_MN.stride(0), dy_MN.stride(0)
    flags = {"APPROXIMATE": approximate, "HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None}
    tile = row_tile(N, widest=_BACKWARD_WIDEST, looped=_WIDE)
    if tile.BLOCK_N >= N:
        programs = persistent_programs(triton.cdiv(M, tile.BLOCK_M), x.device)
        partial = torch.empty((2, programs, N) if affine_grad else (0,), dtype=torch.float32, device=x.device)
        pointers = x_MN, *affine, mean, rstd, dy_MN, dx, partial
        sizes = {"BLOCK_M": tile.BLOCK_M, "BLOCK_N": tile.BLOCK_N, "num_warps": tile.num_warps}
        launch(kernels[0], (programs,), x.device, *pointers, *strides, M, N, **flags, AFFINE_GRAD=affine_grad, **sizes)
    else:
        average = torch.empty(M, dtype=torch.float32, device=x.device)
        projected = torch.empty_like(average)
        row_pointers = x_MN, *affine, mean, rstd, dy_MN, average, projected
        launch(kernels[1], (M,), x.device, *row_pointers, *strides, N, **flags, BLOCK_N=2 * _WIDE, num_warps=8)
        blocks = triton.cdiv(N, _WIDE)
        programs = fewer(M, triton.cdiv(4 * persistent_programs(M * blocks, x.device), blocks))
        partial = torch.empty((2, programs, N) if affine_grad else (0,), dtype=torch.float32, device=x.device)
        grid, sizes = (blocks, programs), {"BLOCK_N": _WIDE, "num_warps": 4}
        column_pointers = *row_pointers, dx, partial
        launch(kernels[2], grid, x.device, *column_pointers, *strides, M, N, **flags, AFFINE_GRAD=affine_grad, **sizes)
    if not affine_grad:
        return dx, empty(x), empty(x)
    sums = partial.sum(1)
    dweight = empty(x) if weight is None else sums[0].to(weight.dtype, copy=True)
    return dx, dweight, empty(x) if bias is None else sums[1].to(bias.dtype, copy=True)


_BACKWARD_KERNELS = (
    _layer_norm_gelu_backward_kernel,
    _layer_norm_gelu_backward_rows_kernel,
    _layer_norm_gelu_backward_columns_kernel,
)


@operator("layer_norm_gelu", lambda x, weight, bias, eps, approximate: _forward_outputs(x))
def _layer_norm_gelu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(wrap_triton(_layer_norm_gelu_forward_kernel), x, weight, bias, eps, approximate)


@operator(
    "layer_norm_gelu_backward",
    lambda x, weight, bias, mean, rstd, dy, approximate, grad: _backward_outputs(x, weight, bias, grad),
)
def _layer_norm_gelu_backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    dy: Tensor,
    approximate: str,
    affine_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = (
        wrap_triton(_layer_norm_gelu_backward_kernel),
        wrap_triton(_layer_norm_gelu_backward_rows_kernel),
        wrap_triton(_layer_norm_gelu_backward_columns_kernel),
    )
    return _backward(kernels, x, weight, bias, mean, rstd, dy, approximate, affine_grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, approximate = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.approximate = approximate


def _differentiate(run: Any, ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    x, weight, bias, mean, rstd = ctx.saved_tensors
    _, weight_grad, bias_grad, *_ = ctx.needs_input_grad
    with torch.no_grad():
        dx, dweight, dbias = run(x, weight, bias, mean, rstd, dy, ctx.approximate, weight_grad or bias_grad)
    gradients = dx, dweight if weight_grad else None, dbias if bias_grad else None
    dx, dweight, dbias = refuse_second_derivative("layer_norm_gelu", gradients, (dy, x, weight, bias))
    return dx, dweight, dbias, None, None


class _LayerNormGELU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
    ) -> Tensor:
        output = _forward(_layer_norm_gelu_forward_kernel, x, weight, bias, eps, approximate)
        _save(ctx, (x, weight, bias, eps, approximate), output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        def run(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
            return _backward(_BACKWARD_KERNELS, *args)

        return _differentiate(run, ctx, grads[0])


_layer_norm_gelu.register_autograd(
    lambda ctx, dy, _mean, _rstd: _differentiate(_layer_norm_gelu_backward, ctx, dy), setup_context=_save
)


def layer_norm_gelu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5, approximate: Approximate = "none"
) -> Tensor:
    """``gelu(layer_norm(x))`` over the last axis, in one kernel.

    Args:
        x: (..., N), float32, float16 or bfloat16, any strides.
        weight: (N,), any of these dtypes, or None.
        bias: (N,), any of these dtypes, or None.
        eps: added to the variance.
        approximate: GELU by ``erf`` (``"none"``) or by ``tanh``, as in ``F.gelu``.

    Returns:
        The shape and dtype of x, contiguous; computed in float32 and rounded once.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an unknown approximation.
        RuntimeError: a device without Triton kernels; a second derivative.

    Autocast does not change dtypes here: everything is computed in float32 in any case.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
        >>> layer_norm_gelu_reference(x, None, None, eps=0.0)
        tensor([[-0.1587,  0.8413]], dtype=torch.float64)
    """
    check_tensors("layer_norm_gelu", x=x, weight=weight, bias=bias)
    if x.dim() == 0:
        raise ValueError("layer_norm_gelu: x has no axes; expected at least one, (..., N)")
    check_vector("layer_norm_gelu", "weight", weight, x.shape[-1])
    check_vector("layer_norm_gelu", "bias", bias, x.shape[-1])
    check_choice("layer_norm_gelu", "approximate", approximate, _APPROXIMATIONS)
    if is_traced(x):
        traced: Tensor = _layer_norm_gelu(x, weight, bias, eps, approximate)[0]
        return traced
    if needs_grad(x, weight, bias):
        y: Tensor = _LayerNormGELU.apply(x, weight, bias, eps, approximate)  # type: ignore[no-untyped-call]
        return y
    return _forward(_layer_norm_gelu_forward_kernel, x, weight, bias, eps, approximate)[0]


class LayerNormGELU(nn.Module):
    """``layer_norm_gelu`` with a weight and a bias of its own, in the place of ``nn.LayerNorm`` and ``nn.GELU``."""

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        approximate: Approximate = "none",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("LayerNormGELU", "approximate", approximate, _APPROXIMATIONS)
        self.eps = eps
        self.approximate: Approximate = approximate
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x and apply GELU; see ``layer_norm_gelu``."""
        return layer_norm_gelu(x, self.weight, self.bias, self.eps, self.approximate)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"{self.weight.numel()}, eps={self.eps}, approximate={self.approximate!r}, bias={self.bias is not None}"
