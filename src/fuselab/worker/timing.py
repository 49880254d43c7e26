"""Time the variants of one group together, in one process, from caches that the checks left warm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from fuselab.experiment import Experiment, Inputs, VariantKind
from fuselab.records import Measurement, Status
from fuselab.worker.check import build, environment, experiment_of, run_once
from fuselab.worker.messages import Progress, TimeRequest, TimeResult

__all__ = ["time_variants"]

Say = Callable[[Progress], None]


def time_variants(request: TimeRequest, *, progress: Say | None = None, experiment: Experiment | None = None) -> TimeResult:
    """Time every variant of the request; one that raises is left out with its error, the others stand."""
    from fuselab.capture import cache_environment
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
    for name in request.variants:
        say(Progress(text="warming up", arm=name))
        implementation = build(experiment, name, workload)
        if experiment.variant(name).kind is VariantKind.COMPILED:
            with environment(cache_environment(Path(request.caches[name]))):
                run_once(implementation, inputs(0), [request.direction])
        else:
            run_once(implementation, inputs(0), [request.direction])
        arms.append(Arm(name, implementation, inputs))
    timings = time_group(
        arms,
        workload=workload,
        direction=request.direction,
        device_type=request.device_type,
        baseline=request.baseline,
        traffic=experiment.traffic(workload, request.direction),
        seed=request.seed,
        budget_s=request.budget_s,
        margin=request.margin,
        progress=lambda text, arm="": say(Progress(text=text, arm=arm)),
    )
    return TimeResult(measurements=[])
