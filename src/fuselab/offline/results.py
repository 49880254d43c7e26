"""What an inspection found: records, by target, workload and kernel; JSON as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fuselab.ir.prediction import TimePrediction, predict_time, work_of
from fuselab.offline.kernels import candidates_of
from fuselab.offline.messages import Answer, Candidate, KernelFailure, LibraryCall, TemplateChoice, Way
from fuselab.records import Artifact, Direction, Kernel, TensorCheck, Workload
from fuselab.targets import Target

__all__ = [
    "Inspection",
    "InterpretedKernel",
    "InterpretedRun",
    "KernelResult",
    "RecordedChoice",
    "TargetResult",
    "WorkloadResult",
    "workload_result",
]


class RecordedChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a run on the device kept for a kernel of the same source. Measured there, not predicted."""

    run: str
    """Id of the run."""
    device: str
    """What it ran on."""
    config: dict[str, Any]
    """Block sizes, warps, stages."""
    time_us: float | None = None
    """As it was timed there; None where nothing was."""


class KernelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel for one target."""

    kernel_id: str
    """Unique within the target's run."""
    name: str
    """The compiler's own name."""
    backend: str
    """``triton`` or ``extern``."""
    direction: Direction
    """Forward or backward."""
    operations: list[str] = []
    """ATen operators fused into it."""
    launches: int | None = None
    """How often one call launches it."""
    source: str = ""
    """Path of its source, relative to the run."""
    stages: dict[str, str] = {}
    """Stages that there are, with their paths relative to the run."""
    absent: dict[str, str] = {}
    """Stages that there are not, with the reason."""
    config: dict[str, Any] = {}
    """The heuristic's first choice: block sizes, warps, stages."""
    num_warps: int | None = None
    """Warps a program."""
    registers: int | None = None
    """Registers a thread."""
    spills: int | None = None
    """Spilled registers a thread."""
    shared_bytes: int | None = None
    """Shared memory a program."""
    occupancy: float | None = None
    """Share of a multiprocessor's threads that can be resident, 0 to 1; from the kernel's card."""
    bytes_moved: int | None = None
    """Bytes from and to memory a launch; from the kernel's card."""
    limiter: str = ""
    """What the card expects to limit it."""
    predicted: TimePrediction | None = None
    """How long a launch is expected to take, with its error bar: calibrated elsewhere, never a measurement."""
    unpredicted: str = ""
    """Why there is no prediction."""
    candidates: list[Candidate] = []
    """Every configuration that would be tried on the device."""
    recorded: RecordedChoice | None = None
    """What a recorded run on the device kept; None where none was named, or it has no such kernel."""


class InterpretedKernel(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel in Triton's interpreter."""

    name: str
    """The compiler's own name."""
    direction: Direction
    """Forward or backward."""
    launches: int
    """How often it ran to its end."""
    programs: int
    """How many programs those were."""
    problem: str = ""
    """Why it did not run, or what it did that it must not."""
    cannot: list[str] = []
    """What the interpreter does not do, or does otherwise than a device."""


class InterpretedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The generated kernels, run on the CPU in Triton's interpreter and compared with eager."""

    status: str
    """``agrees``, ``differs`` or ``not run``."""
    reason: str = ""
    """What differs, or why it was not run."""
    inputs: dict[str, str] = {}
    """What it was called on: fewer rows than were asked for, where those are many."""
    tensors: list[TensorCheck] = []
    """Every output and gradient, held to the bounds that a run's correctness is held to."""
    kernels: list[InterpretedKernel] = []
    """By graph, in order of the code."""
    libraries: list[str] = []
    """Library calls that the CPU's operators stood in for."""
    notes: list[str] = []
    """What else to know."""
    seconds: float = 0.0
    """Of the interpretation."""


class WorkloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One workload for one target."""

    workload: str
    """Its label."""
    key: str
    """``Workload.key``."""
    ok: bool
    """Whether the program was traced to its end."""
    reason: str = ""
    """Why not."""
    way: Way = ""
    """How it was traced: ``described`` or ``rewritten``."""
    kernels: list[KernelResult] = []
    """Kernels in order of compilation."""
    failures: list[KernelFailure] = []
    """Kernels that do not compile for the target."""
    calls: list[LibraryCall] = []
    """Matrix products, convolutions, attention."""
    templates: list[TemplateChoice] = []
    """Library calls and templates that Inductor would choose between by timing, under max-autotune."""
    warnings: list[str] = []
    """Graph breaks, what was left open, how the tracing may differ."""
    versions: dict[str, str] = {}
    """torch and triton."""
    seconds: dict[str, float] = {}
    """How long importing and generating took."""
    interpreted: InterpretedRun | None = None
    """The kernels run on the CPU, where that was asked for."""

    def placed(self, artifacts: Sequence[Artifact], kernels: Sequence[Kernel]) -> WorkloadResult:
        """The same with paths relative to the run, after its files were moved in."""
        sources = {kernel.kernel_id: kernel.file_path for kernel in kernels}
        stages: dict[str, dict[str, str]] = {}
        for artifact in artifacts:
            if artifact.kernel_id is not None and artifact.path is not None:
                stages.setdefault(artifact.kernel_id, {})[artifact.stage.value] = artifact.path
        placed = [
            msgspec.structs.replace(k, source=sources.get(k.kernel_id, k.source), stages=stages.get(k.kernel_id, {}))
            for k in self.kernels
        ]
        return msgspec.structs.replace(self, kernels=placed)


class TargetResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything for one target."""

    target: str
    """Its name."""
    device: str
    """Its name as a driver reports it."""
    arch: str
    """What was compiled for."""
    run: str
    """The run directory."""
    workloads: tuple[WorkloadResult, ...]
    """By workload."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What ``fuselab inspect`` found."""

    what: str
    """As it was asked for."""
    experiment: str
    """Name of the experiment."""
    variant: str
    """The variant."""
    note: str
    """That nothing was measured."""
    versions: dict[str, str]
    """torch and triton that generated the code."""
    targets: tuple[TargetResult, ...]
    """By target, in the order asked for."""

    @property
    def failed(self) -> bool:
        """Whether something could not be shown, or is wrong: a program that was not traced, a kernel that does not
        compile, one whose results are not eager's."""
        results = [w for t in self.targets for w in t.workloads]
        return any(not w.ok or w.failures or (w.interpreted and w.interpreted.status == "differs") for w in results)


def workload_result(workload: Workload, way: Way, answer: Answer, staging: Path, target: Target) -> WorkloadResult:
    """The record of an answer, with the figures of the kernels' cards."""
    absent: dict[str, dict[str, str]] = {}
    for artifact in answer.artifacts:
        if artifact.kernel_id is not None and artifact.path is None:
            absent.setdefault(artifact.kernel_id, {})[artifact.stage.value] = artifact.absent
    kernels = []
    for kernel in answer.kernels:
        card = _card(kernel, staging)
        candidates = candidates_of(answer.candidates, kernel.name, card)
        kernels.append(_kernel(kernel, card, absent.get(kernel.kernel_id, {}), candidates, target))
    return WorkloadResult(
        workload=workload.label,
        key=workload.key,
        ok=answer.ok,
        reason=answer.reason,
        way=way,
        kernels=kernels,
        failures=answer.failures,
        calls=answer.calls,
        templates=answer.templates,
        warnings=answer.warnings,
        versions=answer.versions,
        seconds=answer.seconds,
    )


def _card(kernel: Kernel, staging: Path) -> dict[str, Any]:
    """The kernel's card; empty where it has none. An extern kernel's lies below its name, not beside a source."""
    direction, _, folder = kernel.kernel_id.rpartition("/")
    path = staging / "kernels" / direction.rpartition("/")[2] / folder / "card.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.is_file() else {}


def _predicted(kernel: Kernel, card: dict[str, Any], target: Target) -> tuple[TimePrediction | None, str]:
    if kernel.backend != "triton":
        return None, "a library's kernel: what it does is not captured"
    try:
        return predict_time(work_of(card), target), ""
    except ValueError as error:
        return None, str(error)


def _kernel(
    kernel: Kernel, card: dict[str, Any], absent: dict[str, str], candidates: list[Candidate], target: Target
) -> KernelResult:
    first = next((c for c in candidates if c.first), None)
    predicted, unpredicted = _predicted(kernel, card, target)
    return KernelResult(
        kernel_id=kernel.kernel_id,
        name=kernel.name,
        backend=kernel.backend,
        direction=kernel.direction,
        operations=kernel.operations,
        launches=kernel.launches,
        source=kernel.file_path,
        absent=absent,
        config=first.config if first else dict(card.get("config") or {}),
        num_warps=kernel.num_warps,
        registers=kernel.registers,
        spills=kernel.spills,
        shared_bytes=kernel.shared_bytes,
        occupancy=_number(card, "occupancy", "share"),
        bytes_moved=_sum(_number(card, "traffic", "read_bytes"), _number(card, "traffic", "written_bytes")),
        limiter=str(_section(card, "limiter").get("predicted") or ""),
        predicted=predicted,
        unpredicted=unpredicted,
        candidates=candidates,
    )


def _section(card: dict[str, Any], name: str) -> dict[str, Any]:
    section = card.get(name)
    return section if isinstance(section, dict) else {}


def _number(card: dict[str, Any], section: str, name: str) -> float | None:
    value = _section(card, section).get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sum(*values: float | None) -> int | None:
    known = [value for value in values if value is not None]
    return int(sum(known)) if len(known) == len(values) else None
