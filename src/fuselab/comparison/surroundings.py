"""What is not the same around the runs: device, versions, clocks, variables, settings, code. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from fuselab.comparison.records import EnvironmentDifference
from fuselab.comparison.sides import Side
from fuselab.measure.conditions import is_throttled
from fuselab.records import Conditions

__all__ = ["differences", "same_software"]

_SOFTWARE = ("torch", "triton", "fuselab")
"""What generates or is the code of a baseline; the rest of the versions is the experiment's peers and tools."""

_CLOCK_STEP = 0.01
"""Median clocks that differ by less are one clock: it is sampled once a round."""


def differences(sides: Sequence[Side]) -> list[EnvironmentDifference]:
    """Every fact that is not the same in all runs; what can change figures by itself is marked and comes first."""
    found = [
        EnvironmentDifference(group=group, name=name, values=values, decisive=decisive)
        for group, name, values, decisive in _facts(sides)
        if len(set(values)) > 1
    ]
    return sorted(found, key=lambda difference: not difference.decisive)


def same_software(base: Side, new: Side) -> bool:
    """Whether the code that is measured, and what compiles it, are the same: then a baseline is a yardstick."""
    pairs = [(base.environment.versions.get(name), new.environment.versions.get(name)) for name in _SOFTWARE]
    pairs += [
        (base.environment.driver, new.environment.driver),
        (base.environment.cuda_runtime, new.environment.cuda_runtime),
        (base.environment.compiler, new.environment.compiler),
        (base.metadata.target_sha256, new.metadata.target_sha256),
    ]
    return all(before == after for before, after in pairs)


def _facts(sides: Sequence[Side]) -> Iterator[tuple[str, str, list[str], bool]]:
    """Group, name, value by run, whether it decides."""
    for group, name, decisive, read in _FIELDS:
        yield group, name, [_text(read(side)) for side in sides], decisive
    names = sorted({name for side in sides for name in side.environment.versions}, key=_version_order)
    for name in names:
        values = [side.environment.versions.get(name, "") for side in sides]
        yield "versions", name, values, name in _SOFTWARE
    for name in sorted({name for side in sides for name in side.environment.variables}):
        yield "variables", name, [side.environment.variables.get(name, "") for side in sides], True
    yield from _conditions(sides)


def _conditions(sides: Sequence[Side]) -> Iterator[tuple[str, str, list[str], bool]]:
    """What the device did beside the rounds, as medians over all of a run's rounds."""
    rounds = [[c for cell in side.raw for c in cell.conditions] for side in sides]
    for name, unit, step, read in _CLOCKS:
        known = [[value for c in each if (value := read(c)) is not None] for each in rounds]
        medians = [median(each) if each else None for each in known]
        there = [m for m in medians if m is not None]
        if there and (len(there) < len(medians) or max(there) - min(there) > step * max(abs(m) for m in there)):
            yield "clocks", name, ["" if m is None else f"{m:g} {unit}" for m in medians], True
    throttled = [sum(is_throttled(c) for c in each) for each in rounds]
    counts = [f"{n} of {len(each)}" for n, each in zip(throttled, rounds, strict=True)]
    if any(throttled):
        yield "clocks", "throttled rounds", counts, True
    foreign = [max((c.foreign_processes for c in each), default=0) for each in rounds]
    yield "clocks", "other processes on the device", [str(n) for n in foreign], True


def _version_order(name: str) -> tuple[int, str]:
    return (_SOFTWARE.index(name), "") if name in _SOFTWARE else (len(_SOFTWARE), name)


def _text(value: object) -> str:
    return "" if value is None else str(value)


_CLOCKS: tuple[tuple[str, str, float, Callable[[Conditions], float | None]], ...] = (
    ("SM clock", "MHz", _CLOCK_STEP, lambda c: c.sm_clock_mhz),
    ("memory clock", "MHz", _CLOCK_STEP, lambda c: c.memory_clock_mhz),
    ("temperature", "C", 0.2, lambda c: c.temperature_c),
    ("load average", "", 0.5, lambda c: c.load_average),
)
"""What the device did, and the share by which medians have to differ to be told."""

_FIELDS: tuple[tuple[str, str, bool, Callable[[Side], object]], ...] = (
    ("device", "device", True, lambda s: s.environment.device),
    ("device", "device type", True, lambda s: s.environment.device_type),
    ("device", "compute capability", True, lambda s: s.environment.compute_capability),
    ("device", "multiprocessors", True, lambda s: s.environment.multiprocessors),
    ("device", "device memory (bytes)", False, lambda s: s.environment.device_memory_bytes),
    ("device", "last-level cache (bytes)", True, lambda s: s.environment.l2_bytes),
    ("versions", "driver", True, lambda s: s.environment.driver),
    ("versions", "CUDA of torch", True, lambda s: s.environment.cuda_runtime),
    ("versions", "C++ compiler", True, lambda s: s.environment.compiler),
    ("versions", "python", False, lambda s: s.environment.python),
    ("host", "processor", True, lambda s: s.environment.cpu),
    ("host", "cores", True, lambda s: s.environment.cpu_cores),
    ("host", "memory (bytes)", False, lambda s: s.environment.memory_bytes),
    ("host", "system", False, lambda s: s.environment.os),
    ("host", "machine", False, lambda s: s.metadata.host),
    ("code", "target", True, lambda s: s.metadata.target),
    ("code", "its file's SHA-256", True, lambda s: (s.metadata.target_sha256 or "")[:16]),
    ("settings", "baseline", True, lambda s: s.metadata.baseline),
    ("settings", "caches", True, lambda s: "cold" if s.metadata.cold else "warm"),
    ("settings", "margin", True, lambda s: f"{s.metadata.margin:.2%}"),
    ("settings", "preset", False, lambda s: s.metadata.preset),
    ("settings", "seed", False, lambda s: s.metadata.seed),
)
"""Group, name, whether it can change figures by itself, and where it stands."""
