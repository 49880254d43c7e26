"""What is here: the device to run on and the environment record of a run.

Nothing here imports torch: what only torch knows is asked of ``probe``. The record is an allowlist; of the environment
variables it holds those that change what torch and triton do, and only values that read as settings.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from fuselab import compiler, probe
from fuselab.errors import SetupError, UnknownNameError
from fuselab.records import Environment
from fuselab.versions import installed

__all__ = ["DEVICES", "DeviceType", "cpu_label", "device_id", "environment", "exercise", "resolve", "variables"]

DeviceType = Literal["cpu", "cuda"]

DEVICES = ("auto", "cpu", "cuda")
"""What ``--device`` takes; ``cuda`` stands for ROCm as well, as in torch."""

PACKAGES = (
    *("fuselab", "torch", "triton", "numpy", "msgspec", "nvidia-ml-py"),
    *("liger-kernel", "quack-kernels", "nvidia-cutlass-dsl"),
)
"""Distributions whose versions go into the record: ours, what we stand on, and the peers."""

_NAMES = frozenset(
    (
        *("CC", "CXX", "CUDA_HOME", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES"),
        *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
        *("ATEN_CPU_CAPABILITY", "MKL_NUM_THREADS", "GOMP_CPU_AFFINITY", "PYTHONHASHSEED"),
    )
)
_PREFIXES = (
    *("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE_", "TORCH_LOGS", "TORCH_TRACE", "TORCH_ALLOW_TF32"),
    *("TRITON_", "FUSELAB_", "OMP_", "KMP_"),
)

WITHHELD = "<withheld>"
"""Stands for the value of an allowed variable that does not read as a setting."""

_SECRET_NAME = re.compile(r"(^|_)(token|secret|pass\w*|pwd|keys?|auth|credentials?|cookie|dsn|pat)(_|$)", re.IGNORECASE)
_STAMP = re.compile(r"\d{8}T\d{6,}Z?")
_LONGEST_WORD = 20
_LONGEST_MIXED_WORD = 9
"""A word of letters and digits longer than this (``gfx942``, ``1f2e3d4c``) is a key more often than a setting."""


def resolve(device: str) -> DeviceType:
    """The device type to run on: ``auto`` takes a GPU that torch can use, else the CPU.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UnknownNameError: another word.
        SetupError: ``cuda`` was asked for and torch cannot use a GPU here, or torch itself does not work.

    Example:
        >>> resolve("cpu")
        'cpu'
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if device == "cpu":
        return "cpu"
    try:
        facts = probe.ask(probe.TorchFacts)
    except SetupError as error:
        raise SetupError(
            f"torch does not work: {error.message}", hint="`fuselab doctor` has the command that mends it"
        ) from error
    if facts.accelerators:
        return "cuda"
    if device == "auto":
        return "cpu"
    if facts.cuda is None and facts.hip is None:
        raise SetupError(
            f"--device cuda: torch {facts.version} is a build without CUDA",
            hint="pip install --force-reinstall torch takes the CUDA build; --device cpu runs without a GPU",
        )
    raise SetupError(
        f"--device cuda: torch {facts.version} finds no GPU" + (f" ({facts.reason})" if facts.reason else ""),
        hint="`fuselab doctor` says what is missing; --device cpu runs without a GPU",
    )


def device_id(device_type: str) -> str:
    """What this host tells the device by: the first GPU's UUID (``cuda`` where torch knows none), or ``cpu``."""
    if device_type != "cuda":
        return device_type
    accelerators = probe.ask(probe.TorchFacts).accelerators
    return (accelerators[0].uuid if accelerators else "") or device_type


def exercise(device_type: str) -> None:
    """Add a million ones on the device, in this process, and wait for the sum.

    Raises:
        SetupError: the sum is wrong.
        RuntimeError: whatever the driver says.
    """
    import torch

    total = torch.ones(1 << 20, device=device_type).sum().item()
    if total != 1 << 20:
        raise SetupError(f"a million ones on {device_type} add up to {total:g}", hint="the device is not to be trusted")


def environment(device_type: str) -> Environment:
    """The record of this machine for a run on a device type; what cannot be found out is None or empty.

    Args:
        device_type: ``cpu`` or ``cuda``, as ``resolve`` gave it. On ``cuda`` the record is of the first GPU.
    """
    record = Environment(
        device=cpu_label(),
        device_type=device_type,
        l2_bytes=last_level_cache_bytes(),
        cpu=cpu_model(),
        cpu_cores=cpu_cores(),
        memory_bytes=memory_bytes(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        compiler=compiler.version_line(compiler.cpp_program()),
        versions={name: version for name in PACKAGES if (version := installed(name))},
        variables=variables(),
    )
    if device_type != "cuda":
        return record
    facts = probe.ask(probe.TorchFacts)
    if not facts.accelerators:
        raise SetupError(f"torch {facts.version} finds no GPU to describe", hint="--device cpu runs without one")
    gpu = facts.accelerators[0]
    return msgspec.structs.replace(
        record,
        device=gpu.name,
        compute_capability="{}.{}".format(*gpu.capability),
        device_memory_bytes=gpu.memory_bytes,
        multiprocessors=gpu.multiprocessors,
        l2_bytes=gpu.l2_bytes,
        driver=driver_version(),
        cuda_runtime=facts.cuda or (f"ROCm {facts.hip}" if facts.hip else None),
    )


def variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that change what torch, triton and fuselab do, by name.

    One whose name says that it holds a secret is left out; a value that does not read as a setting (an address with
    credentials, a long random word) is withheld.

    Args:
        environ: the environment to read; the process's own unless given.

    Example:
        >>> variables({"TRITON_INTERPRET": "1", "HOME": "/root", "FUSELAB_TOKEN": "abc"})
        {'TRITON_INTERPRET': '1'}
        >>> variables({"TORCHINDUCTOR_REMOTE": "redis://me:swordfish@cache"})
        {'TORCHINDUCTOR_REMOTE': '<withheld>'}
    """
    return {
        name: value if _reads_as_a_setting(value) else WITHHELD
        for name, value in sorted((os.environ if environ is None else environ).items())
        if (name in _NAMES or name.startswith(_PREFIXES)) and not _SECRET_NAME.search(name)
    }


def _reads_as_a_setting(value: str) -> bool:
    """Whether a value is made of numbers, plain words and paths: no address, no long word of letters and digits."""
    if not re.fullmatch(r"[\w.,:;+*=~<> /\\()|\[\]{}-]*", value, re.ASCII) or "://" in value:
        return False
    words = re.findall(r"[A-Za-z0-9]+", value)
    return all(
        len(word) <= (_LONGEST_WORD if word.isalpha() or word.isdigit() else _LONGEST_MIXED_WORD)
        or _STAMP.fullmatch(word)
        for word in words
    )


def cpu_label() -> str:
    """How a CPU is named in records and tables: it begins with ``CPU``, so that it is never taken for a GPU.

    Example:
        >>> cpu_label().startswith("CPU ")
        True
    """
    cores = cpu_cores()
    return f"CPU {cpu_model()}, {cores} core{'' if cores == 1 else 's'}"


@functools.cache
def cpu_model() -> str:
    """Model of the processor, or its architecture where nothing names the model."""
    if sys.platform == "darwin":
        said = probe.run(["sysctl", "-n", "machdep.cpu.brand_string"], deadline_s=10).output.strip()
    else:
        info = _text(Path("/proc/cpuinfo")) or ""
        named = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", info, re.MULTILINE)
        said = named[1] if named else ""
    words = re.sub(r"\((?:R|TM|tm)\)|\bCPU\b|\b\d+-Core\b|\bProcessor\b|@.*$", " ", said)
    return " ".join(words.split()) or platform.machine() or "unknown"


def cpu_cores() -> int:
    """Cores that this process may use: its affinity, not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of the host; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Size of the last-level data cache that the first core of this process sees; None where nothing says it.

    Args:
        root: where the kernel describes the cores.
    """
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    sizes: list[tuple[int, int]] = []
    for index in sorted((root / f"cpu{core}" / "cache").glob("index*")):
        level, size, kind = (_text(index / name) or "" for name in ("level", "size", "type"))
        amount = re.fullmatch(r"(\d+)([KMG]?)", size.strip())
        if amount and level.strip().isdigit() and kind.strip() != "Instruction":
            sizes.append((int(level), int(amount[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[amount[2]]))
    if sizes:
        return max(sizes)[1]
    for name in ("SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE"):
        if name in getattr(os, "sysconf_names", {}) and (amount_bytes := os.sysconf(name)) > 0:
            return amount_bytes
    return None


def driver_version() -> str | None:
    """Version of the NVIDIA driver from its own library; None where there is none."""
    try:
        return probe.ask(probe.NvmlFacts, deadline_s=30.0).driver
    except SetupError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
