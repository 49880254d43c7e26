"""One measurement under way: preparing, then rounds of processes in a drawn order, every line kept as it comes.

First what has to be there is prepared, once for each configuration: a cold start whose caches and artifacts are kept,
and a package of AOTInductor's. Then come rounds: each way of each configuration once a round, in an order drawn anew
from the seed; a cold start gets an empty directory, a warm one a copy of the prepared caches, so that no process finds
what another of its round left. This process never imports torch.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fuselab.records import Status
from fuselab.startup.caches import cache_environment, explained
from fuselab.startup.journal import Journal, Line, StreamHeader
from fuselab.startup.messages import (
    Answer,
    Components,
    Failed,
    Prepared,
    PrepareRequest,
    Request,
    Started,
    StartRequest,
    Streamed,
    StreamRequest,
    Subject,
)
from fuselab.startup.process import ask
from fuselab.startup.records import CacheName, Calls, CompileCost, Configuration, Preparation, Scope, Start, StartRecord
from fuselab.startup.shape_records import Shapes, Strategy, StreamRecord
from fuselab.startup.summary import summarised

__all__ = ["Limits", "Measurement", "Plan", "Progress", "failure"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Limits:
    """Times that processes are given, in seconds."""

    steady_s: float = 0.5
    """For the steady state of one process."""
    budget_s: float = 60.0
    """After which a function that does not stop recompiling, or a stream, is stopped."""
    deadline_s: float = 600.0
    """After which a process is given up."""


@dataclass(frozen=True)
class Plan:
    """What is measured in each round."""

    configurations: tuple[Configuration, ...]
    starts: tuple[Start, ...]
    strategies: tuple[Strategy, ...]
    stream: tuple[Shapes, ...]
    buckets: tuple[int, ...]

    def arms(self) -> list[tuple[Start, Configuration | None]]:
        """Each way of starting once: eager is not compiled, so it has no configuration; a package is always whole."""
        found: list[tuple[Start, Configuration | None]] = [(s, None) for s in self.starts if s is Start.EAGER]
        found += [
            (start, configuration)
            for configuration in self.configurations
            for start in self.starts
            if start is not Start.EAGER and not (start is Start.AOTI and configuration.scope is Scope.REGIONAL)
        ]
        return found

    def preparations(self) -> int:
        """Processes that prepare something."""
        arms = self.arms()
        return len({c for s, c in arms if s in (Start.WARM, Start.ARTIFACTS)}) + sum(s is Start.AOTI for s, _ in arms)


class Measurement:
    """One measurement under way: what has been prepared, what has been measured."""

    def __init__(
        self, header: CompileCost, subject: Subject, plan: Plan, journal: Journal, limits: Limits, progress: Progress
    ) -> None:
        self._header = header
        self._subject = subject
        self._plan = plan
        self._journal = journal
        self._limits = limits
        self._progress = progress
        self._starts: list[StartRecord] = []
        self._preparations: list[Preparation] = []
        self._streams: list[StreamRecord] = []
        self._prepared: dict[tuple[Start, Configuration], Path] = {}
        self._components: dict[Configuration, dict[tuple[CacheName, int], Components]] = {}
        self._planned = plan.preparations() + header.repeats * (len(plan.arms()) + len(plan.strategies))
        self._done = 0

    def carry_out(self) -> CompileCost:
        """Prepare, measure, sum up."""
        arms = self._plan.arms()
        if self._plan.stream:
            self._journal.append(Line(stream_header=StreamHeader(stream=list(self._plan.stream))))
        for configuration in dict.fromkeys(c for _, c in arms if c is not None):
            wanted = {start for start, c in arms if c == configuration}
            if wanted & {Start.WARM, Start.ARTIFACTS}:
                self._prepare_caches(configuration, artifacts=Start.ARTIFACTS in wanted)
            if Start.AOTI in wanted:
                self._prepare_package(configuration)
        for number in range(self._header.repeats):
            # A string seeds the same way in every version of Python, hash randomisation or not.
            draw = random.Random(f"{self._header.seed}/{number}")  # noqa: S311 - an order, not a secret
            jobs: list[tuple[Start, Configuration | None] | Strategy] = [*arms, *self._plan.strategies]
            draw.shuffle(jobs)
            for position, job in enumerate(jobs):
                if isinstance(job, Strategy):
                    self._call_through(job, number, position)
                else:
                    self._start(*job, number, position)
        return summarised(self._header_with_path(), self._starts, self._preparations, self._plan.stream, self._streams)

    def _header_with_path(self) -> CompileCost:
        return msgspec.structs.replace(self._header, path=str(self._journal.path))

    # --- preparing ----------------------------------------------------------------------------------------------

    def _prepare_caches(self, configuration: Configuration, *, artifacts: bool) -> None:
        """A cold start whose caches stay, and whose artifacts are saved."""
        name = f"prepared-{_slug(configuration)}"
        caches = self._journal.caches(name)
        file = caches / "artifacts"
        request = self._start_request(Start.COLD, configuration)
        answer = self._ask(
            msgspec.structs.replace(request, artifacts_out=str(file) if artifacts else ""),
            caches,
            f"preparing the caches ({configuration.label})",
        )
        record = self._record(answer, Start.COLD, configuration, -1, 0)
        self._keep_start(record)
        if isinstance(answer, Started) and record.status is Status.OK:
            self._prepared[Start.WARM, configuration] = caches
            self._components[configuration] = _by_place(answer)
            if answer.artifacts_bytes is not None:
                self._prepared[Start.ARTIFACTS, configuration] = file
                duration = (record.first_result_ns or 0) + (answer.artifacts_ns or 0)
                self._keep_preparation(
                    Preparation(
                        start=Start.ARTIFACTS,
                        configuration=configuration,
                        duration_ns=duration,
                        size_bytes=answer.artifacts_bytes,
                    )
                )
                return
        if artifacts:
            self._keep_preparation(
                Preparation(
                    start=Start.ARTIFACTS,
                    configuration=configuration,
                    duration_ns=None,
                    status=Status.UNAVAILABLE if record.status is Status.OK else record.status,
                    reason=record.reason or "the compiler had no artifacts to save",
                    place=record.place,
                )
            )

    def _prepare_package(self, configuration: Configuration) -> None:
        """An AOTInductor package, made with caches of its own."""
        if self._subject.calls is Calls.TRAINING:
            self._done += 1
            self._keep_preparation(
                Preparation(
                    start=Start.AOTI,
                    configuration=configuration,
                    duration_ns=None,
                    status=Status.UNAVAILABLE,
                    reason="AOTInductor packages a forward without gradients, and a training call has a backward",
                )
            )
            return
        name = f"package-{_slug(configuration)}"
        caches = self._journal.caches(name)
        package = caches / "model.pt2"
        begin = time.monotonic_ns()
        answer = self._ask(
            PrepareRequest(subject=self._subject, configuration=configuration, package=str(package)),
            caches,
            f"making an AOTInductor package ({configuration.label})",
        )
        duration = time.monotonic_ns() - begin
        if isinstance(answer, Prepared):
            self._prepared[Start.AOTI, configuration] = package
            found = Preparation(
                start=Start.AOTI, configuration=configuration, duration_ns=duration, size_bytes=answer.size_bytes
            )
        else:
            failed = failure(answer)
            found = Preparation(
                start=Start.AOTI,
                configuration=configuration,
                duration_ns=None,
                status=failed.status,
                reason=failed.reason,
                place=failed.place,
            )
        self._keep_preparation(found)

    # --- measuring ----------------------------------------------------------------------------------------------

    def _start(self, start: Start, configuration: Configuration | None, number: int, position: int) -> None:
        package = self._prepared.get((start, configuration)) if configuration else None
        if start in (Start.WARM, Start.ARTIFACTS, Start.AOTI) and package is None:
            self._done += 1  # what it needs could not be made; the preparation says why
            return
        if start is Start.COLD and self._cold_failed(configuration):
            self._done += 1
            return
        caches = self._journal.caches("measured")
        if start is Start.WARM and package is not None:
            shutil.copytree(package, caches, dirs_exist_ok=True)
        request = self._start_request(start, configuration)
        if start in (Start.ARTIFACTS, Start.AOTI):
            request = msgspec.structs.replace(request, package=str(package))
        label = start.value if configuration is None else f"{start.value}, {configuration.label}"
        try:
            answer = self._ask(request, caches, f"round {number + 1}: {label}")
        finally:
            self._journal.remove_caches(caches)
        record = self._record(answer, start, configuration, number, position)
        if isinstance(answer, Started) and configuration is not None and start is not Start.COLD:
            earlier = self._components.get(configuration, {})
            lookups = explained(answer.record.lookups, answer.components, earlier)
            record = msgspec.structs.replace(record, lookups=lookups)
        self._keep_start(record)

    def _cold_failed(self, configuration: Configuration | None) -> bool:
        """Whether the preparation, a cold start as well, did not end well: measuring it again would say no more."""
        return any(r.round < 0 and r.configuration == configuration and r.status is not Status.OK for r in self._starts)

    def _call_through(self, strategy: Strategy, number: int, position: int) -> None:
        caches = self._journal.caches("measured")
        request = StreamRequest(
            subject=self._subject,
            strategy=strategy,
            mode=self._plan.configurations[0].mode,
            stream=list(self._plan.stream),
            buckets=list(self._plan.buckets),
            budget_s=self._limits.budget_s,
        )
        try:
            answer = self._ask(request, caches, f"round {number + 1}: stream, {strategy.value}")
        finally:
            self._journal.remove_caches(caches)
        if isinstance(answer, Streamed):
            record = StreamRecord(
                strategy=strategy,
                round=number,
                position=position,
                calls=answer.calls,
                stopped=answer.stopped,
                notes=answer.notes,
            )
        else:
            failed = failure(answer)
            record = StreamRecord(
                strategy=strategy,
                round=number,
                position=position,
                status=failed.status,
                reason=failed.reason,
                place=failed.place,
            )
        self._journal.append(Line(stream=record))
        self._streams.append(record)

    def _start_request(self, start: Start, configuration: Configuration | None) -> StartRequest:
        return StartRequest(
            subject=self._subject,
            start=start,
            configuration=configuration,
            spawned_ns=0,  # set just before the process is spawned
            steady_s=self._limits.steady_s,
            budget_s=self._limits.budget_s,
        )

    def _ask(self, request: Request, caches: Path, label: str) -> Answer:
        self._progress(label, self._done, self._planned)
        answer = ask(
            request,
            deadline_s=self._limits.deadline_s,
            environment=cache_environment(caches),
            on_progress=lambda text: self._progress(f"{label}: {text}", self._done, self._planned),
        )
        self._done += 1
        self._progress(label, self._done, self._planned)
        return answer

    def _record(
        self, answer: Answer, start: Start, configuration: Configuration | None, number: int, position: int
    ) -> StartRecord:
        if isinstance(answer, Started):
            return msgspec.structs.replace(answer.record, round=number, position=position)
        failed = failure(answer)
        return StartRecord(
            start=start,
            configuration=configuration,
            round=number,
            position=position,
            status=failed.status,
            reason=failed.reason,
            place=failed.place,
        )

    def _keep_start(self, record: StartRecord) -> None:
        self._journal.append(Line(start=record))
        self._starts.append(record)

    def _keep_preparation(self, preparation: Preparation) -> None:
        self._journal.append(Line(preparation=preparation))
        self._preparations.append(preparation)


def _by_place(answer: Started) -> dict[tuple[CacheName, int], Components]:
    """The components of each lookup's key by cache and place among its lookups."""
    places: dict[CacheName, int] = {}
    found: dict[tuple[CacheName, int], Components] = {}
    for lookup, components in zip(answer.record.lookups, answer.components, strict=True):
        place = places.get(lookup.cache, 0)
        places[lookup.cache] = place + 1
        found[lookup.cache, place] = components
    return found


def failure(answer: Answer) -> Failed:
    """An answer that is not what was asked for, as a failure."""
    if isinstance(answer, Failed):
        return answer
    return Failed(status=Status.ERROR, reason=f"the process answered with something else: {type(answer).__name__}")


def _slug(configuration: Configuration) -> str:
    return configuration.label.replace(", ", "-")
