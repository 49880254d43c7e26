"""How the kernels of ``rms_norm`` are launched: tiles, warps and programs by width and dtype, measured on an H200."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fuselab.ops.column_sums import column_sums
from fuselab.ops.inputs import rows
from fuselab.ops.launch import (
    INTERPRETED,
    Tile,
    empty,
    fewer,
    launch,
    most_programs,
    persistent_programs,
    register_limit,
    scratch,
    shared_memory,
)
from fuselab.ops.rms_norm_few_rows import backward_few_rows, is_few_rows

__all__ = [
    "BackwardPlan",
    "backward",
    "backward_outputs",
    "backward_plan",
    "forward",
    "forward_outputs",
    "forward_tile",
]

_WIDEST = 16384
"""Columns of a row that a program can hold; in the backward, of a half of a row too."""
_FORWARD_WIDEST = 32768
"""The same in the forward in half precision, with 32 warps."""
_FORWARD_LOOPED = 8192
_OTHER_HALF = 8192
_ROWS_LOOPED = 4096
_COLUMNS = 2048
"""Columns at a time: of the forward's loop, of the half that is only summed, of the two kernels for wide rows."""
_MOST_WARPS = 32 if torch.version.hip is None else 16
"""1024 threads: a warp of AMD's has 64."""


class BackwardPlan(NamedTuple):
    """How the backward goes down the rows."""

    tile: Tile
    per_multiprocessor: int
    """Programs of a multiprocessor at once."""
    stages: int
    """Turns of a program that are in work at once: the present one, and those whose tiles are on their way to shared
    memory."""
    hint: str
    """Eviction policy of the loads."""
    ahead: bool
    """Whether the next tile is read into registers instead."""
    reread: bool
    """Whether the weight is read for every row, because it does not fit in registers."""
    registers: int = 0
    """What the compiler may use a thread, so that all these programs fit; 0 leaves that to it."""


def forward_tile(width: int, adds: bool = False, bytes_an_element: int = 2) -> Tile:
    """Rows and columns of a program of the forward, and its warps; ``adds``: with a residual.

    16 elements a thread, 32 where there are two streams to read. Wide rows are read twice, the second time from the L2
    cache, by programs of so many warps that a multiprocessor has two: the rows of more would not stay there meanwhile.

    Example:
        >>> forward_tile(300)
        Tile(BLOCK_M=4, BLOCK_N=512, num_warps=4)
        >>> forward_tile(4096), forward_tile(4096, adds=True).num_warps
        (Tile(BLOCK_M=1, BLOCK_N=4096, num_warps=8), 4)
    """
    # int(): a symbolic width becomes a constant of the compiled graph, because the tile is a constant of the kernel.
    width = int(width)
    if width > _WIDEST:
        whole = width <= _FORWARD_WIDEST and bytes_an_element <= 2 and _MOST_WARPS == 32
        return Tile(1, _FORWARD_WIDEST if whole else _FORWARD_LOOPED, _MOST_WARPS)
    block_n = max(triton.next_power_of_2(width), 16)
    block_m = max(2048 // block_n, 1)
    if adds and block_n == 8192:
        return Tile(1, block_n, _MOST_WARPS)  # 2% faster there, and slower where there is one stream
    return Tile(block_m, block_n, min(max(block_m * block_n // (1024 if adds else 512), 4), 16))


def backward_plan(width: int, bytes_a_column: int, adds: bool, device: torch.device) -> BackwardPlan | None:
    """The plan for rows that a program can hold; None for wider ones.

    Args:
        width: columns.
        bytes_a_column: of all the streams that are read: of x and of each gradient that comes in.
        adds: whether there is a gradient of the sum too.
        device: whose shared memory bounds how much can be on its way.
    """
    width = int(width)
    if width > _WIDEST:
        return None
    block_n = max(triton.next_power_of_2(width), 16)
    if block_n <= 512:
        # A program of one warp has no barriers. Of three streams of float32 it has a third more in registers.
        per = 12 if bytes_a_column <= 8 else 8
        return BackwardPlan(Tile(1024 // block_n, block_n, 1), per, 1, "", ahead=True, reread=False)
    if block_n <= 1024:
        per = 4 if bytes_a_column <= 8 else 3
        return BackwardPlan(Tile(2, block_n, 4), per, 1, "", ahead=True, reread=False)
    if block_n <= 4096:
        per, stages, hint = (1, 4, "") if adds else (2, 3, "evict_first")
        if block_n < 4096:
            per = 4
        tile = Tile(1, block_n, block_n // 256)
    else:
        per, stages, hint = 1, 3, ""
        tile = Tile(1, block_n, min(block_n // 512, _MOST_WARPS))
    room = shared_memory(device) // (per * block_n * bytes_a_column)
    # Of 2048 columns the compiler takes 78 where the weight is not Llama's, and does with 64 as well.
    registers = 64 if block_n == 2048 else 0
    stages = max(min(stages, 1 + room), 1)
    return BackwardPlan(tile, per, stages, hint, ahead=False, reread=block_n > 8192, registers=registers)


def _packs(*tensors: Tensor | None) -> bool:
    # Whether a kernel can keep these as they are stored: bfloat16, by instructions of NVIDIA's own.
    possible = not INTERPRETED and torch.version.hip is None
    return possible and all(t is not None and t.dtype == torch.bfloat16 for t in tensors)


def forward_outputs(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, casting: str
) -> tuple[Tensor, Tensor, Tensor]:
    """What the forward writes: y, x + residual (without elements when there is no residual), rstd."""
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    total = empty(x) if residual is None else torch.empty(x.shape, dtype=dtype, device=x.device)
    if casting == "llama" and weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    return y, total, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


def forward(
    kernel: Any,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    eps: float,
    casting: str,
    saved: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward; returns what ``forward_outputs`` describes. Nobody reads rstd where it is not ``saved``."""
    y, total, rstd = forward_outputs(x, residual, weight, casting)
    if not saved:
        rstd = y
    if x.numel() == 0:
        return y, total, rstd
    x_MN = rows(x)
    residual_MN = x_MN if residual is None else rows(residual)
    M, N = x_MN.shape
    size = x.element_size() if residual is None else max(x.element_size(), residual.element_size())
    tile = forward_tile(N, residual is not None, size)
    launch(
        kernel,
        (triton.cdiv(M, tile.BLOCK_M),),
        x.device,
        x_MN,
        residual_MN,
        x_MN if weight is None else weight.contiguous(),
        y,
        total,
        rstd,
        x_MN.stride(0),
        residual_MN.stride(0),
        M,
        N,
        eps,
        CASTING=casting,
        HAS_WEIGHT=weight is not None,
        HAS_RESIDUAL=residual is not None,
        SAVED=saved,
        ONE_BLOCK=int(N) <= tile.BLOCK_N,
        TWICE=_WIDEST < int(N) <= tile.BLOCK_N and residual is None,
        EVEN=int(N) % tile.BLOCK_N == 0,
        BLOCK_M=tile.BLOCK_M,
        BLOCK_N=tile.BLOCK_N,
        num_warps=tile.num_warps,
    )
    return y, total, rstd


def backward_outputs(x: Tensor, weight: Tensor | None, weight_grad: bool) -> tuple[Tensor, Tensor]:
    """What the backward writes: the gradients of x and of the weight (without elements when that is not wanted)."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return dx, torch.zeros_like(weight) if weight_grad and weight is not None else empty(x)


def backward(
    kernels: tuple[Any, Any, Any, Any, Any, Any],
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    dy: Tensor,
    dtotal: Tensor | None,
    casting: str,
    weight_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Launch the backward; ``kernels``: for whole rows, halves, wide rows (two), the column sums, and few rows."""
    if x.numel() == 0:
        return backward_outputs(x, weight, weight_grad)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x_MN, dy_MN = rows(x), rows(dy)
    dtotal_MN = dy_MN if dtotal is None else rows(dtotal)
    M, N = x_MN.shape
    weight_grad = weight_grad and weight is not None
    weight_N = x_MN if weight is None else weight.contiguous()
    if weight_grad and is_few_rows(M, N):
        added = None if dtotal is None else dtotal_MN
        return dx, backward_few_rows(kernels[5], x_MN, weight_N, rstd, dy_MN, added, dx, casting)
    strides = x_MN.stride(0), dy_MN.stride(0), dtotal_MN.stride(0)
    flags = {"CASTING": casting, "HAS_WEIGHT": weight is not None}
    more = {"HAS_DTOTAL": dtotal is not None, "WEIGHT_GRAD": weight_grad}
    read = x.element_size() + dy.element_size() + (0 if dtotal is None else dtotal.element_size())
    plan = backward_plan(N, read, dtotal is not None, x.device)
    if plan is not None:
        tile = plan.tile
        most = most_programs(x.device, plan.per_multiprocessor)
        programs = persistent_programs(triton.cdiv(M, tile.BLOCK_M), x.device, plan.per_multiprocessor)
        partial = scratch((programs, N) if weight_grad else (0,), x.device)
        pointers = x_MN, weight_N, rstd, dy_MN, dtotal_MN, dx, partial
        even = int(N) == tile.BLOCK_N
        packed = plan.reread and even and dtotal is None and _packs(x, dy, weight)
        reading = {
            "REREAD": plan.reread,
            "PACKED": packed,
            "AHEAD": plan.ahead,
            "STAGES": plan.stages,
            "HINT": plan.hint,
        }
        sizes = {"EVEN": even, **reading, **tile._asdict(), **register_limit(kernels[0], plan.registers, x.device)}
        launch(kernels[0], (programs,), x.device, *pointers, *strides, M, N, **flags, **more, **sizes)
    elif int(N) <= 2 * _WIDEST and read <= 4 + (0 if dtotal is None else 2):
        most = most_programs(x.device, 1)
        programs = fewer(M, max(most // 2, 1))
        partial = scratch((programs, N) if weight_grad else (0,), x.device)
        pointers = x_MN, weight_N, rstd, dy_MN, dtotal_MN, dx, partial
        sizes = {"EVEN": int(N) == 2 * _WIDEST, "BLOCK_O": _OTHER_HALF, "BLOCK_N": _WIDEST, "num_warps": _MOST_WARPS}
        launch(kernels[1], (2 * programs,), x.device, *pointers, *strides, M, N, **flags, **more, **sizes)
    else:
        mean = scratch((M,), x.device)
        row_pointers = x_MN, weight_N, rstd, dy_MN, mean
        launch(kernels[2], (M,), x.device, *row_pointers, *strides[:2], N, **flags, BLOCK_N=_ROWS_LOOPED, num_warps=8)
        blocks = triton.cdiv(N, _COLUMNS)
        most = triton.cdiv(most_programs(x.device, 8), int(blocks))
        programs = fewer(M, most)
        partial = scratch((programs, N) if weight_grad else (0,), x.device)
        column_pointers = x_MN, weight_N, rstd, dy_MN, dtotal_MN, mean, dx, partial
        sizes = {"BLOCK_N": _COLUMNS, "num_warps": 4}
        launch(kernels[3], (blocks, programs), x.device, *column_pointers, *strides, M, N, **flags, **more, **sizes)
    if not weight_grad or weight is None:
        return dx, empty(x)
    dweight = torch.empty_like(weight_N)
    column_sums(kernels[4], partial, dweight, most)
    return dx, dweight
