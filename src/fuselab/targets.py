"""Described devices: what code can be generated for, and what peaks a measurement is held against, without the device.

Each figure is the vendor's, and ``Target.source`` names the document; what no document states is None, never guessed.
Peaks are dense (no structured sparsity) at the boost clock. Detecting the device that is present is ``device``'s job.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fuselab.errors import UnknownNameError

__all__ = ["TARGETS", "Target", "find", "match"]

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


# Per-multiprocessor limits by architecture: CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability"; ROCm documentation, "AMD GPU specifications" (a 512 KiB vector register file a compute unit).
_LIMITS: dict[str, dict[str, Any]] = {
    arch: {
        "arch": arch,
        "compute_capability": capability,
        "shared_bytes_per_multiprocessor": shared * KIB,
        "shared_bytes_per_block": block * KIB,
        "registers_per_multiprocessor": registers * KIB,
        "warp_size": warp,
        "max_threads_per_multiprocessor": threads,
    }
    for arch, capability, shared, block, registers, warp, threads in (
        ("sm_80", (8, 0), 164, 163, 64, 32, 2048),
        ("sm_86", (8, 6), 100, 99, 64, 32, 1536),
        ("sm_89", (8, 9), 100, 99, 64, 32, 1536),
        ("sm_90", (9, 0), 228, 227, 64, 32, 2048),
        ("sm_100", (10, 0), 228, 227, 64, 32, 2048),
        ("sm_120", (12, 0), 100, 99, 64, 32, 1536),
        ("gfx942", None, 64, 64, 128, 64, 2048),
        ("gfx950", None, 160, 160, 128, 64, 2048),
    )
}


def _target(
    name: str,
    device_name: str,
    arch: str,
    *,
    units: int,
    tb_per_s: float,
    gib: int,
    l2_mib: int,
    tflops: tuple[float | None, float | None],
    source: str,
    last_level_mib: int | None = None,
) -> Target:
    """A target from its datasheet's numbers; ``tflops`` is (f32, bf16 dense), and f16 runs at bf16's rate on all."""
    f32, bf16 = (None if rate is None else rate * TERA for rate in tflops)
    return Target(
        name=name,
        device_name=device_name,
        multiprocessors=units,
        bandwidth_bytes_per_s=tb_per_s * TERA,
        memory_bytes=gib * GIB,
        l2_bytes=l2_mib * MIB,
        last_level_bytes=(l2_mib if last_level_mib is None else last_level_mib) * MIB,
        f32_flops=f32,
        bf16_flops=bf16,
        f16_flops=bf16,
        source=source,
        **_LIMITS[arch],
    )


_A100 = "NVIDIA A100 Tensor Core GPU datasheet; NVIDIA A100 Tensor Core GPU Architecture whitepaper"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture whitepaper"
_ADA = "NVIDIA Ada GPU Architecture whitepaper"

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _target(
            "a100",
            "NVIDIA A100-SXM4-80GB",
            "sm_80",
            units=108,
            tb_per_s=2.039,
            gib=80,
            l2_mib=40,
            tflops=(19.5, 312),
            source=_A100,
        ),
        _target(
            "a100-40gb",
            "NVIDIA A100-SXM4-40GB",
            "sm_80",
            units=108,
            tb_per_s=1.555,
            gib=40,
            l2_mib=40,
            tflops=(19.5, 312),
            source=_A100,
        ),
        _target(
            "a100-pcie",
            "NVIDIA A100 80GB PCIe",
            "sm_80",
            units=108,
            tb_per_s=1.935,
            gib=80,
            l2_mib=40,
            tflops=(19.5, 312),
            source=_A100,
        ),
        _target(
            "h100",
            "NVIDIA H100 80GB HBM3",
            "sm_90",
            units=132,
            tb_per_s=3.352,
            gib=80,
            l2_mib=50,
            tflops=(66.9, 989.4),
            source=_H100,
        ),
        _target(
            "h100-pcie",
            "NVIDIA H100 PCIe",
            "sm_90",
            units=114,
            tb_per_s=2.039,
            gib=80,
            l2_mib=50,
            tflops=(51.2, 756),
            source=_H100,
        ),
        _target(
            "h200",
            "NVIDIA H200",
            "sm_90",
            units=132,
            tb_per_s=4.8,
            gib=141,
            l2_mib=60,
            tflops=(67, 989),
            source="NVIDIA H200 Tensor Core GPU datasheet; multiprocessors and L2 as the driver reports them",
        ),
        _target(
            "b200",
            "NVIDIA B200",
            "sm_100",
            units=148,
            tb_per_s=8,
            gib=180,
            l2_mib=126,
            tflops=(None, 2250),
            source="NVIDIA DGX B200 datasheet, an eighth of the system; L2: NVIDIA Blackwell Tuning Guide; "
            "multiprocessors as the driver reports them",
        ),
        _target(
            "l4",
            "NVIDIA L4",
            "sm_89",
            units=58,
            tb_per_s=0.3,
            gib=24,
            l2_mib=48,
            tflops=(30.3, 121),
            source=f"NVIDIA L4 Tensor Core GPU datasheet; {_ADA}",
        ),
        _target(
            "l40s",
            "NVIDIA L40S",
            "sm_89",
            units=142,
            tb_per_s=0.864,
            gib=48,
            l2_mib=96,
            tflops=(91.6, 362.05),
            source=f"NVIDIA L40S GPU datasheet; {_ADA}",
        ),
        _target(
            "rtx3090",
            "NVIDIA GeForce RTX 3090",
            "sm_86",
            units=82,
            tb_per_s=0.936,
            gib=24,
            l2_mib=6,
            tflops=(35.6, 71),
            source="NVIDIA Ampere GA102 GPU Architecture whitepaper",
        ),
        _target(
            "rtx4090",
            "NVIDIA GeForce RTX 4090",
            "sm_89",
            units=128,
            tb_per_s=1.008,
            gib=24,
            l2_mib=72,
            tflops=(82.6, 165.2),
            source=_ADA,
        ),
        _target(
            "rtx5090",
            "NVIDIA GeForce RTX 5090",
            "sm_120",
            units=170,
            tb_per_s=1.792,
            gib=32,
            l2_mib=96,
            tflops=(104.8, 209.5),
            source="NVIDIA RTX Blackwell GPU Architecture whitepaper",
        ),
        _target(
            "mi300x",
            "AMD Instinct MI300X",
            "gfx942",
            units=304,
            tb_per_s=5.3,
            gib=192,
            l2_mib=32,
            last_level_mib=256,
            tflops=(163.4, 1307.4),
            source="AMD Instinct MI300X Accelerator data sheet; AMD CDNA 3 Architecture white paper",
        ),
        _target(
            "mi355x",
            "AMD Instinct MI355X",
            "gfx950",
            units=256,
            tb_per_s=8,
            gib=288,
            l2_mib=32,
            last_level_mib=256,
            tflops=(157.3, 2500),
            source="AMD Instinct MI355X GPU data sheet; AMD CDNA 4 Architecture white paper",
        ),
    )
}
"""Every described device by name, vendors and generations in order."""


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


def find(name: str) -> Target:
    """The target of that name; case, spaces, hyphens and underscores do not matter.

    Raises:
        UnknownNameError: there is none; the message has the nearest match.

    Example:
        >>> find("RTX 4090").arch
        'sm_89'
    """
    for target in TARGETS.values():
        if _plain(target.name) == _plain(name):
            return target
    raise UnknownNameError("target", name, TARGETS)


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
