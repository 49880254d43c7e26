"""From what the compiler said to findings: joined with the user's line, the cause and its edits, each once. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from fuselab.diagnosis import causes
from fuselab.diagnosis.cause import Cause
from fuselab.diagnosis.events import (
    AnyEvent,
    BreakEvent,
    CompiledEvent,
    FailedEvent,
    LimitEvent,
    RecompileEvent,
    StageEvent,
    SummaryEvent,
)
from fuselab.diagnosis.guards import guard_from
from fuselab.diagnosis.records import Counts, Failure, Finding, FindingKind, Frame, Guard
from fuselab.diagnosis.rewrites import Site, edits_for
from fuselab.diagnosis.source import Source, read

__all__ = ["Seen", "sources_of"]

_ORDER = (FindingKind.FAILURE, FindingKind.GRAPH_BREAK, FindingKind.LIMIT, FindingKind.RECOMPILE)
_LONGEST = 300


@dataclass
class Seen:
    """One stream of calls, read from its events."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counts | None = None
    failure: Failure | None = None
    usage: FailedEvent | None = None
    """What the user asked for is not there."""
    summary: SummaryEvent | None = None

    @classmethod
    def of(cls, events: Sequence[AnyEvent], target: str, sources: Mapping[str, Source] | None = None) -> Seen:
        """Read the events.

        Args:
            events: in the order they came.
            target: name of the function that is diagnosed.
            sources: text of files that is not what is in them, by path.
        """
        seen = cls()
        seen.summary = next((e for e in events if isinstance(e, SummaryEvent)), None)
        failed = next((e for e in events if isinstance(e, FailedEvent)), None)
        stage = next((e.stage for e in reversed(events) if isinstance(e, StageEvent)), "starting")
        if failed is not None and failed.usage:
            seen.usage = failed
        elif failed is not None:
            seen.failure = Failure(status=failed.status, stage=stage, reason=failed.reason, place=failed.place)
        join = _Join(target, seen.summary, dict(sources or {}))
        at_limit = {(e.call, e.function) for e in events if isinstance(e, LimitEvent) and e.limit}
        for event in events:
            if isinstance(event, BreakEvent):
                join.add_break(event)
            elif isinstance(event, RecompileEvent) and (event.call, event.function) not in at_limit:
                join.add_recompile(event)
            elif isinstance(event, LimitEvent):
                join.add_limit(event)
        seen.findings = join.findings()
        if any(isinstance(e, StageEvent) and e.stage.startswith("compiled call") for e in events):
            seen.counts = _counts(seen.findings, events, seen.summary)
        return seen


def _counts(findings: Sequence[Finding], events: Sequence[AnyEvent], summary: SummaryEvent | None) -> Counts:
    def times(kind: FindingKind) -> int:
        return sum(finding.times for finding in findings if finding.kind is kind)

    return Counts(
        graph_breaks=sum(finding.kind is FindingKind.GRAPH_BREAK for finding in findings),
        recompiles=times(FindingKind.RECOMPILE),
        graphs=sum(isinstance(event, CompiledEvent) for event in events),
        limits=times(FindingKind.LIMIT),
        failures=times(FindingKind.FAILURE),
        first_pass_s=summary.first_pass_s if summary else None,
        pass_s=summary.pass_s if summary else None,
    )


class _Join:
    """Events to findings; the same thing at the same line is one finding."""

    def __init__(self, target: str, summary: SummaryEvent | None, sources: dict[str, Source]) -> None:
        self._target = target
        self._arguments = tuple(summary.arguments) if summary else ()
        self._varying = tuple(summary.varying) if summary else ()
        self._sources: dict[str, Source | None] = dict(sources)
        self._found: dict[tuple[object, ...], Finding] = {}

    def findings(self) -> list[Finding]:
        """Failures and graph breaks first, each kind in the order it came."""
        return sorted(self._found.values(), key=lambda finding: _ORDER.index(finding.kind))

    def add_break(self, event: BreakEvent) -> None:
        place = self._named(_user_frame(event.stack))
        cause = causes.cause_of_break(event.gb_type, event.context, self._statement(place))
        key = (FindingKind.GRAPH_BREAK, cause.name, _where(place))
        self._add(
            key,
            event.call,
            self._finding(
                FindingKind.GRAPH_BREAK,
                cause,
                place,
                event.stack,
                reason=_sentence(event.gb_type, event.explanation),
                hints=event.hints,
                function_skipped=event.skipped,
                call=event.call,
            ),
        )

    def add_recompile(self, event: RecompileEvent) -> None:
        guards = [guard_from(reason) for reason in event.reasons]
        newest = guards[0]
        place = self._named(_user_frame(event.stack) or _user_frame([event.function] if event.function else []))
        newest = self._placed(newest, place)
        guards[0] = newest
        cause = causes.cause_of_recompile(newest)
        key = (FindingKind.RECOMPILE, cause.name, newest.subject, newest.axis, _where(place))
        finding = self._finding(
            FindingKind.RECOMPILE, cause, place, event.stack, reason=newest.expression, guards=guards, call=event.call
        )
        self._add(key, event.call, finding)

    def add_limit(self, event: LimitEvent) -> None:
        kind = FindingKind.LIMIT if event.limit else FindingKind.FAILURE
        cause = causes.LIMIT if event.limit else causes.FAILED
        function = _user_frame([event.function] if event.function else [])
        place = self._named(_user_frame([event.place] if event.place else []) or function)
        reason = event.reason.strip().splitlines()[0] if event.reason.strip() else ""
        if not event.limit:
            reason = f"{event.kind}: {reason}" if reason else event.kind
        self._add(
            (kind, cause.name, _where(place)),
            event.call,
            self._finding(kind, cause, place, [], reason=reason, call=event.call),
        )

    def _add(self, key: tuple[object, ...], call: int, finding: Finding) -> None:
        known = self._found.get(key)
        if known is None:
            self._found[key] = finding
            return
        self._found[key] = msgspec.structs.replace(
            known,
            times=known.times + 1,
            calls=known.calls if call in known.calls else [*known.calls, call],
            guards=known.guards + [guard for guard in finding.guards if guard not in known.guards],
            function_skipped=known.function_skipped or finding.function_skipped,
        )

    def _finding(
        self,
        kind: FindingKind,
        cause: Cause,
        place: Frame | None,
        stack: Sequence[Frame],
        *,
        reason: str,
        call: int,
        guards: Sequence[Guard] = (),
        hints: Sequence[str] = (),
        function_skipped: bool = False,
    ) -> Finding:
        source = self._source(place)
        site = Site(
            place=place,
            source=source,
            guard=guards[0] if guards else None,
            target=self._target,
            arguments=self._arguments,
            varying=self._varying,
        )
        return Finding(
            kind=kind,
            cause=cause.name,
            title=cause.title,
            place=place,
            stack=list(stack),
            reason=reason if len(reason) <= _LONGEST else reason[: _LONGEST - 3] + "...",
            explanation=cause.explanation,
            hints=list(hints),
            guards=list(guards),
            advice=cause.advice,
            judgement=cause.judgement,
            edits=edits_for(cause.rewrites, site),
            calls=[call],
            function_skipped=function_skipped,
        )

    def _placed(self, guard: Guard, place: Frame | None) -> Guard:
        """The guard, told an argument from a name that the function gave a value itself before the graph broke."""
        source = self._source(place)
        function = source.function(place.line) if source is not None and place is not None else None
        if guard.subject_kind != "argument" or function is None:
            return guard
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
        given = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if guard.subject in names or guard.subject not in given:
            return guard
        return msgspec.structs.replace(guard, subject_kind="intermediate")

    def _source(self, place: Frame | None) -> Source | None:
        if place is None or place.file.startswith("<"):
            return None
        if place.file not in self._sources:
            self._sources[place.file] = read(place.file)
        return self._sources[place.file]

    def _statement(self, place: Frame | None) -> ast.stmt | None:
        source = self._source(place)
        return source.statement(place.line) if source is not None and place is not None else None

    def _named(self, place: Frame | None) -> Frame | None:
        """The frame with the function and the line's text, where the compiler left them out."""
        source = self._source(place)
        if place is None or source is None:
            return place
        function = source.function(place.line)
        lines = source.text.splitlines()
        text = lines[place.line - 1].strip() if 0 < place.line <= len(lines) else ""
        return msgspec.structs.replace(
            place, function=place.function or (function.name if function else ""), source=text or place.source
        )


def sources_of(texts: Mapping[str, str]) -> dict[str, Source]:
    """Files' texts as sources."""
    return {file: Source(file, text) for file, text in texts.items()}


def _user_frame(stack: Iterable[Frame]) -> Frame | None:
    """The innermost frame in the user's own files; code that is in no file only where there is nothing else."""
    frames = [frame for frame in stack if not frame.library]
    in_files = [frame for frame in frames if not frame.file.startswith("<")]
    best = in_files or frames
    return best[-1] if best else None


def _sentence(gb_type: str, explanation: str) -> str:
    return f"{gb_type}: {explanation}" if explanation else gb_type


def _where(place: Frame | None) -> tuple[str, int] | None:
    return (place.file, place.line) if place is not None else None
