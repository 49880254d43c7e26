"""The worker's side of a sweep: says which device it measures on, carries one unit out at a time.

``introduce`` and ``carry_out`` are all that Dask calls. Checks and timings go through ``fuselab.execution`` and
``worker.supervise`` as those of ``fuselab run`` do: processes with deadlines that die with this one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import msgspec

from fuselab import __version__
from fuselab.errors import FuselabError, StoreError, UsageError
from fuselab.execution import Execution, Settings, Workers
from fuselab.experiment import Experiment, load_registry
from fuselab.plan import Plan
from fuselab.records import CellKey, Environment, Measurement, Status, Workload
from fuselab.runner import describe
from fuselab.store import scrub
from fuselab.sweep.code import code_sha256, placed_target, short
from fuselab.sweep.desk import Desk
from fuselab.sweep.messages import (
    Introduction,
    IntroductionRequest,
    UnitRequest,
    UnitResult,
    decode,
    encode,
)
from fuselab.worker.messages import DescribeRequest, DescribeResult, ExperimentReference
from fuselab.worker.outcome import failure_of
from fuselab.worker.supervise import Crew

__all__ = ["carry_out", "introduce", "use"]

PROBE_DEADLINE_S = 60.0
"""A fresh process that adds two numbers on the device answers within this, torch imported from a cold disk included."""

PROBES = 2
"""A device that a killed process leaves in a bad state is often right a moment later."""

_SUSPECT = frozenset({Status.CRASHED, Status.TIMED_OUT})
"""After these the device is asked whether it still works."""

_crew: Callable[[], AbstractContextManager[Workers]] = Crew
_here: list[Introduction] = []
"""What this process said of itself last: one process measures on one device."""


def use(crew: Callable[[], AbstractContextManager[Workers]]) -> None:
    """Let another crew carry requests out in this process: for a module that a worker preloads (``--preload``)."""
    global _crew  # noqa: PLW0603 - one process has one crew, as it has one device
    _crew = crew
    _here.clear()


def introduce(text: str) -> str:
    """Answer an ``IntroductionRequest`` with an ``Introduction``; what is wrong here is the answer."""
    request = decode(text, IntroductionRequest)
    if request.fuselab != __version__:
        return encode(Introduction(refused=f"it has fuselab {__version__}, and the sweep {request.fuselab}"))
    _undo_nanny()
    _keep_to(request.cores)
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]
    try:
        with _crew() as crew:
            environment = describe(crew, request.device)
            here = Introduction(device_id=crew.device_id, host=host, environment=environment)
    except FuselabError as error:
        return encode(Introduction(refused=scrub(error.message), host=host))
    _here[:] = [here]
    _offer(here, environment.device_type)
    return encode(here)


def carry_out(text: str) -> str:
    """Answer a ``UnitRequest`` with a ``UnitResult``; whatever goes wrong with a cell is that cell's status."""
    request = decode(text, UnitRequest)
    started = time.monotonic()
    _keep_to(request.cores)
    try:
        experiment, reference = _experiment(request)
    except UsageError as error:
        return encode(UnitResult(refused=scrub(str(error))))
    plan = _plan(request, experiment, reference)
    lost = ""
    try:
        with tempfile.TemporaryDirectory(prefix="fuselab-unit-", ignore_cleanup_errors=True) as directory:
            desk = Desk(Path(directory), _finished(plan, request))
            lost = _measured(request, plan, desk)
    except OSError as error:
        return encode(UnitResult(device_lost=f"its disk refuses: {error.strerror or error}"))
    return encode(UnitResult(measurements=desk.cells, seconds=time.monotonic() - started, device_lost=lost))


def _measured(request: UnitRequest, plan: Plan, desk: Desk) -> str:
    """Carry the unit out; why the device is lost afterwards, or nothing."""
    settings = Settings(budget_s=request.budget_s, deadline_s=request.deadline_s, jobs=request.jobs)
    with _crew() as crew:
        crew.device_id = request.device_id
        try:
            Execution(desk, plan, _environment(crew, request), crew, settings, _Silent()).carry_out()
        except StoreError as error:
            return scrub(str(error))
        except Exception as error:  # noqa: BLE001 - what an experiment's own functions raise fails its cells, not the sweep
            failure = failure_of(error, traceback.format_exc())
            desk.append(
                [_failed(key, plan.workloads[0], failure.status, failure.reason) for key in _missing(plan, desk)]
            )
        if request.device_type != "cuda" or not any(m.status in _SUSPECT for m in desk.cells):
            return ""
        return _stuck(crew, request.device_type)


def _stuck(crew: Workers, device_type: str) -> str:
    """Why the device does not answer to a fresh process; empty when it does."""
    reason = ""
    for _ in range(PROBES):
        answer = crew.call(DescribeRequest(device=device_type, exercise=True), deadline_s=PROBE_DEADLINE_S)
        if isinstance(answer, DescribeResult):
            return ""
        reason = scrub(str(getattr(answer, "reason", answer)))
    return f"a fresh process cannot use it: {reason}"


def _environment(crew: Workers, request: UnitRequest) -> Environment:
    for here in _here:
        if here.environment is not None:
            return here.environment
    return describe(crew, request.device_type)


def _experiment(request: UnitRequest) -> tuple[Experiment, ExperimentReference]:
    """The experiment by name and hash.

    Raises:
        UsageError: it is not here, or another one of that name is.
    """
    reference = request.experiment
    if reference.target:
        from fuselab.experiments.user import experiment_from

        reference = msgspec.structs.replace(reference, target=placed_target(reference.target))
        experiment = experiment_from(reference.target, reference.arguments, seed=reference.seed)
    else:
        registry = _registry()
        if reference.name not in registry:
            raise UsageError(f"this worker has no experiment {reference.name!r}", hint="install its plugin there")
        experiment = registry[reference.name]
    here = code_sha256(experiment)
    if here != request.code_sha256:
        raise UsageError(
            f"{reference.target or reference.name} is another file on this worker: "
            f"sha256 {short(here)}, the sweep's is {short(request.code_sha256)}",
            hint="put the same file there: code does not travel with a sweep",
        )
    return experiment, reference


@functools.cache
def _registry() -> dict[str, Experiment]:
    """Loaded once a process: looking for plugins takes longer than handing out a unit."""
    return load_registry()


def _plan(request: UnitRequest, experiment: Experiment, reference: ExperimentReference) -> Plan:
    return Plan(
        experiment=experiment,
        reference=reference,
        workloads=(request.workload,),
        variants=tuple(request.variants),
        directions=tuple(request.directions),
        baseline=request.baseline,
        device_type=request.device_type,
        seed=request.seed,
        margin=request.margin,
        cold=request.cold,
    )


def _finished(plan: Plan, request: UnitRequest) -> Iterable[CellKey]:
    key = request.workload.key
    for variant, direction in request.finished:
        yield CellKey(experiment=plan.experiment.name, variant=variant, workload=key, direction=direction)


def _missing(plan: Plan, desk: Desk) -> list[CellKey]:
    finished = desk.finished_cells()
    keys = [
        CellKey(experiment=plan.experiment.name, variant=v, workload=plan.workloads[0].key, direction=d)
        for v in plan.variants
        for d in plan.directions
    ]
    return [key for key in keys if key not in finished]


def _failed(key: CellKey, workload: Workload, status: Status, reason: str) -> Measurement:
    return Measurement(
        experiment=key.experiment,
        variant=key.variant,
        workload=workload,
        direction=key.direction,
        status=status,
        reason=scrub(reason),
    )


def _keep_to(cores: Sequence[int]) -> None:
    """Keep this thread, and with it every process that it starts, to some cores."""
    if cores:
        os.sched_setaffinity(0, cores)


def _undo_nanny() -> None:
    """Take back what Dask's nanny put into the environment: one thread a process, which is not what users measure."""
    config = importlib.import_module("dask.config")
    for name, value in config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]


def _offer(here: Introduction, device_type: str) -> None:
    """Tell Dask's scheduler what this worker has: one device, its model and its UUID, as resources."""
    distributed = importlib.import_module("distributed")
    resource = "GPU" if device_type == "cuda" else "CPU"
    model = here.environment.device if here.environment is not None else ""
    with suppress(ValueError):  # called outside of a worker
        worker = distributed.get_worker()
        worker.loop.add_callback(worker.set_resources, **{resource: 1.0, here.device_id: 1.0, f"model {model}": 1.0})


class _Silent:
    """A watcher for whom nobody watches: the client sees a unit when it is done."""

    def started(self, run: Any, plan: Plan) -> None:
        """Nothing is shown."""

    def working(self, text: str) -> None:
        """Nothing is shown."""

    def finished_cells(self, measurements: Sequence[Measurement]) -> None:
        """Nothing is shown."""
