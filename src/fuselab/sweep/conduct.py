"""A sweep from first to last: runs made before work begins, results appended as they arrive, everything resumable.

The store belongs to this process alone. A result counts once, by cell key: what comes late or twice is left out. A unit
that is in flight when anything dies is repeated by ``--resume``, without the cells that it had brought.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fuselab.errors import FuselabError, StoreError, UsageError, WorkerError
from fuselab.experiment import Experiment, load_registry
from fuselab.plan import Plan, as_recorded, file_hash
from fuselab.records import Direction, Environment, Measurement, RunMetadata, RunStatus, Status
from fuselab.runner import conclude, prepare
from fuselab.store import Run, open_run, scrub
from fuselab.sweep.cluster import Cluster, Where, opened
from fuselab.sweep.code import code_sha256, short
from fuselab.sweep.cost import memory_bytes
from fuselab.sweep.dispatch import Dispatch, Seat, Unit
from fuselab.sweep.messages import UnitRequest, UnitResult, encode
from fuselab.sweep.plan import EVERY_MODEL, Budget, SweepPlan, reference_of
from fuselab.sweep.record import Sweep, SweepRecord, SweepRun, UnitLine, create_sweep
from fuselab.sweep.watch import SweepWatcher
from fuselab.worker.messages import ExperimentReference

__all__ = ["begin", "resume"]

_COMPARED = ("torch", "triton", "fuselab")
"""Versions that all workers of a run share: figures of two compilers are never pooled."""


def begin(plan: SweepPlan, where: Where, out: Path, watcher: SweepWatcher, command: Sequence[str]) -> Sweep:
    """Carry a plan out.

    Returns:
        The sweep; its record says whether it is complete.

    Raises:
        UsageError: several models of GPU are there, and the plan names none.
        WorkerError: no worker can measure, or none is left.
        StoreError: the disk refused; what is there stands.
        KeyboardInterrupt: after everything was marked as interrupted.
    """
    with opened(where, plan.device) as cluster:
        _tell(cluster, watcher)
        dispatch = Dispatch(cluster, plan.device)
        with watcher.waiting("looking at the workers"):
            environments = _by_model(dispatch.gather())
        models = _models(plan.models, environments)
        device_type = environments[models[0]].device_type
        plans = plan.plans(device_type)
        sweep = create_sweep(
            out,
            SweepRecord(
                id="", name=plan.name, status=RunStatus.RUNNING, created_at="", command=list(command),
                device=device_type, models=list(plan.models), budget=plan.budget, blocks=len(plans),
                planned_runs=len(plans) * len(models), dashboard=cluster.dashboard,
            ),
        )  # fmt: skip
        with sweep.lock(), ExitStack() as locks:
            books = _Books(sweep, plan.budget, watcher)
            for model in models:
                for each in plans:
                    ((run, _),) = prepare([each], environments[model], out, command)
                    locks.enter_context(run.lock())
                    books.add(run, each, code_sha256(each.experiment), environments[model])
            _carry_out(sweep, books, dispatch, cluster, watcher)
    return sweep


def resume(sweep: Sweep, where: Where, watcher: SweepWatcher) -> Sweep:
    """Go on with a sweep that did not finish.

    Raises:
        UsageError: it is complete, or what it measured has changed.
        StoreError: another process carries it out, or the disk refused.
        WorkerError, KeyboardInterrupt: as ``begin``.
    """
    record = sweep.record()
    if record.status is RunStatus.COMPLETE:
        raise UsageError(f"sweep {record.id} is complete", hint=f"fuselab show {record.id}")
    registry = load_registry()
    with sweep.lock(), ExitStack() as locks:
        record = sweep.record()
        books = _Books(sweep, record.budget, watcher)
        for entry in record.runs:
            run = open_run(entry.run, sweep.path.parents[1])
            plan = _plan_of(run.metadata(), entry, registry)
            locks.enter_context(run.lock())
            books.add(run, plan, entry.code_sha256, run.environment(), entry)
        if len(record.runs) < (record.planned_runs or record.blocks):
            raise UsageError(
                f"sweep {record.id} was stopped before its runs were made", hint="start it anew: it measured nothing"
            )
        with opened(where, record.device) as cluster:
            _tell(cluster, watcher)
            dispatch = Dispatch(cluster, record.device)
            sweep.update(dashboard=cluster.dashboard)
            with watcher.waiting("looking at the workers"):
                dispatch.gather()
            _carry_out(sweep, books, dispatch, cluster, watcher)
    return sweep


@dataclass
class _Book:
    """One run of the sweep and what is in it."""

    run: Run
    plan: Plan
    entry: SweepRun
    environment: Environment
    finished: dict[str, set[tuple[str, Direction]]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return sum(map(len, self.finished.values())) >= self.plan.cells

    def missing(self, workload: str) -> list[tuple[str, Direction]]:
        done = self.finished.get(workload, set())
        return [(v, d) for v in self.plan.variants for d in self.plan.directions if (v, d) not in done]


class _Books:
    """The runs of a sweep: hands out their units and keeps the results; a ``dispatch.Work``."""

    def __init__(self, sweep: Sweep, budget: Budget, watcher: SweepWatcher) -> None:
        self._sweep = sweep
        self._budget = budget
        self._watcher = watcher
        self._pending: dict[str, deque[Unit]] = {}
        self._begun = time.monotonic()
        self.books: list[_Book] = []
        self.out_of_time = False

    def add(self, run: Run, plan: Plan, code: str, environment: Environment, entry: SweepRun | None = None) -> None:
        """Take a run in; one without an entry is entered into the sweep's record."""
        if entry is None:
            entry = SweepRun(run=run.metadata().id, model=environment.device, code_sha256=code)
            self._sweep.update(runs=[*self._sweep.record().runs, entry])
        book = _Book(run, plan, entry, environment)
        planned = {workload.key for workload in plan.workloads}
        for measurement in run.measurements():
            if measurement.workload.key in planned:
                cell = (measurement.variant, measurement.direction)
                book.finished.setdefault(measurement.workload.key, set()).add(cell)
        self.books.append(book)
        number = len(self.books) - 1
        units = [Unit(number, w) for w in plan.workloads if book.missing(w.key)]
        self._pending.setdefault(entry.model, deque()).extend(units)

    def start(self) -> None:
        """Mark the runs as running, and leave out what the budget's memory does not allow."""
        cells = sum(book.plan.cells for book in self.books)
        done = sum(len(found) for book in self.books for found in book.finished.values())
        self._watcher.planned(cells, done, sum(map(len, self._pending.values())))
        for book in self.books:
            if not book.complete:
                book.run.update(status=RunStatus.RUNNING, error=None)
        if self._budget.memory_gb is not None:
            for units in self._pending.values():
                for unit in [u for u in units if self._too_large(u)]:
                    units.remove(unit)

    def welcome(self, seat: Seat) -> str:
        """Why a worker cannot take part: another model of device, or other versions than the run's."""
        books = [book for book in self.books if book.entry.model == seat.model]
        if not books:
            return f"the sweep is of {', '.join(dict.fromkeys(b.entry.model for b in self.books))}"
        assert seat.here is not None  # noqa: S101 - it has introduced itself
        assert seat.here.environment is not None  # noqa: S101
        here, there = seat.here.environment.versions, books[0].environment.versions
        other = [name for name in _COMPARED if here.get(name) != there.get(name)]
        if other:
            return "; ".join(f"it has {n} {here.get(n, 'not')}, the sweep {there.get(n, 'not')}" for n in other)
        return ""

    def next_unit(self, model: str) -> Unit | None:
        """The next workload for a device of this model."""
        if self._budget.hours is not None and time.monotonic() - self._begun > self._budget.hours * 3600:
            self.out_of_time = True
            return None
        units = self._pending.get(model)
        return units.popleft() if units else None

    def waiting(self, seats: list[Seat]) -> bool:
        """Whether units wait that may still be begun."""
        return not self.out_of_time and any(self._pending.values())

    def request(self, unit: Unit, seat: Seat) -> str:
        """What the worker is asked."""
        book = self.books[unit.run]
        plan = book.plan
        here = seat.here
        assert here is not None  # noqa: S101 - it has introduced itself
        self._watcher.working(f"{plan.experiment.name} {unit.workload.label} on {seat}")
        return encode(
            UnitRequest(
                experiment=reference_of(plan.reference, unit.workload),
                code_sha256=book.entry.code_sha256,
                workload=unit.workload,
                variants=list(plan.variants),
                directions=list(plan.directions),
                baseline=plan.baseline,
                device_type=plan.device_type,
                device_id=here.device_id,
                seed=plan.seed,
                margin=plan.margin,
                cold=plan.cold,
                budget_s=self._budget.timing_s,
                deadline_s=self._budget.check_s,
                jobs=self._budget.jobs,
                cores=seat.cores,
                finished=sorted(book.finished.get(unit.workload.key, ())),
            )
        )

    def accept(self, unit: Unit, seat: Seat, result: UnitResult) -> None:
        """Append the cells that are new; a unit that lacks some goes back, or its cells say why there are none."""
        book = self.books[unit.run]
        new = {m.key: m for m in reversed(result.measurements) if self._belongs(book, unit, m)}  # the first one counts
        self._append(book, list(reversed(new.values())))
        missing = book.missing(unit.workload.key)
        if result.seconds:
            self._sweep.log(
                UnitLine(
                    run=book.entry.run,
                    workload=unit.workload.key,
                    device_id=seat.here.device_id if seat.here else "",
                    seconds=result.seconds,
                    cells=len(result.measurements),
                    ended_at=_now(),
                )
            )
        if missing and result.refused:
            self._pending[book.entry.model].appendleft(unit)
        elif missing and result.device_lost:
            self.lost(unit, seat, result.device_lost)
        else:
            self._fail(book, unit, Status.ERROR, "the worker answered without this cell")
            self._watcher.unit_done(result.seconds)

    def lost(self, unit: Unit, seat: Seat, reason: str) -> None:
        """Begin a unit again whose worker is gone, within the budget's retries; then its cells say so."""
        unit.attempts += 1
        book = self.books[unit.run]
        label = f"{book.plan.experiment.name} {unit.workload.label}"
        if unit.attempts <= self._budget.retries:
            self.note(f"{label} is begun again: {reason} ({seat.address})")
            self._pending[book.entry.model].append(unit)
            return
        self.note(f"{label} is given up: its worker was lost {unit.attempts} times, at last: {reason}")
        self._fail(book, unit, Status.CRASHED, f"its worker was lost {unit.attempts} times, at last: {reason}")
        self._watcher.unit_done(0.0)

    def note(self, text: str) -> None:
        """Say something about a worker or a device, and keep it."""
        self._watcher.note(scrub(text))
        self._sweep.note(text)

    def conclude(self, status: RunStatus, error: str | None) -> RunStatus:
        """Write down how each run ended, and say how the sweep did."""
        for book in self.books:
            if book.complete:
                if book.run.metadata().status is not RunStatus.COMPLETE:
                    conclude(book.run, RunStatus.COMPLETE)
            else:
                conclude(book.run, RunStatus.INTERRUPTED if status is RunStatus.COMPLETE else status, error)
        if status is RunStatus.COMPLETE and not all(book.complete for book in self.books):
            return RunStatus.INTERRUPTED
        return status

    def _too_large(self, unit: Unit) -> bool:
        book = self.books[unit.run]
        needed = memory_bytes(book.plan.experiment, unit.workload, book.plan.directions)
        allowed = (self._budget.memory_gb or 0) * 1e9
        if needed is None or needed <= allowed:
            return False
        reason = f"predicted to need {needed / 1e9:.1f} GB, and the budget allows {allowed / 1e9:g} GB"
        self._fail(book, unit, Status.UNAVAILABLE, reason)
        return True

    def _belongs(self, book: _Book, unit: Unit, measurement: Measurement) -> bool:
        """Whether a measurement is one of the unit's cells, of the run's own model, and not there yet."""
        cell = (measurement.variant, measurement.direction)
        return (
            measurement.workload.key == unit.workload.key
            and measurement.device in ("", book.entry.model)
            and cell in book.missing(unit.workload.key)
        )

    def _append(self, book: _Book, cells: Sequence[Measurement]) -> None:
        if not cells:
            return
        book.run.append(cells)
        for cell in cells:
            book.finished.setdefault(cell.workload.key, set()).add((cell.variant, cell.direction))
        self._watcher.finished_cells(cells)

    def _fail(self, book: _Book, unit: Unit, status: Status, reason: str) -> None:
        self._append(
            book,
            [
                Measurement(
                    experiment=book.plan.experiment.name,
                    variant=variant,
                    workload=unit.workload,
                    direction=direction,
                    status=status,
                    reason=scrub(reason),
                    device=book.entry.model,
                    created_at=_now(),
                )
                for variant, direction in book.missing(unit.workload.key)
            ],
        )


def _carry_out(sweep: Sweep, books: _Books, dispatch: Dispatch, cluster: Cluster, watcher: SweepWatcher) -> None:
    """Hand out what is left and write down how it ended, whatever happens."""
    watcher.started(sweep.path, cluster.dashboard)
    sweep.update(status=RunStatus.RUNNING, finished_at=None, error=None)
    status, error = RunStatus.COMPLETE, None
    try:
        with watcher:
            books.start()
            dispatch.run(books)
        if books.out_of_time:
            error = "the budget's hours are over"
    except BaseException as problem:
        interrupted = isinstance(problem, KeyboardInterrupt | WorkerError)
        status = RunStatus.INTERRUPTED if interrupted else RunStatus.FAILED
        error = "interrupted" if isinstance(problem, KeyboardInterrupt) else scrub(_words(problem))
        with suppress(Exception):  # the scheduler may be gone; what is in flight is lost either way
            dispatch.cancel()
        with suppress(StoreError):  # a full disk takes no more words: the status is then read as interrupted
            _finish(sweep, books, status, error)
        raise
    _finish(sweep, books, status, error)


def _finish(sweep: Sweep, books: _Books, status: RunStatus, error: str | None) -> None:
    status = books.conclude(status, error)
    sweep.update(status=status, error=error, finished_at=_now(), dashboard="")


def _plan_of(metadata: RunMetadata, entry: SweepRun, registry: Mapping[str, Experiment]) -> Plan:
    """The plan of one run of a sweep.

    Raises:
        UsageError: the experiment is gone, or its file is not what it was.
    """
    if metadata.target is not None:
        from fuselab.experiments.user import experiment_from

        arguments = [f"{name}={text}" for name, text in metadata.plan[0].arguments.items()]
        experiment = experiment_from(metadata.target, arguments, seed=metadata.seed)
        reference = ExperimentReference(target=metadata.target, seed=metadata.seed)
        changed = file_hash(metadata.target) != metadata.target_sha256
    else:
        if metadata.experiment not in registry:
            raise UsageError(f"experiment {metadata.experiment!r} is not installed any more", hint="install its plugin")
        experiment = registry[metadata.experiment]
        reference = ExperimentReference(name=metadata.experiment, seed=metadata.seed)
        changed = code_sha256(experiment) != entry.code_sha256
    if changed:
        raise UsageError(
            f"{metadata.target or metadata.experiment} is not the code that run {metadata.id} measured "
            f"(sha256 {short(entry.code_sha256)})",
            hint="put the old file back, or start a new sweep",
        )
    return as_recorded(metadata, experiment, reference)


def _by_model(seats: Sequence[Seat]) -> dict[str, Environment]:
    """The environment of the first worker of each model."""
    found: dict[str, Environment] = {}
    for seat in seats:
        if seat.here is not None and seat.here.environment is not None:
            found.setdefault(seat.model, seat.here.environment)
    return found


def _models(wanted: Sequence[str], there: Mapping[str, Environment]) -> list[str]:
    """The models to measure on; each has runs of its own.

    Raises:
        UsageError: there are several and none is named, or one that is named is not there.
    """
    listed = ", ".join(there)
    if EVERY_MODEL in wanted or (not wanted and len(there) == 1):
        return list(there)
    if not wanted:
        raise UsageError(
            f"the workers have several models of device: {listed}",
            hint=f'name one in the plan, [placement] models = ["{next(iter(there))}"], or measure on each: ["*"]',
        )
    for model in wanted:
        if model not in there:
            raise UsageError(f"no worker has a {model}", hint=f"there are: {listed}")
    return list(wanted)


def _tell(cluster: Cluster, watcher: SweepWatcher) -> None:
    for note in cluster.notes:
        watcher.note(note)


def _words(problem: BaseException) -> str:
    return problem.message if isinstance(problem, FuselabError) else f"{type(problem).__name__}: {problem}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
