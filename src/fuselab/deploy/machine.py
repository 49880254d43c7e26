"""What built code depends on, found out here and compared with what a package needs.

A package is refused by name: what differs, the package's value, the value here, and the way out. What may differ
without harm (a newer kernel, more CPU features, a newer glibc) is no difference.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fuselab import device
from fuselab.deploy.manifest import Machine
from fuselab.errors import SetupError
from fuselab.versions import release

__all__ = ["Difference", "ForeignPackageError", "differences", "machine_here", "require_same_machine"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which this machine is not the one that the package was made for."""

    what: str
    """What differs."""
    package: str
    """The package's value."""
    here: str
    """The value here."""
    remedy: str
    """The way out."""

    def __str__(self) -> str:
        return f"{self.what}: the package has {self.package}, here is {self.here}"


class ForeignPackageError(SetupError):
    """A package for other hardware or versions; ``differences`` has all of them."""

    def __init__(self, where: str, found: Sequence[Difference]) -> None:
        self.differences = tuple(found)
        super().__init__(
            f"{where} was made for another machine: " + "; ".join(map(str, found)),
            hint="; ".join(dict.fromkeys(d.remedy for d in found)),
        )


def machine_here(device_type: str) -> Machine:
    """What this machine is. Imports torch, and on ``cuda`` asks the driver."""
    import torch

    from fuselab.versions import installed

    name, capability = device.cpu_model(), None
    if device_type == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        name, capability = properties.name, f"{properties.major}.{properties.minor}"
    library, version = platform.libc_ver()
    return Machine(
        torch=str(torch.__version__),
        triton=installed("triton") or installed("pytorch-triton") or installed("pytorch-triton-rocm"),
        cuda=torch.version.cuda or (f"ROCm {torch.version.hip}" if torch.version.hip else None),
        python=f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}",
        system=platform.system(),
        architecture=platform.machine(),
        libc=f"{library} {version}".strip() or "unknown",
        device_type=device_type,
        device=name,
        capability=capability,
        cpu_isa=torch.backends.cpu.get_cpu_capability(),
        cpu_features=cpu_features(),
        cpu_threads=torch.get_num_threads(),
        variables={k: v for k, v in device.variables().items() if not k.startswith(_PLACES) and k not in _PLACES},
    )


_PLACES = (
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_DUMP_DIR", "TRITON_KERNEL_DUMP"),
    *("FUSELAB_", "CUDA_VISIBLE_DEVICES", "CC", "CXX"),
)
"""Variables that say where things are, not what is generated."""


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Instruction set extensions of the processor, sorted; empty where the system does not list them."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return []
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return sorted(line[1].split()) if line else []


def require_same_machine(package: Machine, here: Machine, where: str) -> None:
    """Raise ``ForeignPackageError`` if anything differs that built code depends on."""
    found = differences(package, here)
    if found:
        raise ForeignPackageError(where, found)


def differences(package: Machine, here: Machine) -> list[Difference]:
    """Everything in which ``here`` cannot run what was built on the package's machine.

    Example:
        >>> base = Machine(torch="2.13.0", triton="3.7.1", cuda=None, python="cpython-311", system="Linux",
        ...                architecture="x86_64", libc="glibc 2.36", device_type="cpu", device="A", cpu_threads=2)
        >>> [str(d) for d in differences(base, msgspec.structs.replace(base, torch="2.15.0", device="B"))]
        ['torch: the package has 2.13.0, here is 2.15.0']
    """
    found = [*_versions(package, here), *_gpu(package, here), *_processor(package, here)]
    return [Difference(what=w, package=str(p or "none"), here=str(h or "none"), remedy=r) for w, p, h, r in found]


Found = Iterator[tuple[str, object, object, str]]


def _versions(package: Machine, here: Machine) -> Found:
    # Identity, not order: torch's caches and AOTInductor's ABI hold for one build only.
    if package.torch != here.torch:
        yield "torch", package.torch, here.torch, f"pip install torch=={package.torch}, or pack again here"
    if package.device_type == "cuda" and package.cuda != here.cuda:
        yield "CUDA of torch", package.cuda, here.cuda, "install the same build of torch, or pack again here"
    if package.triton != here.triton:
        yield "triton", package.triton, here.triton, f"pip install triton=={package.triton}, or pack again here"
    for what, theirs, ours in (
        ("Python", package.python, here.python),
        ("system", package.system, here.system),
        ("architecture", package.architecture, here.architecture),
    ):
        if theirs != ours:
            yield what, theirs, ours, f"pack again with {what} {ours}"
    if _older_libc(package.libc, here.libc):
        yield "C library", package.libc, here.libc, f"pack on a machine with {here.libc} or older"


def _gpu(package: Machine, here: Machine) -> Found:
    if package.device_type != here.device_type:
        yield "device type", package.device_type, here.device_type, "pack again on such a machine"
    elif package.device_type == "cuda":
        if package.device != here.device:
            yield "GPU", package.device, here.device, f"pack again on {here.device}"
        if package.capability != here.capability:
            yield "compute capability", package.capability, here.capability, f"pack again on {here.device}"


def _processor(package: Machine, here: Machine) -> Found:
    """Host code matters on a GPU, too: launchers and AOTInductor's wrappers are built for the processor that packs."""
    missing = sorted(filter(_is_generated_for, set(package.cpu_features) - set(here.cpu_features)))
    if package.architecture == here.architecture and here.cpu_features and missing:
        listed = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        yield "CPU features", listed, "a processor without them", _CPU_REMEDY
    elif package.cpu_isa != here.cpu_isa and package.architecture == here.architecture:
        yield "CPU instruction set", package.cpu_isa, here.cpu_isa, _ISA_REMEDY
    if package.device_type == "cpu" and package.cpu_threads != here.cpu_threads:
        remedy = f"set OMP_NUM_THREADS={package.cpu_threads} (or torch.set_num_threads), or pack with that of here"
        yield "CPU threads", package.cpu_threads, here.cpu_threads, remedy


_CPU_REMEDY = "pack on the oldest processor that is to serve: code is built for the one that packs"
_ISA_REMEDY = "unset ATEN_CPU_CAPABILITY here or there, or pack again here"


def _is_generated_for(feature: str) -> bool:
    """Whether a compiler told ``-march=native`` uses it; the rest of the list is for operating systems."""
    return bool(
        re.match(
            r"(?:mmx|sse|ssse3|avx|amx|fma|f16c|bmi|abm|popcnt|movbe|adx|aes|vaes|pclmul|vpclmul|sha|gfni|lzcnt|xop|tbm"
            r"|rdrand|rdseed|fsgsbase|clflushopt|clwb|prefetchw|sve|asimd|neon|bf16|i8mm|fphp|atomics|dotprod|crc32)",
            feature,
        )
    )


def _older_libc(package: str, here: str) -> bool:
    """Whether the C library here is of another kind or older: what is linked against a newer one does not load."""
    kinds = [text.partition(" ")[0] for text in (package, here)]
    if kinds[0] != kinds[1]:
        return True
    return release(here.partition(" ")[2]) < release(package.partition(" ")[2])
