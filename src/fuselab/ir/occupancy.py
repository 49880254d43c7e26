"""How many programs a multiprocessor holds at once, and what stops it from holding more.

Pure. The rules are those of the CUDA toolkit's ``cuda_occupancy.h``: registers are given to a warp in units, to four
parts of the multiprocessor separately; shared memory to a block in units, with what the driver reserves for itself. The
limits are from the CUDA C++ Programming Guide, *Technical Specifications per Compute Capability*.

For AMD's gfx942 and gfx950 (a multiprocessor is a compute unit, a warp a wavefront of 64, shared memory its LDS) they
are those of LLVM's ``AMDGPUBaseInfo.cpp``: 512 vector registers a lane and SIMD, given in eights; 8 wavefronts a SIMD;
16 workgroups that have a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuselab.targets import Target

__all__ = ["BLOCKS_PER_MULTIPROCESSOR", "Occupancy", "occupancy"]

BLOCKS_PER_MULTIPROCESSOR: dict[tuple[int, int], int] = {
    (8, 0): 32,
    (8, 6): 16,
    (8, 7): 16,
    (8, 9): 24,
    (9, 0): 32,
    (10, 0): 32,
    (10, 3): 32,
    (12, 0): 24,
}
"""Blocks resident on a multiprocessor, by compute capability."""

REGISTER_UNIT = 256
"""Registers are given to a warp in multiples of this, on every capability since 3.0."""
PARTITIONS = 4
"""Parts of a multiprocessor, each with a quarter of the registers and a scheduler, since 5.0."""
SHARED_UNIT = 128
"""Bytes in which shared memory is given to a block, since 8.0."""
SHARED_RESERVED = 1024
"""Bytes of shared memory that the driver takes for every block, since 8.0."""
_THREADS_PER_BLOCK = 1024
_AMD_ARCHITECTURES = ("gfx942", "gfx950")
_AMD_REGISTER_UNIT = 8
"""Vector registers of a lane are given to a wavefront in multiples of this, since gfx90a."""
_AMD_WORKGROUPS = 16
"""Workgroups of more than one wavefront on a compute unit: each needs one of its barriers."""
_AMD_SHARED_UNIT = {"gfx942": 512, "gfx950": 1280}
"""Bytes in which LDS is given to a workgroup."""


@dataclass(frozen=True)
class Occupancy:
    """What a multiprocessor holds of one kernel."""

    blocks: int
    """Programs resident on a multiprocessor."""
    warps: int
    """Warps resident on it."""
    of_warps: int
    """Warps that it could hold."""
    limited_by: tuple[str, ...]
    """``registers``, ``shared memory``, ``warps``, ``blocks``, or ``grid`` where there are not enough programs."""
    limits: dict[str, int]
    """Programs that each resource alone would allow."""
    waves: float | None
    """How often the whole device is filled to run the grid; None where the grid is not known."""

    @property
    def share(self) -> float:
        """Resident warps as a part of those that the multiprocessor could hold."""
        return self.warps / self.of_warps

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        return {
            "programs_per_multiprocessor": self.blocks,
            "warps_per_multiprocessor": self.warps,
            "share": self.share,
            "limited_by": list(self.limited_by),
            "limits": self.limits,
            "waves": self.waves,
        }


def occupancy(target: Target, registers: int, shared_bytes: int, num_warps: int, programs: int | None) -> Occupancy:
    """The occupancy of a kernel on a described device.

    Args:
        target: an NVIDIA device of compute capability 8.0 or later, or AMD's gfx942 or gfx950.
        registers: registers a thread (AMD: vector registers a lane, accumulation registers among them).
        shared_bytes: shared memory a program, without what the driver reserves.
        num_warps: warps a program.
        programs: programs of the whole grid; None where unknown.

    Raises:
        ValueError: the device's rules are not known here, or the kernel does not fit on it.

    Example:
        >>> from fuselab.targets import find
        >>> found = occupancy(find("h200"), registers=64, shared_bytes=0, num_warps=4, programs=10_000)
        >>> found.blocks, found.warps, found.limited_by
        (8, 32, ('registers',))
    """
    capability = target.compute_capability
    amd = target.arch in _AMD_ARCHITECTURES
    if capability not in BLOCKS_PER_MULTIPROCESSOR and not amd:
        raise ValueError(f"the occupancy rules of {target.device_name} are not known here")
    if num_warps * target.warp_size > _THREADS_PER_BLOCK:
        raise ValueError(f"{num_warps} warps are more than one block may have")
    of_warps = target.max_threads_per_multiprocessor // target.warp_size
    limits = {"warps": of_warps // num_warps}
    if capability is not None and not amd:
        limits["blocks"] = BLOCKS_PER_MULTIPROCESSOR[capability]
    elif num_warps > 1:
        limits["blocks"] = _AMD_WORKGROUPS
    if registers:
        unit = _AMD_REGISTER_UNIT * target.warp_size if amd else REGISTER_UNIT
        a_warp = _up(registers * target.warp_size, unit)
        warps = target.registers_per_multiprocessor // PARTITIONS // a_warp * PARTITIONS
        limits["registers"] = warps // num_warps
    taken = (
        _up(shared_bytes, _AMD_SHARED_UNIT[target.arch]) if amd else _up(shared_bytes + SHARED_RESERVED, SHARED_UNIT)
    )
    if shared_bytes > target.shared_bytes_per_block:
        limits["shared memory"] = 0
    elif taken:
        limits["shared memory"] = target.shared_bytes_per_multiprocessor // taken
    blocks = min(limits.values())
    if blocks == 0:
        short = next(name for name, limit in limits.items() if limit == 0)
        raise ValueError(f"one program does not fit on a multiprocessor of {target.device_name}: {short}")
    limited_by = tuple(name for name, limit in limits.items() if limit == blocks)
    waves = None
    if programs is not None:
        waves = programs / (blocks * target.multiprocessors)
        held = -(-programs // target.multiprocessors)
        if held < blocks:
            blocks, limited_by = max(1, held), ("grid",)
    return Occupancy(blocks, blocks * num_warps, of_warps, limited_by, limits, waves)


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
