"""What a run is made of: ``RunMetadata``, its ``metadata.json``, with the kernels and artifacts that it captured."""

from __future__ import annotations

import enum
from typing import Any

from fuselab.records.cell import Direction, Workload
from fuselab.records.record import SCHEMA_VERSION, Record


class RunStatus(enum.StrEnum):
    """How far a run came. A run whose process is gone and that still says ``running`` is read as interrupted."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Stage(enum.StrEnum):
    """One level of a program's way down."""

    DYNAMO_GRAPH = "dynamo_graph"
    JOINT_GRAPH = "joint_graph"
    FORWARD_GRAPH = "forward_graph"
    BACKWARD_GRAPH = "backward_graph"
    INFERENCE_GRAPH = "inference_graph"
    POST_GRAD_GRAPH = "post_grad_graph"
    FUSION = "fusion"
    OUTPUT_CODE = "output_code"
    PROVENANCE = "provenance"
    TRITON = "triton"
    CPP = "cpp"
    TTIR = "ttir"
    TTGIR = "ttgir"
    LLIR = "llir"
    PTX = "ptx"
    CUBIN = "cubin"
    SASS = "sass"
    AMDGCN = "amdgcn"
    ASSEMBLY = "assembly"


class Artifact(Record, frozen=True, kw_only=True):
    """One saved file of one stage, or the reason why there is none."""

    stage: Stage
    """The stage."""
    variant: str
    """The variant it was captured from."""
    workload: str
    """``Workload.key``."""
    direction: Direction
    """Forward or backward."""
    path: str | None = None
    """Path relative to the run directory, with forward slashes; None when absent."""
    size_bytes: int = 0
    """Size of the file."""
    kernel_id: str | None = None
    """The kernel it belongs to; None for graphs and output code."""
    absent: str = ""
    """The reason why there is no file; empty when there is."""


class Kernel(Record, frozen=True, kw_only=True):
    """One device function that the compiler generated or that a user launched."""

    kernel_id: str
    """Unique within the run: variant, workload, direction and the compiler's own name."""
    name: str
    """The compiler's own name, whatever characters it has."""
    backend: str
    """``triton``, ``cpp`` or ``extern``."""
    variant: str
    """The variant it was captured from."""
    workload: str
    """``Workload.key``."""
    direction: Direction
    """Forward or backward."""
    file_path: str
    """Path of its source relative to the run directory."""
    size_bytes: int
    """Size of the source file."""
    created_at: str
    """UTC, ISO 8601, when the file was saved."""
    operations: list[str] = []
    """ATen operators fused into it, from the compiler's provenance, in graph order (``aten.rsqrt.default``)."""
    nodes: list[str] = []
    """Post-grad graph nodes it computes, from the compiler's provenance."""
    source_lines: list[str] = []
    """The user's lines it comes from, as ``file:line``, where the compiler recorded them."""
    launches: int | None = None
    """How often one call launches it."""
    stages: list[str] = []
    """Stages that were saved for it."""
    registers: int | None = None
    """Registers a thread."""
    spills: int | None = None
    """Spilled registers or bytes, as the compiler reports them."""
    shared_bytes: int | None = None
    """Shared memory a program, in bytes."""
    num_warps: int | None = None
    """Warps a program."""
    num_stages: int | None = None
    """Software-pipelining depth."""


class RunMetadata(Record, frozen=True, kw_only=True):
    """``metadata.json`` of a run."""

    id: str
    """``<experiment>/<UTC stamp>-<short id>``: the directory's own place below the root."""
    experiment: str
    """Name of the experiment."""
    description: str
    """What the experiment studies."""
    status: RunStatus
    """How far it came."""
    created_at: str
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601; None while running."""
    command: list[str] = []
    """The command line, secrets removed."""
    seed: int = 0
    """Seed of inputs and orders."""
    preset: str | None = None
    """The preset, where one was used."""
    device_type: str = ""
    """``cuda`` or ``cpu``."""
    versions: dict[str, str] = {}
    """Versions of torch, triton and fuselab."""
    target: str | None = None
    """``FILE.py:NAME`` for a user's own code."""
    target_sha256: str | None = None
    """Hash of the user's file when the run started."""
    plan: list[Workload] = []
    """The workloads to be carried out, in order."""
    variants: list[str] = []
    """The variants to be carried out."""
    directions: list[Direction] = []
    """The directions to be carried out."""
    baseline: str = "eager"
    """The variant that speedups are quoted against."""
    margin: float = 0.01
    """Relative difference below which two variants count as equally fast."""
    cold: bool = True
    """Whether buffers were to rotate beyond twice the last-level cache; False: caches were to be warm."""
    kernels: list[Kernel] = []
    """Every kernel captured so far."""
    artifacts: list[Artifact] = []
    """Every artifact captured or absent so far."""
    summary: dict[str, Any] = {}
    """Counts of cells by status, and the best verdicts."""
    error: str | None = None
    """Why the run failed, where it did."""
    pid: int | None = None
    """Process that carries the run out, to tell a dead run from a live one on the same host."""
    host: str = ""
    """Hash of the host name: enough to compare, not to read."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""
