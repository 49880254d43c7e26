"""The checks of ``fuselab doctor``: what is here, what works, what is missing, and the command that mends it.

Each check stands alone: one that breaks says so in its own line and the others go on. Whatever may crash or hang
(importing torch, talking to the driver, compiling) happens in a child process with a deadline (see ``probe``). How each
line is drawn is the command line's concern.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fuselab import compiler, device, probe, targets
from fuselab.errors import SetupError
from fuselab.records import Check, CheckStatus
from fuselab.versions import installed, release, satisfies, wanted_triton

__all__ = ["MINIMUM_TORCH", "checks", "main_job_can_run", "require_compiler", "require_device"]

MINIMUM_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
MINIMUM_TORCH = (2, 11)

MINIMUM_CAPABILITY = (7, 0)
"""Triton and Inductor generate code for compute capability 7.0 and newer."""

SPACE_WANTED = 1 << 30
SPACE_NEEDED = 100 << 20
"""Bytes: a quick run keeps tens of megabytes of generated code, a full one hundreds."""

CHANGING = {
    "TORCH_COMPILE_DISABLE": "torch.compile returns the function as it is: nothing is compiled",
    "TORCHDYNAMO_DISABLE": "torch.compile returns the function as it is: nothing is compiled",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "every compilation starts from nothing",
    "TORCHINDUCTOR_FX_GRAPH_CACHE": "compiled graphs are kept, or not, against the default",
    "TORCHINDUCTOR_MAX_AUTOTUNE": "every compiled variant is autotuned, the plain one too",
    "TORCHINDUCTOR_MAX_AUTOTUNE_POINTWISE": "every compiled variant's pointwise kernels are autotuned",
    "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING": "every compiled variant is tuned by coordinate descent",
    "TORCHINDUCTOR_CPP_WRAPPER": "the generated wrapper is C++, not Python",
    "TORCHINDUCTOR_FREEZING": "weights are folded into compiled graphs",
    "TORCHINDUCTOR_CPP_MARCH": "C++ kernels are compiled for another processor",
    "TRITON_INTERPRET": "Triton kernels run in Python, thousands of times slower",
    "TRITON_ALWAYS_COMPILE": "Triton's cache is not used",
    "TRITON_DEBUG": "Triton kernels carry assertions and run slower",
    "TRITON_DISABLE_LINE_INFO": "kernels cannot be traced back to source lines",
    "TRITON_OVERRIDE_ARCH": "Triton generates code for another device",
    "TRITON_KERNEL_OVERRIDE": "Triton takes kernels from TRITON_OVERRIDE_DIR instead of compiling",
    "CUDA_LAUNCH_BLOCKING": "each launch waits for its kernel: dispatch cannot overlap",
    "NVIDIA_TF32_OVERRIDE": "f32 matrix products change their precision",
    "ATEN_CPU_CAPABILITY": "CPU kernels, eager and generated, use other instructions than this processor's best",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every allocation goes to the driver",
}
"""Variables that change what is measured, and how; a value of 0 or nothing leaves most of them off."""

_OFF = frozenset({"", "0", "false", "off", "no"})
_MEANT_WHEN_OFF = frozenset({"TORCHINDUCTOR_FX_GRAPH_CACHE", "NVIDIA_TF32_OVERRIDE"})


def checks(runs_root: Path | None = None) -> list[Check]:
    """Every check, in the order in which a reader needs them.

    Args:
        runs_root: where runs are kept; ``runs`` in the working directory unless given.
    """
    root = Path("runs") if runs_root is None else runs_root
    parts: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("Python", _python),
        ("operating system", _operating_system),
        ("torch", _torch),
        ("triton", _triton),
        ("GPU", _gpu),
        ("NVML", _nvml),
        ("CPU", _cpu),
        ("C++ compiler", _cpp),
        ("C compiler", _c),
        ("caches", _caches),
        ("runs directory", lambda: _runs_root(root)),
        ("network", _network),
        ("variables", _variables),
        ("peers", _peers),
    )
    found: list[Check] = []
    for name, part in parts:
        try:
            found += part()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in one check, the others still speak
            found.append(
                Check(
                    name=name,
                    status=CheckStatus.WARNING,
                    detail=f"this check itself failed: {type(error).__name__}: {error}",
                    remedy="report it together with the output of `fuselab doctor --json`",
                )
            )
    return found


def main_job_can_run(found: Sequence[Check]) -> bool:
    """Whether nothing that the main job needs is missing."""
    return not any(check.required and check.status is CheckStatus.MISSING for check in found)


EAGER_ALONE = "leave the compiled variants out: --variant eager"
"""The way out of a run that cannot compile."""


def require_compiler(device_type: str, runs: Path | None = None, *, instead: str = EAGER_ALONE) -> None:
    """Stop before work starts when what compiles for a device does not work.

    Inductor's CPU backend needs a C++ compiler; on a GPU Triton's launcher needs a C compiler and ``Python.h``.

    Args:
        device_type: ``cpu`` or ``cuda``.
        runs: where runs are kept, with the compiler's caches in them.
        instead: what can be done without it on a CPU; empty: nothing.

    Raises:
        SetupError: it does not work; the hint is the command that mends it.
    """
    instead = f"; or {instead}" if instead and device_type == "cpu" else ""
    trial = compiler.try_cpp() if device_type == "cpu" else compiler.try_headers()
    if not trial.works:
        raise SetupError(
            f"torch.compile cannot compile for {device_type} here: {trial.detail}",
            hint=f"{trial.remedy}{instead}",
        )
    if device_type == "cpu" and runs is not None and compiler.is_split(runs.absolute()):
        raise SetupError(
            f"torch.compile cannot compile for cpu in {runs.absolute()}: the path has a space, and Inductor's command "
            "for the C++ compiler is split there",
            hint=f"--out DIRECTORY, whose path has none{instead}",
        )


def require_device(wanted: str, reason: str = "") -> None:
    """Stop before work starts when the device that was asked for cannot be used.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.
        reason: what a process that tried to use it said, for the message.

    Raises:
        SetupError: it cannot; the hint is the way out.
    """
    try:
        device.resolve(wanted)
    except SetupError as error:
        new = reason not in error.message and error.message not in reason  # a worker of ours says it with the hint
        said = f" ({reason})" if new else ""
        raise SetupError(f"{error.message}{said}", hint=error.hint) from error


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, status=CheckStatus.OK, detail=detail)


def _warning(name: str, detail: str, remedy: str) -> Check:
    return Check(name=name, status=CheckStatus.WARNING, detail=detail, remedy=remedy)


def _missing(name: str, detail: str, remedy: str, *, required: bool = False) -> Check:
    return Check(name=name, status=CheckStatus.MISSING, detail=detail, remedy=remedy, required=required)


def _pip(requirement: str) -> str:
    quoted = f"'{requirement}'" if re.search(r"[<>=~!\[ ]", requirement) else requirement
    return f"{Path(sys.executable).name} -m pip install {quoted}"


def _python() -> list[Check]:
    version = platform.python_version()
    supported = "fuselab runs on Python {}.{} to {}.{}".format(*MINIMUM_PYTHON, *NEWEST_PYTHON)
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return [_missing("Python", f"{version}; {supported}", "make run PYTHON=python3.12", required=True)]
    if sys.version_info[:2] > NEWEST_PYTHON:
        return [_warning("Python", f"{version}; {supported}", "make run PYTHON=python3.13")]
    return [_ok("Python", f"{version} at {sys.executable}")]


def _operating_system() -> list[Check]:
    detail = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "linux":
        return [_ok("operating system", detail)]
    lacks = "no Triton there: no triton variants and no view of GPU kernels; eager and compile run on the CPU"
    remedy = "use WSL 2" if sys.platform == "win32" else "use a Linux machine or container for those"
    return [_warning("operating system", f"{detail}; {lacks}", remedy)]


def _torch() -> list[Check]:
    wanted = "torch>={}.{}".format(*MINIMUM_TORCH)
    version = installed("torch")
    if version is None:
        return [_missing("torch", "not installed", _pip(wanted), required=True)]
    if release(version) < MINIMUM_TORCH:
        return [_missing("torch", f"{version} is older than {wanted}", _pip(f"{wanted}") + " --upgrade", required=True)]
    try:
        facts = probe.ask(probe.TorchFacts)
    except SetupError as error:
        remedy = _pip(f"torch=={version.split('+')[0]}") + " --force-reinstall"
        return [_missing("torch", f"{version} cannot be imported: {error.message}", remedy, required=True)]
    build = f"CUDA {facts.cuda}" if facts.cuda else f"ROCm {facts.hip}" if facts.hip else "CPU"
    return [_ok("torch", f"{facts.version}, built for {build}")]


def _triton() -> list[Check]:
    torch_version = installed("torch")
    wanted = "" if torch_version is None else wanted_triton(torch_version, importlib.metadata.requires("torch") or ())
    version = installed("triton") or installed("pytorch-triton") or installed("pytorch-triton-rocm")
    if version is None:
        lacks = "not installed: the triton variants and `inspect --target` cannot run"
        if sys.platform != "linux":
            return [_missing("triton", f"{lacks}; triton is published for Linux", "use Linux, or WSL 2 on Windows")]
        # Inductor's GPU kernels are Triton's
        return [_missing("triton", lacks, _pip(f"triton{wanted}"), required=_has_gpu())]
    try:
        facts = probe.ask(probe.TritonFacts)
    except SetupError as error:
        remedy = _pip(f"triton=={version}") + " --force-reinstall"
        return [_missing("triton", f"{version} cannot be imported: {error.message}", remedy)]
    backends = f"{facts.version}, backends {', '.join(facts.backends)}"
    if not wanted:
        return [_ok("triton", f"{backends}; nothing says which one torch {torch_version} asks for")]
    if not satisfies(version, wanted):
        detail = f"{version}, and torch {torch_version} asks for triton{wanted}"
        return [_warning("triton", detail, _pip(f"triton{wanted}"))]
    return [_ok("triton", f"{backends}; torch {torch_version} asks for {wanted}")]


def _gpu() -> list[Check]:
    try:
        nvml: probe.NvmlFacts | None = probe.ask(probe.NvmlFacts, deadline_s=30.0)
    except SetupError:
        nvml = None
    try:
        facts = probe.ask(probe.TorchFacts)
    except SetupError:
        return [_warning("GPU", "torch cannot be asked for it", "mend torch first")]
    if facts.accelerators:
        return [*_accelerators(facts, nvml)]
    if nvml is None or not nvml.devices:
        detail = "none found: everything runs on the CPU, and every figure is labelled CPU"
        return [_warning("GPU", detail, "where there is an NVIDIA GPU, install its driver: nvidia-smi has to answer")]
    names = ", ".join(nvml.devices)
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        return [_missing("GPU", f"{names}: hidden by CUDA_VISIBLE_DEVICES={value}", "unset CUDA_VISIBLE_DEVICES")]
    if facts.cuda is None:
        remedy = _pip("torch") + " --force-reinstall"
        return [_missing("GPU", f"{names}: this torch ({facts.version}) is built without CUDA", remedy)]
    detail = f"{names}: torch cannot use it" + (f" ({facts.reason})" if facts.reason else "")
    if release(nvml.cuda) < release(facts.cuda)[:1]:
        detail = f"{names}: driver {nvml.driver} serves CUDA {nvml.cuda}, torch is built for CUDA {facts.cuda}"
    return [
        _missing("GPU", detail, f"install a driver for CUDA {facts.cuda} or newer, or a torch built for an older one")
    ]


def _accelerators(facts: probe.TorchFacts, nvml: probe.NvmlFacts | None) -> Iterable[Check]:
    for index, gpu in enumerate(facts.accelerators):
        gib = gpu.memory_bytes / (1 << 30)
        yield _ok(f"GPU {index}", f"{gpu.name}, {gpu.multiprocessors} multiprocessors, {gib:.1f} GiB")
    gpu = facts.accelerators[0]
    driver = f"{nvml.driver}, serves CUDA up to {nvml.cuda}" if nvml else "version unknown: NVML does not answer"
    yield _ok("GPU driver", driver)
    yield _ok("CUDA runtime", f"torch is built for CUDA {facts.cuda}" if facts.cuda else f"ROCm {facts.hip}")
    capability = "{}.{}".format(*gpu.capability)
    if facts.cuda and gpu.capability < MINIMUM_CAPABILITY:
        detail = f"{capability}: Triton generates code for {MINIMUM_CAPABILITY[0]}.0 and newer"
        yield _missing("compute capability", detail, "take another GPU (CUDA_VISIBLE_DEVICES), or --device cpu")
    else:
        yield _ok("compute capability", capability)
    target = targets.match(gpu.name)
    if target is None:
        yield _ok("GPU peaks", f"{gpu.name} is not among the described devices; ceilings are measured all the same")
        return
    rates = [f"{target.bandwidth_bytes_per_s / 1e12:g} TB/s"]
    for dtype, rate in (("f32", target.f32_flops), ("bf16", target.bf16_flops)):
        rates += [] if rate is None else [f"{dtype} {rate / 1e12:g} TFLOP/s"]
    yield _ok("GPU peaks", f"{', '.join(rates)} ({target.source})")


def _nvml() -> list[Check]:
    try:
        facts = probe.ask(probe.NvmlFacts, deadline_s=30.0)
    except SetupError as error:
        if not Path("/proc/driver/nvidia").exists() and shutil.which("nvidia-smi") is None:
            return [_ok("NVML", "not needed: there is no NVIDIA driver here")]
        remedy = "install the driver's libnvidia-ml.so.1 (in a container, start it with the NVIDIA runtime)"
        return [_missing("NVML", f"the driver does not answer: {error.message}", remedy)]
    package = installed("nvidia-ml-py")
    if package is None:
        detail = f"driver {facts.driver} answers; without nvidia-ml-py clocks and throttling are not recorded"
        return [_missing("NVML", detail, _pip("nvidia-ml-py"))]
    return [_ok("NVML", f"driver {facts.driver} answers; nvidia-ml-py {package}")]


def _cpu() -> list[Check]:
    cache = device.last_level_cache_bytes()
    size = f", last-level cache {cache / (1 << 20):g} MiB" if cache else ""
    detail = f"{device.cpu_label()}{size}, {device.memory_bytes() / (1 << 30):.1f} GiB of memory"
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        if load > max(1.0, device.cpu_cores() / 2):
            return [_warning("CPU", f"{detail}; load average {load:.1f}", "end what else runs before timing")]
    return [_ok("CPU", detail)]


def _cpp() -> list[Check]:
    trial = compiler.try_cpp()
    if not trial.works:
        return [_missing("C++ compiler", trial.detail, trial.remedy, required=not _has_gpu())]
    if trial.old:
        return [_warning("C++ compiler", trial.detail, trial.remedy)]
    if compiler.links_own_runtime(trial.program):
        detail = (
            f"{trial.detail}; but it links a C++ library of its own into what it builds: AOTInductor packages crash"
        )
        return [_warning("C++ compiler", detail, "set CXX to a compiler that does not add -static-libstdc++")]
    return [_ok("C++ compiler", trial.detail)]


def _c() -> list[Check]:
    trial = compiler.try_headers()
    if not trial.works:
        return [_missing("Python headers", trial.detail, trial.remedy, required=_has_gpu())]
    return [_ok("Python headers", trial.detail)]


def _has_gpu() -> bool:
    try:
        return bool(probe.ask(probe.TorchFacts).accelerators)
    except SetupError:
        return False


def cache_directories() -> dict[str, tuple[Path, str]]:
    """Where Inductor, Triton and fuselab keep their caches by default, with the variable that moves each."""
    import getpass

    import platformdirs

    temporary = Path(tempfile.gettempdir())
    try:
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    except (KeyError, ImportError, OSError):  # no passwd entry, and no variable that names the user
        user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
    home = Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without one
    try:
        ours = Path(platformdirs.user_cache_dir("fuselab", appauthor=False))
    except RuntimeError:  # neither HOME nor a passwd entry
        ours = temporary / f"fuselab_{user}"
    inductor = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or temporary / f"torchinductor_{user}")
    triton = Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    return {
        "Inductor's cache": (inductor, "TORCHINDUCTOR_CACHE_DIR"),
        "Triton's cache": (triton, "TRITON_CACHE_DIR"),
        "fuselab's cache": (ours, "XDG_CACHE_HOME"),
    }


def _why_not_writable(directory: Path) -> str:
    """Why nothing can be written there, in words; empty when it can. Creates nothing that stays."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a directory"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"fuselab")
            file.flush()
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return ""


def _caches() -> Iterable[Check]:
    for name, (directory, variable) in cache_directories().items():
        problem = _why_not_writable(directory)
        if problem:
            yield _missing(
                name, f"{directory} cannot be written: {problem}", f"export {variable}=DIR, one that can be written"
            )
        else:
            yield _ok(name, f"{directory} can be written")


def _runs_root(root: Path) -> list[Check]:
    problem = _why_not_writable(root)
    if problem:
        detail = f"{root.absolute()} cannot be written: {problem}"
        return [_missing("runs directory", detail, "pass --out DIR that can be written", required=True)]
    place = root.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{root.absolute()}: {free / (1 << 30):.1f} GiB free"
    if free < SPACE_NEEDED:
        return [_missing("runs directory", detail, "free some space, or pass --out DIR elsewhere", required=True)]
    if free < SPACE_WANTED:
        return [_warning("runs directory", detail, "free some space, or pass --out DIR elsewhere")]
    return [_ok("runs directory", detail)]


def _network() -> list[Check]:
    """A line where the system says that nothing leads out of this machine; nothing is sent to find out."""
    try:
        devices = {line.split()[0] for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]}
        if _ROUTES_6.exists():  # the device comes last there, and there is no heading
            devices |= {line.split()[-1] for line in _ROUTES_6.read_text(encoding="ascii").splitlines()}
    except OSError:  # not Linux, or not to be read: then nothing is known
        return []
    if devices - {"lo"}:
        return []
    detail = "none: fuselab fetches nothing and works without; what installs something has to bring it along"
    remedy = f"{Path(sys.executable).name} -m pip install --no-index --find-links DIRECTORY NAME"
    return [_warning("network", detail, remedy)]


_ROUTES, _ROUTES_6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")
"""Routes of this process's network namespace, as Linux lists them."""


def _variables() -> list[Check]:
    held = device.variables()
    found = []
    for name, effect in CHANGING.items():
        value = os.environ.get(name)
        if value is not None and (value.lower() not in _OFF or name in _MEANT_WHEN_OFF):
            found.append(_warning(f"variable {name}", f"{name}={held[name]}: {effect}", f"unset {name}"))
    others = [f"{name}={value}" for name, value in held.items() if name not in CHANGING]
    if others or not found:
        found.append(_ok("variables", ", ".join(others) or "none is set that changes what is measured"))
    return found


def _peers() -> Iterable[Check]:
    for distribution in ("liger-kernel", "quack-kernels"):
        version = installed(distribution)
        if version is not None:
            yield _ok(f"peer {distribution}", version)
        elif _has_gpu():
            yield _missing(f"peer {distribution}", "not installed: its variants are left out", _pip(distribution))
        else:
            yield _ok(f"peer {distribution}", "not installed; it runs on a GPU only")
