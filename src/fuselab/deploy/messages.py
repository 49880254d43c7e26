"""What a child process is asked and what it answers: records, JSON files, nothing pickled."""

from __future__ import annotations

import msgspec

from fuselab.deploy.manifest import Aoti, Call, Compilation, Library, Machine, Reference
from fuselab.records import TensorCheck, Workload

__all__ = [
    "WAYS",
    "Answer",
    "AotiRequest",
    "AotiResult",
    "BuildRequest",
    "BuildResult",
    "Counts",
    "DescribeRequest",
    "DescribeResult",
    "Failure",
    "Request",
    "StartRequest",
    "StartResult",
]

WAYS = ("cold", "artifacts", "aoti")
"""Ways to start: torch.compile with nothing, torch.compile with the package's caches and kernels, AOTInductor."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all messages; the field ``kind`` tells them apart."""


class DescribeRequest(Message, frozen=True, kw_only=True, tag="describe"):
    """Say what this machine is."""

    device_type: str


class DescribeResult(Message, frozen=True, kw_only=True, tag="described"):
    """What this machine is."""

    machine: Machine


class BuildRequest(Message, frozen=True, kw_only=True, tag="build"):
    """Compile a model and put everything that a package holds into a directory."""

    reference: Reference
    """The target has an absolute path here."""
    variant: str
    workloads: list[Workload]
    device_type: str
    directions: list[str]
    staging: str


class BuildResult(Message, frozen=True, kw_only=True, tag="built"):
    """What was built; the files lie in the staging directory under their names in the package."""

    machine: Machine
    compilation: Compilation
    calls: list[Call]
    files: list[str]
    artifacts: str
    artifact_counts: dict[str, int]
    libraries: list[Library]
    triton_libraries: list[str]
    seconds: dict[str, float]
    warnings: list[str]


class AotiRequest(Message, frozen=True, kw_only=True, tag="aoti"):
    """Compile the forward of one call ahead of time and put the package into a directory."""

    reference: Reference
    """The target has an absolute path here."""
    variant: str
    device_type: str
    call: Call
    staging: str
    file: str
    """Name of the AOTInductor package in the directory."""


class AotiResult(Message, frozen=True, kw_only=True, tag="aoti-built"):
    """What was built, or why there is none."""

    aoti: Aoti
    seconds: float


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was compiled during one start."""

    dynamo_graphs: int = 0
    """Graphs that Dynamo traced: inevitable for ``torch.compile``, none for AOTInductor."""
    inductor_graphs: int = 0
    """Graphs that Inductor lowered and generated code for."""
    cpp: int = 0
    """Compiler processes that were started on a source or an object, in whatever process."""
    triton: int = 0
    """Kernels that Triton compiled, in whatever process."""
    caches: dict[str, int] = {}
    """Hits, misses and bypasses of torch's caches."""
    commands: list[str] = []
    """The first compiler commands, where there were any."""

    @property
    def compilations(self) -> int:
        """Everything that a warm start must not do."""
        return self.inductor_graphs + self.cpp + self.triton


class StartRequest(Message, frozen=True, kw_only=True, tag="start"):
    """Start once in one way, answer every packed call of a direction, and say what it took."""

    package: str
    sha256: str | None
    way: str
    direction: str
    source: str
    """Directory that the user's file is in; empty for an experiment."""
    target: str
    """``FILE.py:NAME`` to use in place of the packed copy; empty for that."""
    compiler_log: str
    """File that compilers' shims write to."""
    triton_dump: str
    """Directory that Triton's dumps go to; empty in a cold start, whose own cache is counted."""


class StartResult(Message, frozen=True, kw_only=True, tag="started"):
    """One start."""

    way: str
    direction: str
    start_ns: int
    """From the model in memory to the first answer of the first call, a training step where that is the direction."""
    all_calls_ns: int
    """The same until every declared call was answered."""
    unpack_ns: int
    """Part of it: reading, checking and unpacking the package, loading caches or libraries."""
    steady_ns: int
    """The first call again, once warm."""
    process_ns: int
    """From the start of the process to the first answer, imports included."""
    counts: Counts
    checks: dict[str, list[TensorCheck]]
    """Judgement of every output and gradient, by label of the call."""
    notes: list[str] = []


class Failure(Message, frozen=True, kw_only=True, tag="failed"):
    """It could not be done."""

    error: str
    """Name of the exception's class."""
    message: str
    hint: str | None = None
    traceback: str = ""


Request = DescribeRequest | BuildRequest | AotiRequest | StartRequest
Answer = DescribeResult | BuildResult | AotiResult | StartResult | Failure
