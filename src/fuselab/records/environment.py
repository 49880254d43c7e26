"""Where a run took place, and doctor's checks of that place."""

from __future__ import annotations

import enum

from fuselab.records.record import SCHEMA_VERSION, Record


class Environment(Record, frozen=True, kw_only=True):
    """Where a run took place: an allowlist, never the whole environment."""

    device: str
    """``NVIDIA H200`` or ``CPU AMD EPYC, 2 cores``."""
    device_type: str
    """``cuda`` or ``cpu``."""
    compute_capability: str | None = None
    """``9.0`` for an H200."""
    device_memory_bytes: int | None = None
    """Memory of the device."""
    multiprocessors: int | None = None
    """Multiprocessors of the device."""
    l2_bytes: int | None = None
    """Size of the last-level cache."""
    driver: str | None = None
    """Version of the GPU driver."""
    cuda_runtime: str | None = None
    """CUDA version that torch was built for."""
    cpu: str = ""
    """Model of the processor."""
    cpu_cores: int = 0
    """Cores this process may use."""
    memory_bytes: int = 0
    """Memory of the host."""
    os: str = ""
    """Kernel name and release."""
    python: str = ""
    """Python version."""
    compiler: str | None = None
    """The C++ compiler's first line of ``--version``."""
    versions: dict[str, str] = {}
    """Versions of torch, triton, fuselab, numpy and the peers that are installed."""
    variables: dict[str, str] = {}
    """Relevant environment variables that were set (an allowlist of names)."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""


class CheckStatus(enum.StrEnum):
    """How one of doctor's checks ended."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


class Check(Record, frozen=True, kw_only=True):
    """One line of ``fuselab doctor``."""

    name: str
    """What was looked at."""
    status: CheckStatus
    """Ok, warning or missing."""
    detail: str
    """What was found."""
    remedy: str = ""
    """The command or the change that mends it; empty when ok."""
    required: bool = False
    """Whether the main job cannot run without it."""
