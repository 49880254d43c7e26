"""What the parent asks of a measured process and what that answers: one JSON line each, nothing pickled."""

from __future__ import annotations

import msgspec

from fuselab.records import Environment, Status, Workload
from fuselab.startup.records import Calls, Configuration, Start, StartRecord
from fuselab.startup.shape_records import CallRecord, Shapes, Strategy

__all__ = [
    "Answer",
    "Components",
    "DescribeRequest",
    "Described",
    "Failed",
    "PrepareRequest",
    "Prepared",
    "Progress",
    "Request",
    "StartRequest",
    "Started",
    "StreamRequest",
    "Streamed",
    "Subject",
    "decode_answer",
    "decode_request",
    "encode",
]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all messages; the field ``kind`` tells them apart."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is started: an experiment by name or the user's file, and what it is called on."""

    workload: Workload
    """What it is called on."""
    device_type: str
    """``cpu`` or ``cuda``."""
    calls: Calls
    """What one call is."""
    name: str = ""
    """Name in the registry; empty for a user's own code."""
    target: str = ""
    """``FILE.py:NAME`` with an absolute path; empty for a registered experiment."""
    arguments: list[str] = []
    """Texts of the ``--arg`` options."""


class DescribeRequest(Message, frozen=True, kw_only=True, tag="describe"):
    """Say what this machine is."""

    device: str
    """``auto``, ``cpu`` or ``cuda``."""


class StartRequest(Message, frozen=True, kw_only=True, tag="start"):
    """Start in one way and measure it."""

    subject: Subject
    """What is started."""
    start: Start
    """How."""
    configuration: Configuration | None
    """How it is compiled; None for eager."""
    spawned_ns: int
    """The monotonic clock when this process was spawned."""
    package: str = ""
    """File of the cache artifacts or of the AOTInductor package."""
    artifacts_out: str = ""
    """File to save this process's cache artifacts to, after it was measured; empty for none."""
    steady_s: float = 0.5
    """Time to spend on the steady state."""
    budget_s: float = 60.0
    """Time after which a function that does not stop recompiling is given up."""


class PrepareRequest(Message, frozen=True, kw_only=True, tag="prepare"):
    """Make an AOTInductor package."""

    subject: Subject
    """What is packaged."""
    configuration: Configuration
    """How it is compiled."""
    package: str
    """File to write."""


class StreamRequest(Message, frozen=True, kw_only=True, tag="stream"):
    """Call a function on a stream of shapes under one strategy."""

    subject: Subject
    """What is called."""
    strategy: Strategy
    """How it is compiled, or padded."""
    mode: str
    """Mode of ``torch.compile``."""
    stream: list[Shapes]
    """Shapes of each call."""
    buckets: list[int]
    """Sizes that varying axes are padded to; empty for powers of two."""
    budget_s: float
    """Time after which the stream is stopped."""


class Components(msgspec.Struct, frozen=True, kw_only=True):
    """The components of one cache key: name to hash and shortened value."""

    parts: dict[str, tuple[str, str]]
    """Name to hash and value."""


class Progress(Message, frozen=True, kw_only=True, tag="progress"):
    """Something to show while waiting."""

    text: str
    """A few words."""


class Described(Message, frozen=True, kw_only=True, tag="described"):
    """What the machine is."""

    environment: Environment
    """The environment record."""


class Started(Message, frozen=True, kw_only=True, tag="started"):
    """A start was measured."""

    record: StartRecord
    """What was measured; round and position are the parent's to fill in."""
    components: list[Components] = []
    """For each of the record's lookups its key's components, empty where none are known."""
    artifacts_bytes: int | None = None
    """Size of the artifacts that were saved."""
    artifacts_ns: int | None = None
    """Time that saving them took."""


class Prepared(Message, frozen=True, kw_only=True, tag="prepared"):
    """A package was made."""

    size_bytes: int
    """Its size."""


class Streamed(Message, frozen=True, kw_only=True, tag="streamed"):
    """A stream was called through, or as far as the budget went."""

    calls: list[CallRecord]
    """One record a call."""
    stopped: str = ""
    """Why it was stopped early; empty if it was not."""
    notes: list[str] = []
    """Other things to know."""


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The process could not do it, or died."""

    status: Status
    """What happened."""
    reason: str
    """In words."""
    place: str = ""
    """``file:line`` of the user's code that it is about, where one is known."""
    traceback: str = ""
    """The traceback, or the last lines of what the process printed."""


Request = DescribeRequest | StartRequest | PrepareRequest | StreamRequest
Answer = Progress | Described | Started | Prepared | Streamed | Failed

_request_decoder = msgspec.json.Decoder(Request)
_answer_decoder = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """One line of JSON, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """The request in a line; raises ``msgspec.DecodeError`` when it is none."""
    request: Request = _request_decoder.decode(line)
    return request


def decode_answer(line: bytes) -> Answer:
    """The answer in a line; raises ``msgspec.DecodeError`` when it is none."""
    answer: Answer = _answer_decoder.decode(line)
    return answer
