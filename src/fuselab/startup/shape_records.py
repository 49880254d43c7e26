"""The records of a stream of shapes: what every call cost under every strategy, and which strategy was cheapest."""

from __future__ import annotations

import enum

import msgspec

from fuselab.records import Status

__all__ = ["CallRecord", "Shapes", "Strategy", "StrategyTotal", "StreamRecord", "StreamSummary"]

Shapes = dict[str, tuple[int, ...]]
"""Argument to shape; the empty name stands for the main input."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base: immutable, keyword-only."""


class Strategy(enum.StrEnum):
    """How a function meets shapes that change."""

    EAGER = "eager"
    """Not compiled."""
    AUTOMATIC = "automatic"
    """``dynamic=None``, torch's default: static first, dynamic in the axes that changed from the second graph on."""
    STATIC = "static"
    """``dynamic=False``: a graph for every shape."""
    DYNAMIC = "dynamic"
    """``dynamic=True``."""
    MARKED = "mark_dynamic"
    """``torch._dynamo.mark_dynamic`` on the axes that vary, with the stream's bounds."""
    PADDED = "padding"
    """``dynamic=False`` behind padding of the axes that vary to buckets, and cutting the results back."""


class CallRecord(Record, frozen=True, kw_only=True):
    """One call of a stream."""

    duration_ns: int
    """Wall time, compilation included."""
    compilations: int = 0
    """Graphs that were compiled in it."""
    compile_ns: int = 0
    """Time of those, from Dynamo's entry to the compiled code."""
    reasons: list[str] = []
    """Why it was compiled again: the guard that failed, as Dynamo says it."""
    correct: bool | None = None
    """Whether the result is eager's within the rounding of its dtype; None where it was not compared."""


class StreamRecord(Record, frozen=True, kw_only=True):
    """One process that called through the stream under one strategy."""

    strategy: Strategy
    """The strategy."""
    round: int
    """Number of the round."""
    position: int = 0
    """Place in the order that was drawn for this round."""
    status: Status = Status.OK
    """How it ended."""
    reason: str = ""
    """Why it is not ok."""
    place: str = ""
    """``file:line`` of the user's code that the reason is about."""
    calls: list[CallRecord] = []
    """One record a call, in the stream's order."""
    stopped: str = ""
    """Why it was stopped before the end of the stream; empty if it was not."""
    notes: list[str] = []
    """Other things to know."""

    @property
    def total_ns(self) -> int:
        """Compile and run time of all calls."""
        return sum(call.duration_ns for call in self.calls)

    @property
    def complete(self) -> bool:
        """Whether it came to the end of the stream with right results."""
        return self.status is Status.OK and not self.stopped and all(c.correct is not False for c in self.calls)


class StrategyTotal(Record, frozen=True, kw_only=True):
    """What one strategy cost over the stream."""

    strategy: Strategy
    """The strategy."""
    total_ns: float | None
    """Mean total of compile and run time over the processes; None where no process came to the end."""
    low_ns: float | None = None
    """Lower end of its interval."""
    high_ns: float | None = None
    """Upper end of its interval."""
    compile_ns: float | None = None
    """Mean time of compilation."""
    compilations: int = 0
    """Graphs compiled in the first process that came to the end."""
    compiled_at: list[int] = []
    """Numbers of the calls, from 0, in which that process compiled."""
    reasons: list[str] = []
    """The guards that failed, in order."""
    excluded: str = ""
    """Why it cannot be the cheapest: wrong results, an error, stopped at the budget."""
    processes: int = 0
    """Processes that came to the end."""


class StreamSummary(Record, frozen=True, kw_only=True):
    """Which strategy is cheapest for a stream."""

    stream: list[Shapes]
    """Shapes of each call."""
    totals: list[StrategyTotal]
    """By strategy, the cheapest first, those that cannot be it last."""
    cheapest: Strategy | None
    """The strategy with the smallest mean total; None where none came to the end."""
    cheapest_compiled: Strategy | None
    """The same among those that compile."""
    resolved: bool
    """Whether its interval lies below those of all others."""
    records: list[StreamRecord] = []
    """Every process, in the order they ran."""
