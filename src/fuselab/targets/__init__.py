"""Described devices: what code can be generated for, and what peaks a measurement is held against, without the device.

Data: ``targets.toml``, each figure the vendor's with the document that it is from; what no document states is None,
never guessed. Another file of that form adds devices (``read``).
Peaks are dense (no structured sparsity) at the boost clock. Detecting the device that is present is ``device``'s job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fuselab.errors import UnknownNameError, UsageError

__all__ = ["TARGETS", "Target", "find", "match", "read"]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TERA = 1e12


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One described device."""

    name: str
    """Name on the command line."""
    device_name: str
    """Name as the driver reports it."""
    arch: str
    """Architecture that code is generated for: ``sm_90``, ``gfx942``."""
    compute_capability: tuple[int, int] | None
    """CUDA compute capability; None on AMD."""
    multiprocessors: int
    """Multiprocessors (AMD: compute units)."""
    bandwidth_bytes_per_s: float
    """Peak memory bandwidth."""
    memory_bytes: int
    """Nominal memory, the vendor's GB taken as 2^30 bytes; the driver keeps some of it."""
    l2_bytes: int
    """L2 cache, all dies together."""
    last_level_bytes: int
    """The largest cache in front of memory, which a cold measurement exceeds: the L2, on MI300 the Infinity Cache."""
    shared_bytes_per_multiprocessor: int
    """Shared memory (AMD: LDS) of a multiprocessor."""
    shared_bytes_per_block: int
    """Shared memory that one block may opt in to."""
    registers_per_multiprocessor: int
    """32-bit registers of a multiprocessor."""
    warp_size: int
    """Threads that issue together."""
    max_threads_per_multiprocessor: int
    """Threads resident on a multiprocessor."""
    f32_flops: float | None = None
    """Peak f32 outside the tensor cores, in FLOP/s."""
    bf16_flops: float | None = None
    """Peak dense bf16 on the tensor cores with f32 accumulation, in FLOP/s."""
    f16_flops: float | None = None
    """Peak dense f16 on the tensor cores with f32 accumulation, in FLOP/s."""
    source: str
    """Titles of the documents that the figures are from."""
    sources: dict[str, str] = {}
    """Figure (``bandwidth``, ``l2``, ``rates``, ...) to the document that it is from."""


class _Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all devices of an architecture have in common, as a file has it."""

    shared_kib_per_multiprocessor: int
    shared_kib_per_block: int
    registers_per_multiprocessor: int
    warp_size: int
    max_threads_per_multiprocessor: int
    source: str
    compute_capability: tuple[int, int] | None = None


class _Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device, as a file has it."""

    device_name: str
    arch: str
    multiprocessors: int
    bandwidth_tb_per_s: float
    memory_gib: float
    l2_mib: float
    sources: dict[str, str]
    last_level_mib: float | None = None
    f32_tflops: float | None = None
    bf16_tflops: float | None = None
    f16_tflops: float | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    limits: dict[str, _Limits] = {}
    target: dict[str, _Device] = {}


def read(path: Path) -> dict[str, Target]:
    """The devices that ship with fuselab and those of a file in the form of ``targets.toml``, which come first.

    Raises:
        UsageError: the file cannot be read, or does not have that form; names the place.
    """
    own = _parse(path)
    shipped = _parse(_SHIPPED)
    limits = {**shipped.limits, **own.limits}
    return {**_targets(own, limits, path), **{n: t for n, t in TARGETS.items() if n not in own.target}}


def _parse(path: Path) -> _File:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="a TOML file with [target.NAME] tables"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} does not describe devices: {error}",
            hint="docs/inspect.md shows the form: [target.NAME] with device_name, arch, multiprocessors, ...",
        ) from error


def _targets(file: _File, limits: Mapping[str, _Limits], path: Path) -> dict[str, Target]:
    found = {}
    for name, entry in file.target.items():
        if entry.arch not in limits:
            raise UsageError(
                f"{path}: {name} has the architecture {entry.arch!r}, whose limits are not known",
                hint=f"add [limits.{entry.arch}], or one of: {', '.join(limits)}",
            )
        missing = [figure for figure in _FIGURES if figure not in entry.sources]
        if missing:
            raise UsageError(
                f"{path}: {name} does not say where {', '.join(missing)} is from",
                hint=f"[target.{name}.sources] names a document for {', '.join(_FIGURES)}",
            )
        found[name] = _target(name, entry, limits[entry.arch])
    return found


def _target(name: str, entry: _Device, limits: _Limits) -> Target:
    last = entry.l2_mib if entry.last_level_mib is None else entry.last_level_mib
    sources = {**entry.sources, "limits": limits.source}
    return Target(
        name=name,
        device_name=entry.device_name,
        arch=entry.arch,
        compute_capability=limits.compute_capability,
        multiprocessors=entry.multiprocessors,
        bandwidth_bytes_per_s=entry.bandwidth_tb_per_s * TERA,
        memory_bytes=int(entry.memory_gib * GIB),
        l2_bytes=int(entry.l2_mib * MIB),
        last_level_bytes=int(last * MIB),
        shared_bytes_per_multiprocessor=limits.shared_kib_per_multiprocessor * KIB,
        shared_bytes_per_block=limits.shared_kib_per_block * KIB,
        registers_per_multiprocessor=limits.registers_per_multiprocessor,
        warp_size=limits.warp_size,
        max_threads_per_multiprocessor=limits.max_threads_per_multiprocessor,
        f32_flops=_flops(entry.f32_tflops),
        bf16_flops=_flops(entry.bf16_tflops),
        f16_flops=_flops(entry.f16_tflops),
        source="; ".join(dict.fromkeys(sources.values())),
        sources=sources,
    )


def _flops(tflops: float | None) -> float | None:
    return None if tflops is None else tflops * TERA


_SHIPPED = Path(__file__).with_name("targets.toml")
_FIGURES = ("multiprocessors", "bandwidth", "memory", "l2", "rates")
"""What ``sources`` has to name a document for."""

_shipped = _parse(_SHIPPED)
TARGETS: dict[str, Target] = _targets(_shipped, _shipped.limits, _SHIPPED)
"""Every described device by name, vendors and generations in order."""


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


def find(name: str, known: Mapping[str, Target] | None = None) -> Target:
    """The target of that name; case, spaces, hyphens and underscores do not matter.

    Args:
        name: as people write it.
        known: devices to look among, from ``read``; those that ship with fuselab by default.

    Raises:
        UnknownNameError: there is none; the message has the nearest match.

    Example:
        >>> find("RTX 4090").arch
        'sm_89'
    """
    known = TARGETS if known is None else known
    for target in known.values():
        if _plain(target.name) == _plain(name):
            return target
    raise UnknownNameError("target", name, known)


def match(device_name: str) -> Target | None:
    """The target that a driver's device name stands for; None for a device, or a slice of one, that is not described.

    The whole name has to agree: a MIG slice, an NVL board and a laptop chip have other figures than their namesakes.

    Example:
        >>> match("NVIDIA H200").name
        'h200'
        >>> match("NVIDIA H200 NVL") is None
        True
    """
    for target in TARGETS.values():
        if _plain(target.device_name) == _plain(device_name):
            return target
    return None
