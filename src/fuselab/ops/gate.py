"""What the gated products ``activation(a) * b`` have in common: inputs as a pair or packed, and how they are launched.

Packed means one tensor (..., 2N) whose first half is ``a`` and whose second half is ``b``, as a fused projection leaves
it; the kernels read and write its halves in place. Two separate tensors are treated as one long row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.inputs import check_tensors, rows
from fuselab.ops.launch import ELEMENTS, Tile, empty, launch, row_tile

__all__ = [
    "check_gate",
    "differentiate_gate",
    "gate_backward",
    "gate_backward_outputs",
    "gate_forward",
    "gate_output",
    "halves",
]


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


def _flat(x: Tensor) -> Tensor:
    return x.contiguous().view(1, -1)


def gate_forward(kernel: Any, a: Tensor, b: Tensor | None, **flags: str) -> Tensor:
    """Launch a forward kernel; returns ``activation(a) * b``."""
    y = gate_output(a, b)
    if y.numel() == 0:
        return y
    a_MN = rows(a) if b is None else _flat(a)
    b_MN = a_MN if b is None else _flat(b)
    M, N = (a_MN.shape[0], y.shape[-1]) if b is None else a_MN.shape
    tile = row_tile(N, widest=ELEMENTS, looped=ELEMENTS) if b is None else Tile(1, ELEMENTS, 4)
    grid = (triton.cdiv(M, tile.BLOCK_M) * triton.cdiv(N, tile.BLOCK_N),)
    strides = a_MN.stride(0), b_MN.stride(0)
    launch(kernel, grid, a.device, a_MN, b_MN, y, *strides, M, N, **flags, PACKED=b is None, **tile._asdict())
    return y


def gate_backward_outputs(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tensors for the gradients of a and b (without elements for a packed input), not filled."""
    da = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    return da, empty(a) if b is None else torch.empty(b.shape, dtype=b.dtype, device=b.device)


def gate_backward(kernel: Any, a: Tensor, b: Tensor | None, dy: Tensor, **flags: str) -> tuple[Tensor, Tensor]:
    """Launch a backward kernel; returns the gradients of a and b, the latter without elements for a packed input."""
    da, db = gate_backward_outputs(a, b)
    if dy.numel() == 0:
        return da, db
    a_MN = rows(a) if b is None else _flat(a)
    b_MN = a_MN if b is None else _flat(b)
    dy_MN = rows(dy) if b is None else _flat(dy)
    M, N = dy_MN.shape
    tile = row_tile(N, widest=ELEMENTS, looped=ELEMENTS) if b is None else Tile(1, ELEMENTS, 4)
    grid = (triton.cdiv(M, tile.BLOCK_M) * triton.cdiv(N, tile.BLOCK_N),)
    strides = a_MN.stride(0), b_MN.stride(0), dy_MN.stride(0), 2 * N if b is None else N
    launch(
        kernel, grid, a.device, a_MN, b_MN, dy_MN, da, db, *strides, M, N, **flags, PACKED=b is None, **tile._asdict()
    )
    return da, db


def differentiate_gate(
    operator: str, run: Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]], ctx: Any, dy: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for autograd, from a context that saved a and b."""
    a, b = ctx.saved_tensors
    with torch.no_grad():
        da, db = run(a, b, dy)
    da_or_none, db_or_none = refuse_second_derivative(operator, (da, None if b is None else db), (dy, a, b))
    return da_or_none, db_or_none
