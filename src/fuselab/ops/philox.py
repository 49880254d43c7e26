"""Which elements dropout keeps: a function of a seed, the row and the column, so that nothing has to be stored.

Philox4x32 (Salmon et al., 2011) with the seed as key and (column // 8, row) as counter. Its four words decide about
eight neighbouring columns: each word about two, once as it is and once with its halves exchanged. Both are uniform
numbers of 32 bits, so that every element is dropped with exactly the probability asked for, rounded to 2^-31. The two
decisions of a word share its bits, but the first 16, which nearly always decide, are not the same: given one of them
the probability of the other changes by less than 2^-15.

Seven rounds, which pass BigCrush as ten do (table 2 of the paper). Multiplications make up most of what dropout costs.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["ROUNDS", "check_probability", "dropout_arguments", "dropout_keep", "philox_seed"]

ROUNDS = tl.constexpr(7)
"""Rounds of Philox."""


def check_probability(operator: str, p: float) -> None:
    """Refuse what is not a probability.

    Raises:
        ValueError: p is outside of [0, 1], or NaN.
    """
    if not 0.0 <= p <= 1.0:  # NaN is not
        raise ValueError(f"{operator}: p={p}; allowed: a probability from 0 to 1")


def dropout_arguments(p: float) -> tuple[int, float]:
    """Threshold for ``dropout_keep``, and the factor on what is kept.

    The threshold is the 31-bit number below which one that is uniform over all of them lies with probability p; 31
    bits, so that it is never negative and fits a 32-bit argument.

    Example:
        >>> dropout_arguments(0.5)
        (1073741824, 2.0)
    """
    return min(round(p * 2**31), 2**31 - 1), 1 / (1 - p) if p < 1 else 0.0


@triton.jit
def _philox(seed, c0, c1, c2):  # type: ignore[no-untyped-def]
    # Counters may have different shapes that broadcast: what depends on the row or on the column alone stays small for
    # as long as it does. Products of 64 bits are one instruction, where their two halves by themselves would be two.
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    c3 = tl.zeros_like(c0)
    for _ in tl.static_range(ROUNDS):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = second.to(tl.uint32)
        c3 = first.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def philox_seed(seed_ptr, key_low, key_high):  # type: ignore[no-untyped-def]
    """The seed that is on the device, combined with a key from the host, 31 bits a half (see ``philox_key``).

    One of the two is zero. Both at once so that one kernel serves either: an eager call compiles what a CUDA graph
    captures later, where nothing could be compiled.
    """
    # Without a sign: its extension would cost registers, of which wide rows have none to spare.
    low = tl.cast(tl.cast(key_low, tl.uint32), tl.int64)
    return tl.load(seed_ptr) ^ ((tl.cast(key_high, tl.int64) << 32) | low)


@triton.jit
def dropout_keep(seed, row, start, threshold, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, NEIGHBOURS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether an element is kept, for ``row`` (BLOCK_M, 1, 1) and the ``BLOCK_N`` columns from ``start`` on.

    Of shape (BLOCK_M, BLOCK_N // NEIGHBOURS, NEIGHBOURS). Depends on seed, row and column alone: forward and backward
    may have tiles of different sizes. ``start`` and ``BLOCK_N`` are multiples of 8. ``NEIGHBOURS``: how many columns a
    thread holds next to each other, 4 or 8, as a 16-byte access of the data has them: the decisions then arise where
    they are needed, without exchange among threads.
    """
    group = (start // NEIGHBOURS + tl.arange(0, BLOCK_N // NEIGHBOURS)[None, :]).to(tl.uint32)
    row = tl.reshape(row, (BLOCK_M, 1))
    low, high = row.to(tl.uint32), (row >> 32).to(tl.uint32)
    if NEIGHBOURS == 8:
        r0, r1, r2, r3 = _philox(seed, group, low, high)
        words = tl.join(tl.join(r0, r2), tl.join(r1, r3))
    else:
        # Half of a call's words for each of two threads, which both make the call.
        r0, r1, r2, r3 = _philox(seed, group >> 1, low, high)
        second = (group & 1) != 0
        words = tl.join(tl.where(second, r2, r0), tl.where(second, r3, r1))
    words = tl.join(words, (words << 16) | (words >> 16))
    return tl.reshape(words, (BLOCK_M, BLOCK_N // NEIGHBOURS, NEIGHBOURS)) >= tl.cast(threshold, tl.uint32) * 2
