"""How the backward of ``layer_norm_gelu`` is launched: tiles, warps, stages by width, measured on an H200."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fuselab.ops.inputs import rows
from fuselab.ops.launch import (
    empty,
    fewer,
    launch,
    most_programs,
    register_limit,
    scratch,
    shared_memory,
    takes_assembly,
)
from fuselab.ops.layer_norm_gelu_launch import flags_of, tile_of
from fuselab.ops.packed_rows import strides_in_eights

__all__ = ["backward", "backward_outputs", "is_packed"]

# A program holds weight, bias, two partial sums and a row: more columns than this do not fit in registers.
_WIDEST = 8192
# Columns of a tile in rows wider than that, of both kernels, and tiles of a program at once.
_LOOPED, _STAGES = 1024, 3
# Programs for each multiprocessor of the kernel that goes down blocks of columns; registers of the other one that let
# as many in (in float16 it would spill).
_DOWN_COLUMNS, _ROWS_REGISTERS = 5, 96
# Partial sums that are few: summing them waits for one load anyway, and a smaller tile has less to add up after it.
_FEW = 64


class _Packed(NamedTuple):
    """How rows of 16-bit numbers are spread over programs and warps, and how far ahead they are read."""

    BLOCK_M: int
    """Rows of a program's tile."""
    parts: int
    """Groups of columns of a row in a thread, each worked on before the next."""
    num_warps: int
    programs: int
    """Programs for each multiprocessor, which share the tiles: as many as have room for their registers."""
    stages: int
    """Tiles of a program at once: the one it works on, and those on their way to shared memory."""


# By width rounded up to a power of two; bfloat16 on an H200, see benchmarks/notes.md.
_PACKED = {
    256: _Packed(2, 1, 1, programs=16, stages=3),
    512: _Packed(1, 2, 1, programs=16, stages=3),
    1024: _Packed(1, 4, 1, programs=8, stages=3),
    2048: _Packed(1, 4, 2, programs=4, stages=3),
    4096: _Packed(1, 4, 4, programs=2, stages=3),
    8192: _Packed(1, 4, 8, programs=1, stages=4),
}


class _Tile(NamedTuple):
    """The same for other rows: of float32, of fewer columns or of a number of them that no 16-byte access divides."""

    BLOCK_M: int
    num_warps: int
    programs: int
    registers: int = 0
    """What the compiler may use a thread, so that all these programs fit; 0 leaves that to it."""
    parts: int = 1
    """Groups of columns of a row in a thread, summed before the threads' sums are."""
    reload: bool = False
    """Weight and bias are read again for every tile: the registers are needed otherwise."""


_TILES = {
    256: _Tile(4, 1, programs=16, registers=128),
    512: _Tile(4, 4, programs=3, registers=168),
    1024: _Tile(2, 4, programs=4, registers=128),
    2048: _Tile(1, 4, programs=4, registers=128),
    4096: _Tile(1, 8, programs=2, registers=128),
    8192: _Tile(1, 16, programs=1, parts=2, reload=True),
}
# One warp would hold four rows of float32 twice over.
_TILES_FLOAT32 = {**_TILES, 256: _Tile(8, 4, programs=4, registers=128)}


def is_packed(x: Tensor, N: int) -> bool:
    """Whether rows of N are kept packed: a mask that may end within a word takes the compiler minutes."""
    return x.element_size() == 2 and N % 8 == 0 and min(_PACKED) // 2 < N <= _WIDEST


def backward_outputs(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, affine_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What the backward writes: the gradients of x, weight and bias; without elements where one is not wanted."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros_like(weight) if affine_grad and weight is not None else empty(x)
    return dx, dweight, torch.zeros_like(bias) if affine_grad and bias is not None else empty(x)


class _Launch(NamedTuple):
    """The launch that writes the gradient of x and the partial sums of the others."""

    kernel: Any
    grid: int
    programs: int
    """Partial sums: of the programs, or of those of a block of columns."""
    most: int
    """As many as there can be of them."""
    options: dict[str, Any]


def backward(
    kernels: tuple[Any, Any, Any, Any, Any],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    dy: Tensor,
    approximate: str,
    affine_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward; returns what ``backward_outputs`` describes."""
    if x.numel() == 0:
        return backward_outputs(x, weight, bias, affine_grad)
    whole, rows_kernel, columns_kernel, sums_kernel, packed_kernel = kernels
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x_MN, dy_MN = rows(x), rows(dy)
    M, N = x_MN.shape[0], int(x_MN.shape[1])
    grads = {
        "WEIGHT_GRAD": affine_grad and weight is not None,
        "BIAS_GRAD": affine_grad and bias is not None,
    }
    affine = x_MN if weight is None else weight.contiguous(), x_MN if bias is None else bias.contiguous()
    pointers: tuple[Tensor, ...] = (x_MN, *affine, mean, rstd, dy_MN)
    strides = x_MN.stride(0), dy_MN.stride(0)
    flags = flags_of(x, weight, bias, approximate)
    if is_packed(x, N):
        down = _packed(packed_kernel, x, M, N, strides)
    elif N <= _WIDEST:
        down = _whole(whole, x, M, N)
    else:
        pointers = *pointers, scratch((M,), x.device), scratch((M,), x.device)
        _sum_rows(rows_kernel, x, M, N, pointers, strides, flags)
        down = _columns(columns_kernel, x, M, N)
    programs = down.programs
    dweight = torch.empty(N, dtype=weight.dtype, device=x.device) if weight is not None and affine_grad else empty(x)
    dbias = torch.empty(N, dtype=bias.dtype, device=x.device) if bias is not None and affine_grad else empty(x)
    # A program that has all rows writes the gradients themselves.
    partial = (
        (dweight, dbias)
        if programs == 1
        else tuple(scratch((programs, N), x.device) if grad else empty(x) for grad in grads.values())
    )
    outputs = dx, *partial
    launch(down.kernel, (down.grid,), x.device, *pointers, *outputs, *strides, M, N, **flags, **grads, **down.options)
    if programs != 1 and any(grads.values()):
        summed = _sums_tile(N, _FEW if isinstance(programs, int) and programs <= _FEW else down.most)
        launch(
            sums_kernel,
            (sum(grads.values()) * triton.cdiv(N, summed["BLOCK_N"]),),
            x.device,
            *partial,
            dweight,
            dbias,
            programs,
            N,
            **grads,
            **summed,
        )
    return dx, dweight, dbias


def _packed(kernel: Any, x: Tensor, M: int, N: int, strides: tuple[int, int]) -> _Launch:
    tile, block_n = tile_of(_PACKED, N)
    most = most_programs(x.device, tile.programs)
    programs = fewer(triton.cdiv(M, tile.BLOCK_M), most)
    # Of x and of its gradient, in all programs of a multiprocessor.
    room = shared_memory(x.device) // (tile.programs * tile.BLOCK_M * block_n * 2 * x.element_size())
    options = {
        "EIGHTS": strides_in_eights(*strides),
        "STAGES": max(min(tile.stages, 1 + room), 1),
        "PARTS": tile.parts,
        "BLOCK_M": tile.BLOCK_M,
        "BLOCK_N": block_n,
        "num_warps": tile.num_warps,
    }
    return _Launch(kernel, programs, programs, most, options)


def _whole(kernel: Any, x: Tensor, M: int, N: int) -> _Launch:
    tile, block_n = tile_of(_TILES if x.element_size() == 2 else _TILES_FLOAT32, N)
    most = most_programs(x.device, tile.programs)
    programs = fewer(triton.cdiv(M, tile.BLOCK_M), most)
    limit = register_limit(kernel, tile.registers, x.device)
    options = {
        # Where registers cannot be limited, rows are not loaded ahead, which needs those of fewer programs.
        "AHEAD": len(limit) > 0 or not tile.registers,
        "PARTS": tile.parts,
        "RELOAD": tile.reload,
        "BLOCK_M": tile.BLOCK_M,
        # 8 columns a thread, 256 a warp: the rows of a tile that lie in different threads.
        "SUM_M": min(max(256 * tile.num_warps // block_n, 1), tile.BLOCK_M),
        "BLOCK_N": block_n,
        "num_warps": tile.num_warps,
        **limit,
    }
    return _Launch(kernel, programs, programs, most, options)


def _sum_rows(
    kernel: Any,
    x: Tensor,
    M: int,
    N: int,
    pointers: tuple[Tensor, ...],
    strides: tuple[int, int],
    flags: dict[str, Any],
) -> None:
    thread_n = 16 // x.element_size()  # what a thread reads at a time
    options = {"THREAD_N": thread_n, "BLOCK_M": thread_n // 2, "BLOCK_N": _LOOPED, "num_warps": 4}
    options |= {"ASSEMBLY": takes_assembly(x.device), "STAGES": _stages(x.device)}
    if x.dtype == torch.bfloat16:
        options |= register_limit(kernel, _ROWS_REGISTERS, x.device)
    launch(kernel, (triton.cdiv(M, thread_n // 2),), x.device, *pointers, *strides, M, N, **flags, **options)


def _columns(kernel: Any, x: Tensor, M: int, N: int) -> _Launch:
    options = {"STAGES": _stages(x.device), "BLOCK_M": 4 // x.element_size(), "BLOCK_N": _LOOPED, "num_warps": 4}
    blocks = triton.cdiv(N, _LOOPED)
    most = max(most_programs(x.device, _DOWN_COLUMNS) // blocks, 2)
    programs = fewer(triton.cdiv(M, options["BLOCK_M"]), most)
    return _Launch(kernel, blocks * programs, programs, most, options)


def _stages(device: torch.device) -> int:
    return _STAGES if shared_memory(device) else 1


def _sums_tile(N: int, most: int) -> dict[str, int]:
    # All partial sums of a column at once, so that they are waited for once; few columns a program, 32 bytes of a row
    # at least, where there are few of them.
    block_n = 32 if N >= 4096 else 16 if N >= 1024 else 8
    block_m = min(triton.next_power_of_2(most), 16384 // block_n)
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": min(max(block_m * block_n // 1024, 4), 16)}
