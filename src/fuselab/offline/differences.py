"""What differs between targets, and why: from the records and the generated sources. Pure but for reading sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuselab.offline.results import KernelResult, TargetResult, WorkloadResult

__all__ = ["comparable_source", "differences"]

_DEVICE = re.compile(r"'device': DeviceProperties\((?:[^()]|\([^()]*\))*\),?\s?")
_HASHES = re.compile(r"'backend_hash': '[0-9A-Fa-f]+',?\s?")
_PATHS = re.compile(r"'[^']*/[^']*\.py'")
_NAMED = 4
"""Kernels that a sentence names."""
_OCCUPANCY_APART = 0.1

_LIBRARIES = {
    "cudnn": "cuDNN's attention",
    "flash": "flash attention",
    "efficient": "memory-efficient attention",
}


def comparable_source(source: str, *, device: bool = False) -> str:
    """A generated kernel's source without paths and hashes and, unless ``device``, without the device's properties.

    Example:
        >>> comparable_source("{'device': DeviceProperties(type='cuda', index=0, cc=90), 'backend_hash': 'A1'}")
        '{}'
    """
    text = source if device else _DEVICE.sub("", source)
    text = _HASHES.sub("", text)
    return _PATHS.sub("''", text)


def differences(targets: Sequence[TargetResult], index: int) -> list[str]:
    """Sentences on what the targets do differently with one workload, the first target being the measure."""
    if len(targets) < 2:
        return []
    first = targets[0]
    said: list[str] = []
    for other in targets[1:]:
        said += [f"{other.target}: {text}" for text in _pair(first, other, index)]
    return said


def _pair(first: TargetResult, other: TargetResult, index: int) -> list[str]:
    a, b = first.workloads[index], other.workloads[index]
    if not (a.ok and b.ok):
        return []
    return [
        *_attention(a, b, other),
        *_kernel_sets(a, b, first, other),
        *_sources(a, b, first, other),
        *_configurations(a, b, first),
        *_resources(a, b, first),
    ]


def _triton(result: WorkloadResult) -> dict[tuple[str, str], KernelResult]:
    return {(k.direction.value, k.name): k for k in result.kernels if k.backend == "triton"}


def _attention(a: WorkloadResult, b: WorkloadResult, other: TargetResult) -> list[str]:
    """Which fused attention is called: torch decides by compute capability, dtype and head size."""

    def libraries(result: WorkloadResult) -> list[str]:
        return [
            words
            for call in result.calls
            for key, words in _LIBRARIES.items()
            if "scaled_dot_product" in call.operator and key in call.operator and "backward" not in call.operator
        ]

    mine, theirs = libraries(a), libraries(b)
    if mine == theirs:
        return []
    return [
        f"calls {', '.join(dict.fromkeys(theirs)) or 'no fused attention'} instead of "
        f"{', '.join(dict.fromkeys(mine)) or 'none'}: torch chooses by architecture, and {other.arch} is another"
    ]


def _kernel_sets(a: WorkloadResult, b: WorkloadResult, first: TargetResult, other: TargetResult) -> list[str]:
    mine, theirs = _triton(a), _triton(b)
    if mine.keys() == theirs.keys():
        return []
    only_theirs = [name for _, name in theirs.keys() - mine.keys()]
    only_mine = [name for _, name in mine.keys() - theirs.keys()]
    return [
        f"generates {len(theirs)} kernels where {first.target} has {len(mine)}: "
        f"{len(only_theirs)} of its own and {len(only_mine)} not; Inductor splits and fuses by the number of "
        f"multiprocessors, the vendor and the library calls between them"
    ]


def _sources(a: WorkloadResult, b: WorkloadResult, first: TargetResult, other: TargetResult) -> list[str]:
    mine, theirs = _triton(a), _triton(b)
    common = [key for key in mine if key in theirs]
    settings: list[str] = []
    bodies: list[str] = []
    for key in common:
        before = comparable_source(_read(first.run, mine[key].source))
        after = comparable_source(_read(other.run, theirs[key].source))
        if before != after:
            (settings if _body(before) == _body(after) else bodies).append(key[1])
    if not common:
        return []
    same = len(common) - len(settings) - len(bodies)
    said = [f"{same} of {len(common)} kernels that both have are the same Triton source, compiled for {other.arch}"]
    if settings:
        said.append(f"{len(settings)} have the same body and other settings of Inductor: {_listed(settings)}")
    if bodies:
        said.append(f"{len(bodies)} have another body: {_listed(bodies)}")
    return said


def _body(source: str) -> str:
    """The function itself, without what Inductor's decorators say."""
    return source.partition("@triton.jit")[2]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _configurations(a: WorkloadResult, b: WorkloadResult, first: TargetResult) -> list[str]:
    mine, theirs = _triton(a), _triton(b)
    found = []
    for key, kernel in theirs.items():
        before = mine.get(key)
        if before is None or not kernel.config or not before.config:
            continue
        changed = _changed(
            {**before.config, "num_warps": before.num_warps}, {**kernel.config, "num_warps": kernel.num_warps}
        )
        if changed:
            found.append(
                f"{key[1]}: {changed} (the heuristic's first choice depends on the device: {first.target} first)"
            )
    return found


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name)} -> {after.get(name)}" for name in names)


def _resources(a: WorkloadResult, b: WorkloadResult, first: TargetResult) -> list[str]:
    """Kernels that spill on one of the two, and those of which other many threads are resident."""
    mine, theirs = _triton(a), _triton(b)
    found = []
    for key, kernel in theirs.items():
        before = mine.get(key)
        if before is None:
            continue
        if (kernel.spills or 0) != (before.spills or 0):
            found.append(f"{key[1]}: {kernel.spills or 0} spilled registers, {before.spills or 0} on {first.target}")
        if kernel.occupancy is None or before.occupancy is None:
            continue
        if abs(kernel.occupancy - before.occupancy) >= _OCCUPANCY_APART:
            found.append(
                f"{key[1]}: occupancy {kernel.occupancy:.0%}, {before.occupancy:.0%} on {first.target} "
                f"({_resources_changed(before, kernel)})"
            )
    return found


def _resources_changed(before: KernelResult, after: KernelResult) -> str:
    pairs = {
        "registers": (before.registers, after.registers),
        "bytes of shared memory": (before.shared_bytes, after.shared_bytes),
        "warps": (before.num_warps, after.num_warps),
    }
    changed = [f"{now} {what} instead of {then}" for what, (then, now) in pairs.items() if then != now]
    return (
        ", ".join(changed) or "the same kernel; the device has another number of multiprocessors or of threads on each"
    )


def _read(run: str, path: str) -> str:
    file = Path(run) / path
    return file.read_text(encoding="utf-8", errors="replace") if path and file.is_file() else ""
