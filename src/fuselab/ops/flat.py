"""Operations element by element: offsets, loads and stores of a flat kernel, its sigmoid, and how it is launched.

A thread makes one 16-byte access a stream in half precision, as ``torch.compile``'s pointwise kernels do. Nothing is
masked where the number of elements is a multiple of the block, and offsets are 32 bits wide where that is enough.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from fuselab.ops.bound import BoundLaunches
from fuselab.ops.launch import launch, launch_ordinarily

__all__ = ["BLOCK", "FEW", "in_rows", "launch_flat", "load", "offsets", "sigmoid", "store"]

BLOCK = 1024
"""Elements of a program."""

FEW = 2**20
"""Elements up to which a program has more warps: what a thread does one after the other is all that is waited for."""

_WARPS, _WARPS_OF_FEW = 4, 8
_LARGEST_INT32 = 2**31 - 1
_SPLIT = 2**20
"""Elements from which on an odd number of them is worth a second launch."""


@triton.jit
def offsets(BLOCK: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The elements of this program, in 64 bits where they or their offsets in memory do not fit in 32."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    return program * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def in_rows(element, N: tl.constexpr, GAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where an element lies in rows of N with GAP elements between them. Both are constants: a thread divides once."""
    if GAP == 0:
        return element
    else:
        return element + (element // N) * GAP


@triton.jit
def load(pointer, offset, index, count, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """What lies at ``offset`` in float32, for the elements with an ``index`` below ``count``: all of them if EVEN."""
    if EVEN:
        return tl.load(pointer + offset).to(tl.float32)
    else:
        return tl.load(pointer + offset, mask=index < count).to(tl.float32)


@triton.jit
def store(pointer, offset, value, index, count, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store a float32 value in the pointer's dtype; as ``load``."""
    if EVEN:
        tl.store(pointer + offset, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=index < count)


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + exp(-x))`` in float32.

    By exp2, which flushes its subnormal results to zero and is cheaper for that; in a sum with 1 they are nothing.
    """
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


def launch_flat(
    kernel: Any, bound: BoundLaunches, form: tuple[Any, ...], count: int, *tensors: Tensor, **flags: Any
) -> None:
    """Launch ``kernel(*pointers, count, EVEN, WIDE, BLOCK)`` over ``count`` elements, and bind it in eager mode.

    What a caller has to look up is ``(*form, index of the device, remainder, whether they are at most FEW)``, where the
    remainder is 0 for a multiple of ``BLOCK`` elements, else how many there are. It is looked up here, too. What is
    bound has 32-bit offsets: of a packed tensor a caller starts it again for fewer than 2^30 elements only.
    """
    if isinstance(kernel, JITFunction) and count >= _SPLIT and count % 16 and not flags.get("GAP"):
        # A mask that does not end on a multiple of 16 leaves no access of more than one element: half the bandwidth.
        # So it is for what is left of the whole blocks only.
        whole = count - count % BLOCK
        for part, end in ((slice(whole), whole), (slice(whole, None), count - whole)):
            meta = {**flags, "EVEN": end == whole, "WIDE": 2 * end > _LARGEST_INT32, "BLOCK": BLOCK}
            pieces = [t.view(-1)[part] for t in tensors]
            grid = (triton.cdiv(end, BLOCK),)
            launch(kernel, grid, tensors[0].device, *pieces, end, **meta, num_warps=_WARPS)
        return
    # Of a symbolic size neither is asked for: a compiled graph would hold for the answer only.
    known = isinstance(count, int)
    even = known and count % BLOCK == 0
    # A packed tensor has twice as many, and rows with a gap between them lie farther apart than they are wide.
    gap = flags.get("GAP")
    wide = not known or max(2 * count, count // flags["N"] * (flags["N"] + gap) if gap else 0) > _LARGEST_INT32
    few = known and count <= FEW
    warps = _WARPS_OF_FEW if few else _WARPS
    device = tensors[0].device
    meta = {**flags, "EVEN": even, "WIDE": wide, "BLOCK": BLOCK}
    grid = (triton.cdiv(count, BLOCK),)
    if wide or not isinstance(kernel, JITFunction):
        launch_ordinarily(kernel, grid, device, *tensors, count, **meta, num_warps=warps)
        return
    form = (*form, device.index, count % BLOCK and count, few)
    repeat = bound.get(form)
    if repeat is not None and repeat(grid[0], *[t.data_ptr() for t in tensors], count):
        return
    compiled = launch_ordinarily(kernel, grid, device, *tensors, count, **meta, num_warps=warps)
    if compiled is not None:
        bound.bind(form, compiled, kernel, device, *tensors, [count], **meta)
