"""What the parent asks of an inspecting process and what it answers: records, JSON, nothing pickled."""

from __future__ import annotations

from typing import Any

import msgspec

from fuselab.records import Artifact, Direction, Kernel, Workload
from fuselab.targets import Target

__all__ = ["Answer", "Candidate", "KernelFailure", "LibraryCall", "Request", "TemplateChoice", "Way"]

Way = str
"""``described``: fake CUDA tensors from the start. ``rewritten``: traced on the CPU, rewritten before lowering."""

DESCRIBED, REWRITTEN = "described", "rewritten"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Generate and compile what ``torch.compile`` would run on a device."""

    target: Target
    """The device, described."""
    into: str
    """Directory for graphs, kernels and the answer."""
    workload: Workload
    """What to call it on."""
    directions: list[Direction]
    """Forward, backward or both."""
    experiment: str = ""
    """Name of a registered experiment; empty for a user's own code."""
    file_target: str = ""
    """``FILE.py:NAME``, with an absolute path."""
    arguments: list[str] = []
    """Texts of ``--arg``."""
    seed: int = 0
    """Of module construction."""
    variant: str = "compile"
    """The variant; its own settings of the compiler are used."""
    way: Way = DESCRIBED
    """How to trace."""
    library: str = ""
    """The described device's C++ half; empty for the way that does without."""
    replay: bool = False
    """Whether to keep what the generated graphs are called with."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration of a kernel that would be tried on the device."""

    config: dict[str, Any]
    """Block sizes, and whatever else the configuration sets."""
    num_warps: int
    """Warps a program."""
    num_stages: int
    """Software-pipelining depth."""
    first: bool = False
    """Whether it is the heuristic's first choice: what runs where nothing is tuned."""
    registers: int | None = None
    """Registers a thread."""
    spills: int | None = None
    """Spilled registers a thread."""
    shared_bytes: int | None = None
    """Shared memory a program."""
    triton_hash: str = ""
    """Triton's name for the compilation."""
    problem: str = ""
    """Why it cannot run on the device; empty when it can."""
    recorded: bool = False
    """Whether a recorded run on the device kept it."""
    recorded_us: float | None = None
    """Microseconds that a recorded run on the device measured for it."""


class TemplateChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix product or convolution for which Inductor has templates: what it would time on the device."""

    operator: str
    """Inductor's name of it: ``mm``."""
    shown: str
    """What is shown in place of the fastest: the library call, where there is one."""
    candidates: list[str]
    """Every library call and template with its settings, in the order in which they would be timed."""


class KernelFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel that does not compile for the target."""

    kernel: str
    """Its name."""
    error: str
    """The compiler's own words."""


class LibraryCall(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix product, convolution or attention: a library runs it, or a template under max-autotune."""

    operator: str
    """``aten.mm.default``."""
    direction: Direction
    """Forward or backward."""
    inputs: list[str]
    """The tensors it reads, as ``bf16[4096,1024]``."""
    outputs: list[str]
    """The tensors it writes."""
    flops: int | None = None
    """Floating-point operations by torch's own formula; None where it has none."""
    bytes_moved: int = 0
    """Bytes of the tensors it reads and writes, each once."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request."""

    ok: bool
    """Whether the program was traced to its end."""
    reason: str = ""
    """Why not."""
    retry_rewritten: bool = False
    """Whether the other way of tracing may get further: the program looks at values."""
    artifacts: list[Artifact] = []
    """What was captured and what is absent; paths are relative to ``into``."""
    kernels: list[Kernel] = []
    """Kernels that were captured."""
    warnings: list[str] = []
    """Graph breaks, and what the compiler would have measured."""
    candidates: dict[str, list[Candidate]] = {}
    """Configurations by kernel name."""
    failures: list[KernelFailure] = []
    """Kernels that do not compile for the target."""
    calls: list[LibraryCall] = []
    """What libraries run."""
    templates: list[TemplateChoice] = []
    """Where Inductor would choose between library calls and templates."""
    versions: dict[str, str] = {}
    """torch and triton in the process."""
    seconds: dict[str, float] = {}
    """How long importing, and tracing with compiling, took."""
