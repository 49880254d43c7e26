"""Check one variant of one workload: build it, compile and capture it, compare it with the float64 reference."""

from __future__ import annotations

import contextlib
import os
import time
import traceback as traceback_module
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fuselab.experiment import CompileOptions, Experiment, Implementation, Inputs, VariantKind, load_registry
from fuselab.records import Correctness, Direction, Status, Workload
from fuselab.worker.messages import CheckRequest, CheckResult, ExperimentReference, Progress
from fuselab.worker.outcome import failure_of

if TYPE_CHECKING:
    from fuselab.capture import Capture

__all__ = ["build", "check", "experiment_of", "interpreted_workload", "needs_interpreter", "run_once", "variables"]

INTERPRETED_ROWS = 8
"""Rows that Triton's interpreter is given: it runs one program after the other, at about a millisecond an operation."""

Say = Callable[[Progress], None]


def check(request: CheckRequest, *, progress: Say | None = None, experiment: Experiment | None = None) -> CheckResult:
    """Compile, capture and check one variant; what goes wrong in the variant's own code becomes the status.

    Args:
        request: what to check.
        progress: called with a few words before each step.
        experiment: the experiment itself, where it cannot be found by reference (a function of a notebook).

    Raises:
        Exception: whatever the reference or the baseline raises: the cell cannot be judged without them.
    """
    say = progress or (lambda _: None)
    experiment = experiment or experiment_of(request.experiment)
    variant = experiment.variant(request.variant)
    interpreted = needs_interpreter(variant.kind, request.device_type)
    workload = interpreted_workload(request.workload) if interpreted else request.workload
    if interpreted and not _interpreting():
        # fuselab.ops would compute with torch's own operators, and what was checked would not be a kernel.
        return CheckResult(
            status=Status.UNAVAILABLE,
            reason="on a CPU hand-written Triton is checked in Triton's interpreter, which this process was not "
            "started with (TRITON_INTERPRET=1)",
        )

    say(Progress(text="building inputs", arm=variant.name))
    inputs = experiment.make_inputs(workload, request.device_type)
    implementation = build(experiment, variant.name, workload)

    from fuselab.capture.autotuning import DeviceLock, exclusive_autotuning

    # Checks run beside each other; on a GPU, what a kernel's tuning measures must be that kernel alone.
    lock = DeviceLock(Path(request.staging).parent / "device.lock")
    captured: Capture | None = None
    compile_ns: int | None = None
    failure: BaseException | None = None
    trace = ""
    try:
        if variant.kind is VariantKind.COMPILED:
            say(Progress(text="compiling and capturing", arm=variant.name))
            with _captured(request) as captured, exclusive_autotuning(lock.alone):
                compile_ns = run_once(implementation, inputs, request.directions)
        else:
            say(Progress(text="first call", arm=variant.name))
            compile_ns = run_once(implementation, inputs, request.directions)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - what was captured until then is kept, so the error waits
        failure, trace = error, traceback_module.format_exc()

    artifacts = list(captured.artifacts) if captured else []
    kernels = list(captured.kernels) if captured else []
    warnings = list(captured.warnings) if captured else []
    if failure is not None:
        failed = failure_of(failure, trace)
        return CheckResult(
            status=failed.status, reason=failed.reason, artifacts=artifacts, kernels=kernels, warnings=warnings
        )

    say(Progress(text="checking against float64", arm=variant.name))
    from fuselab.measure.correctness import check as check_correctness

    baseline = build(experiment, request.baseline, workload)
    with lock.shared():
        correctness = check_correctness(
            experiment,
            workload,
            implementation,
            baseline,
            request.device_type,
            request.directions,
            inputs=inputs,
            rounds_between=variant.kind is VariantKind.EAGER,
        )
    if interpreted and workload != request.workload:
        correctness = {d: msgspec.structs.replace(c, checked_shape=workload.shape) for d, c in correctness.items()}
    status, reason = _status(correctness, interpreted)
    return CheckResult(
        status=status,
        reason=reason,
        correctness=correctness,
        artifacts=artifacts,
        kernels=kernels,
        warnings=warnings,
        compile_ns=compile_ns if variant.kind is VariantKind.COMPILED else None,
    )


def experiment_of(reference: ExperimentReference) -> Experiment:
    """The experiment that a reference names."""
    if reference.target:
        from fuselab.experiments.user import experiment_from

        return experiment_from(reference.target, reference.arguments, seed=reference.seed)
    return load_registry()[reference.name]


def needs_interpreter(kind: VariantKind, device_type: str) -> bool:
    """Whether a variant runs in Triton's interpreter: hand-written Triton without a GPU."""
    return kind is VariantKind.TRITON and device_type == "cpu"


def _interpreting() -> bool:
    """Whether kernels of this process run in Triton's interpreter."""
    from fuselab.ops.launch import INTERPRETED

    return INTERPRETED


def interpreted_workload(workload: Workload) -> Workload:
    """The same workload with few rows: full width, since the width is what a kernel's logic depends on.

    Example:
        >>> interpreted_workload(Workload(shape=(4, 4096, 1024))).shape
        (1, 8, 1024)
    """
    shape = list(workload.shape)
    for axis in range(len(shape) - 1):
        shape[axis] = min(shape[axis], INTERPRETED_ROWS if axis == len(shape) - 2 else 1)
    return msgspec.structs.replace(workload, shape=tuple(shape))


def variables(kind: VariantKind, device_type: str) -> dict[str, str]:
    """Environment that a variant's process has to be started with: triton reads this one while it is imported."""
    return {"TRITON_INTERPRET": "1"} if needs_interpreter(kind, device_type) else {}


def build(experiment: Experiment, variant_name: str, workload: Workload) -> Implementation:
    """The implementation of a variant, through ``torch.compile`` where the variant says so."""
    variant = experiment.variant(variant_name)
    implementation = variant.build(workload)
    if variant.kind is not VariantKind.COMPILED:
        return implementation
    import torch

    options = variant.compile_options or CompileOptions()
    settings: dict[str, Any] = dict(options.options)
    if options.mode and settings:  # torch.compile takes a mode or options, not both
        import torch._inductor

        settings = {**torch._inductor.list_mode_options(options.mode), **settings}
    compiled: Implementation = torch.compile(
        implementation,
        dynamic=options.dynamic,
        mode=options.mode if not settings else None,
        options=settings or None,
    )
    return compiled


def run_once(implementation: Implementation, inputs: Inputs, directions: list[Direction]) -> int:
    """Nanoseconds of one call, forward and, if wanted and possible, backward, the device waited for."""
    import torch

    start = time.perf_counter_ns()
    outputs = implementation(*inputs.args, **inputs.kwargs)
    if Direction.BACKWARD in directions:
        from torch.utils._pytree import tree_leaves

        roots = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        leaves = [tensor for _, tensor in inputs.differentiable()]
        leaves += [p for p in getattr(implementation, "parameters", lambda: [])() if p.requires_grad]
        if roots and leaves:
            torch.autograd.grad(roots, leaves, [torch.randn_like(root) for root in roots], allow_unused=True)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter_ns() - start


def _status(correctness: Mapping[Direction, Correctness], interpreted: bool) -> tuple[Status, str]:
    for direction, verdict in correctness.items():
        if not verdict.correct:
            return Status.WRONG, f"{direction.value}: {verdict.reason}"
    return (Status.CHECKED, "checked in Triton's interpreter, not timed") if interpreted else (Status.OK, "")


@contextlib.contextmanager
def _captured(request: CheckRequest) -> Iterator[Capture]:
    from fuselab.capture import capture

    with capture(
        Path(request.staging),
        variant=request.variant,
        workload=request.workload.key,
        caches=Path(request.caches),
    ) as captured:
        yield captured


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while; everything is put back."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
