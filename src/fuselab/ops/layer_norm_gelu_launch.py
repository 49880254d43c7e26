"""How the forward of ``layer_norm_gelu`` is launched: tiles, warps, registers by width, measured on an H200."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fuselab.ops.inputs import rows
from fuselab.ops.launch import launch, persistent_programs, register_limit, takes_assembly
from fuselab.ops.packed_rows import strides_in_eights

__all__ = ["can_be_packed", "flags_of", "forward", "forward_outputs", "packed_parts", "tile_of"]

_FORWARD_WIDEST = 16384
# Rows of 16-bit numbers that are wider than the first and at most the second are kept packed.
_PACKED_FROM, _PACKED_WIDEST = 1024, 32768
# Columns of a tile in rows wider than that.
_FORWARD_LOOPED = 8192


class _Tile(NamedTuple):
    """How rows are spread over programs, warps and registers."""

    BLOCK_M: int
    """Rows of a program's tile."""
    num_warps: int
    programs: int = 0
    """Programs for each multiprocessor, which share the tiles; 0 is one for each tile."""
    registers: int = 0
    """What the compiler may use a thread, so that all these programs fit; 0 leaves that to it."""


# By width rounded up to a power of two; bfloat16 on an H200, see benchmarks/notes.md.
_FORWARD_TILES = {
    256: _Tile(4, 1),
    512: _Tile(2, 1),
    1024: _Tile(1, 1),
    2048: _Tile(1, 2),
    4096: _Tile(1, 4),
    8192: _Tile(1, 8, registers=80),
    16384: _Tile(1, 16, programs=1),
}
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


def tile_of(tiles: dict[int, Any], width: int) -> tuple[Any, int]:
    """The tile for a width, and the columns that it spans; rows of fewer than 256 share the tile for those."""
    block_n = max(triton.next_power_of_2(width), 16)
    tile = tiles[max(block_n, 256)]
    return (tile if block_n >= 256 else tile._replace(BLOCK_M=tile.BLOCK_M * 256 // block_n)), block_n


def _programs(tile: _Tile, tiles: int, device: torch.device) -> int:
    return persistent_programs(tiles, device, tile.programs) if tile.programs else tiles


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
    flags = flags_of(x, weight, bias, approximate)
    parts = packed_parts(x, N)
    if parts:
        block_n = triton.next_power_of_2(N)
        sizes = {"PARTS": parts, "BLOCK_N": block_n, "num_warps": block_n // (256 * parts)}
        sizes["EIGHTS"] = strides_in_eights(x_MN.stride(0))
        options = register_limit(kernels[2], _PACKED_REGISTERS[parts], x.device)
        launch(kernels[2], (M,), x.device, *pointers, x_MN.stride(0), M, N, eps, **flags, **sizes, **options)
        return y, mean, rstd
    flags["ASSEMBLY"] = takes_assembly(x.device)
    if N > _FORWARD_WIDEST:
        sizes = {"BLOCK_N": _FORWARD_LOOPED, "num_warps": 16}
        launch(kernels[1], (M,), x.device, *pointers, x_MN.stride(0), N, eps, **flags, **sizes)
        return y, mean, rstd
    tile, block_n = tile_of(_FORWARD_TILES, N)
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
        **(register_limit(kernels[0], tile.registers, x.device) if x.element_size() == 2 else {}),
    )
    return y, mean, rstd


def flags_of(x: Tensor, weight: Tensor | None, bias: Tensor | None, approximate: str) -> dict[str, Any]:
    """The constants that every kernel here takes."""
    return {
        "APPROXIMATE": approximate,
        "SHORT": x.dtype == torch.bfloat16,
        "HAS_WEIGHT": weight is not None,
        "HAS_BIAS": bias is not None,
    }
