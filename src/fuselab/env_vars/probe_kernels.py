"""Small kernels that probes compile for a described GPU."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

FACTOR = 3.0


@triton.jit
def scaled_sum(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A multiplication and an addition, which fuse into one instruction by default."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    kept = at < n
    a = tl.load(x + at, mask=kept)
    b = tl.load(y + at, mask=kept)
    tl.store(out + at, a * b + a, mask=kept)


@triton.jit
def product(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A matrix product of one tile, in float32."""
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    a = tl.load(x + row * BLOCK + column)
    b = tl.load(y + row * BLOCK + column)
    tl.store(out + row * BLOCK + column, tl.dot(a, b), mask=row < n)


@triton.jit
def global_reader(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Reads a global of this module, which Triton does not allow by default."""
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at) * FACTOR, mask=at < n)


def compiled(kernel: Any, target: tuple[str, int, int]) -> Any:
    """Compile a kernel for a described GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=kernel, signature=signature, constexprs={"BLOCK": 64})
    return triton.compile(source, target=GPUTarget(*target))
