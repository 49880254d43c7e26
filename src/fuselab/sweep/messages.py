"""What a sweep's client and its workers say to each other: records as JSON text, no pickled object of a user's.

Dask itself pickles the name of the function to call (``fuselab.sweep.seat.carry_out``) and one text.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fuselab.records import Direction, Environment, Measurement, Workload
from fuselab.worker.messages import ExperimentReference

__all__ = ["Introduction", "IntroductionRequest", "UnitRequest", "UnitResult", "decode", "encode"]

Message = TypeVar("Message", bound=msgspec.Struct)


class IntroductionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Say which device you measure on."""

    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    fuselab: str
    """Version of the client's fuselab: another one measures something else."""
    cores: list[int] = []
    """Cores to keep to; empty: all that the process may use."""


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """Which device a worker measures on, or why it cannot take part."""

    refused: str = ""
    """Why it cannot take part; empty when it can."""
    device_id: str = ""
    """The GPU's UUID, or ``cpu``."""
    host: str = ""
    """Hash of the host's name: enough to compare, not to read."""
    environment: Environment | None = None
    """The environment record of runs on this device."""


class UnitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Check all variants of one workload, then time its groups: what one worker does at a time."""

    experiment: ExperimentReference
    """The experiment."""
    code_sha256: str
    """Hash of the file that the experiment is in: a worker that has another one refuses."""
    workload: Workload
    """The workload."""
    variants: list[str]
    """All variants of the run."""
    directions: list[Direction]
    """All directions of the run."""
    baseline: str
    """The variant that speedups are quoted against."""
    device_type: str
    """``cpu`` or ``cuda``."""
    device_id: str
    """The device that the worker said it has."""
    seed: int
    """Seed of the order of rounds."""
    margin: float
    """Relative difference below which two variants count as equivalent."""
    cold: bool
    """Whether buffers rotate beyond twice the last-level cache."""
    budget_s: float | None = None
    """Seconds of timing for each variant of a group."""
    deadline_s: float = 600.0
    """Seconds after which a check is given up."""
    jobs: int | None = None
    """Checks at a time."""
    cores: list[int] = []
    """Cores to keep to."""
    finished: list[tuple[str, Direction]] = []
    """Variants and directions that are in the store already."""


class UnitResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a unit ended."""

    measurements: list[Measurement] = []
    """Its cells, those that failed included."""
    seconds: float = 0.0
    """Wall time on the worker, waiting for the device included."""
    refused: str = ""
    """Why the worker does not take this experiment; nothing was measured."""
    device_lost: str = ""
    """Why the device cannot be used any more; the cells above stand."""


def encode(message: msgspec.Struct) -> str:
    """The message as JSON text."""
    return msgspec.json.encode(message).decode()


def decode(text: str, kind: type[Message]) -> Message:
    """The message in a text; raises ``msgspec.DecodeError`` when it is none of that kind."""
    return msgspec.json.decode(text, type=kind)
