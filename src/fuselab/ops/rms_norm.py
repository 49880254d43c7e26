"""RMSNorm, alone or after a residual addition, forward and backward (Zhang and Sennrich, 2019).

The kernels are in ``rms_norm_kernels``, their tiles in ``rms_norm_launch``, the residual addition's function and module
in ``add_rms_norm``. The backward keeps the input and one float32 a row (``rstd``) and recomputes the rest. The weight's
gradient is summed without atomics: a fixed number of programs each keep a float32 partial sum over their rows, and a
second kernel adds those up, so that repeated calls agree to the bit. The casting orders are those of Llama's, Gemma's
and torch's own RMSNorm; see ``rms_norm``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.column_sums import column_sums_kernel
from fuselab.ops.inputs import (
    check_choice,
    check_tensors,
    check_untransformed,
    check_vector,
    compute_dtype,
    is_plain,
    needs_grad,
    on_cpu,
)
from fuselab.ops.internals import applied, in_forward_mode
from fuselab.ops.launch import operator, wrap_triton
from fuselab.ops.replay import Replays, form_of
from fuselab.ops.rms_norm_few_rows import _rms_norm_backward_few_rows_kernel
from fuselab.ops.rms_norm_kernels import (
    _rms_norm_backward_columns_kernel,
    _rms_norm_backward_halves_kernel,
    _rms_norm_backward_kernel,
    _rms_norm_backward_rows_kernel,
    _rms_norm_forward_kernel,
)
from fuselab.ops.rms_norm_launch import backward, backward_outputs, forward, forward_outputs

__all__ = ["Casting", "RMSNorm", "apply_rms_norm", "rms_norm", "rms_norm_reference"]

Casting = Literal["llama", "gemma", "none"]

_CASTINGS = ("llama", "gemma", "none")


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


_BACKWARD_KERNELS = (
    _rms_norm_backward_kernel,
    _rms_norm_backward_halves_kernel,
    _rms_norm_backward_rows_kernel,
    _rms_norm_backward_columns_kernel,
    column_sums_kernel,
    _rms_norm_backward_few_rows_kernel,
)


@operator("rms_norm", lambda x, residual, weight, eps, casting: forward_outputs(x, residual, weight, casting))
def _rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
) -> tuple[Tensor, Tensor, Tensor]:
    return forward(wrap_triton(_rms_norm_forward_kernel), x, residual, weight, eps, casting)


@operator("rms_norm_backward", lambda x, weight, rstd, dy, dtotal, casting, grad: backward_outputs(x, weight, grad))
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
        wrap_triton(_rms_norm_backward_halves_kernel),
        wrap_triton(_rms_norm_backward_rows_kernel),
        wrap_triton(_rms_norm_backward_columns_kernel),
        wrap_triton(column_sums_kernel),
        wrap_triton(_rms_norm_backward_few_rows_kernel),
    )
    return backward(kernels, x, weight, rstd, dy, dtotal, casting, weight_grad)


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
    weight_grad = ctx.needs_input_grad[2]
    dx: Tensor | None = dtotal
    dweight: Tensor | None = None
    dresidual: Tensor | None = None
    twice = torch.is_grad_enabled() or in_forward_mode()
    with torch.no_grad() if twice else nullcontext():
        if dy is not None:
            dx, dweight = run(x, weight, rstd, dy, dtotal, ctx.casting, weight_grad)
        if dx is not None:  # to() costs a microsecond to find that there is nothing to do
            if residual_dtype is not None:
                dresidual = dx if dx.dtype == residual_dtype else dx.to(residual_dtype)
            dx = dx if dx.dtype == dtype else dx.to(dtype)
    if not weight_grad:
        dweight = None
    if twice:
        name = "rms_norm" if residual_dtype is None else "add_rms_norm"
        dx, dresidual, dweight = refuse_second_derivative(name, (dx, dresidual, dweight), (dy, dtotal, x, weight))
    return dx, dresidual, dweight, None, None


_REPLAYS = Replays()


def _eager_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str, saved: bool
) -> tuple[Tensor, ...]:
    # y, rstd if saved, and the sum if there is a residual; replayed where a call of this form was made before.
    def ordinary() -> tuple[Tensor, ...]:
        y, total, rstd = forward(_rms_norm_forward_kernel, x, residual, weight, eps, casting, saved)
        return (y, *([rstd] if saved else []), *([] if residual is None else [total]))

    return _REPLAYS.run(ordinary, (x, residual, weight), eps, casting, saved)


_BACKWARD_REPLAYS = Replays()


def _eager_backward(
    x: Tensor, weight: Tensor | None, rstd: Tensor, dy: Tensor, dtotal: Tensor | None, casting: str, weight_grad: bool
) -> tuple[Tensor, ...]:
    # The gradients of x and of the weight; replayed as the forward is.
    def ordinary() -> tuple[Tensor, ...]:
        return backward(_BACKWARD_KERNELS, x, weight, rstd, dy, dtotal, casting, weight_grad)

    return _BACKWARD_REPLAYS.run(ordinary, (x, weight, rstd, dy, dtotal), casting, weight_grad)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str, replay: Any
    ) -> tuple[Tensor, Tensor | None]:
        outputs = None if replay is None else replay(x, residual, weight)
        if outputs is None:
            outputs = _eager_forward(x, residual, weight, eps, casting, True)
        if residual is None:
            y, rstd = outputs
            _save(ctx, (x, None, weight, eps, casting), (y, y, rstd))
            return y, None
        y, rstd, total = outputs
        _save(ctx, (x, residual, weight, eps, casting), (y, total, rstd))
        return y, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        dy, dtotal = grads
        ordinary = type(dy) is Tensor and (dtotal is None or type(dtotal) is Tensor) and not is_compiling()
        return (*_differentiate(_eager_backward if ordinary else _rms_norm_backward, ctx, dy, dtotal), None)


_rms_norm.register_autograd(
    lambda ctx, dy, dtotal, _rstd: _differentiate(_rms_norm_backward, ctx, dy, dtotal),
    setup_context=_save,
)


_apply = applied("rms_norm", _RMSNorm)


def apply_rms_norm(
    name: str, x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, casting: str
) -> tuple[Tensor, Tensor]:
    """Check and run ``rms_norm`` or, with a residual, ``add_rms_norm``: y, and the sum where there is one."""
    form = None if is_compiling() else form_of(x, residual, weight)
    recorded = needs_grad(x, residual, weight) if form is not None else False
    replay = None if form is None else _REPLAYS.get((*form, eps, casting, recorded))
    if replay is not None:  # a call of this form was checked
        outputs = _apply(x, residual, weight, eps, casting, replay) if recorded else replay(x, residual, weight)
        if outputs is not None:
            return outputs[0], outputs[-1]
    check_tensors(name, x=x, residual=residual, weight=weight)
    if x.dim() == 0:
        raise ValueError(f"{name}: x has no axes; expected at least one, (..., N)")
    check_vector(name, "weight", weight, x.shape[-1])
    check_choice(name, "casting", casting, _CASTINGS)
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{name}: residual has shape {tuple(residual.shape)}; expected that of x, {tuple(x.shape)}")
    if on_cpu(name, x):
        total = x if residual is None else x + residual
        return rms_norm_reference(total, weight, eps, cast("Casting", casting)), total
    check_untransformed(name, x, residual, weight)
    if not is_plain(x, residual, weight):
        y, total, _ = _rms_norm(x, residual, weight, eps, casting)
        return y, total
    if needs_grad(x, residual, weight):
        y, total = _apply(x, residual, weight, eps, casting, None)
        return y, total
    outputs = _eager_forward(x, residual, weight, eps, casting, False)
    return outputs[0], outputs[-1]


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
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.

    Autocast does not change dtypes here: the sums are in float32 in any case.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        >>> rms_norm_reference(x, None, eps=0.0)
        tensor([[0.8485, 1.1314]], dtype=torch.float64)
    """
    return apply_rms_norm("rms_norm", x, None, weight, eps, casting)[0]


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
        self.weight = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make the weight what it was at first, as FSDP has to after a start on the meta device."""
        nn.init.constant_(self.weight, 0.0 if self.casting == "gemma" else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x; see ``rms_norm``."""
        return rms_norm(x, self.weight, self.eps, self.casting)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"{self.weight.numel()}, eps={self.eps}, casting={self.casting!r}"
