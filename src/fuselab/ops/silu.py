"""SiLU and SwiGLU, forward and backward (Elfwing et al., 2017; Shazeer, 2020).

Nothing but the inputs is kept for the backward: the sigmoid is cheaper to compute again than to store and load.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, empty_like, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn import Parameter

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.bound import BoundLaunches
from fuselab.ops.flat import BLOCK, FEW, in_rows, launch_flat, load, offsets, sigmoid, store
from fuselab.ops.gate import (
    Gate,
    check_gate,
    differentiate_gate,
    gate_backward,
    gate_backward_outputs,
    gate_eager_backward,
    gate_eager_forward,
    gate_forward,
    gate_output,
    halves,
)
from fuselab.ops.inputs import check_tensors, check_untransformed, compute_dtype, is_plain, needs_grad, on_cpu
from fuselab.ops.internals import applied, in_forward_mode
from fuselab.ops.launch import operator, wrap_triton

__all__ = ["SiLU", "SwiGLU", "silu", "silu_reference", "swiglu", "swiglu_reference"]


def silu_reference(x: Tensor) -> Tensor:
    """``silu`` in torch's own operators, differentiable any number of times; float64 is computed in float64."""
    wide = x.to(compute_dtype(x))
    return (wide * torch.sigmoid(wide)).to(x.dtype)


def swiglu_reference(a: Tensor, b: Tensor | None = None) -> Tensor:
    """``swiglu`` in torch's own operators."""
    a, b = halves(a, b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    wide_a, wide_b = a.to(compute_dtype(a)), b.to(compute_dtype(b))
    return (wide_a * torch.sigmoid(wide_a) * wide_b).to(dtype)


@triton.jit
def _silu_forward_kernel(x_ptr, y_ptr, count, EVEN: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    offset = offsets(BLOCK, WIDE)
    x = load(x_ptr, offset, offset, count, EVEN)
    store(y_ptr, offset, x * sigmoid(x), offset, count, EVEN)


@triton.jit
def _silu_backward_kernel(  # type: ignore[no-untyped-def]
    x_ptr, dy_ptr, dx_ptr, count, EVEN: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    offset = offsets(BLOCK, WIDE)
    x = load(x_ptr, offset, offset, count, EVEN)
    dy = load(dy_ptr, offset, offset, count, EVEN)
    s = sigmoid(x)
    store(dx_ptr, offset, dy * s * (1.0 + x * (1.0 - s)), offset, count, EVEN)


@triton.jit
def _swiglu_forward_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    y_ptr,
    count,
    N: tl.constexpr,
    GAP: tl.constexpr,
    PACKED: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = offsets(BLOCK, WIDE)
    offset = in_rows(element, N, GAP)
    if PACKED:
        b_ptr = a_ptr + N
    a = load(a_ptr, offset, element, count, EVEN)
    b = load(b_ptr, offset, element, count, EVEN)
    store(y_ptr, element, a * sigmoid(a) * b, element, count, EVEN)


@triton.jit
def _swiglu_backward_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    dy_ptr,
    da_ptr,
    db_ptr,
    count,
    N: tl.constexpr,
    GAP: tl.constexpr,
    PACKED: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = offsets(BLOCK, WIDE)
    offset = in_rows(element, N, GAP)
    gradient_offset = element
    if PACKED:
        gradient_offset = offset
        b_ptr = a_ptr + N
        db_ptr = da_ptr + N
    a = load(a_ptr, offset, element, count, EVEN)
    b = load(b_ptr, offset, element, count, EVEN)
    dy = load(dy_ptr, element, element, count, EVEN)
    s = sigmoid(a)
    store(da_ptr, gradient_offset, dy * b * s * (1.0 + a * (1.0 - s)), element, count, EVEN)
    store(db_ptr, gradient_offset, dy * a * s, element, count, EVEN)


_FORWARD, _BACKWARD = BoundLaunches(), BoundLaunches()


def _silu_forward(kernel: Any, x: Tensor) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() != 0:
        launch_flat(kernel, _FORWARD, (x.dtype,), x.numel(), x.contiguous(), y)
    return y


def _silu_backward(kernel: Any, x: Tensor, dy: Tensor) -> Tensor:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() != 0:
        launch_flat(kernel, _BACKWARD, (x.dtype, dy.dtype), x.numel(), x.contiguous(), dy.contiguous(), dx)
    return dx


@operator("silu", lambda x: torch.empty(x.shape, dtype=x.dtype, device=x.device))
def _silu_operator(x: Tensor) -> Tensor:
    return _silu_forward(wrap_triton(_silu_forward_kernel), x)


@operator("silu_backward", lambda x, dy: torch.empty(x.shape, dtype=x.dtype, device=x.device))
def _silu_backward_operator(x: Tensor, dy: Tensor) -> Tensor:
    return _silu_backward(wrap_triton(_silu_backward_kernel), x, dy)


_SWIGLU = Gate("swiglu", _swiglu_forward_kernel, _swiglu_backward_kernel)


@operator("swiglu", gate_output)
def _swiglu_operator(a: Tensor, b: Tensor | None) -> Tensor:
    return gate_forward(wrap_triton(_swiglu_forward_kernel), _SWIGLU, a, b)


@operator("swiglu_backward", lambda a, b, dy: gate_backward_outputs(a, b))
def _swiglu_backward_operator(a: Tensor, b: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
    return gate_backward(wrap_triton(_swiglu_backward_kernel), _SWIGLU, a, b, dy)


def _eager_forward(x: Tensor) -> Tensor:
    count = x.numel()
    repeat = _FORWARD.get((x.dtype, x.get_device(), count % BLOCK and count, count <= FEW))
    if repeat is not None and x.is_contiguous():
        y = empty_like(x)
        if repeat(-(-count // BLOCK), x.data_ptr(), y.data_ptr(), count):
            return y
    return _silu_forward(_silu_forward_kernel, x)


def _eager_backward(x: Tensor, dy: Tensor) -> Tensor:
    count = x.numel()
    repeat = _BACKWARD.get((x.dtype, dy.dtype, x.get_device(), count % BLOCK and count, count <= FEW))
    if repeat is not None and x.is_contiguous() and dy.is_contiguous():
        dx = empty_like(x)
        if repeat(-(-count // BLOCK), x.data_ptr(), dy.data_ptr(), dx.data_ptr(), count):
            return dx
    return _silu_backward(_silu_backward_kernel, x, dy)


def _differentiate_silu(run: Any, ctx: Any, dy: Tensor) -> Tensor | None:
    (x,) = ctx.saved_tensors
    if not (is_grad_enabled() or in_forward_mode()):
        dx: Tensor = run(x, dy)
        return dx
    with torch.no_grad():
        dx = run(x, dy)
    return refuse_second_derivative("silu", (dx,), (dy, x))[0]


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _eager_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # A subclass is no address to launch with: what it holds is where the dispatcher says.
        ordinary = type(grads[0]) is Tensor and not is_compiling()
        return _differentiate_silu(_eager_backward if ordinary else _silu_backward_operator, ctx, grads[0])


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return gate_eager_forward(_SWIGLU, a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        def run(a: Tensor, b: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
            return gate_eager_backward(_SWIGLU, a, b, dy)

        ordinary = type(grads[0]) is Tensor and not is_compiling()
        return differentiate_gate("swiglu", run if ordinary else _swiglu_backward_operator, ctx, grads[0])


_apply_silu, _apply_swiglu = applied("silu", _SiLU), applied("swiglu", _SwiGLU)

_silu_operator.register_autograd(
    lambda ctx, dy: _differentiate_silu(_silu_backward_operator, ctx, dy),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
_swiglu_operator.register_autograd(
    lambda ctx, dy: differentiate_gate("swiglu", _swiglu_backward_operator, ctx, dy),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, computed in float32 and rounded once.

    Args:
        x: any shape, float32, float16 or bfloat16; copied first when it is not contiguous.

    Returns:
        The shape and dtype of x, contiguous.

    Raises:
        TypeError: an unsupported dtype.
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.

    Example:
        >>> import torch
        >>> silu_reference(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
        tensor([-0.2689,  0.0000,  0.7311], dtype=torch.float64)
    """
    # The shortest way on the host, written out: the form is known, the kernel bound.
    kind = type(x)
    if (kind is Tensor or kind is Parameter) and not is_compiling() and not in_forward_mode():
        count = x.numel()
        repeat = _FORWARD.get((x.dtype, x.get_device(), count % BLOCK and count, count <= FEW))
        if repeat is not None and x.is_contiguous():
            if x.requires_grad and is_grad_enabled():
                recorded: Tensor = _apply_silu(x)
                return recorded
            y = empty_like(x)
            if repeat(-(-count // BLOCK), x.data_ptr(), y.data_ptr(), count):
                return y
    check_tensors("silu", x=x)
    if on_cpu("silu", x):
        return silu_reference(x)
    check_untransformed("silu", x)
    if not is_plain(x):
        traced: Tensor = _silu_operator(x)
        return traced
    if needs_grad(x):
        differentiable: Tensor = _apply_silu(x)
        return differentiable
    return _silu_forward(_silu_forward_kernel, x)


def swiglu(a: Tensor, b: Tensor | None = None) -> Tensor:
    """``silu(a) * b``, computed in float32 and rounded once.

    Args:
        a: any shape, float32, float16 or bfloat16; without b a packed tensor (..., 2N): first half a, second half b.
        b: the shape of a.

    Returns:
        The shape of b, contiguous, in the promoted dtype of a and b.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an odd last axis of a packed tensor.
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.

    Example:
        >>> import torch
        >>> swiglu_reference(torch.tensor([1.0, 2.0, 10.0, 100.0], dtype=torch.float64))
        tensor([  7.3106, 176.1594], dtype=torch.float64)
    """
    if is_plain(a, b) and a.is_cuda and not in_forward_mode():
        if needs_grad(a, b):
            y: Tensor = _apply_swiglu(a, b)
            return y
        return gate_eager_forward(_SWIGLU, a, b)
    check_gate("swiglu", a, b)
    if on_cpu("swiglu", a):
        return swiglu_reference(a, b)
    check_untransformed("swiglu", a, b)
    if not is_plain(a, b):
        traced: Tensor = _swiglu_operator(a, b)
        return traced
    if needs_grad(a, b):
        y = _apply_swiglu(a, b)
        return y
    return gate_eager_forward(_SWIGLU, a, b)


class SiLU(nn.Module):
    """``silu``, in the place of ``nn.SiLU``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply ``silu``."""
        return silu(x)


class SwiGLU(nn.Module):
    """``swiglu`` of a pair or of a packed tensor; has no weights, the projections around it are the model's own."""

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Apply ``swiglu``."""
        return swiglu(a, b)
