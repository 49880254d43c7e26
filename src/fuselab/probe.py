"""Questions that may crash, hang or leave a mark on the process, asked of a child with a deadline.

Importing torch costs seconds and may kill the process, touching the driver may hang it: ``ask`` runs such a question as
``python -m fuselab.probe QUESTION`` and returns its answer as a record. Within a process that holds torch already
(a worker, a notebook) the question about torch is answered on the spot.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fuselab.child import REAPED_WITHIN_S
from fuselab.errors import SetupError

__all__ = ["Accelerator", "Finished", "KernelFacts", "NvmlFacts", "TorchFacts", "TritonFacts", "ask", "forget", "run"]

DEADLINE_S = 120.0
"""Importing torch's CUDA build from a cold network disk takes up to a minute."""

_MARK = "fuselab-probe:"
"""What the line of the answer begins with: libraries print on stdout while they are imported."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    multiprocessors: int
    l2_bytes: int | None = None
    uuid: str = ""
    """As the driver names it, ``GPU-...``; empty where this torch does not say."""


class TorchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the installed torch says of itself and of the GPUs it can use."""

    version: str
    cuda: str | None
    """CUDA version it was built for; None for a CPU build."""
    hip: str | None
    """ROCm version it was built for."""
    accelerators: tuple[Accelerator, ...] = ()
    """The GPUs it can use; empty when there are none."""
    reason: str = ""
    """Why it can use none, in torch's own words, where it gave any."""


class TritonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What importing triton says."""

    version: str
    backends: tuple[str, ...]


class NvmlFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver's management library says, asked without any package."""

    driver: str
    cuda: str
    """Newest CUDA version that the driver serves."""
    devices: tuple[str, ...]


class KernelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a compiled toy kernel gave (see ``compiler``)."""

    worst_error: float
    threads: int


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended."""

    returncode: int | None
    """None when it could not be started or did not end in time."""
    output: str
    errors: str
    problem: str = ""
    """Why it counts as failed, in words; empty when it ended with 0."""

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return not self.problem


def run(
    command: Sequence[str | Path], *, deadline_s: float = DEADLINE_S, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a program to its end or its deadline, its children with it; whatever happens is in the record.

    Example:
        >>> run(["no-such-program"]).problem
        'no-such-program is not installed or not on PATH'
    """
    program = str(command[0])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a pipe would outlive a killed compiler
        try:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        except FileNotFoundError:
            return Finished(returncode=None, output="", errors="", problem=f"{program} is not installed or not on PATH")
        except OSError as error:
            return Finished(returncode=None, output="", errors="", problem=f"{program} cannot be started: {error}")
        problem = ""
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            problem = f"{program} did not end within {deadline_s:g} s"
        finally:
            _kill_group(process)
        output, errors = (_read(stream) for stream in (out, err))
    code: int | None = process.returncode
    if code is None:  # held by a driver, where no signal reaches it
        problem = problem or f"{program} did not end"
    elif not problem and code < 0:
        problem = f"{program} was killed by {_signal_name(-code)}"
    elif not problem and code:
        problem = f"{program} ended with {code}"
    return Finished(returncode=code, output=output, errors=errors, problem=problem)


def _read(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode(errors="replace"))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and what it started; its children may outlive it, so also once it has ended."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows has no process groups of this kind
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAPED_WITHIN_S)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def look_at_torch() -> TorchFacts:
    """Import torch and look for GPUs; what torch warns about while it looks is the reason for finding none."""
    import torch

    accelerators = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        if available:
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                accelerators.append(
                    Accelerator(
                        name=properties.name,
                        capability=(properties.major, properties.minor),
                        memory_bytes=properties.total_memory,
                        multiprocessors=properties.multi_processor_count,
                        l2_bytes=getattr(properties, "L2_cache_size", None),
                        uuid=_uuid(properties),
                    )
                )
    return TorchFacts(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        accelerators=tuple(accelerators),
        reason="; ".join(str(w.message).split("\n")[0] for w in caught if "CUDA" in str(w.message)),
    )


def _uuid(properties: Any) -> str:
    text = str(getattr(properties, "uuid", ""))
    return text if not text or text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def look_at_triton() -> TritonFacts:
    """Import triton and name its backends."""
    import triton
    from triton.backends import backends

    return TritonFacts(version=str(triton.__version__), backends=tuple(sorted(backends)))


def look_at_nvml() -> NvmlFacts:
    """Ask libnvidia-ml for the driver and the devices.

    Raises:
        OSError: there is no such library, or it does not answer.
    """
    library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")

    def call(name: str, *arguments: Any) -> None:
        code = getattr(library, name)(*arguments)
        if code:
            raise OSError(f"{name} answered with error {code}")

    call("nvmlInit_v2")
    text = ctypes.create_string_buffer(96)
    call("nvmlSystemGetDriverVersion", text, 96)
    driver = text.value.decode()
    number = ctypes.c_int()
    call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
    cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    count = ctypes.c_uint()
    call("nvmlDeviceGetCount_v2", ctypes.byref(count))
    devices = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
        call("nvmlDeviceGetName", handle, text, 96)
        devices.append(text.value.decode())
    return NvmlFacts(driver=driver, cuda=cuda, devices=tuple(devices))


def look_at_kernel(path: str) -> KernelFacts:
    """Load the toy kernel and compare its SiLU with Python's own."""
    count = 4099
    values = [(i - count / 2) / 256 for i in range(count)]
    x = (ctypes.c_float * count)(*values)
    out = (ctypes.c_float * count)()
    kernel = ctypes.CDLL(path).fuselab_toy_silu
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    kernel.restype = ctypes.c_int
    threads = kernel(x, out, count)
    return KernelFacts(
        worst_error=max(abs(got - v / (1 + math.exp(-v))) for got, v in zip(out, values, strict=True)), threads=threads
    )


_QUESTIONS: dict[type[msgspec.Struct], tuple[str, Callable[..., msgspec.Struct]]] = {
    TorchFacts: ("torch", look_at_torch),
    TritonFacts: ("triton", look_at_triton),
    NvmlFacts: ("nvml", look_at_nvml),
    KernelFacts: ("kernel", look_at_kernel),
}

Facts = TypeVar("Facts", bound=msgspec.Struct)


def ask(facts: type[Facts], *arguments: str, deadline_s: float = DEADLINE_S) -> Facts:
    """The answer to the question whose answer is ``facts``, from a child process; remembered for this process.

    Raises:
        SetupError: the child raised, died or did not answer in time; the message has its last words.
    """
    return msgspec.convert(_ask(facts, arguments, deadline_s), facts, from_attributes=True)


@functools.cache
def _ask(facts: type[msgspec.Struct], arguments: tuple[str, ...], deadline_s: float) -> msgspec.Struct:
    name, look = _QUESTIONS[facts]
    if facts is TorchFacts and "torch" in sys.modules:
        return look(*arguments)
    # -P: a file named torch.py in the working directory must not be taken for torch
    finished = run([sys.executable, "-P", "-m", "fuselab.probe", name, *arguments], deadline_s=deadline_s)
    for line in finished.output.splitlines():
        if line.startswith(_MARK) and finished.ok:
            return msgspec.json.decode(line.removeprefix(_MARK), type=facts)
    problem = finished.problem.replace(sys.executable, "the probe") or "the probe gave no answer"
    words = finished.errors.strip().splitlines()
    raise SetupError(f"{problem}: {words[-1]}" if words else problem)


def forget() -> None:
    """Forget the answers, so that the next ``ask`` looks again (after an install, in a notebook)."""
    _ask.cache_clear()


def main(arguments: Sequence[str]) -> None:
    """Answer one question on stdout: ``python -m fuselab.probe torch``."""
    question, *rest = arguments
    look = dict(_QUESTIONS.values())[question]
    sys.stdout.write(f"\n{_MARK}{msgspec.json.encode(look(*rest)).decode()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
