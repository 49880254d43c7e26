"""What the gated products ``activation(a) * b`` have in common: inputs as a pair or packed, and how they are launched.

Packed means one tensor (..., 2N) whose first half is ``a`` and whose second half is ``b``, as a fused projection leaves
it; the kernels read and write its halves in place, and so they read two tensors whose rows are equally far apart, as
the halves of a packed tensor are. Gradients of two tensors are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.bound import BoundLaunches
from fuselab.ops.flat import BLOCK, FEW, launch_flat
from fuselab.ops.inputs import check_tensors, check_untransformed, rows
from fuselab.ops.internals import in_forward_mode
from fuselab.ops.launch import empty

__all__ = [
    "Gate",
    "check_gate",
    "differentiate_gate",
    "gate_backward",
    "gate_backward_outputs",
    "gate_eager_backward",
    "gate_eager_forward",
    "gate_forward",
    "gate_output",
    "halves",
]

_FEWER_PACKED = 2**30
"""Elements of half a packed tensor up to which its offsets fit in the 32 bits that a bound launch has."""


@dataclass(frozen=True)
class Gate:
    """One gated product: its name, its kernels, and their bound launches.

    The kernels take ``(a, b, y, count)`` and ``(a, b, dy, da, db, count)``, and by name N, GAP, PACKED and what a flat
    kernel takes.
    """

    name: str
    forward: Any
    backward: Any
    bound_forward: BoundLaunches = field(default_factory=BoundLaunches)
    bound_backward: BoundLaunches = field(default_factory=BoundLaunches)


def check_gate(operator: str, a: Tensor, b: Tensor | None) -> None:
    """Refuse a pair that does not match, or a packed tensor that cannot be halved.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an odd last axis of a packed tensor.
        RuntimeError: a device without Triton kernels.
    """
    check_tensors(operator, a=a, b=b)
    if b is None:
        if a.dim() == 0 or a.shape[-1] % 2:
            raise ValueError(
                f"{operator}: packed input of shape {tuple(a.shape)}; its last axis has to be even: a, then b"
            )
    elif a.shape != b.shape:
        raise ValueError(f"{operator}: a has shape {tuple(a.shape)} and b {tuple(b.shape)}; they have to be equal")


def halves(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pair, or the two halves of a packed tensor."""
    if b is not None:
        return a, b
    first, second = a.chunk(2, dim=-1)
    return first, second


def gate_output(a: Tensor, b: Tensor | None) -> Tensor:
    """The tensor for ``activation(a) * b``, not filled."""
    if b is None:
        return torch.empty((*a.shape[:-1], a.shape[-1] // 2), dtype=a.dtype, device=a.device)
    return torch.empty(a.shape, dtype=torch.promote_types(a.dtype, b.dtype), device=a.device)


def _layout(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, int, int]:
    """The tensors as the kernels can read them, the width of a row, and how many elements lie between two rows."""
    if b is None:
        # int(): a symbolic width becomes a constant of the compiled graph, because it is one of the kernel.
        a_MN = a if a.is_contiguous() else rows(a)
        N = int(a.shape[-1]) // 2
        gap = N if a.is_contiguous() else int(a_MN.stride(0)) - N
        return a_MN, a_MN, N, gap
    if not a.is_contiguous() and a.dim() > 0:
        a_MN, b_MN = rows(a), rows(b)
        N, stride = int(a_MN.shape[1]), int(a_MN.stride(0))
        if stride == b_MN.stride(0) and stride >= N and a_MN.shape[0] > 1:
            return a_MN, b_MN, N, stride - N
    return a.contiguous(), b.contiguous(), 0, 0


def gate_forward(kernel: Any, gate: Gate, a: Tensor, b: Tensor | None, **flags: str) -> Tensor:
    """Launch a forward kernel; returns ``activation(a) * b``."""
    y = gate_output(a, b)
    if y.numel() == 0:
        return y
    a_MN, b_MN, N, gap = _layout(a, b)
    form = (*flags.values(), a.dtype, None if b is None else b.dtype, N, gap)
    meta = {**flags, "N": N, "GAP": gap, "PACKED": b is None}
    launch_flat(kernel, gate.bound_forward, form, y.numel(), a_MN, b_MN, y, **meta)
    return y


def gate_backward_outputs(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tensors for the gradients of a and b (without elements for a packed input), not filled."""
    da = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    return da, empty(a) if b is None else torch.empty(b.shape, dtype=b.dtype, device=b.device)


def gate_backward(
    kernel: Any, gate: Gate, a: Tensor, b: Tensor | None, dy: Tensor, **flags: str
) -> tuple[Tensor, Tensor]:
    """Launch a backward kernel; returns the gradients of a and b, the latter without elements for a packed input."""
    da, db = gate_backward_outputs(a, b)
    if dy.numel() == 0:
        return da, db
    if b is None:
        a = a.contiguous()  # its gradient is, and lies in the same places
    a_MN, b_MN, N, gap = _layout(a, b)
    form = (*flags.values(), a.dtype, None if b is None else b.dtype, dy.dtype, N, gap)
    meta = {**flags, "N": N, "GAP": gap, "PACKED": b is None}
    tensors = a_MN, b_MN, dy.contiguous(), da, da if b is None else db
    launch_flat(kernel, gate.bound_backward, form, dy.numel(), *tensors, **meta)
    return da, db


def gate_eager_forward(gate: Gate, a: Tensor, b: Tensor | None, **flags: str) -> Tensor:
    """The shortest way to ``activation(a) * b`` on the host; inputs are checked where the form is not known yet.

    Raises:
        TypeError, ValueError, RuntimeError: as ``check_gate``.
    """
    if b is None:
        shape = a.shape
        N = shape[-1] // 2 if shape else 0
        count = a.numel() // 2
        form = (*flags.values(), a.dtype, None, N, N, a.get_device(), count % BLOCK and count, count <= FEW)
        repeat = gate.bound_forward.get(form)
        if repeat is not None and a.is_contiguous() and shape and shape[-1] == 2 * N and count < _FEWER_PACKED:
            y = a.new_empty((*shape[:-1], N))
            pointer = a.data_ptr()
            if repeat(-(-count // BLOCK), pointer, pointer, y.data_ptr(), count):
                return y
    else:
        count = a.numel()
        dtype, device = a.dtype, a.get_device()
        repeat = gate.bound_forward.get(
            (*flags.values(), dtype, dtype, 0, 0, device, count % BLOCK and count, count <= FEW)
        )
        if (
            repeat is not None
            and b.dtype is dtype
            and b.get_device() == device
            and a.is_contiguous()
            and b.is_contiguous()
            and a.shape == b.shape
        ):
            y = torch.empty_like(a)
            if repeat(-(-count // BLOCK), a.data_ptr(), b.data_ptr(), y.data_ptr(), count):
                return y
    check_gate(gate.name, a, b)
    check_untransformed(gate.name, a, b)
    return gate_forward(gate.forward, gate, a, b, **flags)


def gate_eager_backward(gate: Gate, a: Tensor, b: Tensor | None, dy: Tensor, **flags: str) -> tuple[Tensor, Tensor]:
    """The shortest way to the gradients on the host, as ``gate_backward`` returns them."""
    count = dy.numel()
    dtype = a.dtype
    if b is None:
        N = a.shape[-1] // 2
        form = (*flags.values(), dtype, None, dy.dtype, N, N, a.get_device(), count % BLOCK and count, count <= FEW)
        repeat = gate.bound_backward.get(form)
        if repeat is not None and 0 < count < _FEWER_PACKED and a.is_contiguous() and dy.is_contiguous():
            da = torch.empty_like(a)
            pointer, gradient = a.data_ptr(), da.data_ptr()
            if repeat(-(-count // BLOCK), pointer, pointer, dy.data_ptr(), gradient, gradient, count):
                return da, da  # the second is for nobody
    elif b.dtype is dtype is dy.dtype and count:
        form = (*flags.values(), dtype, dtype, dtype, 0, 0, a.get_device(), count % BLOCK and count, count <= FEW)
        repeat = gate.bound_backward.get(form)
        if repeat is not None and a.is_contiguous() and b.is_contiguous() and dy.is_contiguous():
            da, db = torch.empty_like(a), torch.empty_like(b)
            pointers = a.data_ptr(), b.data_ptr(), dy.data_ptr(), da.data_ptr(), db.data_ptr()
            if repeat(-(-count // BLOCK), *pointers, count):
                return da, db
    return gate_backward(gate.backward, gate, a, b, dy, **flags)


def differentiate_gate(
    operator: str, run: Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]], ctx: Any, dy: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for autograd, from a context that saved a and b."""
    a, b = ctx.saved_tensors
    if not (torch.is_grad_enabled() or in_forward_mode()):
        da, db = run(a, b, dy)
        return da, None if b is None else db
    with torch.no_grad():
        da, db = run(a, b, dy)
    da_or_none, db_or_none = refuse_second_derivative(operator, (da, None if b is None else db), (dy, a, b))
    return da_or_none, db_or_none
