"""Build what a package holds: golden answers, portable cache artifacts, built kernels.

Runs in a child with empty caches (see ``packing``), so that everything is compiled here and recorded. What is wrong is
found here and not where it is served: a compiled model that does not answer as eager does is not packed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from fuselab.deploy import internals
from fuselab.deploy.golden import Answers, answer, judge, truth, varies
from fuselab.deploy.machine import machine_here
from fuselab.deploy.manifest import Call, Library, Step, TensorFile
from fuselab.deploy.messages import BuildRequest, BuildResult
from fuselab.deploy.signature import describe
from fuselab.deploy.target import Target, compiled, constants_of, experiment_of, settled
from fuselab.deploy.tensors import TensorWriter, tensor_sha256
from fuselab.errors import CheckFailedError, UsageError
from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.records import Workload

__all__ = ["build"]

ARTIFACTS = "caches/artifacts.bin"


def build(request: BuildRequest) -> BuildResult:
    """Build everything into the staging directory.

    Raises:
        UsageError: the model cannot be packed as asked.
        CheckFailedError: the compiled model does not answer as eager does.
        Exception: whatever the model or the compiler raises.
    """
    staging = Path(request.staging)
    experiment = experiment_of(request.reference, None)
    target = Target(experiment, request.variant)
    compilation = target.compilation  # raises, before anything is built, where the variant is none to pack
    work = _Building(request, target, TensorWriter(staging))
    with internals.record_libraries() as libraries, internals.more_recompiles(2 * len(request.workloads)):
        calls = [work.call(workload) for workload in request.workloads]
        with work.timed("artifacts"):
            artifacts, counts = _save_artifacts(staging)
    files = {**work.writer.files}
    if artifacts:
        files[artifacts] = staging / artifacts
    packed = _take_libraries(libraries, staging, files)
    triton_libraries = _take_triton_libraries(staging, files)
    return BuildResult(
        machine=machine_here(request.device_type),
        compilation=compilation,
        calls=calls,
        files=list(files),
        artifacts=artifacts,
        artifact_counts=counts,
        libraries=packed,
        triton_libraries=triton_libraries,
        seconds=work.seconds,
        warnings=work.warnings + _cache_warnings(),
    )


@dataclass
class _Building:
    request: BuildRequest
    target: Target
    writer: TensorWriter
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add what a step takes."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - before, 3)

    def call(self, workload: Workload) -> Call:
        """Golden answers of one declared call, and its compilation."""
        experiment, directions = self.target.experiment, self.request.directions
        inputs = experiment.make_inputs(workload, self.request.device_type)
        model = settled(self.target.model(workload), training=False)
        label = workload.label if workload.shape or workload.arguments else describe(inputs)
        prefix = "golden"
        why = varies(model, inputs, backward=False)
        model = settled(self.target.model(workload), training=False)  # as new, should the calls have changed it
        call = Call(
            label=label,
            workload=workload,
            args=[self.writer.value(v, prefix, _name(inputs, i)) for i, v in enumerate(inputs.args)],
            kwargs={k: self.writer.value(v, prefix, k) for k, v in inputs.kwargs.items()},
            names=list(inputs.names),
            random=bool(why),
            parameters_sha256=tensor_sha256(constants_of(model)),
        )
        if "forward" in directions:
            if why and experiment.witness is None:
                raise UsageError(
                    f"{experiment.name} has no golden answer: {why}, in eval mode, too: no two are equal",
                    hint="take out what varies; a random pattern needs an experiment with a witness of its draws",
                )
            call = msgspec.structs.replace(call, forward=self._step(workload, model, inputs, backward=False))
        if "backward" in directions:
            call = self._with_backward(call, workload)
        if call.forward is None and call.backward is None:
            raise UsageError(f"{experiment.name} cannot be packed: {call.backward_reason}", hint="--direction forward")
        return call

    def _with_backward(self, call: Call, workload: Workload) -> Call:
        experiment = self.target.experiment
        inputs = experiment.make_inputs(workload, self.request.device_type)
        model = settled(self.target.model(workload), training=True)
        differentiable = inputs.differentiable() or any(t.requires_grad for t in constants_of(model).values())
        reason = ""
        if not differentiable:
            reason = "no input and no parameter requires a gradient: mark an argument with :requires_grad"
        elif experiment.witness is None and (why := varies(model, inputs, backward=True)):
            reason = f"{why} in train mode: no two of its answers are equal"
        model = settled(self.target.model(workload), training=True)
        if reason:
            self.warnings.append(f"{call.label}: no backward: {reason}")
            return msgspec.structs.replace(call, backward_reason=reason)
        return msgspec.structs.replace(call, backward=self._step(workload, model, inputs, backward=True))

    def _step(self, workload: Workload, model: Implementation, inputs: Inputs, *, backward: bool) -> Step:
        experiment = self.target.experiment
        with self.timed("golden"):
            eager = answer(model, inputs, backward=backward, seed=workload.seed)
            true = truth(experiment, workload, model, inputs, eager, backward=backward)
        with self.timed("compile"):
            function = compiled(model, self.target.compilation)
            got = answer(function, inputs, backward=backward, grad_outputs=eager.grad_outputs, parameters_of=model)
        self._require_right(experiment, workload, model, inputs, got, eager, true, backward=backward)
        grad_outputs = {k: self.writer.tensor(t, "golden") for k, t in eager.grad_outputs.items()}
        if experiment.witness is not None:  # another start draws another mask: there is nothing to compare with
            return Step(outputs={}, grad_outputs=grad_outputs)
        return Step(
            outputs=self._written(eager.outputs),
            references={} if true is None else self._written(true.outputs),
            grad_outputs=grad_outputs,
            gradients=self._written(eager.gradients),
            gradient_references={} if true is None else self._written(true.gradients),
        )

    def _written(self, tensors: dict[str, Tensor]) -> dict[str, TensorFile]:
        return {name: self.writer.tensor(t.detach(), "golden") for name, t in tensors.items()}

    def _require_right(
        self,
        experiment: Experiment,
        workload: Workload,
        model: Implementation,
        inputs: Inputs,
        got: Answers,
        eager: Answers,
        true: Answers | None,
        *,
        backward: bool,
    ) -> None:
        eager_true = None
        if experiment.witness is not None:
            eager_true, true = true, truth(experiment, workload, model, inputs, got, backward=backward)
        wrong = [c for c in judge(got, eager, true, inputs, eager_truths=eager_true) if not c.correct]
        if wrong:
            raise CheckFailedError(
                f"what torch.compile made of {experiment.name} does not answer as eager does: "
                f"{wrong[0].name}: {wrong[0].reason}",
                hint="nothing was packed; fuselab run shows what differs",
            )


def _name(inputs: Inputs, position: int) -> str:
    return inputs.names[position] if position < len(inputs.names) else f"args[{position}]"


def _save_artifacts(staging: Path) -> tuple[str, dict[str, int]]:
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        return "", {}
    data, info = saved
    path = staging / ARTIFACTS
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    kinds: dict[str, list[str]] = getattr(info, "artifacts", {})
    return ARTIFACTS, {kind: len(keys) for kind, keys in kinds.items() if keys}


def _cache_warnings() -> list[str]:
    """Graphs that torch does not cache: they are compiled at every start, whatever is packed."""
    return [
        f"torch does not cache {count} graph{'s' if count > 1 else ''} of this model ({name}): compiled at every start"
        for name, count in internals.inductor_counts().items()
        if "bypass" in name and count
    ]


def _take_libraries(found: dict[str, Path], staging: Path, files: dict[str, Path]) -> list[Library]:
    """Copy the built kernels, each once."""
    names: dict[Path, str] = {}
    packed = []
    for key, path in found.items():
        if path not in names:
            name = names[path] = f"kernels/{len(names)}{''.join(path.suffixes[-1:])}"
            (staging / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, staging / name)
            files[name] = staging / name
        packed.append(Library(key=key, file=names[path]))
    return packed


def _take_triton_libraries(staging: Path, files: dict[str, Path]) -> list[str]:
    """Copy what Triton built with the C compiler.

    The artifacts carry its kernels, not its launchers and driver helpers. The name within the cache, a hash of the
    source, is kept: Triton looks there.
    """
    import os

    cache = Path(os.environ["TRITON_CACHE_DIR"])
    names = []
    for path in sorted(cache.glob("*/*.so")):
        name = f"triton/{path.parent.name}/{path.name}"
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staging / name)
        files[name] = staging / name
        names.append(name)
    return names
