"""Which elements dropout keeps: a function of a seed, the row and the column, so that nothing has to be stored.

Philox4x32-10 (Salmon et al., 2011), with the seed as key and (column // 4, row) as counter; its four outputs belong to
four neighbouring columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["check_probability", "dropout_arguments", "dropout_factor"]


def check_probability(operator: str, p: float) -> None:
    """Refuse what is not a probability.

    Raises:
        ValueError: p is outside of [0, 1], or NaN.
    """
    if not 0.0 <= p <= 1.0:  # NaN is not
        raise ValueError(f"{operator}: p={p}; allowed: a probability from 0 to 1")


def dropout_arguments(p: float) -> tuple[int, float]:
    """Threshold and rescaling for ``dropout_factor``.

    The threshold is the signed 32-bit number below which one that is uniform over all of them lies with probability p.

    Example:
        >>> dropout_arguments(0.5)
        (0, 2.0)
    """
    threshold = min(round(p * 2**32), 2**32 - 1) - 2**31
    return threshold, 1 / (1 - p) if p < 1 else 0.0


@triton.jit
def dropout_factor(seed, row, start, threshold, rescale, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """``rescale`` where an element is kept and 0 where it is dropped, for ``row`` and the columns from ``start`` on.

    Depends on row and column alone, so that forward and backward may have tiles of different sizes; ``start`` and
    ``BLOCK_N`` are multiples of 4.
    """
    zero = tl.zeros((BLOCK_M, BLOCK_N // 4), tl.int32)
    quad = start // 4 + tl.arange(0, BLOCK_N // 4)[None, :] + zero
    row_low = row.to(tl.int32) + zero
    row_high = (row >> 32).to(tl.int32) + zero
    r0, r1, r2, r3 = tl.philox(seed, quad, row_low, row_high, zero)
    random = tl.interleave(tl.interleave(r0, r2), tl.interleave(r1, r3))
    # As signed numbers, so that the threshold fits a 32-bit argument.
    return tl.where(random.to(tl.int32, bitcast=True) >= threshold, rescale, 0.0)
