"""The only orchestrator: carries plans out, one run directory each, through workers into the store.

For each workload every variant is compiled, captured and checked in a process of its own, several at a time where there
are cores; then each group (one workload and direction) is timed, alone, in another. What is finished is in the store
before the next thing starts. Whatever dies fails its own cells and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fuselab import __version__
from fuselab.errors import StoreError, UsageError, WorkerError
from fuselab.execution import Execution, Settings, Watcher, Workers
from fuselab.experiment import Experiment
from fuselab.measure.verdicts import settle
from fuselab.plan import Plan, file_hash, plan_of_run
from fuselab.records import (
    Environment,
    Measurement,
    RunMetadata,
    RunStatus,
    Status,
    Verdict,
)
from fuselab.report.picture import svg
from fuselab.store import Run, create_run, scrub
from fuselab.store.limiters import judge_limiters
from fuselab.worker.messages import (
    DescribeRequest,
    DescribeResult,
    Failure,
)

__all__ = [
    "Outcome",
    "Outcomes",
    "Settings",
    "Watcher",
    "carry_out",
    "conclude",
    "describe",
    "load_outcome",
    "prepare",
    "reopen",
]

MOST_DRAWN = 400
"""Cells that a picture of a run has at most: nobody looks at more bars, and a sweep's report has its own charts."""

DESCRIBE_DEADLINE_S = 180.0
"""Importing torch from a cold disk takes up to a minute."""


@dataclass(frozen=True)
class Outcome:
    """A run as it is after it ended, verdicts settled over all of its cells."""

    path: Path
    metadata: RunMetadata
    environment: Environment
    measurements: tuple[Measurement, ...]

    @property
    def failed_cells(self) -> list[Measurement]:
        """Cells that neither passed nor were unavailable from the start."""
        return [m for m in self.measurements if m.status not in (Status.OK, Status.CHECKED, Status.UNAVAILABLE)]

    @property
    def warnings(self) -> list[str]:
        """Every warning of every cell that was measured."""
        return [f"{m.experiment} {m.variant} {m.workload.label}: {w}" for m in self.measurements for w in m.warnings]

    def _repr_html_(self) -> str:
        """The picture alone, for what shows nothing else."""
        return svg(list(self.measurements), self.environment)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """The report in a frame with a static picture beside it, for a notebook."""
        from fuselab.page.notebook import mimebundle

        return mimebundle([Run(self.path)])


class Outcomes(list[Outcome]):
    """The runs of one invocation; in a notebook they are one report."""

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        from fuselab.page.notebook import mimebundle

        return mimebundle([Run(outcome.path) for outcome in self]) if self else {"text/plain": "[]"}


def describe(crew: Workers, device: str) -> Environment:
    """What this machine is, asked in a process of its own: a driver that hangs or crashes says so.

    Raises:
        WorkerError: the process died; its last words are quoted.
        SetupError: a GPU was asked for and there is none.
    """
    from fuselab.checks import require_device

    answer = crew.call(DescribeRequest(device=device), deadline_s=DESCRIBE_DEADLINE_S)
    if isinstance(answer, DescribeResult):
        crew.device_id = answer.device_id
        return answer.environment
    require_device(device, answer.reason if isinstance(answer, Failure) else "")
    raise WorkerError(
        f"looking at this machine failed: {answer.reason if isinstance(answer, Failure) else answer}",
        hint="`fuselab doctor` says which part does not work",
    )


def prepare(
    plans: Sequence[Plan], environment: Environment, root: Path, command: Sequence[str]
) -> list[tuple[Run, Plan]]:
    """Create the directories of all runs before the first starts, so that each can be resumed."""
    return [(create_run(root, _metadata(plan, environment, command), environment), plan) for plan in plans]


def reopen(run: Run, registry: Mapping[str, Experiment]) -> tuple[Run, Plan]:
    """A run that did not finish, with the plan it was carrying out.

    Raises:
        UsageError: it is complete, or what it measured has changed.
    """
    metadata = run.metadata()
    if metadata.status is RunStatus.COMPLETE:
        raise UsageError(f"run {metadata.id} is complete", hint=f"fuselab show {metadata.id}")
    return run, plan_of_run(metadata, registry)


def carry_out(
    work: Sequence[tuple[Run, Plan]], environment: Environment, crew: Workers, settings: Settings, watcher: Watcher
) -> Outcomes:
    """Carry out every plan, one after the other; cells that are in the store already are not repeated.

    Every run ends with its report in its directory; several have one together beside their directories.

    Raises:
        KeyboardInterrupt: after the run in hand was marked as interrupted.
        StoreError: the disk refused; the run is marked as failed if the disk takes that much.
    """
    outcomes = Outcomes()
    for run, plan in work:
        with run.lock():
            watcher.started(run, plan)
            run.update(status=RunStatus.RUNNING, pid=os.getpid(), error=None)
            try:
                Execution(run, plan, environment, crew, settings, watcher).carry_out()
            except KeyboardInterrupt:
                _finish(run, RunStatus.INTERRUPTED, "interrupted")
                raise
            except BaseException as error:
                with suppress(StoreError):
                    _finish(run, RunStatus.FAILED, scrub(f"{type(error).__name__}: {error}"))
                raise
            _draw(run)
            _finish(run, RunStatus.COMPLETE)
            _report(run.path, [run], watcher)
        outcomes.append(load_outcome(run))
    if len(work) > 1:
        _report(work[0][0].path.parent.parent, [run for run, _ in work], watcher)
    return outcomes


def conclude(run: Run, status: RunStatus, error: str | None = None) -> None:
    """Write down how a run ended that somebody else carried out, with its summary and, when complete, its picture.

    Raises:
        StoreError: the disk refused.
    """
    if status is RunStatus.COMPLETE and len(run.finished_cells()) <= MOST_DRAWN:
        _draw(run)
    _finish(run, status, error)


def load_outcome(run: Run) -> Outcome:
    """A run as it stands in the store: verdicts settled, cells in the order of the plan."""
    metadata = run.metadata()
    workloads = [w.key for w in metadata.plan]
    order = {
        (workload, direction, variant): (i, j, k)
        for i, workload in enumerate(workloads)
        for j, direction in enumerate(metadata.directions)
        for k, variant in enumerate(metadata.variants)
    }
    last = (len(workloads), 0, 0)
    cells = sorted(settle(run.measurements()), key=lambda m: order.get((m.workload.key, m.direction, m.variant), last))
    return Outcome(run.path, metadata, run.environment(), tuple(cells))


def _metadata(plan: Plan, environment: Environment, command: Sequence[str]) -> RunMetadata:
    target = plan.experiment.target
    return RunMetadata(
        id="",
        experiment=plan.experiment.name,
        description=plan.experiment.description,
        status=RunStatus.RUNNING,
        created_at=_now(),
        command=[scrub(word) for word in command],
        seed=plan.seed,
        preset=plan.preset,
        device_type=plan.device_type,
        versions={"fuselab": __version__, **environment.versions},
        target=target,
        target_sha256=file_hash(target) if target else None,
        plan=list(plan.workloads),
        variants=list(plan.variants),
        directions=list(plan.directions),
        baseline=plan.baseline,
        margin=plan.margin,
        cold=plan.cold,
        pid=os.getpid(),
        host=hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
    )


def _finish(run: Run, status: RunStatus, error: str | None = None) -> None:
    run.finish(status, summary=_summary(settle(run.measurements())), error=error)
    if status is RunStatus.COMPLETE:
        with suppress(StoreError):  # after what makes room on a full disk; the run is whole without it
            judge_limiters(run)


def _summary(measurements: Sequence[Measurement]) -> dict[str, object]:
    """Counts of cells by status and by verdict, and the fastest variant of each group."""
    statuses: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    fastest: dict[str, dict[str, object]] = {}
    for m in measurements:
        statuses[m.status.value] = statuses.get(m.status.value, 0) + 1
        if m.comparison is None:
            continue
        verdict = m.comparison.verdict
        verdicts[verdict.value] = verdicts.get(verdict.value, 0) + 1
        group = f"{m.workload.key}/{m.direction.value}"
        speedup = m.comparison.speedup
        if (
            verdict is Verdict.FASTER
            and speedup is not None
            and speedup > float(str(fastest.get(group, {}).get("speedup", 0)))
        ):
            fastest[group] = {"variant": m.variant, "speedup": speedup}
    return {"cells": statuses, "verdicts": verdicts, "fastest": fastest}


def _report(directory: Path, runs: Sequence[Run], watcher: Watcher) -> None:
    """Write the page of some runs; a disk that refuses it takes nothing from what was measured."""
    from fuselab.page.build import REPORT, write

    watcher.working("writing the report")
    try:
        write(directory / REPORT, runs)
    except StoreError as error:
        watcher.working(f"the report was not written: {error.message}")


def _draw(run: Run) -> None:
    outcome = load_outcome(run)
    run.write_plot("speedup.svg", svg(list(outcome.measurements), outcome.environment))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
