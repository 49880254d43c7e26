"""Tensors of the same values and strides at other addresses."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["copied", "writable"]


def writable(tensor: Tensor) -> bool:
    """Whether every element has memory of its own: an expanded tensor cannot be written in place."""
    return all(stride or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def copied(tensor: Tensor, offset_bytes: int = 0) -> Tensor:
    """A leaf with the values, strides and ``requires_grad`` of ``tensor``, ``offset_bytes`` into a new block.

    Example:
        >>> x = torch.arange(12.0).reshape(3, 4)[:, ::2]
        >>> copied(x).stride() == x.stride(), torch.equal(copied(x, 64), x)
        (True, True)
    """
    plain = tensor.detach()
    if not writable(plain):
        base = plain[tuple(slice(0, None if stride else 1) for stride in plain.stride())]
        return copied(base, offset_bytes).detach().expand(plain.shape).requires_grad_(tensor.requires_grad)
    offset = offset_bytes // plain.element_size()
    extent = sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True)) + 1
    block = torch.empty(offset + (extent if plain.numel() else 0), dtype=plain.dtype, device=plain.device)
    moved = block.as_strided(plain.shape, plain.stride(), offset)
    moved.copy_(plain)
    return moved.requires_grad_(tensor.requires_grad)
