"""One plan being carried out: checks in parallel, timings alone, every cell stored as soon as it is known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from fuselab.capture.caches import cache_environment
from fuselab.experiment import VariantKind
from fuselab.plan import Plan
from fuselab.records import Artifact, CellKey, Direction, Environment, Kernel, Measurement, Status, Workload
from fuselab.store import Run, scrub
from fuselab.store.device_lock import HostDeviceLock
from fuselab.worker.check import needs_interpreter, variables
from fuselab.worker.messages import (
    Answer,
    CheckRequest,
    CheckResult,
    Failure,
    Progress,
    Request,
    TimeRequest,
    TimeResult,
)

__all__ = ["Execution", "Ledger", "Settings", "Watcher", "Workers"]

CHECK_MEMORY_BYTES = 12 * 10**9
"""What a check of the largest preset takes of a GPU's memory: inputs, gradients and the reference in float64."""

MOST_CHECKS = 16
"""More processes than this only wait for the disk and the device."""


@dataclass(frozen=True)
class Settings:
    """How plans are carried out."""

    budget_s: float | None = None
    """Time to spend on timing one variant of one group; None: 1 s on a GPU, 2 s on a CPU."""
    deadline_s: float = 600.0
    """Seconds after which a check is given up."""
    jobs: int | None = None
    """Checks at a time; None: by the cores of this machine."""

    def budget(self, device_type: str) -> float:
        """Seconds for one variant of one group."""
        if self.budget_s is not None:
            return self.budget_s
        return 1.0 if device_type == "cuda" else 2.0

    def timing_deadline(self, device_type: str, variants: int) -> float:
        """Seconds after which a group's timing is given up: warm-up, inputs and three times its budget."""
        return self.deadline_s + 3 * self.budget(device_type) * variants

    def concurrent_checks(self, environment: Environment) -> int:
        """Checks at a time: one for each core but one, and for each 12 GB of a GPU's memory."""
        if self.jobs is not None:
            return max(1, self.jobs)
        at_a_time = max(2, environment.cpu_cores - 1)
        if environment.device_memory_bytes:
            at_a_time = min(at_a_time, environment.device_memory_bytes // CHECK_MEMORY_BYTES)
        return max(1, min(at_a_time, MOST_CHECKS))


class Workers(Protocol):
    """Who carries requests out: ``worker.supervise.Crew`` in processes, ``worker.local.Local`` in this one."""

    concurrent: bool
    device_id: str

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


class Ledger(Protocol):
    """Where cells go: a ``store.Run``, or what a sweep sends to the one who has it."""

    def finished_cells(self) -> set[CellKey]:
        """Cells that need not be repeated."""

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Keep cells that belong together."""

    def staging(self, name: str) -> Path:
        """A fresh directory for a worker to write to."""

    def caches(self, variant: str, workload: str) -> Path:
        """The directory for the compiler's caches of one variant and workload."""

    def adopt(
        self, staging: Path, artifacts: Sequence[Artifact], kernels: Sequence[Kernel]
    ) -> tuple[list[Artifact], list[Kernel]]:
        """Take over what a worker captured."""


class Watcher(Protocol):
    """What wants to know how a run gets on; printing is somebody else's business."""

    def started(self, run: Run, plan: Plan) -> None:
        """A run was begun or taken up again."""

    def working(self, text: str) -> None:
        """Something is being done."""

    def finished_cells(self, measurements: Sequence[Measurement]) -> None:
        """These cells are in the store."""


@dataclass(frozen=True)
class Execution:
    """One plan being carried out."""

    run: Ledger
    plan: Plan
    environment: Environment
    workers: Workers
    settings: Settings
    watcher: Watcher

    def carry_out(self) -> None:
        """Check the workloads in batches that keep the cores busy, then time each of a batch alone."""
        at_a_time = self.settings.concurrent_checks(self.environment) if self.workers.concurrent else 1
        batch_size = max(1, -(-at_a_time // max(1, len(self.plan.variants))))
        for start in range(0, len(self.plan.workloads), batch_size):
            batch = self.plan.workloads[start : start + batch_size]
            checked = self._check(batch, at_a_time)
            for workload in batch:
                with self._device(alone=True):
                    self._time(workload, {n: c for (w, n), c in checked.items() if w == workload.key})

    def _device(self, *, alone: bool) -> AbstractContextManager[None]:
        """The device for a while, kept from another fuselab on this host: shared by checks, a timing's alone."""
        device_id = getattr(self.workers, "device_id", "")
        if not device_id:  # nobody looked at the machine: the workers answer from a table
            return nullcontext()
        stopped = getattr(self.workers, "stopped", lambda: False)
        lock = HostDeviceLock(device_id, waiting=self.watcher.working, stopped=stopped)
        return lock.alone() if alone else lock.shared()

    def _check(self, workloads: Sequence[Workload], at_a_time: int) -> dict[tuple[str, str], CheckResult]:
        """Check what is not finished, several at a time; cells that will not be timed are stored at once."""
        finished = self.run.finished_cells()
        runnable: list[tuple[Workload, str]] = []
        for workload in workloads:
            for name in self.plan.variants:
                if all(self._key(workload, name, d) in finished for d in self.plan.directions):
                    continue
                reason = self.plan.experiment.variant(name).unavailable(workload, self.plan.device_type)
                if reason is None:
                    runnable.append((workload, name))
                else:
                    self._store(self._cell(workload, name, d, Status.UNAVAILABLE, reason) for d in self.plan.directions)
        checks: dict[tuple[str, str], CheckResult] = {}

        def keep(workload: Workload, name: str, checked: tuple[CheckResult, Path]) -> None:
            checks[workload.key, name] = check = self._adopt(checked)
            self._store(self._untimed_cells(workload, name, check))

        if not self.workers.concurrent:
            # In this thread: on Python 3.12.1 Dynamo crashes when two threads compile, one after the other has ended.
            for workload, name in runnable:
                keep(workload, name, self._check_one(workload, name))
            return {(w.key, n): checks[w.key, n] for w, n in runnable}
        with ThreadPoolExecutor(at_a_time) as pool:
            futures = {pool.submit(self._check_one, workload, name): (workload, name) for workload, name in runnable}
            try:
                for future in as_completed(futures):
                    keep(*futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.workers.stop()
                raise
        return {(w.key, n): checks[w.key, n] for w, n in runnable}

    def _check_one(self, workload: Workload, name: str) -> tuple[CheckResult, Path]:
        with self._device(alone=False):
            return self._check_on_device(workload, name)

    def _check_on_device(self, workload: Workload, name: str) -> tuple[CheckResult, Path]:
        variant = self.plan.experiment.variant(name)
        staging = self.run.staging(f"{name}-{workload.key}")
        caches = self.run.caches(name, workload.key)
        what = f"{self.plan.experiment.name} {workload.label}: {name}"
        answer = self.workers.call(
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

    def _adopt(self, checked: tuple[CheckResult, Path]) -> CheckResult:
        """Move what was captured into the run."""
        result, staging = checked
        artifacts, kernels = self.run.adopt(staging, result.artifacts, result.kernels)
        return msgspec.structs.replace(result, artifacts=artifacts, kernels=kernels)

    def _untimed_cells(self, workload: Workload, name: str, check: CheckResult) -> list[Measurement]:
        """Cells that end with the check: everything but what passed and can be timed."""
        cells = []
        for direction in self.plan.directions:
            if self._timeable(name, check, direction):
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
            labels = ["interpreter"] if self._interpreted(name) else []
            cell = self._cell(workload, name, direction, status, reason)
            cells.append(msgspec.structs.replace(cell, correctness=verdict, warnings=check.warnings, labels=labels))
        return cells

    def _timeable(self, name: str, check: CheckResult, direction: Direction) -> bool:
        verdict = check.correctness.get(direction)
        return verdict is not None and verdict.correct and not self._interpreted(name)

    def _interpreted(self, name: str) -> bool:
        return needs_interpreter(self.plan.experiment.variant(name).kind, self.plan.device_type)

    def _time(self, workload: Workload, checks: Mapping[str, CheckResult]) -> None:
        """Time the groups of a workload; a variant whose timing kills the process is left out, the rest timed again."""
        finished = self.run.finished_cells()
        groups = {}
        for direction in self.plan.directions:
            names = [name for name, check in checks.items() if self._timeable(name, check, direction)]
            if any(self._key(workload, name, direction) not in finished for name in names):
                groups[direction] = names
        while groups:
            answer = self._time_once(workload, groups, checks)
            finished = self.run.finished_cells()
            groups = {
                d: names
                for d, names in groups.items()
                if any(self._key(workload, name, d) not in finished for name in names)
            }
            if isinstance(answer, TimeResult) or not groups:
                return
            direction, names = next(iter(groups.items()))  # the group that was being timed
            suspects = [answer.arm] if isinstance(answer, Failure) and answer.arm in names else names
            reason = f"while timing: {_reason_of(answer)}"
            cells = [self._cell(workload, name, direction, _status_of(answer), reason) for name in suspects]
            self._store(
                msgspec.structs.replace(cell, correctness=checks[cell.variant].correctness.get(direction))
                for cell in cells
            )
            groups[direction] = [name for name in names if name not in suspects]
            groups = {d: names for d, names in groups.items() if names}

    def _time_once(
        self, workload: Workload, groups: Mapping[Direction, list[str]], checks: Mapping[str, CheckResult]
    ) -> Answer:
        """One timing process; the cells of a group are stored when it says that the group is done."""
        what = f"{self.plan.experiment.name} {workload.label}: timing"

        def listen(progress: Progress) -> None:
            self._store(self._completed(m, checks[m.variant]) for m in progress.measurements)
            self.watcher.working(f"{what} {progress.text}")

        names = list(dict.fromkeys(name for group in groups.values() for name in group))
        caches = {name: str(self.run.caches(name, workload.key)) for name in names}
        return self.workers.call(
            TimeRequest(
                experiment=self.plan.reference,
                workload=workload,
                groups=dict(groups),
                baseline=self.plan.baseline,
                device_type=self.plan.device_type,
                caches=caches,
                seeds={d: _group_seed(self.plan, workload, d) for d in groups},
                budget_s=self.settings.budget(self.plan.device_type),
                margin=self.plan.margin,
                cold=self.plan.cold,
            ),
            deadline_s=self.settings.timing_deadline(self.plan.device_type, sum(map(len, groups.values()))),
            # The settings are the same for all; the directories are those of each variant while it warms up.
            environment_variables=_compiler_variables(self.plan.device_type, Path(caches[names[0]])),
            on_progress=listen,
        )

    def _completed(self, measurement: Measurement, check: CheckResult) -> Measurement:
        """A timed cell with what its check knew."""
        direction = measurement.direction
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

    def _store(self, cells: Iterable[Measurement]) -> None:
        """Append the cells that are not there yet."""
        if new := list(cells):
            finished = self.run.finished_cells()
            new = [cell for cell in new if cell.key not in finished]
        if new:
            self.run.append(new)
            self.watcher.finished_cells(new)


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
