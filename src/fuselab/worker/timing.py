"""Time the variants of one group together, in one process, from caches that the checks left warm."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fuselab.experiment import Experiment, Implementation, Inputs, VariantKind
from fuselab.records import Measurement, Status, Traffic
from fuselab.worker.check import build, environment, experiment_of, run_once
from fuselab.worker.messages import Progress, TimeRequest, TimeResult
from fuselab.worker.outcome import failure_of

if TYPE_CHECKING:
    from fuselab.measure.timing import Timing

__all__ = ["time_variants"]

Say = Callable[[Progress], None]


def time_variants(
    request: TimeRequest, *, progress: Say | None = None, experiment: Experiment | None = None
) -> TimeResult:
    """Time every variant of the request; one that raises is left out with its error, the others stand."""
    from fuselab.measure.group import Arm, time_group

    say = progress or (lambda _: None)
    experiment = experiment or experiment_of(request.experiment)
    workload = request.workload

    def inputs(index: int) -> Inputs:
        """Inputs of one rotation: as those of the check, from another seed."""
        return experiment.make_inputs(
            msgspec.structs.replace(workload, seed=workload.seed + 1000 * index), request.device_type
        )

    arms = []
    failed: list[Measurement] = []
    for name in request.variants:
        say(Progress(text=f"warming up {name}", arm=name))
        try:
            implementation = _warm(experiment, request, name, inputs(0))
        except Exception as error:  # noqa: BLE001 - what passed its check and raises now is left out, the others stand
            failed.append(_failed(request, name, error))
            continue
        arms.append(Arm(name, implementation, inputs, deterministic=experiment.witness is None))
    if not arms:
        return TimeResult(measurements=failed)
    traffic = experiment.traffic(workload, request.direction)
    # Without the baseline, which failed on its own account, the others are still timed; see ``_measurement``.
    names = [arm.name for arm in arms]
    timings = time_group(
        arms,
        workload=workload,
        direction=request.direction,
        device_type=request.device_type,
        baseline=request.baseline if request.baseline in names else names[0],
        traffic=traffic,
        seed=request.seed,
        budget_s=request.budget_s,
        margin=request.margin,
        progress=lambda number, planned: say(Progress(text=f"round {number} of at most {planned}")),
    )
    return TimeResult(measurements=[*(_measurement(request, t, traffic) for t in timings.values()), *failed])


def _warm(experiment: Experiment, request: TimeRequest, name: str, inputs: Inputs) -> Implementation:
    """The implementation after its first call, compiled from the caches that its check filled."""
    from fuselab.capture import cache_environment

    implementation = build(experiment, name, request.workload)
    compiled = experiment.variant(name).kind is VariantKind.COMPILED
    with environment(cache_environment(Path(request.caches[name]))) if compiled else nullcontext():
        run_once(implementation, inputs, [request.direction])
    return implementation


def _failed(request: TimeRequest, name: str, error: Exception) -> Measurement:
    failure = failure_of(error, traceback.format_exc())
    return Measurement(
        experiment=request.experiment.name,
        variant=name,
        workload=request.workload,
        direction=request.direction,
        status=failure.status,
        reason=f"while timing: {failure.reason}",
    )


def _measurement(request: TimeRequest, timing: Timing, traffic: Traffic | None) -> Measurement:
    comparison, warnings = timing.comparison, timing.warnings
    if comparison is not None and comparison.baseline != request.baseline:
        comparison = None
        warnings = [*warnings, f"no speedup: the baseline {request.baseline} could not be timed"]
    if timing.error is not None:
        failed = failure_of(timing.error, "")
        status, reason = failed.status, f"while timing: {failed.reason}"
    else:
        status, reason = Status.OK, ""
    return Measurement(
        experiment=request.experiment.name,
        variant=timing.name,
        workload=request.workload,
        direction=request.direction,
        status=status,
        reason=reason,
        clock=timing.clock,
        cold=timing.cold,
        samples=timing.samples,
        other_clocks=timing.other_clocks,
        median_ns=timing.median_ns,
        low_ns=timing.low_ns,
        high_ns=timing.high_ns,
        comparison=comparison,
        self_comparison=timing.self_comparison,
        traffic=traffic,
        ceiling=timing.ceiling,
        kernels_launched=timing.kernels_launched,
        peak_memory_bytes=timing.peak_memory_bytes,
        saved_bytes=timing.saved_bytes,
        conditions=timing.conditions,
        labels=timing.labels,
        warnings=warnings,
        order_seed=timing.order_seed,
    )
