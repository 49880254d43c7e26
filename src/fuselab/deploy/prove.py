"""One start in one way, in a fresh process with empty caches: counted, timed, judged.

The clock runs from the model and its inputs in memory to the first answer: torch is imported by then, Dynamo and
Inductor are not, and what imports them pays for it. Everything that the package costs (checksums, unpacking, loading)
is inside.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import torch

from fuselab.deploy import internals, start
from fuselab.deploy.archive import Package
from fuselab.deploy.golden import Answers, answer, judge, truth
from fuselab.deploy.manifest import Call, Step
from fuselab.deploy.messages import Counts, StartRequest, StartResult
from fuselab.deploy.process import compile_commands
from fuselab.deploy.target import compiled, constants_of, experiment_of, golden_inputs, settled
from fuselab.deploy.tensors import read_tensor, tensor_sha256
from fuselab.errors import UsageError
from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.records import TensorCheck

__all__ = ["prove"]


def prove(request: StartRequest, process_started_ns: int) -> StartResult:
    """Start once and answer every packed call of the direction.

    Args:
        request: which way, which direction.
        process_started_ns: ``time.perf_counter_ns`` of this process's first line.

    Raises:
        FuselabError: the package is damaged, foreign, or cannot start in this way.
    """
    backward = request.direction == "backward"
    with Package(request.package, sha256=request.sha256) as package:
        manifest = package.manifest
        device = manifest.machine.device_type
        calls = [call for call in manifest.calls if getattr(call, request.direction)]
        if not calls:
            raise UsageError(f"{package.path} has no {request.direction}", hint="pack it with --direction both")
        reference = manifest.model
        source = Path(request.source) if request.source else None
        if request.target:
            file, _, name = request.target.rpartition(":")
            reference = type(reference)(
                target=f"{Path(file).name}:{name}", arguments=reference.arguments, seed=reference.seed
            )
            source = Path(file).parent
        experiment = experiment_of(reference, source)
        build = experiment.variant(manifest.variant).build
        experiment.make_inputs(calls[0].workload, device)  # a user's module follows its inputs to their device
        models = [settled(build(call.workload), training=backward) for call in calls]
        inputs = [golden_inputs(call, package.read, device) for call in calls]
        grads = [_grad_outputs(getattr(call, request.direction), package, device) for call in calls]
        notes = [
            f"{call.label}: the model's weights are not those that it was packed with: the golden answers do not hold"
            for call, model in zip(calls, models, strict=True)
            if not backward and call.parameters_sha256 and call.parameters_sha256 != tensor_sha256(constants_of(model))
        ]
    _synchronise(device)

    with contextlib.ExitStack() as stack:
        began = time.perf_counter_ns()
        functions, lowerings, unpacked = _started(request, models, stack)
        answers: list[Answers] = []
        first = 0
        for function, model, given, grad in zip(functions, models, inputs, grads, strict=True):
            answers.append(answer(function, given, backward=backward, grad_outputs=grad, parameters_of=model))
            _synchronise(device)
            first = first or time.perf_counter_ns()
        ended = time.perf_counter_ns()
    counts = _counts(request, lowerings)

    again = time.perf_counter_ns()
    answer(functions[0], inputs[0], backward=backward, grad_outputs=grads[0], parameters_of=models[0])
    _synchronise(device)
    steady = time.perf_counter_ns() - again

    with Package(request.package, sha256=request.sha256) as package:
        checks = {
            call.label: _judged(package, experiment, call, model, given, got, device, backward=backward)
            for call, model, given, got in zip(calls, models, inputs, answers, strict=True)
        }
    return StartResult(
        way=request.way,
        direction=request.direction,
        start_ns=first - began,
        all_calls_ns=ended - began,
        unpack_ns=unpacked - began,
        steady_ns=steady,
        process_ns=first - process_started_ns,
        counts=counts,
        checks=checks,
        notes=notes,
    )


def _started(
    request: StartRequest, models: list[Implementation], stack: contextlib.ExitStack
) -> tuple[list[Implementation], internals.Lowerings | None, int]:
    """What answers the calls, the count of Inductor's graphs, and when the package was loaded."""
    with Package(request.package) as package:
        manifest = package.manifest
        calls = [call for call in manifest.calls if getattr(call, request.direction)]
        if request.way != "cold":
            stack.enter_context(start.collector_paused())  # as loading a package does
            start.require_fitting(package)
        if request.way == "aoti":
            # Counting imports Inductor, and not to need it is the point: it is counted where something imported it.
            counted = stack.enter_context(internals.Lowerings()) if internals.inductor_is_imported() else None
            functions = start.ahead_of_time(package, calls, models)
            return list(functions), counted, time.perf_counter_ns()
        if request.way == "artifacts":
            start.load_caches(package)
        unpacked = time.perf_counter_ns()
        counted = stack.enter_context(internals.Lowerings())
        stack.enter_context(internals.more_recompiles(len(models)))
        return [compiled(model, manifest.compilation) for model in models], counted, unpacked


def _counts(request: StartRequest, lowerings: internals.Lowerings | None) -> Counts:
    if request.triton_dump:
        triton = internals.triton_dumps(Path(request.triton_dump))
    else:
        triton = len(list(Path(os.environ["TRITON_CACHE_DIR"]).glob("*/*.ttir")))
    commands = compile_commands(Path(request.compiler_log))
    caches = internals.inductor_counts()
    # Where Inductor was not imported it lowered nothing; where it was imported since, its caches counted along.
    missed = sum(n for name, n in caches.items() if name.startswith("fxgraph") and not name.endswith("hit"))
    return Counts(
        dynamo_graphs=internals.dynamo_counts(),
        inductor_graphs=missed if lowerings is None else lowerings.count,
        cpp=len(commands),
        triton=triton,
        caches=caches,
        commands=[command[:300] for command in commands[:3]],
    )


def _grad_outputs(step: Step, package: Package, device: str) -> dict[str, torch.Tensor]:
    return {name: read_tensor(spec, package.read, device) for name, spec in step.grad_outputs.items()}


def _judged(
    package: Package,
    experiment: Experiment,
    call: Call,
    model: Implementation,
    inputs: Inputs,
    got: Answers,
    device: str,
    *,
    backward: bool,
) -> list[TensorCheck]:
    """Against the golden answers; a random pattern against eager here, each given what it drew."""
    if experiment.witness is not None:
        eager = answer(model, inputs, backward=backward, grad_outputs=got.grad_outputs)
        truths = [
            truth(experiment, call.workload, model, inputs, answers, backward=backward) for answers in (got, eager)
        ]
        checks = judge(got, eager, truths[0], inputs, eager_truths=truths[1])
        if experiment.check_witness is not None:
            drawn = experiment.witness(call.workload, inputs, got.raw)
            if fault := experiment.check_witness(call.workload, drawn):
                checks.append(TensorCheck(name="what was drawn", correct=False, reason=fault))
        return checks
    step: Step = getattr(call, "backward" if backward else "forward")

    def read(specs: dict[str, object]) -> dict[str, torch.Tensor]:
        return {name: read_tensor(spec, package.read, device) for name, spec in specs.items()}  # type: ignore[arg-type]

    eager = Answers(None, read({**step.outputs}), {}, read({**step.gradients}))
    true = None
    if step.references:
        true = Answers(None, read({**step.references}), {}, read({**step.gradient_references}))
    return judge(got, eager, true, inputs)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
