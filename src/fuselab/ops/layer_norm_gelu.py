"""LayerNorm followed by GELU, forward and backward (Ba et al., 2016; Hendrycks and Gimpel, 2016).

One program holds whole rows, up to 32768 columns forward; it passes twice over those that are too wide. Between the two
operators nothing is rounded and nothing is stored: the backward keeps the input and two float32 a row (mean and rstd)
and recomputes the rest. Weight and bias gradients are summed without atomics: a fixed number of programs each keep
float32 partial sums over their rows, and a second kernel adds those up, so that repeated calls agree to the bit.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.compiler import is_compiling

from fuselab.ops.autograd import refuse_second_derivative
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
from fuselab.ops.layer_norm_gelu_backward import (
    _layer_norm_gelu_backward_columns_kernel,
    _layer_norm_gelu_backward_kernel,
    _layer_norm_gelu_backward_rows_kernel,
    _layer_norm_gelu_sums_kernel,
)
from fuselab.ops.layer_norm_gelu_backward_launch import backward, backward_outputs
from fuselab.ops.layer_norm_gelu_forward import (
    _layer_norm_gelu_forward_kernel,
    _layer_norm_gelu_forward_loop_kernel,
)
from fuselab.ops.layer_norm_gelu_launch import forward, forward_outputs
from fuselab.ops.layer_norm_gelu_packed import _layer_norm_gelu_packed_kernel
from fuselab.ops.layer_norm_gelu_packed_backward import _layer_norm_gelu_packed_backward_kernel
from fuselab.ops.replay import Replays, form_of

__all__ = ["LayerNormGELU", "layer_norm_gelu", "layer_norm_gelu_reference"]

Approximate = Literal["none", "tanh"]

_APPROXIMATIONS = ("none", "tanh")


def layer_norm_gelu_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5, approximate: Approximate = "none"
) -> Tensor:
    """``layer_norm_gelu`` in torch's own operators, differentiable any number of times; float64 stays float64."""
    dtype = compute_dtype(x)
    weight = None if weight is None else weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    normalised = F.layer_norm(x.to(dtype), x.shape[-1:], weight, bias, eps)
    return F.gelu(normalised, approximate=approximate).to(x.dtype)


_FORWARD_KERNELS = (
    _layer_norm_gelu_forward_kernel,
    _layer_norm_gelu_forward_loop_kernel,
    _layer_norm_gelu_packed_kernel,
)
_BACKWARD_KERNELS = (
    _layer_norm_gelu_backward_kernel,
    _layer_norm_gelu_backward_rows_kernel,
    _layer_norm_gelu_backward_columns_kernel,
    _layer_norm_gelu_sums_kernel,
    _layer_norm_gelu_packed_backward_kernel,
)


@operator("layer_norm_gelu", lambda x, weight, bias, eps, approximate: forward_outputs(x))
def _layer_norm_gelu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
) -> tuple[Tensor, Tensor, Tensor]:
    first, loop, packed = _FORWARD_KERNELS
    return forward((wrap_triton(first), wrap_triton(loop), wrap_triton(packed)), x, weight, bias, eps, approximate)


@operator(
    "layer_norm_gelu_backward",
    lambda x, weight, bias, mean, rstd, dy, approximate, grad: backward_outputs(x, weight, bias, grad),
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
        wrap_triton(_layer_norm_gelu_sums_kernel),
        wrap_triton(_layer_norm_gelu_packed_backward_kernel),
    )
    return backward(kernels, x, weight, bias, mean, rstd, dy, approximate, affine_grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, approximate = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])
    ctx.approximate = approximate


def _differentiate(run: Any, ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    x, weight, bias, mean, rstd = ctx.saved_tensors
    _, weight_grad, bias_grad, *_ = ctx.needs_input_grad
    twice = torch.is_grad_enabled() or in_forward_mode()
    with torch.no_grad() if twice else nullcontext():
        dx, dweight, dbias = run(x, weight, bias, mean, rstd, dy, ctx.approximate, weight_grad or bias_grad)
    dweight, dbias = dweight if weight_grad else None, dbias if bias_grad else None
    if twice:
        gradients = dx, dweight, dbias
        dx, dweight, dbias = refuse_second_derivative("layer_norm_gelu", gradients, (dy, x, weight, bias))
    return dx, dweight, dbias, None, None


_REPLAYS = Replays()


def _eager_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
) -> tuple[Tensor, ...]:
    # As forward; replayed where a call of this form was made before.
    def ordinary() -> tuple[Tensor, ...]:
        return forward(_FORWARD_KERNELS, x, weight, bias, eps, approximate)

    return _REPLAYS.run(ordinary, (x, weight, bias), eps, approximate)


_BACKWARD_REPLAYS = Replays()


def _eager_backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    dy: Tensor,
    approximate: str,
    affine_grad: bool,
) -> tuple[Tensor, ...]:
    # As backward; replayed as the forward is.
    def ordinary() -> tuple[Tensor, ...]:
        return backward(_BACKWARD_KERNELS, *inputs, approximate, affine_grad)

    inputs = x, weight, bias, mean, rstd, dy
    return _BACKWARD_REPLAYS.run(ordinary, inputs, approximate, affine_grad)


class _LayerNormGELU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
    ) -> Tensor:
        y, mean, rstd = _eager_forward(x, weight, bias, eps, approximate)
        _save(ctx, (x, weight, bias, eps, approximate), (y, mean, rstd))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ordinary = type(grads[0]) is Tensor and not is_compiling()
        return _differentiate(_eager_backward if ordinary else _layer_norm_gelu_backward, ctx, grads[0])


_apply = applied("layer_norm_gelu", _LayerNormGELU)

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
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.

    Autocast does not change dtypes here: everything is computed in float32 in any case.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
        >>> layer_norm_gelu_reference(x, None, None, eps=0.0)
        tensor([[-0.1587,  0.8413]], dtype=torch.float64)
    """
    form = None if is_compiling() else form_of(x, weight, bias)
    replay = None if form is None else _REPLAYS.get((*form, eps, approximate))
    if replay is not None:  # a call of this form was checked
        if needs_grad(x, weight, bias):
            recorded: Tensor = _apply(x, weight, bias, eps, approximate)
            return recorded
        outputs = replay(x, weight, bias)
        if outputs is not None:
            return outputs[0]
    check_tensors("layer_norm_gelu", x=x, weight=weight, bias=bias)
    if x.dim() == 0:
        raise ValueError("layer_norm_gelu: x has no axes; expected at least one, (..., N)")
    check_vector("layer_norm_gelu", "weight", weight, x.shape[-1])
    check_vector("layer_norm_gelu", "bias", bias, x.shape[-1])
    check_choice("layer_norm_gelu", "approximate", approximate, _APPROXIMATIONS)
    if on_cpu("layer_norm_gelu", x):
        return layer_norm_gelu_reference(x, weight, bias, eps, approximate)
    check_untransformed("layer_norm_gelu", x, weight, bias)
    if not is_plain(x, weight, bias):
        traced: Tensor = _layer_norm_gelu(x, weight, bias, eps, approximate)[0]
        return traced
    if needs_grad(x, weight, bias):
        y: Tensor = _apply(x, weight, bias, eps, approximate)
        return y
    return _eager_forward(x, weight, bias, eps, approximate)[0]


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
        self.weight = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(width, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make weight and bias what they were at first, as FSDP has to after a start on the meta device."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of x and apply GELU; see ``layer_norm_gelu``."""
        return layer_norm_gelu(x, self.weight, self.bias, self.eps, self.approximate)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"{self.weight.numel()}, eps={self.eps}, approximate={self.approximate!r}, bias={self.bias is not None}"
