"""Rows of 16-bit numbers kept as they were read, in half the registers of float32.

With twice as many rows on chip a multiprocessor has something to read while it computes. The price is unpacking them
again for every pass over the row. A row comes in parts, each finished before the next: of one large tensor the compiler
writes every operation out for all elements before the next operation, and keeps all that lies between them at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "in_eights",
    "later_zero",
    "load_part",
    "packed_again",
    "packed_words",
    "part_columns",
    "store_part",
    "strides_in_eights",
    "unpacked",
]


def strides_in_eights(*strides: int) -> bool:
    """Whether rows of 16-bit numbers so far apart all begin on a 16-byte boundary when one does.

    Triton asks of an integer whether 16 divides it, and of rows of 1000 it would read one number at a time.
    """
    return all(isinstance(stride, int) and stride % 8 == 0 for stride in strides)


@triton.jit
def in_eights(stride, EIGHTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The stride, in a form from which the compiler sees that 8 divides it where EIGHTS says so."""
    if EIGHTS:
        return stride // 8 * 8
    else:
        return stride


@triton.jit
def part_columns(part, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns of a part of a row, (1, WIDTH / 8, 8): eight neighbours, a 16-byte access, are an axis."""
    return part * WIDTH + tl.arange(0, WIDTH // 8)[None, :, None] * 8 + tl.arange(0, 8)[None, None, :]


@triton.jit
def load_part(pointer, column, N, other, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """A part of a row as it is in memory, two numbers a word; ``other`` behind the row's end."""
    if EVEN:
        x = tl.load(pointer + column, eviction_policy="evict_first")
    else:
        x = tl.load(pointer + column, mask=column < N, other=other, eviction_policy="evict_first")
    return packed_words(x)


@triton.jit
def store_part(pointer, value, column, N, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes a part of a row."""
    value = value.to(pointer.dtype.element_ty)
    if EVEN:
        tl.store(pointer + column, value, eviction_policy="evict_first")
    else:
        tl.store(pointer + column, value, mask=column < N, eviction_policy="evict_first")


@triton.jit
def packed_words(x):  # type: ignore[no-untyped-def]
    """(1, G, 8) of 16 bits as (1, G, 4) of 32: as they were read, for the compiler too."""
    low, high = tl.split(tl.reshape(x.to(tl.int16, bitcast=True), (x.shape[0], x.shape[1], 4, 2)))
    return (low.to(tl.int32) & 0xFFFF) | (high.to(tl.int32) << 16)


@triton.jit
def unpacked(words, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What ``packed_words`` packed, as float32."""
    # Of bfloat16 a shift or a mask each, where a conversion takes two instructions for the upper half.
    if DTYPE is tl.bfloat16:
        low, high = (words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True)
    else:
        low = words.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
        high = (words >> 16).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return tl.reshape(tl.join(low, high), (words.shape[0], words.shape[1], 8))


@triton.jit
def packed_again(x, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Float32 numbers that DTYPE holds exactly, (1, G, 8), as words: what ``unpacked`` takes."""
    if DTYPE is tl.bfloat16:
        # Their upper halves. A conversion of each would be one instruction of a pipe with an eighth of the rate.
        low, high = tl.split(tl.reshape(x.to(tl.int32, bitcast=True), (x.shape[0], x.shape[1], 4, 2)))
        return ((low >> 16) & 0xFFFF) | (high & -65536)
    else:
        return packed_words(x.to(DTYPE))


@triton.jit
def later_zero(number, natural):  # type: ignore[no-untyped-def]
    """Zero, because ``natural`` is not negative, which the compiler does not know, and not before ``number`` is known.

    Words are combined with it before they are unpacked again: else their numbers would be kept from the first time.
    """
    return number.to(tl.int32, bitcast=True) & tl.cast(natural >> 31, tl.int32)
