"""GEGLU, forward and backward (Shazeer, 2020).

Nothing but the inputs is kept for the backward, which computes the activation again.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import triton
import triton.language as tl
from torch import Tensor, nn

from fuselab.ops.flat import in_rows, load, offsets, store
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
from fuselab.ops.gelu import gelu, gelu_derivative
from fuselab.ops.inputs import check_choice, check_untransformed, compute_dtype, is_plain, needs_grad, on_cpu
from fuselab.ops.internals import applied, in_forward_mode
from fuselab.ops.launch import operator, wrap_triton

__all__ = ["GEGLU", "geglu", "geglu_reference"]

Approximate = Literal["none", "tanh"]

_APPROXIMATIONS = ("none", "tanh")


def geglu_reference(a: Tensor, b: Tensor | None = None, approximate: Approximate = "none") -> Tensor:
    """``geglu`` in torch's own operators, differentiable any number of times; float64 is computed in float64."""
    a, b = halves(a, b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return (F.gelu(a.to(compute_dtype(a)), approximate=approximate) * b.to(compute_dtype(b))).to(dtype)


@triton.jit
def _geglu_forward_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    y_ptr,
    count,
    APPROXIMATE: tl.constexpr,
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
    short: tl.constexpr = y_ptr.dtype.element_ty == tl.bfloat16
    store(y_ptr, element, gelu(a, APPROXIMATE, short) * b, element, count, EVEN)


@triton.jit
def _geglu_backward_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    dy_ptr,
    da_ptr,
    db_ptr,
    count,
    APPROXIMATE: tl.constexpr,
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
    # What both have in common, the exponential above all, is computed once: the compiler sees to it. The slope in full:
    # where it crosses zero, results are of the size of the short one's error.
    short: tl.constexpr = db_ptr.dtype.element_ty == tl.bfloat16
    store(da_ptr, gradient_offset, dy * b * gelu_derivative(a, APPROXIMATE), element, count, EVEN)
    store(db_ptr, gradient_offset, dy * gelu(a, APPROXIMATE, short), element, count, EVEN)


_GATE = Gate("geglu", _geglu_forward_kernel, _geglu_backward_kernel)


@operator("geglu", lambda a, b, approximate: gate_output(a, b))
def _geglu_operator(a: Tensor, b: Tensor | None, approximate: str) -> Tensor:
    return gate_forward(wrap_triton(_geglu_forward_kernel), _GATE, a, b, APPROXIMATE=approximate)


@operator("geglu_backward", lambda a, b, dy, approximate: gate_backward_outputs(a, b))
def _geglu_backward_operator(a: Tensor, b: Tensor | None, dy: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return gate_backward(wrap_triton(_geglu_backward_kernel), _GATE, a, b, dy, APPROXIMATE=approximate)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, approximate = inputs
    ctx.save_for_backward(a, b)
    ctx.approximate = approximate


class _GEGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor | None, approximate: str) -> Tensor:
        y = gate_eager_forward(_GATE, a, b, APPROXIMATE=approximate)
        _save(ctx, (a, b, approximate), y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if torch.compiler.is_compiling() or type(grads[0]) is not Tensor:
            return _backward(ctx, grads[0])

        def run(a: Tensor, b: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
            return gate_eager_backward(_GATE, a, b, dy, APPROXIMATE=ctx.approximate)

        return *differentiate_gate("geglu", run, ctx, grads[0]), None


_apply_geglu = applied("geglu", _GEGLU)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    def run(a: Tensor, b: Tensor | None, dy: Tensor) -> Any:
        return _geglu_backward_operator(a, b, dy, ctx.approximate)

    return *differentiate_gate("geglu", run, ctx, dy), None


_geglu_operator.register_autograd(_backward, setup_context=_save)


def geglu(a: Tensor, b: Tensor | None = None, approximate: Approximate = "none") -> Tensor:
    """``gelu(a) * b``, computed in float32 and rounded once.

    Args:
        a: any shape, float32, float16 or bfloat16; without b a packed tensor (..., 2N): first half a, second half b.
            (diffusers packs the other way round, with the half that goes through GELU last.)
        b: the shape of a.
        approximate: GELU by ``erf`` (``"none"``) or by ``tanh``, as in ``F.gelu``.

    Returns:
        The shape of b, contiguous, in the promoted dtype of a and b.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an odd last axis of a packed tensor, an unknown approximation.
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.

    Example:
        >>> import torch
        >>> geglu_reference(torch.tensor([1.0, 2.0, 10.0, 100.0], dtype=torch.float64))
        tensor([  8.4134, 195.4500], dtype=torch.float64)
    """
    check_choice("geglu", "approximate", approximate, _APPROXIMATIONS)
    if is_plain(a, b) and a.is_cuda and not in_forward_mode():
        if needs_grad(a, b):
            y: Tensor = _apply_geglu(a, b, approximate)
            return y
        return gate_eager_forward(_GATE, a, b, APPROXIMATE=approximate)
    check_gate("geglu", a, b)
    if on_cpu("geglu", a):
        return geglu_reference(a, b, approximate)
    check_untransformed("geglu", a, b)
    if not is_plain(a, b):
        traced: Tensor = _geglu_operator(a, b, approximate)
        return traced
    if needs_grad(a, b):
        y = _apply_geglu(a, b, approximate)
        return y
    return gate_eager_forward(_GATE, a, b, APPROXIMATE=approximate)


class GEGLU(nn.Module):
    """``geglu`` of a pair or of a packed tensor; has no weights, the projections around it are the model's own."""

    def __init__(self, approximate: Approximate = "none") -> None:
        super().__init__()
        check_choice("GEGLU", "approximate", approximate, _APPROXIMATIONS)
        self.approximate: Approximate = approximate

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Apply ``geglu``."""
        return geglu(a, b, self.approximate)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"approximate={self.approximate!r}"
