"""Time the groups of one workload in one process, from caches that the checks left warm.

The variants of a group are timed together. The two groups of a workload share a process, one after the other: starting
one costs as much as timing a group.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fuselab.experiment import Experiment, Implementation, Inputs, VariantKind
from fuselab.records import Direction, Measurement, Status, Traffic
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
    """Time every group of the request; a variant that raises is left out with its error, the others stand.

    Args:
        request: what to time.
        progress: called with a few words before each step, and with the measurements after each group.
        experiment: the experiment itself, where it cannot be found by reference (a function of a notebook).
    """
    say = progress or (lambda _: None)
    experiment = experiment or experiment_of(request.experiment)
    for direction, names in request.groups.items():
        measurements = _time_group(request, experiment, direction, names, say)
        say(Progress(text=f"timed {direction.value}", measurements=measurements))
    return TimeResult()


def _time_group(
    request: TimeRequest, experiment: Experiment, direction: Direction, names: Sequence[str], say: Say
) -> list[Measurement]:
    from fuselab.measure.group import Arm, time_group

    workload = request.workload

    def inputs(index: int) -> Inputs:
        """Inputs of one rotation: as those of the check, from another seed."""
        return experiment.make_inputs(
            msgspec.structs.replace(workload, seed=workload.seed + 1000 * index), request.device_type
        )

    arms = []
    failed: list[Measurement] = []
    for name in names:
        say(Progress(text=f"{direction.value}: warming up {name}", arm=name))
        try:
            implementation = _warm(experiment, request, name, inputs(0), direction)
        except Exception as error:  # noqa: BLE001 - what passed its check and raises now is left out, the others stand
            failed.append(_failed(request, direction, name, error))
            continue
        arms.append(Arm(name, implementation, inputs, deterministic=experiment.witness is None))
    if not arms:
        return failed
    traffic = experiment.traffic(workload, direction)
    # Without the baseline, which failed on its own account, the others are still timed; see ``_measurement``.
    timed = [arm.name for arm in arms]
    timings = time_group(
        arms,
        workload=workload,
        direction=direction,
        device_type=request.device_type,
        baseline=request.baseline if request.baseline in timed else timed[0],
        traffic=traffic,
        seed=request.seeds[direction],
        budget_s=request.budget_s,
        margin=request.margin,
        cold=request.cold,
        progress=lambda number, planned: say(Progress(text=f"{direction.value}: round {number} of at most {planned}")),
    )
    return [*(_measurement(request, direction, t, traffic) for t in timings.values()), *failed]


def _warm(
    experiment: Experiment, request: TimeRequest, name: str, inputs: Inputs, direction: Direction
) -> Implementation:
    """The implementation after its first call, compiled from the caches that its check filled."""
    from fuselab.capture import cache_environment

    implementation = build(experiment, name, request.workload)
    compiled = experiment.variant(name).kind is VariantKind.COMPILED
    with environment(cache_environment(Path(request.caches[name]))) if compiled else nullcontext():
        run_once(implementation, inputs, [direction])
    return implementation


def _failed(request: TimeRequest, direction: Direction, name: str, error: Exception) -> Measurement:
    failure = failure_of(error, traceback.format_exc())
    return Measurement(
        experiment=request.experiment.name,
        variant=name,
        workload=request.workload,
        direction=direction,
        status=failure.status,
        reason=f"while timing: {failure.reason}",
    )


def _measurement(request: TimeRequest, direction: Direction, timing: Timing, traffic: Traffic | None) -> Measurement:
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
        direction=direction,
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
        control_comparison=timing.control_comparison,
        parts=timing.parts,
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
