"""How the kernels of ``layer_norm_gelu`` are launched: tiles, warps, registers by width, measured on an H200."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fuselab.ops.inputs import rows
from fuselab.ops.launch import (
    INTERPRETED,
    empty,
    fewer,
    launch,
    most_programs,
    persistent_programs,
    scratch,
    takes_registers,
)

__all__ = ["backward", "backward_outputs", "can_be_packed", "forward", "forward_outputs", "packed_parts"]

_FORWARD_WIDEST = 16384
# Rows of 16-bit numbers that are wider than the first and at most the second are kept packed.
_PACKED_FROM, _PACKED_WIDEST = 1024, 32768
# The backward holds x, dy, the next rows of both, weight, bias and two partial sums: more columns than this spill.
_BACKWARD_WIDEST = 8192
# Columns of a tile in rows wider than that: of the forward, and of both kernels of the backward.
_FORWARD_LOOPED, _BACKWARD_LOOPED = 8192, 1024
# Partial sums that are few: summing them waits for one load anyway, and a smaller tile has less to add up after it.
_FEW = 64
# Programs for each multiprocessor of the kernel that goes down blocks of columns, and their registers.
_DOWN_COLUMNS, _DOWN_REGISTERS = 4, 128


class _Tile(NamedTuple):
    """How rows are spread over programs, warps and registers."""

    BLOCK_M: int
    """Rows of a program's tile."""
    num_warps: int
    programs: int = 0
    """Programs for each multiprocessor, which share the tiles; 0 is one for each tile."""
    registers: int = 0
    """What the compiler may use a thread, so that all these programs fit; 0 leaves that to it."""
    parts: int = 1
    """Groups of columns of a row in a thread, summed before the threads' sums are."""
    reload: bool = False
    """Weight and bias are read again for every tile: the registers are needed otherwise."""
    scaled: bool = False
    """The derivative of GELU in the form for scaled arguments, where results are bfloat16."""
    twice: bool = False
    """Not float32: the normalised row is made again after its sums."""


# By width rounded up to a power of two; bfloat16 on an H200, see benchmarks/notes.md. Narrower rows share a program as
# those of 256 columns do.
_FORWARD_TILES = {
    256: _Tile(4, 1),
    512: _Tile(2, 1),
    1024: _Tile(1, 1),
    2048: _Tile(1, 2),
    4096: _Tile(1, 4),
    8192: _Tile(1, 8, registers=80),
    16384: _Tile(1, 16, programs=1),
}
_BACKWARD_TILES = {
    256: _Tile(4, 1, programs=16, registers=128, scaled=True),
    512: _Tile(4, 4, programs=3, registers=168),
    1024: _Tile(2, 4, programs=4, registers=128),
    2048: _Tile(1, 4, programs=4, registers=128),
    4096: _Tile(1, 8, programs=2, registers=128),
    8192: _Tile(1, 16, programs=1, parts=2, reload=True, scaled=True, twice=True),
}
# One warp would hold four rows of float32 twice over.
_BACKWARD_TILES_FLOAT32 = {**_BACKWARD_TILES, 256: _Tile(8, 4, programs=4, registers=128)}


# By the groups of eight columns that a thread has of a packed row.
_PACKED_REGISTERS = {4: 40, 8: 64}
# The more a thread has, the fewer share a row's sums, and the longer a program takes: for one that is alone on its
# multiprocessor too long. Elements of all rows up to which they are not packed, and up to which a thread has four.
_NOT_PACKED, _LITTLE_PACKED = 2**21, 2**24


def can_be_packed(x: Tensor, N: int) -> bool:
    """Whether there is a packed kernel for rows of N: a mask that may end within a word takes the compiler minutes."""
    return _PACKED_FROM < N <= _PACKED_WIDEST and x.element_size() == 2 and N % 8 == 0


def packed_parts(x: Tensor, N: int) -> int:
    """Groups of eight columns that a thread has of a packed row; 0 where rows are not packed."""
    if not can_be_packed(x, N):
        return 0
    # Of a symbolic number it is not asked for: a compiled graph would hold for the answer only. Rows that are too wide
    # for the other kernel would be read twice by it, and a program with four groups a thread would have 32 warps.
    count = x.numel()
    if N > _FORWARD_WIDEST or not isinstance(count, int) or count > _LITTLE_PACKED:
        return 8
    return 4 if count > _NOT_PACKED else 0


def _tile(tiles: dict[int, _Tile], width: int) -> tuple[_Tile, int]:
    # The tile for a width, and the columns that it spans.
    block_n = max(triton.next_power_of_2(width), 16)
    tile = tiles[max(block_n, 256)]
    return (tile if block_n >= 256 else tile._replace(BLOCK_M=tile.BLOCK_M * 256 // block_n)), block_n


def _programs(tile: _Tile, tiles: int, device: torch.device) -> int:
    return persistent_programs(tiles, device, tile.programs) if tile.programs else tiles


def _limits(kernel: Any, registers: int, device: torch.device) -> dict[str, int]:
    # Where it cannot be told, rows are not loaded ahead, which needs the registers of fewer programs.
    return {"maxnreg": registers} if registers and takes_registers(kernel, device) else {}


def forward_outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the forward writes: y, and mean and rstd of each row."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return y, mean, torch.empty_like(mean)


def forward(
    kernels: tuple[Any, Any, Any], x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, approximate: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward; returns what ``forward_outputs`` describes."""
    y, mean, rstd = forward_outputs(x)
    if x.numel() == 0:
        return y, mean, rstd
    x_MN = rows(x)
    M, N = x_MN.shape[0], int(x_MN.shape[1])
    affine = x_MN if weight is None else weight.contiguous(), x_MN if bias is None else bias.contiguous()
    pointers = x_MN, *affine, y, mean, rstd
    flags = _flags(x, weight, bias, approximate)
    parts = packed_parts(x, N)
    if parts:
        block_n = triton.next_power_of_2(N)
        sizes = {"PARTS": parts, "BLOCK_N": block_n, "num_warps": block_n // (256 * parts)}
        limits = _limits(kernels[2], _PACKED_REGISTERS[parts], x.device)
        launch(kernels[2], (M,), x.device, *pointers, x_MN.stride(0), M, N, eps, **flags, **sizes, **limits)
        return y, mean, rstd
    flags["ASSEMBLY"] = _assembly(x.device)
    if N > _FORWARD_WIDEST:
        sizes = {"BLOCK_N": _FORWARD_LOOPED, "num_warps": 16}
        launch(kernels[1], (M,), x.device, *pointers, x_MN.stride(0), N, eps, **flags, **sizes)
        return y, mean, rstd
    tile, block_n = _tile(_FORWARD_TILES, N)
    launch(
        kernels[0],
        (_programs(tile, triton.cdiv(M, tile.BLOCK_M), x.device),),
        x.device,
        *pointers,
        x_MN.stride(0),
        M,
        N,
        eps,
        **flags,
        PERSISTENT=tile.programs > 0,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=block_n,
        num_warps=tile.num_warps,
        # In float32 the same registers would spill.
        **(_limits(kernels[0], tile.registers, x.device) if x.element_size() == 2 else {}),
    )
    return y, mean, rstd


def _flags(x: Tensor, weight: Tensor | None, bias: Tensor | None, approximate: str) -> dict[str, Any]:
    return {
        "APPROXIMATE": approximate,
        "SHORT": x.dtype == torch.bfloat16,
        "HAS_WEIGHT": weight is not None,
        "HAS_BIAS": bias is not None,
    }


def _assembly(device: torch.device) -> bool:
    return not INTERPRETED and device.type == "cuda" and torch.version.hip is None


def backward_outputs(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, affine_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What the backward writes: the gradients of x, weight and bias; without elements where one is not wanted."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros_like(weight) if affine_grad and weight is not None else empty(x)
    return dx, dweight, torch.zeros_like(bias) if affine_grad and bias is not None else empty(x)


def backward(
    kernels: tuple[Any, Any, Any, Any],
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
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x_MN, dy_MN = rows(x), rows(dy)
    M, N = x_MN.shape[0], int(x_MN.shape[1])
    grads = {
        "WEIGHT_GRAD": affine_grad and weight is not None,
        "BIAS_GRAD": affine_grad and bias is not None,
    }
    pointers: tuple[Tensor, ...] = (
        x_MN,
        x_MN if weight is None else weight.contiguous(),
        x_MN if bias is None else bias.contiguous(),
        mean,
        rstd,
        dy_MN,
    )
    strides = x_MN.stride(0), dy_MN.stride(0)
    flags = _flags(x, weight, bias, approximate)
    sizes: dict[str, int]
    if N <= _BACKWARD_WIDEST:
        tile, block_n = _tile(_BACKWARD_TILES if x.element_size() == 2 else _BACKWARD_TILES_FLOAT32, N)
        most = most_programs(x.device, tile.programs)
        programs = grid = fewer(triton.cdiv(M, tile.BLOCK_M), most)
        limits = _limits(kernels[0], tile.registers, x.device)
        sizes = {
            "AHEAD": len(limits) > 0 or not tile.registers,
            "PARTS": tile.parts,
            "RELOAD": tile.reload,
            "SCALED": tile.scaled and flags["SHORT"] and approximate == "none",
            "TWICE": tile.twice and x.element_size() == 2,
            "BLOCK_M": tile.BLOCK_M,
            # 8 columns a thread, 256 a warp: the rows of a tile that lie in different threads.
            "SUM_M": min(max(256 * tile.num_warps // block_n, 1), tile.BLOCK_M),
            "BLOCK_N": block_n,
        }
        options = {"num_warps": tile.num_warps, **limits}
        kernel = kernels[0]
    else:
        thread_n = 16 // x.element_size()  # what a thread reads at a time
        average, projected = scratch((M,), x.device), scratch((M,), x.device)
        pointers = *pointers, average, projected
        sizes = {"BLOCK_M": thread_n // 4, "BLOCK_N": _BACKWARD_LOOPED}
        options = {"num_warps": 4}
        launch(
            kernels[1],
            (triton.cdiv(M, sizes["BLOCK_M"]),),
            x.device,
            *pointers,
            *strides,
            M,
            N,
            **flags,
            ASSEMBLY=_assembly(x.device),
            THREAD_N=thread_n,
            **sizes,
            **options,
        )
        sizes["BLOCK_M"] = thread_n // 2
        options |= _limits(kernels[2], _DOWN_REGISTERS if x.element_size() == 2 else 0, x.device)
        blocks = triton.cdiv(N, _BACKWARD_LOOPED)
        most = max(most_programs(x.device, _DOWN_COLUMNS) // blocks, 2)
        programs = fewer(triton.cdiv(M, sizes["BLOCK_M"]), most)
        grid = blocks * programs
        kernel = kernels[2]
    dweight = torch.empty(N, dtype=weight.dtype, device=x.device) if weight is not None and affine_grad else empty(x)
    dbias = torch.empty(N, dtype=bias.dtype, device=x.device) if bias is not None and affine_grad else empty(x)
    # A program that has all rows writes the gradients themselves.
    partial = (
        (dweight, dbias)
        if programs == 1
        else tuple(scratch((programs, N), x.device) if grad else empty(x) for grad in grads.values())
    )
    launch(kernel, (grid,), x.device, *pointers, dx, *partial, *strides, M, N, **flags, **grads, **sizes, **options)
    if programs != 1 and any(grads.values()):
        summed = _sums_tile(N, _FEW if isinstance(programs, int) and programs <= _FEW else most)
        launch(
            kernels[3],
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


def _sums_tile(N: int, most: int) -> dict[str, int]:
    # All partial sums of a column at once, so that they are waited for once; few columns a program, 32 bytes of a row
    # at least, where there are few of them.
    block_n = 32 if N >= 4096 else 16 if N >= 1024 else 8
    block_m = min(triton.next_power_of_2(most), 16384 // block_n)
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": min(max(block_m * block_n // 1024, 4), 16)}
