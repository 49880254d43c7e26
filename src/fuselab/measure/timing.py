"""What goes into the timing of a group, and what comes out of it for each variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from fuselab.experiment import Implementation, Inputs
from fuselab.measure.statistics import median, median_interval
from fuselab.records import Ceiling, Clock, Comparison, Conditions, Parts, Sample

__all__ = ["Arm", "Timing", "by_round", "summarised"]


@dataclass(frozen=True)
class Arm:
    """One variant of a group."""

    name: str
    """Name of the variant."""
    implementation: Implementation
    """What is called; compiled already, or compiled by its first calls, which are not timed."""
    inputs_factory: Callable[[int], Inputs]
    """Makes input set number i. Arms that have the same factory object share the sets."""
    deterministic: bool = True
    """Whether a later call on the same inputs has to give what an earlier one gave."""
    check_output: Callable[[Inputs, list[Tensor]], str] | None = None
    """Checks results (outputs, or gradients) of a timed call: what is wrong with them in words, or an empty string."""


@dataclass(frozen=True)
class Timing:
    """Everything that timing found out about one variant; the fields are those of ``records.Measurement``."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    other_clocks: dict[str, list[Sample]] = field(default_factory=dict)
    clock: Clock | None = None
    cold: bool | None = None
    median_ns: float | None = None
    low_ns: float | None = None
    high_ns: float | None = None
    comparison: Comparison | None = None
    ceiling: Ceiling | None = None
    kernels_launched: int | None = None
    peak_memory_bytes: int | None = None
    saved_bytes: int | None = None
    conditions: list[Conditions] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    order_seed: int | None = None
    self_comparison: Comparison | None = None
    """The baseline against a second copy of itself, on a GPU; the baseline's timing has it."""
    control_comparison: Comparison | None = None
    """Plain streaming against the same with 2% more, on a GPU; the baseline's timing has it."""
    parts: Parts | None = None
    """Forward, backward and both; a backward has them."""
    error: Exception | None = None
    """What the variant raised; what it had been timed for until then is kept."""


def summarised(timing: Timing) -> Timing:
    """With the median of its samples and the interval of that."""
    if not timing.samples:
        return timing
    durations = [sample.duration_ns for sample in timing.samples]
    interval = median_interval(durations)
    return replace(timing, median_ns=median(durations), low_ns=interval.low, high_ns=interval.high)


def by_round(samples: list[Sample]) -> dict[int, float]:
    """Duration by round."""
    return {sample.round: sample.duration_ns for sample in samples}
