"""A mask on attention scores that broadcasts to them, read in place: how a kernel finds a row of it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fuselab.ops.inputs import DTYPES

__all__ = ["check_mask", "mask_arguments", "mask_pointers"]


def check_mask(operator: str, mask: Tensor | None, x: Tensor) -> None:
    """Refuse a mask that cannot be applied to x.

    Raises:
        TypeError: neither boolean nor float32, float16 or bfloat16.
        ValueError: it does not broadcast to x, or is on another device.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype not in (torch.bool, *DTYPES):
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        supported = ", ".join(map(str, DTYPES))
        raise TypeError(f"{operator}: mask is {found}; supported dtypes: torch.bool (True = keep), {supported}")
    if mask.device != x.device:
        raise ValueError(
            f"{operator}: mask is on {mask.device} but x is on {x.device}; move it with mask.to({str(x.device)!r})"
        )
    pairs = zip(reversed(mask.shape), reversed(x.shape), strict=False)
    # Not `size not in (1, wanted)`: Dynamo says True of a symbolic size that equals the other symbolically.
    if mask.dim() > x.dim() or any(size != 1 and size != wanted for size, wanted in pairs):  # noqa: PLR1714
        raise ValueError(
            f"{operator}: mask has shape {tuple(mask.shape)}, which does not broadcast to x's, {tuple(x.shape)}"
        )


def _mask_rows(mask: Tensor, shape: torch.Size) -> tuple[Tensor, tuple[int, int, int, int, int, int], int]:
    # How a mask that broadcasts to `shape` is read from a row number: the sizes of the two inner row axes and the four
    # strides, with row = (i * size_1 + j) * size_2 + k. Row axes that lie behind one another in memory count as one;
    # where more than three are left, the mask is copied to full size. Last, how many are left.
    expanded = mask.expand(shape)
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape[:-1], expanded.stride()[:-1], strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = merged[-1][0] * size, stride
        else:
            merged.append((size, stride))
    if len(merged) > 3:
        return _mask_rows(expanded.contiguous(), shape)
    (_, stride_0), (size_1, stride_1), (size_2, stride_2) = [(1, 0)] * (3 - len(merged)) + merged
    return mask, (size_1, size_2, stride_0, stride_1, stride_2, expanded.stride(-1)), len(merged)


def mask_arguments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, ...], str, int]:
    """What a kernel gets for a mask: the tensor, its row sizes and strides, its kind and its number of row axes.

    The kind is none, keep or add.
    """
    if mask is None:
        return x, (1, 1, 0, 0, 0, 0), "none", 0
    mask, layout, axes = _mask_rows(mask, x.shape)
    return mask, layout, "keep" if mask.dtype == torch.bool else "add", axes


@triton.jit
def mask_pointers(  # type: ignore[no-untyped-def]
    mask_ptr, row, column, size_1, size_2, stride_0, stride_1, stride_2, stride_n, AXES: tl.constexpr
):
    """Pointers to the mask of a tile from what ``mask_arguments`` returns.

    ``row`` is in 32 bits where the number of rows allows it: a division of 64 bits takes 70 instructions.
    """
    pointer = mask_ptr + column.to(tl.int64) * stride_n
    if AXES == 1:
        pointer += row.to(tl.int64) * stride_2
    elif AXES > 1:
        pointer += (row % size_2).to(tl.int64) * stride_2
        outer = row // size_2
        if AXES == 3:
            pointer += (outer // size_1).to(tl.int64) * stride_0
            outer = outer % size_1
        pointer += outer.to(tl.int64) * stride_1
    return pointer
