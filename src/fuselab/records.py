"""The records: what every other room passes on and what a run directory holds.

Frozen, typed, JSON only. Each field has its own docstring; units stand in the names (``duration_ns``, ``bytes_read``).
The JSON Schema in ``docs/schema.json`` is written out from these definitions. Nothing here imports torch.
"""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Any

import msgspec

__all__ = [
    "ABSENT",
    "DTYPES",
    "SCHEMA_VERSION",
    "Artifact",
    "Ceiling",
    "CellKey",
    "Check",
    "CheckStatus",
    "Clock",
    "Comparison",
    "Conditions",
    "Correctness",
    "Direction",
    "Environment",
    "Kernel",
    "Measurement",
    "RunMetadata",
    "RunStatus",
    "Sample",
    "Scalar",
    "Stage",
    "Status",
    "TensorCheck",
    "Traffic",
    "Verdict",
    "Workload",
    "json_schema",
]

SCHEMA_VERSION = 1
"""Version of every file that these records are written to; one migration function a step (see ``store``)."""

ABSENT = "absent"

Scalar = bool | int | float | str

DTYPES: dict[str, str] = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "bool": "bool",
}
"""Short dtype names, as written on the command line, to torch's own."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only; unknown fields of a newer minor version are ignored on reading."""


class Direction(enum.StrEnum):
    """Which half of a training step a cell is about."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Status(enum.StrEnum):
    """How a cell ended."""

    OK = "ok"
    """Correct and timed."""
    CHECKED = "checked"
    """Correct, and not timed on purpose (Triton's interpreter on a CPU)."""
    WRONG = "wrong"
    """The result or a gradient differs from the reference; no speedup is shown."""
    ERROR = "error"
    """The implementation raised."""
    EXITED = "exited"
    """The implementation called ``sys.exit`` or ended the process by itself."""
    CRASHED = "crashed"
    """The process died by a signal (segmentation fault, illegal access, killed)."""
    TIMED_OUT = "timed_out"
    """The deadline passed."""
    OUT_OF_MEMORY = "out_of_memory"
    """Device or host memory ran out."""
    UNAVAILABLE = "unavailable"
    """This variant cannot run here; the reason names what is missing."""


class Verdict(enum.StrEnum):
    """What the interval of the paired ratios says against the baseline, at the margin."""

    BASELINE = "baseline"
    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"
    UNRESOLVED = "unresolved"
    WITHHELD = "withheld"
    """A speedup was measured and is not to be trusted; the warnings of the measurement say why."""


class Clock(enum.StrEnum):
    """Which clock a sample was taken with."""

    CPU_MONOTONIC = "cpu_monotonic"
    """Wall time of a loop of calls on the CPU, threads pinned."""
    CUDA_GRAPH = "cuda_graph"
    """CUDA events around replays of a captured graph: device time without dispatch."""
    CUDA_EVENTS = "cuda_events"
    """CUDA events around eager calls: what a user waits for, dispatch included where it dominates."""
    HOST = "host"
    """Host time of issuing a call, without waiting for the device."""
    KERNEL = "kernel"
    """Sum of kernel durations as CUPTI reports them."""
    GAPS = "gaps"
    """Time between the kernels, as CUPTI reports it."""


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


class RunStatus(enum.StrEnum):
    """How far a run came. A run whose process is gone and that still says ``running`` is read as interrupted."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


_UNSAFE = re.compile(r"[^A-Za-z0-9.=_+-]+")


class Workload(Record, frozen=True, kw_only=True):
    """Axes, dtype, options, layout and seed: inputs are built from these and nothing else, deterministically.

    Example:
        >>> Workload(shape=(64, 256), dtype="f32", options={"approximate": "tanh"}).label
        '64x256 f32 approximate=tanh'
    """

    shape: tuple[int, ...] = ()
    """Shape of the main input, row-major, the normalised axis last; empty for a user's own function."""
    dtype: str = "f32"
    """Short dtype name (a key of ``DTYPES``) of the main input."""
    options: dict[str, Scalar] = {}
    """The experiment's own options, all of them, defaults included."""
    arguments: dict[str, str] = {}
    """For a user's own function: parameter name to the text of its ``--arg``."""
    layout: str = "contiguous"
    """``contiguous``, or the name of another layout that the experiment knows."""
    seed: int = 0
    """Seed of the inputs."""

    @property
    def label(self) -> str:
        """One line for a table: shape, dtype, options."""
        if self.arguments:
            return " ".join(f"{name}={text}" for name, text in self.arguments.items())
        parts = ["x".join(map(str, self.shape)) or "default", self.dtype if self.shape else ""]
        parts += [f"{name}={value}" for name, value in self.options.items()]
        if self.layout != "contiguous":
            parts.append(self.layout)
        return " ".join(p for p in parts if p)

    @property
    def key(self) -> str:
        """A file-system-safe name, unique per workload: the label's start and a hash of all fields."""
        digest = hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:8]
        return f"{_UNSAFE.sub('_', self.label)[:48].strip('_.')}-{digest}"

    @property
    def rows(self) -> int:
        """Product of all axes but the last."""
        rows = 1
        for axis in self.shape[:-1]:
            rows *= axis
        return rows


class CellKey(Record, frozen=True, kw_only=True, order=True):
    """What names a cell within the store: experiment, variant, workload key and direction."""

    experiment: str
    """Name of the experiment."""
    variant: str
    """Name of the variant."""
    workload: str
    """``Workload.key``."""
    direction: Direction
    """Forward or backward."""


class Traffic(Record, frozen=True, kw_only=True):
    """The fewest bytes and operations that a cell has to spend: each input read once, each output written once."""

    bytes_read: int
    """Bytes that have to be read from memory."""
    bytes_written: int
    """Bytes that have to be written to memory."""
    operations: int = 0
    """Floating-point operations, a transcendental counted as one; 0 where nobody counted."""
    reads: int = 1
    """Number of large streams read: with ``writes`` the access mix that the ceiling is measured with."""
    writes: int = 1
    """Number of large streams written."""

    @property
    def bytes_moved(self) -> int:
        """Bytes read plus bytes written."""
        return self.bytes_read + self.bytes_written


class Sample(Record, frozen=True, kw_only=True):
    """One timed value of one variant in one round."""

    round: int
    """Number of the round, from 0; all variants of a group share it."""
    position: int
    """Place in the order that was drawn for this round, from 0."""
    duration_ns: float
    """Time of one call in nanoseconds: the timed span over its number of calls."""
    calls: int = 1
    """How many calls (or graph replays) the timed span held."""


class TensorCheck(Record, frozen=True, kw_only=True):
    """One output or gradient against the float64 reference, beside eager's own error on the same inputs."""

    name: str
    """``output``, ``output[1]``, ``grad x``, ..."""
    correct: bool
    """Whether it passed."""
    rms_error: float | None = None
    """Root-mean-square error against the reference; None where it could not be taken (shape, NaN places)."""
    max_error: float | None = None
    """Largest absolute error against the reference."""
    eager_rms_error: float | None = None
    """Eager's own root-mean-square error against the reference."""
    eager_max_error: float | None = None
    """Eager's own largest absolute error."""
    allowed_rms_error: float | None = None
    """The bound that ``rms_error`` was held to."""
    allowed_max_error: float | None = None
    """The bound that ``max_error`` was held to."""
    reason: str = ""
    """What is wrong, in words; empty when correct."""


class Correctness(Record, frozen=True, kw_only=True):
    """The verdict of the correctness gate on one cell."""

    correct: bool
    """Whether everything passed."""
    tensors: list[TensorCheck] = []
    """One entry an output (forward) or gradient (backward)."""
    reason: str = ""
    """The first thing that is wrong, in words; empty when correct."""
    checked_shape: tuple[int, ...] | None = None
    """The shape that was checked, where it is not the workload's own (the interpreter checks fewer rows)."""


class Conditions(Record, frozen=True, kw_only=True):
    """State of the device beside one round."""

    round: int
    """Number of the round."""
    sm_clock_mhz: int | None = None
    """Clock of the multiprocessors."""
    memory_clock_mhz: int | None = None
    """Clock of the memory."""
    power_w: float | None = None
    """Board power."""
    temperature_c: int | None = None
    """Core temperature."""
    throttle_reasons: list[str] = []
    """Reasons for which the driver lowered the clocks, other than idleness."""
    foreign_processes: int = 0
    """Other processes with a context on this device."""
    load_average: float | None = None
    """One-minute load average of the host, for CPU timings."""


class Comparison(Record, frozen=True, kw_only=True):
    """Speedup against the baseline from the paired log-ratios of rounds."""

    baseline: str
    """Name of the baseline variant."""
    verdict: Verdict
    """What the interval says."""
    speedup: float | None = None
    """Baseline time over this variant's time, the trimmed mean of the paired rounds; above 1 is faster."""
    low: float | None = None
    """Lower end of the interval of the speedup."""
    high: float | None = None
    """Upper end of the interval of the speedup."""
    confidence: float = 0.95
    """Confidence of the interval."""
    rounds: int = 0
    """Rounds that the comparison used."""
    p_value: float | None = None
    """Two-sided p-value of the paired log-ratios, before control over many cells."""


class Ceiling(Record, frozen=True, kw_only=True):
    """What plain streaming with the cell's access mix reached at the cell's size, in the same run."""

    bytes_per_s: float
    """Bandwidth of the streaming kernel, bytes read plus written."""
    duration_ns: float
    """Its median time."""
    share: float
    """The cell's own bandwidth, from ``Traffic``, over the ceiling's."""
    method: str
    """Which streaming kernel: for example ``triton stream 2:1`` or ``torch.add into out, 2 threads``."""


class Parts(Record, frozen=True, kw_only=True):
    """Forward, backward and both of one training step, timed in the same rounds: whether the parts add up."""

    forward: list[Sample]
    """Forwards alone."""
    backward: list[Sample]
    """Backwards alone."""
    both: list[Sample]
    """Each backward right after its forward, as a training step has them."""
    gap: float
    """Both over the sum of the parts, minus one: the trimmed mean of the rounds."""
    low: float
    """Lower end of the gap's 95% interval."""
    high: float
    """Upper end of the gap's 95% interval."""


class Measurement(Record, frozen=True, kw_only=True):
    """Everything known of one cell: status, correctness, every sample, and what is derived from them."""

    experiment: str
    """Name of the experiment."""
    variant: str
    """Name of the variant."""
    workload: Workload
    """The workload."""
    direction: Direction
    """Forward or backward."""
    status: Status
    """How the cell ended."""
    reason: str = ""
    """Why it did not end ``ok``: the exception, the signal, what is missing."""
    device: str = ""
    """Device name, as in the environment record; a CPU's begins with ``CPU``."""
    correctness: Correctness | None = None
    """The correctness verdict; None when it never came to a check."""
    clock: Clock | None = None
    """Which clock the samples were taken with."""
    cold: bool | None = None
    """Whether buffers rotated beyond twice the last-level cache; None where nothing was timed."""
    samples: list[Sample] = []
    """Every sample, in the order taken."""
    other_clocks: dict[str, list[Sample]] = {}
    """Samples of the other clocks (``Clock`` values), where they were taken."""
    median_ns: float | None = None
    """Median of the samples."""
    low_ns: float | None = None
    """Lower end of the interval of the median."""
    high_ns: float | None = None
    """Upper end of the interval of the median."""
    comparison: Comparison | None = None
    """Speedup against the baseline."""
    self_comparison: Comparison | None = None
    """The baseline against a second copy of itself, timed in the same rounds; only the baseline's cell has it."""
    control_comparison: Comparison | None = None
    """Plain streaming against the same with exactly 2% more, in the same rounds; only the baseline's cell has it."""
    parts: Parts | None = None
    """Forward, backward and both, in the cell of the backward."""
    traffic: Traffic | None = None
    """The fewest bytes and operations."""
    ceiling: Ceiling | None = None
    """The memory ceiling."""
    kernels_launched: int | None = None
    """Device kernels one call launches (on a CPU: generated kernels and operators executed)."""
    peak_memory_bytes: int | None = None
    """Peak of the device memory allocated during one call, beyond what was allocated before."""
    saved_bytes: int | None = None
    """Bytes that the forward keeps for the backward."""
    compile_ns: int | None = None
    """Wall time of the first call, compilation included, in the variant's own process."""
    conditions: list[Conditions] = []
    """State of the device by round."""
    labels: list[str] = []
    """Short labels for the table: ``CPU``, ``warm``, ``launch-bound``, ``interpreter``."""
    warnings: list[str] = []
    """What a reader should know before using the figure."""
    order_seed: int | None = None
    """Seed of the order in which variants were timed."""
    created_at: str = ""
    """UTC, ISO 8601."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def key(self) -> CellKey:
        """The cell that this is the measurement of."""
        return CellKey(
            experiment=self.experiment, variant=self.variant, workload=self.workload.key, direction=self.direction
        )

    @property
    def correct(self) -> bool | None:
        """Whether the cell is correct; None when it never came to a check."""
        return None if self.correctness is None else self.correctness.correct


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


def json_schema() -> dict[str, Any]:
    """JSON Schema of the files in a run directory, from the definitions above.

    Example:
        >>> sorted(json_schema()["$defs"])[:3]
        ['Artifact', 'Ceiling', 'Clock']
    """
    types = [RunMetadata, Measurement, Environment]
    refs, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fuselab run directory",
        "oneOf": list(refs),
        "$defs": definitions,
    }
