"""What the parent asks of the observing process and what that says while it works: records, one JSON line each.

Events are appended to a file as they happen, so what was seen before a crash or a deadline is still there.
"""

from __future__ import annotations

import msgspec

from fuselab.diagnosis.records import CallChange, Equality, Frame
from fuselab.records import Status

__all__ = [
    "AnyEvent",
    "BreakEvent",
    "CompiledEvent",
    "Event",
    "FailedEvent",
    "LimitEvent",
    "ObserveRequest",
    "RecompileEvent",
    "StageEvent",
    "SummaryEvent",
    "decode_event",
    "encode",
]


class ObserveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Run a stream of calls uncompiled, then compiled, and say everything that the compiler says."""

    target: str
    """``FILE.py:NAME``."""
    arguments: list[str] = []
    """Texts of ``--arg``."""
    vary: list[str] = []
    """Texts of ``--vary``."""
    calls: int = 2
    """Calls in the stream."""
    seed: int = 0
    """Seed of parameters and inputs."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    backend: str = "eager"
    """Backend of ``torch.compile``."""
    overlay: dict[str, str] = {}
    """Text to use for a file instead of what is in it, by path."""
    call_changes: list[CallChange] = []
    """Changes where the function is compiled or called."""
    answers: str = ""
    """Where the uncompiled answers are kept; with ``keep`` written, else compared with; empty for neither."""
    keep: bool = False
    """Whether to run uncompiled first and keep the answers."""
    passes: int = 0
    """Passes over the stream to time after the first."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events."""


class StageEvent(Event, frozen=True, kw_only=True, tag="stage"):
    """What is being done now."""

    stage: str
    """``loading``, ``eager call 0``, ``compiled call 0``, ..."""


class BreakEvent(Event, frozen=True, kw_only=True, tag="break"):
    """A graph break."""

    call: int
    """Which call, from 0."""
    gb_type: str
    """The compiler's type of the break: ``Failed to trace builtin operator``."""
    context: str = ""
    """What it was about: ``builtin print [...]``."""
    explanation: str = ""
    """The compiler's explanation."""
    hints: list[str] = []
    """The compiler's hints."""
    stack: list[Frame] = []
    """The stack in the traced code, the innermost last."""
    skipped: bool = False
    """Whether the function is left to Python."""


class RecompileEvent(Event, frozen=True, kw_only=True, tag="recompile"):
    """Code is compiled again."""

    call: int
    """Which call, from 0."""
    reasons: list[str]
    """For each compiled version, the newest first, the guard that failed."""
    stack: list[Frame] = []
    """Where the value that the newest version's guard is about was first used."""
    function: Frame | None = None
    """The function that is compiled again: its first line."""


class LimitEvent(Event, frozen=True, kw_only=True, tag="limit"):
    """A function that was compiled too often, or whose compilation failed."""

    call: int
    """Which call, from 0."""
    limit: bool
    """Whether it is the limit of recompilations; else the compiler failed."""
    kind: str
    """Type of the exception."""
    reason: str
    """In the compiler's words."""
    function: Frame | None = None
    """The function."""
    place: Frame | None = None
    """The user's line, where it says so."""


class CompiledEvent(Event, frozen=True, kw_only=True, tag="compiled"):
    """A graph was handed to the backend."""

    call: int
    """Which call, from 0."""


class FailedEvent(Event, frozen=True, kw_only=True, tag="failed"):
    """It cannot go on."""

    status: Status
    """What happened."""
    reason: str
    """In words."""
    place: Frame | None = None
    """The user's line."""
    usage: bool = False
    """Whether the user asked for something that is not there (a ``UsageError``) or cannot be had (``SetupError``)."""
    hint: str = ""
    """The way out, for a usage error."""


class SummaryEvent(Event, frozen=True, kw_only=True, tag="summary"):
    """The stream is through."""

    device_type: str
    """``cpu`` or ``cuda``."""
    torch: str
    """torch's version."""
    arguments: list[str] = []
    """Names of the arguments."""
    varying: list[tuple[str, int]] = []
    """Argument and axis whose size differed between calls."""
    first_pass_s: float
    """Wall time of the first pass."""
    pass_s: float | None = None
    """Median wall time of a later pass."""
    equality: Equality | None = None
    """Answers against those kept."""


AnyEvent = StageEvent | BreakEvent | RecompileEvent | LimitEvent | CompiledEvent | FailedEvent | SummaryEvent

_decoder = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """One line of JSON, newline included."""
    return msgspec.json.encode(event) + b"\n"


def decode_event(line: bytes) -> AnyEvent:
    """The event in a line; raises ``msgspec.DecodeError`` when it is none."""
    event: AnyEvent = _decoder.decode(line)
    return event
