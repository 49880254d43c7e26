"""``tl.rand`` in numpy: Philox4x32-10 (Salmon et al., 2011) with the seed as key and the offset as counter."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["uniform"]


def uniform(seed: int, rows: int, columns: int, stride: int) -> Tensor:
    """What ``tl.rand(seed, row * stride + column)`` gives, to the bit, as float64.

    Args:
        seed: 0 to 2^63.
        rows: of the result.
        columns: of the result.
        stride: by how much the offset grows from row to row.

    Example:
        >>> [round(u, 4) for u in uniform(7, 1, 3, 3)[0].tolist()]
        [0.0908, 0.8139, 0.0122]
    """
    offset: NDArray[np.uint64] = (np.arange(rows)[:, None] * stride + np.arange(columns)).astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c0, c1 = offset & low, offset >> np.uint64(32)
    c2, c3 = np.zeros_like(c0), np.zeros_like(c0)
    k0, k1 = np.uint64(seed) & low, np.uint64(seed) >> np.uint64(32)
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (second >> np.uint64(32)) ^ c1 ^ k0, second & low
        c2, c3 = (first >> np.uint64(32)) ^ c3 ^ k1, first & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return torch.from_numpy(_fractions(c0))


def _fractions(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    signed = words.astype(np.uint32).view(np.int32)
    folded = np.where(signed < 0, -signed - 1, signed).astype(np.float32)
    return (folded * np.float32(4.6566127342e-10)).astype(np.float64)
