"""What follows from all processes: break-even counts, and the cheapest strategy for a stream. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from fuselab.measure.distributions import student_quantile
from fuselab.records import Status
from fuselab.startup.break_even import break_even, break_even_of_starts
from fuselab.startup.records import BreakEven, CompileCost, Configuration, Preparation, Start, StartRecord
from fuselab.startup.shape_records import Shapes, Strategy, StrategyTotal, StreamRecord, StreamSummary

__all__ = ["stream_summary", "summarised"]

CONFIDENCE = 0.95


def summarised(
    header: CompileCost,
    starts: Sequence[StartRecord],
    preparations: Sequence[Preparation],
    stream: Sequence[Shapes] = (),
    streams: Sequence[StreamRecord] = (),
) -> CompileCost:
    """Everything that was measured, with what follows from it.

    Args:
        header: what was asked for.
        starts: processes, in the order they ran.
        preparations: what was made before.
        stream: shapes of each call, where a stream was asked for.
        streams: processes that called through it.
    """
    cost = msgspec.structs.replace(header, starts=list(starts), preparations=list(preparations))
    return msgspec.structs.replace(
        cost,
        break_even=[found for configuration in cost.configurations for found in _break_even(cost, configuration)],
        stream=stream_summary(stream, streams) if stream else None,
    )


def _break_even(cost: CompileCost, configuration: Configuration) -> Iterable[BreakEven]:
    """Each way against eager in calls, AOTInductor against a warm start, and what was prepared against cold starts."""
    eager = cost.measured(Start.EAGER)
    measured: dict[Start, list[StartRecord]] = {
        start: cost.measured(start, configuration) for start in Start if start is not Start.EAGER
    }
    pairs = [(start, records, eager) for start, records in measured.items()]
    pairs.append((Start.AOTI, measured[Start.AOTI], measured[Start.WARM]))
    for _, way, against in pairs:
        if way and against:
            found = break_even(way, against, configuration, seed=cost.seed, confidence=CONFIDENCE)
            if found is not None:
                yield found
    cold = measured[Start.COLD]
    for preparation in cost.preparations:
        way = measured[preparation.start]
        if preparation.configuration != configuration or preparation.duration_ns is None or not way or not cold:
            continue
        found = break_even_of_starts(
            way, cold, preparation.duration_ns, configuration, seed=cost.seed, confidence=CONFIDENCE
        )
        if found is not None:
            yield found


def stream_summary(stream: Sequence[Shapes], records: Sequence[StreamRecord]) -> StreamSummary:
    """Totals by strategy and the cheapest one.

    Args:
        stream: shapes of each call.
        records: processes that called through it, in the order they ran.
    """
    strategies = [s for s in Strategy if any(r.strategy is s for r in records)]
    totals = [_total(strategy, [r for r in records if r.strategy is strategy]) for strategy in strategies]
    possible = sorted((t for t in totals if not t.excluded and t.total_ns is not None), key=lambda t: t.total_ns or 0.0)
    rest = [t for t in totals if t not in possible]
    first = possible[0] if possible else None
    resolved = (
        first is not None
        and first.high_ns is not None
        and all(other.low_ns is not None and first.high_ns < other.low_ns for other in possible[1:])
    )
    return StreamSummary(
        stream=list(stream),
        totals=[*possible, *rest],
        cheapest=first.strategy if first else None,
        cheapest_compiled=next((t.strategy for t in possible if t.strategy is not Strategy.EAGER), None),
        resolved=resolved,
        records=list(records),
    )


def _total(strategy: Strategy, records: Sequence[StreamRecord]) -> StrategyTotal:
    complete = [r for r in records if r.complete]
    excluded = next((_why_not(r) for r in records if not r.complete), "")
    if not complete:
        return StrategyTotal(strategy=strategy, total_ns=None, excluded=excluded or "nothing was measured")
    sums = [float(r.total_ns) for r in complete]
    mean = statistics.fmean(sums)
    half = None
    if len(sums) > 1:
        spread = statistics.stdev(sums) / len(sums) ** 0.5
        half = spread * student_quantile(1.0 - CONFIDENCE, len(sums) - 1)
    first = complete[0]
    return StrategyTotal(
        strategy=strategy,
        total_ns=mean,
        low_ns=None if half is None else max(mean - half, 0.0),
        high_ns=None if half is None else mean + half,
        compile_ns=statistics.fmean(sum(call.compile_ns for call in r.calls) for r in complete),
        compilations=sum(call.compilations for call in first.calls),
        compiled_at=[number for number, call in enumerate(first.calls) if call.compilations],
        reasons=[reason for call in first.calls for reason in call.reasons],
        excluded=excluded,
        processes=len(complete),
    )


def _why_not(record: StreamRecord) -> str:
    """Why a process did not come to the end of the stream with right results."""
    if record.status is not Status.OK:
        return f"{record.status.value.replace('_', ' ')}: {record.reason}"
    if record.stopped:
        return f"stopped {record.stopped}"
    wrong = [number for number, call in enumerate(record.calls) if call.correct is False]
    return f"the result of call {wrong[0]} is not eager's" if wrong else ""
