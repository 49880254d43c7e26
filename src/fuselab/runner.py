"""The only orchestrator: carries plans out, one run directory each, through workers into the store.

For each workload every variant is compiled, captured and checked in a process of its own, several at a time where there
are cores; then each group (one workload and direction) is timed, alone, in another. What is finished is in the store
before the next thing starts. Whatever dies fails its own cells and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from fuselab import __version__
from fuselab.capture.caches import cache_environment
from fuselab.errors import StoreError, UsageError, WorkerError
from fuselab.experiment import Experiment, VariantKind
from fuselab.measure.verdicts import settle
from fuselab.plan import Plan, file_hash, plan_of_run
from fuselab.records import (
    CellKey,
    Direction,
    Environment,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Status,
    Verdict,
    Workload,
)
from fuselab.report.picture import svg
from fuselab.store import Run, create_run, scrub
from fuselab.worker.check import variables
from fuselab.worker.messages import (
    Answer,
    CheckRequest,
    CheckResult,
    DescribeRequest,
    DescribeResult,
    Failure,
    Progress,
    Request,
    TimeRequest,
    TimeResult,
)

__all__ = ["Outcome", "Settings", "Watcher", "carry_out", "describe", "load_outcome", "prepare", "reopen"]

DESCRIBE_DEADLINE_S = 180.0
"""Importing torch from a cold disk takes up to a minute."""


@dataclass(frozen=True)
class Settings:
    """How plans are carried out."""

    budget_s: float | None = None
    """Time to spend on timing one variant of one group; None: 1 s on a GPU, 2 s on a CPU."""
    deadline_s: float = 600.0
    """Seconds after which a check is given up."""
    jobs: int | None = None
    """Checks at a time; None: by the cores of this machine."""
    margin: float = 0.01
    """Relative difference below which two variants count as equivalent."""

    def budget(self, device_type: str) -> float:
        """Seconds for one variant of one group."""
        if self.budget_s is not None:
            return self.budget_s
        return 1.0 if device_type == "cuda" else 2.0

    def timing_deadline(self, device_type: str, variants: int) -> float:
        """Seconds after which a group's timing is given up: warm-up, inputs and three times its budget."""
        return self.deadline_s + 3 * self.budget(device_type) * variants

    def concurrent_checks(self) -> int:
        """Checks at a time: a compiler is one busy core, and reading a GPU's code back another."""
        return self.jobs or max(1, min(8, len(os.sched_getaffinity(0)) // 2 + 1))


class Workers(Protocol):
    """Who carries requests out: ``worker.supervise.Crew`` in processes, ``worker.local.Local`` in this one."""

    concurrent: bool

    def call(
        self,
        request: Request,
        *,
        deadline_s: float,
        environment_variables: Mapping[str, str] | None = None,
        on_progress: Callable[[Progress], None] = ...,
    ) -> Answer:
        """Carry out one request."""

    def stop(self) -> None:
        """Give up everything that is under way."""


class Watcher(Protocol):
    """What wants to know how a run gets on; printing is somebody else's business."""

    def started(self, run: Run, plan: Plan) -> None:
        """A run was begun or taken up again."""

    def working(self, text: str) -> None:
        """Something is being done."""

    def finished_cells(self, measurements: Sequence[Measurement]) -> None:
        """These cells are in the store."""


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
        return svg(list(self.measurements), self.environment)


def describe(crew: Workers, device: str) -> Environment:
    """What this machine is, asked in a process of its own: a driver that hangs or crashes says so.

    Raises:
        WorkerError: the process died; its last words are quoted.
        SetupError: a GPU was asked for and there is none.
    """
    from fuselab.checks import require_device

    answer = crew.call(DescribeRequest(device=device), deadline_s=DESCRIBE_DEADLINE_S)
    if isinstance(answer, DescribeResult):
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
) -> list[Outcome]:
    """Carry out every plan, one after the other; cells that are in the store already are not repeated.

    Raises:
        KeyboardInterrupt: after the run in hand was marked as interrupted.
        StoreError: the disk refused; the run is marked as failed if the disk takes that much.
    """
    outcomes = []
    for run, plan in work:
        with run.lock():
            watcher.started(run, plan)
            run.update(status=RunStatus.RUNNING, pid=os.getpid(), error=None)
            try:
                _Execution(run, plan, environment, crew, settings, watcher).carry_out()
            except KeyboardInterrupt:
                _finish(run, RunStatus.INTERRUPTED, "interrupted")
                raise
            except BaseException as error:
                with suppress(StoreError):
                    _finish(run, RunStatus.FAILED, scrub(f"{type(error).__name__}: {error}"))
                raise
            _draw(run)
            _finish(run, RunStatus.COMPLETE)
        outcomes.append(load_outcome(run))
    return outcomes


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


@dataclass(frozen=True)
class _Execution:
    """One plan being carried out."""

    run: Run
    plan: Plan
    environment: Environment
    crew: Workers
    settings: Settings
    watcher: Watcher

    def carry_out(self) -> None:
        for workload in self.plan.workloads:
            finished = self.run.finished_cells()
            missing = [
                name
                for name in self.plan.variants
                if any(self._key(workload, name, d) not in finished for d in self.plan.directions)
            ]
            if not missing:
                continue
            checks = self._check(workload, missing, finished)
            for direction in self.plan.directions:
                ready = {n: c for n, c in checks.items() if self._timeable(c, direction)}
                if any(self._key(workload, name, direction) not in finished for name in ready):
                    self._time(workload, direction, ready)

    def _check(self, workload: Workload, names: Sequence[str], finished: set[CellKey]) -> dict[str, CheckResult]:
        """Check the variants, several at a time; cells that will not be timed are stored at once."""
        checks: dict[str, CheckResult] = {}
        runnable = []
        for name in names:
            reason = self.plan.experiment.variant(name).unavailable(workload, self.plan.device_type)
            if reason is None:
                runnable.append(name)
            else:
                cells = [self._cell(workload, name, d, Status.UNAVAILABLE, reason) for d in self.plan.directions]
                self._store(cells, finished)
        at_a_time = self.settings.concurrent_checks() if self.crew.concurrent else 1
        with ThreadPoolExecutor(at_a_time) as pool:
            futures = {pool.submit(self._check_one, workload, name): name for name in runnable}
            try:
                for future in as_completed(futures):
                    name = futures[future]
                    checks[name] = self._adopt(future.result(), workload, name)
                    self._store(self._untimed_cells(workload, name, checks[name]), finished)
            except BaseException:
                self.crew.stop()
                raise
        return {name: checks[name] for name in runnable}

    def _check_one(self, workload: Workload, name: str) -> tuple[CheckResult, Path]:
        variant = self.plan.experiment.variant(name)
        staging = self.run.staging(f"{name}-{workload.key}")
        caches = self.run.caches(name, workload.key)
        what = f"{self.plan.experiment.name} {workload.label}: {name}"
        answer = self.crew.call(
            CheckRequest(
                experiment=self.plan.reference,
                workload=workload,
                variant=name,
                baseline=self.plan.baseline,
                device_type=self.plan.device_type,
                directions=list(self.plan.directions),
                staging=str(staging),
                caches=str(caches),
            ),
            deadline_s=self.settings.deadline_s,
            environment_variables={
                **_compiler_variables(self.plan.device_type, caches),
                **variables(variant.kind, self.plan.device_type),
            },
            on_progress=lambda p: self.watcher.working(f"{what}: {p.text}"),
        )
        if isinstance(answer, CheckResult):
            return answer, staging
        return CheckResult(status=_status_of(answer), reason=_reason_of(answer)), staging

    def _adopt(self, checked: tuple[CheckResult, Path], workload: Workload, name: str) -> CheckResult:
        """Move what was captured into the run."""
        result, staging = checked
        artifacts, kernels = self.run.adopt(staging, result.artifacts, result.kernels)
        return msgspec.structs.replace(result, artifacts=artifacts, kernels=kernels)

    def _untimed_cells(self, workload: Workload, name: str, check: CheckResult) -> list[Measurement]:
        """Cells that end with the check: everything but what passed and can be timed."""
        cells = []
        for direction in self.plan.directions:
            if self._timeable(check, direction):
                continue
            verdict = check.correctness.get(direction)
            status, reason = check.status, check.reason
            if check.status in (Status.OK, Status.CHECKED, Status.WRONG):
                if verdict is None:
                    status, reason = Status.UNAVAILABLE, "no input requires a gradient"
                elif not verdict.correct:
                    status, reason = Status.WRONG, verdict.reason
                else:  # the interpreter's cells, and the right half of a variant whose other half is wrong
                    status = Status.CHECKED
            labels = ["interpreter"] if check.status is Status.CHECKED else []
            cell = self._cell(workload, name, direction, status, reason)
            cells.append(msgspec.structs.replace(cell, correctness=verdict, warnings=check.warnings, labels=labels))
        return cells

    def _timeable(self, check: CheckResult, direction: Direction) -> bool:
        verdict = check.correctness.get(direction)
        interpreted = check.status is Status.CHECKED
        return verdict is not None and verdict.correct and not interpreted

    def _time(self, workload: Workload, direction: Direction, checks: Mapping[str, CheckResult]) -> None:
        """Time a group; a variant whose timing kills the process is left out and the others are timed again."""
        left = dict(checks)
        dead: list[Measurement] = []
        what = f"{self.plan.experiment.name} {workload.label}: timing {direction.value}"
        while left:
            answer = self.crew.call(
                TimeRequest(
                    experiment=self.plan.reference,
                    workload=workload,
                    direction=direction,
                    variants=list(left),
                    baseline=self.plan.baseline,
                    device_type=self.plan.device_type,
                    caches={name: str(self.run.caches(name, workload.key)) for name in left},
                    seed=_group_seed(self.plan, workload, direction),
                    budget_s=self.settings.budget(self.plan.device_type),
                    margin=self.settings.margin,
                ),
                deadline_s=self.settings.timing_deadline(self.plan.device_type, len(left)),
                # The settings are the same for all; the directories are those of each variant while it warms up.
                environment_variables=_compiler_variables(
                    self.plan.device_type, self.run.caches(next(iter(left)), workload.key)
                ),
                on_progress=lambda p: self.watcher.working(f"{what}: {p.text}"),
            )
            if isinstance(answer, TimeResult):
                cells = [self._completed(m, left[m.variant], direction) for m in answer.measurements]
                self._store([*cells, *dead], self.run.finished_cells())
                return
            suspects = [answer.arm] if isinstance(answer, Failure) and answer.arm in left else list(left)
            for name in suspects:
                cell = self._cell(workload, name, direction, _status_of(answer), f"while timing: {_reason_of(answer)}")
                dead.append(msgspec.structs.replace(cell, correctness=checks[name].correctness.get(direction)))
                del left[name]
        self._store(dead, self.run.finished_cells())

    def _completed(self, measurement: Measurement, check: CheckResult, direction: Direction) -> Measurement:
        """A timed cell with what its check knew."""
        launched = measurement.kernels_launched
        compiled = self.plan.experiment.variant(measurement.variant).kind is VariantKind.COMPILED
        if launched is None and compiled:
            launched = _launches(check.kernels, direction)
        return msgspec.structs.replace(
            measurement,
            experiment=self.plan.experiment.name,
            device=self.environment.device,
            correctness=check.correctness.get(direction),
            compile_ns=check.compile_ns,
            kernels_launched=launched,
            warnings=[*check.warnings, *measurement.warnings],
            created_at=_now(),
        )

    def _cell(self, workload: Workload, variant: str, direction: Direction, status: Status, reason: str) -> Measurement:
        return Measurement(
            experiment=self.plan.experiment.name,
            variant=variant,
            workload=workload,
            direction=direction,
            status=status,
            reason=reason,
            device=self.environment.device,
            created_at=_now(),
        )

    def _key(self, workload: Workload, variant: str, direction: Direction) -> CellKey:
        return CellKey(
            experiment=self.plan.experiment.name, variant=variant, workload=workload.key, direction=direction
        )

    def _store(self, cells: Iterable[Measurement], finished: set[CellKey]) -> None:
        new = [cell for cell in cells if cell.key not in finished]
        if new:
            self.run.append(new)
            self.watcher.finished_cells(new)


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
        pid=os.getpid(),
        host=hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
    )


def _finish(run: Run, status: RunStatus, error: str | None = None) -> None:
    run.finish(status, summary=_summary(settle(run.measurements())), error=error)


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


def _draw(run: Run) -> None:
    outcome = load_outcome(run)
    run.write_plot("speedup.svg", svg(list(outcome.measurements), outcome.environment))


def _compiler_variables(device_type: str, caches: Path) -> dict[str, str]:
    settings = dict(cache_environment(caches))
    if device_type == "cpu":
        # C++ kernels compile one after the other anyway; without helper processes a worker starts a second earlier.
        settings["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    return settings


def _group_seed(plan: Plan, workload: Workload, direction: Direction) -> int:
    """A seed for the order of rounds that differs by group and repeats with the run's seed."""
    text = f"{plan.seed}/{plan.experiment.name}/{workload.key}/{direction.value}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _launches(kernels: Sequence[Kernel], direction: Direction) -> int | None:
    counts = [k.launches for k in kernels if k.direction is direction]
    known = [c for c in counts if c is not None]
    return sum(known) if counts and len(known) == len(counts) else None


def _status_of(answer: object) -> Status:
    return answer.status if isinstance(answer, Failure) else Status.ERROR


def _reason_of(answer: object) -> str:
    if not isinstance(answer, Failure):
        return f"the worker answered with a {type(answer).__name__}"
    last_words = answer.traceback.strip().splitlines()[-1:] if answer.status in (Status.CRASHED, Status.EXITED) else []
    return scrub("; ".join([answer.reason, *(f"it last said: {words}" for words in last_words)]))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
