"""How long the pipes of a multiprocessor take for one warp's instructions. Pure: counts in, clocks out."""

from __future__ import annotations

from collections.abc import Mapping

from fuselab.targets import Target

__all__ = ["SCHEDULERS", "clock_hz", "pipe_clocks"]

_LANES: dict[str, float] = {
    "special": 16,
    "global load": 32,
    "global store": 32,
    "global atomic": 32,
    "spill": 32,
    "shared": 32,
    "exchange": 32,
    "conversion": 64,
    "integer": 64,
    "uniform": 64,
}
"""Results a clock and multiprocessor: CUDA C++ Programming Guide, *Throughput of Native Arithmetic Instructions*."""
_FLOAT_LANES = {(8, 0): 64}
_DOUBLE_LANES = {(8, 0): 32, (9, 0): 64, (10, 0): 64}
SCHEDULERS = 4
"""Warps that a multiprocessor issues from in one clock, since 5.0."""
_BYTES_A_CLOCK = 128
"""What a multiprocessor moves between its registers and its first-level cache in a clock."""


def clock_hz(target: Target) -> float:
    """The clock that the described peak in float32 implies: a fused multiply-add a lane and clock.

    Raises:
        ValueError: the target's peak is not described.
    """
    if target.f32_flops is None or target.compute_capability is None:
        raise ValueError(f"the clock of {target.device_name} is not described")
    return target.f32_flops / (2 * _FLOAT_LANES.get(target.compute_capability, 128) * target.multiprocessors)


def pipe_clocks(
    target: Target, total: float, classes: Mapping[str, float], accesses: Mapping[str, float]
) -> dict[str, float]:
    """Clocks of one multiprocessor for one warp's instructions, by pipe; ``issue`` is that of the schedulers.

    Args:
        target: an NVIDIA device.
        total: instructions of a warp.
        classes: of those, by class (``ir.instructions``).
        accesses: of those, the ones that touch memory, as ``LDG.128``.
    """
    capability = target.compute_capability or (0, 0)
    warp = target.warp_size
    clocks = {"issue": total / SCHEDULERS}
    for name, lanes in _LANES.items():
        clocks[name] = classes.get(name, 0) * warp / lanes
    clocks["float"] = (classes.get("float", 0) + classes.get("half", 0)) * warp / _FLOAT_LANES.get(capability, 128)
    clocks["double"] = classes.get("double", 0) * warp / _DOUBLE_LANES.get(capability, 2)
    memory = sum(
        clocks.pop(name) for name in ("global load", "global store", "global atomic", "spill", "shared", "exchange")
    )
    wide = sum(count * int(name.rpartition(".")[2]) / 8 * warp for name, count in accesses.items())
    clocks["load and store"] = max(memory, wide / _BYTES_A_CLOCK)
    clocks["integer"] += clocks.pop("uniform")
    return clocks
