"""What the runner asks of a worker and what a worker answers: records, one JSON line each, nothing pickled."""

from __future__ import annotations

from typing import Any

import msgspec

from fuselab.records import (
    Artifact,
    Correctness,
    Direction,
    Environment,
    Kernel,
    Measurement,
    Status,
    Workload,
)

__all__ = [
    "Answer",
    "CheckRequest",
    "CheckResult",
    "DescribeRequest",
    "DescribeResult",
    "ExperimentReference",
    "Failure",
    "Progress",
    "Request",
    "TimeRequest",
    "TimeResult",
    "decode_answer",
    "decode_request",
    "encode",
]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all messages; the field ``kind`` tells them apart."""


class ExperimentReference(msgspec.Struct, frozen=True, kw_only=True):
    """How another process finds the experiment: by registered name, or by the user's file and arguments."""

    name: str = ""
    """Name in the registry; empty for a user's own code."""
    target: str = ""
    """``FILE.py:NAME``, with an absolute path."""
    arguments: list[str] = []
    """Texts of the ``--arg`` options."""
    seed: int = 0
    """Seed of module construction and inputs."""


class DescribeRequest(Message, frozen=True, kw_only=True, tag="describe"):
    """Say what this machine is."""

    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    exercise: bool = False
    """Whether to compute something on it as well: a device can be listed and stuck."""


class CheckRequest(Message, frozen=True, kw_only=True, tag="check"):
    """Compile, capture and check one variant of one workload."""

    experiment: ExperimentReference
    """The experiment."""
    workload: Workload
    """The workload."""
    variant: str
    """The variant to check."""
    baseline: str
    """The variant whose own error sets the bound."""
    device_type: str
    """``cpu`` or ``cuda``."""
    directions: list[Direction]
    """The directions to check."""
    staging: str
    """Directory that captured files are written to."""
    caches: str
    """Directory of the compiler's caches, kept for the timing."""


class TimeRequest(Message, frozen=True, kw_only=True, tag="time"):
    """Time the groups of one workload, one after the other, the variants of each together."""

    experiment: ExperimentReference
    """The experiment."""
    workload: Workload
    """The workload."""
    groups: dict[Direction, list[str]]
    """The variants that passed their checks, by direction."""
    baseline: str
    """The variant that speedups are quoted against."""
    device_type: str
    """``cpu`` or ``cuda``."""
    caches: dict[str, str]
    """Directory of the compiler's caches by variant, warm from the check."""
    seeds: dict[Direction, int]
    """Seed of the order of rounds, by direction."""
    budget_s: float
    """Time to spend on one variant."""
    margin: float
    """Relative difference below which two variants count as equivalent."""
    cold: bool = True
    """Whether buffers rotate beyond twice the last-level cache."""


class Progress(Message, frozen=True, kw_only=True, tag="progress"):
    """Something to show while waiting."""

    text: str
    """A few words."""
    arm: str = ""
    """The variant that is being worked on: the suspect, should the process die."""
    measurements: list[Measurement] = []
    """Cells of a group that has been timed, before the next group begins: they outlive this process."""


class DescribeResult(Message, frozen=True, kw_only=True, tag="described"):
    """What the machine is."""

    environment: Environment
    """The environment record."""
    device_id: str = ""
    """The GPU's UUID, or ``cpu``: what the device's lock is named by."""


class CheckResult(Message, frozen=True, kw_only=True, tag="checked"):
    """How a check ended, with everything captured on the way."""

    status: Status
    """``ok`` (to be timed), ``checked`` (correct, not to be timed), or what went wrong."""
    reason: str = ""
    """Why it is not ok."""
    correctness: dict[Direction, Correctness] = {}
    """The verdict by direction; a direction that the workload does not have is missing."""
    artifacts: list[Artifact] = []
    """What was captured and what is absent; paths are relative to the staging directory."""
    kernels: list[Kernel] = []
    """Kernels that were captured."""
    warnings: list[str] = []
    """Graph breaks, recompiles and other things to know."""
    compile_ns: int | None = None
    """Wall time of the first call, forward and backward, compilation included."""


class TimeResult(Message, frozen=True, kw_only=True, tag="timed"):
    """Every group was timed; the measurements came with the progress."""


class Failure(Message, frozen=True, kw_only=True, tag="failed"):
    """The worker could not carry out the request, or its process died."""

    status: Status
    """What happened."""
    reason: str
    """In words."""
    traceback: str = ""
    """The traceback, where there is one."""
    arm: str = ""
    """The variant that was being worked on."""


Request = DescribeRequest | CheckRequest | TimeRequest
Answer = Progress | DescribeResult | CheckResult | TimeResult | Failure

_request_decoder = msgspec.json.Decoder(Request)
_answer_decoder = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """One line of JSON, newline included."""
    return msgspec.json.encode(message, enc_hook=_plain) + b"\n"


def decode_request(line: bytes) -> Request:
    """The request in a line; raises ``msgspec.DecodeError`` when it is none."""
    request: Request = _request_decoder.decode(line)
    return request


def decode_answer(line: bytes) -> Answer:
    """The answer in a line; raises ``msgspec.DecodeError`` when it is none."""
    answer: Answer = _answer_decoder.decode(line)
    return answer


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's own; msgspec refuses everything else with the type's name."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"a message cannot hold a {type(value).__name__}")
