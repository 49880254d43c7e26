"""One request carried out, in a process of its own that describes a device from before torch is imported on."""

from __future__ import annotations

import importlib.metadata
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import FuselabError
from fuselab.experiment import Experiment, load_registry
from fuselab.offline import guard, internals
from fuselab.offline.calls import Calls
from fuselab.offline.device import Description, capability, is_amd
from fuselab.offline.kernels import KernelWatch
from fuselab.offline.launched import compile_from_arguments, hand_written
from fuselab.offline.messages import DESCRIBED, Answer, Request, TemplateChoice
from fuselab.offline.replay import FILE, FOLDER, Recorder, Replay
from fuselab.offline.tracing import Tracer, needs_values

__all__ = ["ANSWER", "carry_out"]

ANSWER = "answer.json"

CUDNN = 91900
"""cuDNN that a CPU build is taken to come with, that of torch's CUDA 13 wheels; the choice of an attention asks."""


def carry_out(request: Request) -> Answer:
    """Trace, lower and compile; the process cannot be used for anything else afterwards."""
    started = time.perf_counter()
    described = request.way == DESCRIBED
    library = guard.load(Path(request.library)) if request.library else None
    description = Description(request.target)
    import torch

    versions = {"torch": str(torch.__version__)}
    if described:
        description.to_torch()
    if library is not None:
        amd = is_amd(request.target)
        library.describe(capability(request.target), 0 if amd else _cudnn(), rocm=amd)
    if described:
        description.to_compiler()
        internals.launch_without_storage()
    if internals.has_triton():
        versions["triton"] = importlib.metadata.version("triton")
    internals.settings({"fx_graph_cache": False, "compile_threads": 1})
    notes: list[str] = []
    templates: list[TemplateChoice] = []
    internals.nothing_is_benchmarked(
        lambda note: notes.append(note) if note not in notes else None,
        lambda operator, shown, found: templates.append(
            TemplateChoice(operator=operator, shown=shown, candidates=found)
        ),
    )
    watch = KernelWatch()
    if internals.has_triton():
        internals.watch_kernels(watch.failed, watch.compiled)
    else:
        internals.modules_load_without_triton()
        notes.append("triton is not installed here: graphs and Inductor's code are shown, nothing was compiled")
    imported = time.perf_counter()
    calls = Calls()
    recorder = Recorder(Path(request.into), watch.candidates) if request.replay else None
    lowering = nullcontext if described else description.for_lowering
    tracer = Tracer(described=described, lowering=lowering, calls=calls, recorder=recorder)
    failure: Exception | None = None

    from fuselab.capture import capture

    with capture(Path(request.into), variant=request.variant, workload=request.workload.key) as captured:
        try:
            experiment = _experiment(request)
            kernel = _hand_written(request, tracer)
            if kernel is not None:
                name = request.file_target.rpartition(":")[2]
                most = request.target.shared_bytes_per_block
                watch.found(name, compile_from_arguments(kernel, name, request.arguments, tracer.mode, most))
            else:
                tracer.compile(experiment, request)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything; what was captured stands
            failure = error
    if recorder is not None:
        problem = (
            "the program was not traced to its end" if failure is not None else "it is no program: a kernel by hand"
        )
        _keep(tracer.replay or Replay(problem=problem), Path(request.into))
    kernels = [watch.completed(kernel, Path(request.into)) for kernel in captured.kernels]
    return Answer(
        ok=failure is None,
        reason="" if failure is None else _reason(failure),
        retry_rewritten=described and failure is not None and needs_values(failure),
        artifacts=captured.artifacts,
        kernels=kernels,
        warnings=[*captured.warnings, *notes],
        candidates=watch.candidates,
        failures=watch.failures,
        calls=calls.found,
        templates=templates,
        versions=versions,
        seconds={"importing": imported - started, "generating": time.perf_counter() - imported},
    )


def _keep(replay: Replay, into: Path) -> None:
    folder = into / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(msgspec.json.encode(replay))


def _experiment(request: Request) -> Experiment:
    if request.file_target:
        from fuselab.experiments.user import experiment_from

        return experiment_from(request.file_target, request.arguments, seed=request.seed)
    return load_registry()[request.experiment]


def _hand_written(request: Request, tracer: Tracer) -> Any:
    """The user's own ``@triton.jit`` function, where that is what was named."""
    if not request.file_target or request.way != DESCRIBED:
        return None
    from fuselab.experiments.user_file import UserFile

    path, _, name = request.file_target.rpartition(":")
    if "triton" not in Path(path).read_text(encoding="utf-8", errors="replace"):
        return None
    with tracer.mode:
        target = UserFile(Path(path), request.seed).take(name).target
    return target if hand_written(target) is not None else None


def _cudnn() -> int:
    """cuDNN's version: the one this torch was built with, or the one that its CUDA build would come with."""
    import torch

    try:
        version = torch.backends.cudnn.version()
    except RuntimeError:  # a CPU build
        version = None
    return int(version) if version else CUDNN


def _reason(error: Exception) -> str:
    """The error in a few lines: its kind, its message, and the user's line where the compiler names it."""
    if isinstance(error, FuselabError):
        return str(error)
    text = " ".join(line.strip() for line in str(error).splitlines()[:6] if line.strip())
    return f"{type(error).__name__}: {text[:600]}"
