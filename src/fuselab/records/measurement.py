"""What a cell measured: ``Measurement``, one line of ``measurements.jsonl``, and the records that it is made of.

In the order of a cell's life: its status, what it has to move at least, the correctness gate, the samples and the state
of the device beside them, and what is derived from them. How the derived figures are found is ``measure``'s job.
"""

from __future__ import annotations

import enum

from fuselab.records.cell import CellKey, Direction, Workload
from fuselab.records.record import SCHEMA_VERSION, Record


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
