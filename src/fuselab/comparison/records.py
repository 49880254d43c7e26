"""What a comparison of runs holds: cells, kernels and environments side by side. Frozen, JSON only, no torch."""

from __future__ import annotations

import enum

import msgspec

from fuselab.records import SCHEMA_VERSION, Direction, RunStatus, Scalar, Stage, Status, Verdict

__all__ = [
    "CellChange",
    "CellSide",
    "Change",
    "EnvironmentDifference",
    "Judgement",
    "KernelChange",
    "KernelMatch",
    "KernelSide",
    "Pairing",
    "RunSide",
    "RunsComparison",
    "SideComparison",
    "StageDifference",
    "Yardstick",
]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records: immutable, keyword-only."""


class Pairing(enum.StrEnum):
    """Whether two cells were timed in the same rounds."""

    SAME = "same"
    """They are one cell, compared with itself."""
    TOGETHER = "together"
    """Timed in the same rounds of one process: the paired log-ratios of the rounds are analysed."""
    APART = "apart"
    """Timed in different processes: each has an interval of its own, and the drift between them is allowed for."""
    NONE = "none"
    """There is nothing to compare: one of them has no time, or their figures are never pooled."""


class Judgement(enum.StrEnum):
    """What is said of one cell."""

    REGRESSION = "regression"
    """Slower, and by more than the threshold."""
    BROKEN = "broken"
    """It was correct and measured; now it is wrong, or it fails. A regression whatever its speed."""
    SLOWER = "slower"
    """Slower, within the threshold."""
    FASTER = "faster"
    EQUIVALENT = "equivalent"
    UNRESOLVED = "unresolved"
    """The interval does not say; or, for cells measured apart, the yardstick moved as much as they did."""
    MENDED = "mended"
    """It was wrong or failed, and is correct and measured now."""
    NOT_COMPARABLE = "not comparable"
    """Figures of two devices, two clocks, or of warm and cold caches."""
    NOT_JUDGED = "not judged"
    """Nothing trustworthy on one side; the reason says what."""
    ONLY_BASE = "only in the base"
    ONLY_NEW = "only in the new"


class KernelMatch(enum.StrEnum):
    """How two kernels were found to belong together."""

    CODE = "same code"
    """Their generated code is the same, up to names, hashes and paths."""
    NAME = "same name"
    OPERATIONS = "same operators"
    """They compute the same ATen operators, from the compiler's provenance, or most of them."""
    GONE = "gone"
    NEW = "new"


class RunSide(Record, frozen=True, kw_only=True):
    """One of the runs that are compared."""

    label: str
    """``A`` for the base, then ``B``, ``C``, ..."""
    id: str
    """``RunMetadata.id``."""
    path: str
    """Its directory."""
    experiment: str
    """Name of the experiment."""
    variant: str | None
    """The variant that it was asked for, ``RUN@VARIANT``; None for all."""
    status: RunStatus
    """How far it came."""
    device: str
    """Name of the device."""
    device_type: str
    """``cuda`` or ``cpu``."""
    created_at: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    """Versions of torch, triton and fuselab."""
    notes: list[str] = []
    """What of it could not be read, or why it is not whole."""


class EnvironmentDifference(Record, frozen=True, kw_only=True):
    """One fact of the surroundings that is not the same in all runs."""

    group: str
    """``device``, ``versions``, ``clocks``, ``variables``, ``settings``, ``code`` or ``host``."""
    name: str
    """What it is: ``torch``, ``driver``, ``SM clock``."""
    values: list[str]
    """Its value by run, in the order of the runs; empty where it has none."""
    decisive: bool
    """Whether it can change figures by itself, so that a change of a cell need not be the code's."""


class Change(Record, frozen=True, kw_only=True):
    """How much longer or shorter the new side takes than the base."""

    change: float
    """New time over base time, minus one: 0.05 is 5% slower."""
    low: float | None = None
    """Lower end of its interval; None where there are too few rounds for one."""
    high: float | None = None
    """Upper end."""
    confidence: float = 0.95
    """Confidence of the interval."""
    rounds: int = 0
    """Rounds that it was made of: of both, where they were timed together; else of the side with fewer."""
    p_value: float | None = None
    """Two-sided, before control over the cells."""
    adjusted_p_value: float | None = None
    """After Benjamini and Hochberg's procedure over all judged cells of the two runs."""
    verdict: Verdict = Verdict.UNRESOLVED
    """What the interval says at the margin, and the control over the cells lets stand."""


class Yardstick(Record, frozen=True, kw_only=True):
    """Something measured in both runs beside a cell, that should not have changed."""

    name: str
    """``ceiling`` or the baseline's name."""
    base_ns: float
    """Its median time in the base."""
    new_ns: float
    """Its median time in the new run."""
    change: float
    """New over base, minus one."""
    used: bool
    """Whether it counts: a baseline does not when the software differs, for then its own code may have changed."""


class CellSide(Record, frozen=True, kw_only=True):
    """One side of a cell."""

    variant: str
    """Name of the variant."""
    status: Status
    """How it ended."""
    reason: str = ""
    """Why it did not end ``ok``, or why its figure is not trusted."""
    correct: bool | None = None
    """Whether it is correct; None when it never came to a check."""
    median_ns: float | None = None
    """Median of its samples."""
    low_ns: float | None = None
    """Lower end of the interval of the median."""
    high_ns: float | None = None
    """Upper end."""
    rounds: int = 0
    """Rounds that it was timed for."""
    baseline: str = ""
    """What its own run compared it with."""
    verdict: Verdict | None = None
    """Its verdict within its own run."""
    speedup: float | None = None
    """Its speedup within its own run."""
    speedup_low: float | None = None
    """Lower end of the interval of that."""
    speedup_high: float | None = None
    """Upper end."""
    ceiling_share: float | None = None
    """Its share of the measured ceiling."""
    kernels_launched: int | None = None
    """Device kernels one call launches."""
    peak_memory_bytes: int | None = None
    """Peak of the device memory during one call."""
    durations_ns: list[float] = []
    """Its samples in order of the rounds, so that noise can be seen."""


class CellChange(Record, frozen=True, kw_only=True):
    """One cell on both sides."""

    workload: str
    """``Workload.label``."""
    workload_key: str
    """``Workload.key`` of the base, or of the new side where the base has none."""
    direction: Direction
    """Forward or backward."""
    base: CellSide | None
    """The base's side; None where it has no such cell."""
    new: CellSide | None
    """The new side."""
    pairing: Pairing
    """Whether they were timed together."""
    judgement: Judgement
    """What is said."""
    change: Change | None = None
    """How much longer it takes; None where nothing is compared."""
    relative: Change | None = None
    """Measured apart: how much longer it takes in units of the baseline of its own run, which cancels what a run has
    in common."""
    yardsticks: list[Yardstick] = []
    """Measured apart: what else changed between the runs."""
    allowance: float | None = None
    """Measured apart: the share by which the interval was widened on either side for the drift between runs."""
    reason: str = ""
    """Why, in words; always there when nothing is judged."""

    @property
    def fails(self) -> bool:
        """Whether it counts against a threshold."""
        return self.judgement in (Judgement.REGRESSION, Judgement.BROKEN)

    @property
    def verdict_changed(self) -> bool:
        """Whether its verdict within its own run is another one than in the base's."""
        return self.base is not None and self.new is not None and self.base.verdict is not self.new.verdict


class KernelSide(Record, frozen=True, kw_only=True):
    """One side of a kernel."""

    kernel_id: str
    """Its id within its run."""
    name: str
    """The compiler's own name."""
    backend: str
    """``triton``, ``cpp`` or ``extern``."""
    file_path: str
    """Path of its source relative to the run."""
    operations: list[str] = []
    """ATen operators fused into it."""
    facts: dict[str, Scalar] = {}
    """Launches, registers, spills, shared memory, warps, stages, block sizes."""
    instructions: dict[str, float] = {}
    """Instructions by class as the machine code has them, each counted once."""


class StageDifference(Record, frozen=True, kw_only=True):
    """One stage of a kernel on both sides, as a diff without names, hashes, paths and locations."""

    stage: Stage
    """The stage."""
    added: int = 0
    """Lines that only the new side has."""
    removed: int = 0
    """Lines that only the base has."""
    text: str = ""
    """The unified diff; empty where they are the same."""
    note: str = ""
    """Why there is no diff, or not the whole of it."""


class KernelChange(Record, frozen=True, kw_only=True):
    """One kernel on both sides."""

    workload: str
    """``Workload.label``."""
    direction: Direction
    """Forward or backward."""
    match: KernelMatch
    """How they were matched."""
    base: KernelSide | None
    """The base's; None where it is new."""
    new: KernelSide | None
    """The new one; None where it is gone."""
    changed: list[str] = []
    """Names of the facts and of the classes of instructions that differ."""
    stages: list[StageDifference] = []
    """Source and every stage that both have."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.match is KernelMatch.CODE and not self.changed and not any(s.text for s in self.stages)


class SideComparison(Record, frozen=True, kw_only=True):
    """One run against the base."""

    base: str
    """Label of the base."""
    new: str
    """Label of the other."""
    cells: list[CellChange]
    """Every cell of either, in the order of the base's plan."""
    kernels: list[KernelChange] = []
    """Every kernel of either."""
    headlines: list[str] = []
    """What a reader should know first: regressions, what broke, fusion that changed, in words."""
    caveats: list[str] = []
    """What limits the comparison, in words."""


class RunsComparison(Record, frozen=True, kw_only=True):
    """Two or more runs, each against the first."""

    runs: list[RunSide]
    """The runs, the base first."""
    environment: list[EnvironmentDifference]
    """What is not the same around them."""
    comparisons: list[SideComparison]
    """One for each run after the first."""
    fail_over: float | None
    """The threshold that was asked for, as a share; None where none was."""
    threshold: float
    """The share beyond which a slower cell is called a regression: ``fail_over``, else the margin of the runs."""
    margin: float
    """Relative difference below which two times count as equal."""
    redacted: bool = False
    """Whether paths, host and user names were taken out."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def failures(self) -> list[CellChange]:
        """Cells that are slower by more than the threshold, or broken."""
        return [cell for each in self.comparisons for cell in each.cells if cell.fails]

    @property
    def judged(self) -> int:
        """Cells of which something could be said."""
        silent = (Judgement.NOT_COMPARABLE, Judgement.NOT_JUDGED, Judgement.ONLY_BASE, Judgement.ONLY_NEW)
        return sum(cell.judgement not in silent for each in self.comparisons for cell in each.cells)
