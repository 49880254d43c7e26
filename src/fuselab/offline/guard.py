"""The described device's half that is C++: compiled once for a torch, kept in the user's cache, loaded before torch is.

``described_device.cpp`` needs a C++ compiler and torch's own headers, both of which ``torch.compile`` on a CPU needs as
well. Without it nothing can be traced for a device that is not there, and ``tracing`` has another way.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from fuselab import compiler
from fuselab.errors import SetupError
from fuselab.probe import run

__all__ = ["Guard", "build", "load"]

DEADLINE_S = 300.0
SOURCE = Path(__file__).with_name("described_device.cpp")


class Guard:
    """The library, loaded; ``describe`` after torch was imported."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._describe = library.fuselab_describe
        self._describe.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int]
        self._describe.restype = None

    def describe(self, capability: tuple[int, int], cudnn: int, *, rocm: bool) -> None:
        """Take the place of what torch's CUDA library registered, and answer for a device.

        Args:
            capability: CUDA compute capability, or the digits of an AMD architecture.
            cudnn: version of cuDNN as torch gives it, 0 for none; the choice of a fused attention depends on it.
            rocm: whether the device is AMD's.
        """
        self._describe(*capability, cudnn, int(rocm))


def build(cache: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """The library for the torch that is installed, compiled if it is not in the cache yet.

    Args:
        cache: directory to keep it in; the user's cache directory by default.
        say: is told when it has to be compiled, which takes seconds.

    Raises:
        SetupError: there is no torch or no C++ compiler, or it does not compile against this torch's headers.
    """
    torch = _torch_directory()
    program = compiler.cpp_program()
    source = SOURCE.read_bytes()
    version = _torch_version(torch)
    key = hashlib.sha256(b"\0".join([source, version.encode(), str(torch).encode(), program.encode()])).hexdigest()[:16]
    directory = (cache or Path(platformdirs.user_cache_dir("fuselab", appauthor=False))) / "described"
    library = directory / f"described_device-{key}.so"
    if library.is_file():
        return library
    include = torch / "include"
    if not (include / "ATen" / "Context.h").is_file():
        raise SetupError(f"this torch was installed without its C++ headers: {include} has none")
    say("compiling the described device, once for this torch")
    directory = _writable(directory)
    library = directory / library.name
    with tempfile.TemporaryDirectory(prefix="fuselab-described-", dir=directory) as folder:
        made = Path(folder) / library.name
        problem = _compile(program, include, made)
        if problem:
            raise SetupError(
                f"the described device does not compile against torch {version}: {problem}",
                hint=compiler.install_command("c++"),
            )
        made.replace(library)  # whole or not at all: another process may be building the same
    return library


def load(library: Path) -> Guard:
    """Load the library into this process, which must not have imported torch yet.

    Raises:
        SetupError: it cannot be loaded.
    """
    lib = _torch_directory() / "lib"
    try:
        for name in ("libc10.so", "libtorch_cpu.so"):
            ctypes.CDLL(str(lib / name), mode=ctypes.RTLD_GLOBAL)
        return Guard(ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL))
    except OSError as error:
        raise SetupError(f"the described device cannot be loaded: {error}") from error


def _torch_directory() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SetupError("torch is not installed", hint="pip install torch")
    return Path(spec.origin).parent


def _torch_version(torch: Path) -> str:
    """The version as torch writes it, without importing it."""
    try:
        return (torch / "version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"


def _writable(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="fuselab-described-"))  # a read-only home: built anew every time


def _compile(program: str, include: Path, into: Path) -> str:
    """What went wrong, in a line; empty when it compiled."""
    problem = ""
    for standard in compiler.STANDARDS:
        finished = run(_command(program, standard, include, into), deadline_s=DEADLINE_S)
        if finished.ok:
            return ""
        errors = [line for line in finished.errors.splitlines() if "error" in line.lower()]
        problem = errors[0].strip() if errors else finished.problem
    return problem


def _command(program: str, standard: str, include: Path, into: Path) -> Sequence[str | Path]:
    paths = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    return [program, f"-std={standard}", "-shared", "-fPIC", "-O0", "-w", *paths, SOURCE, "-o", into]
