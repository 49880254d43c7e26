"""What a plan will take: cells, time and memory, from what earlier sweeps cost where there are any, else from rules.

A prediction, not a measurement: within a factor of two or three, and said to be one wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import msgspec

from fuselab.execution import Settings
from fuselab.experiment import Experiment, VariantKind
from fuselab.experiments.arguments import parse_argument
from fuselab.plan import Plan
from fuselab.records import DTYPES, Direction, Workload
from fuselab.sweep.plan import Budget
from fuselab.sweep.record import Sweep

__all__ = ["BlockCost", "PlanCost", "memory_bytes", "predict"]

BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1}
assert BYTES.keys() == DTYPES.keys()  # noqa: S101 - both are written here; a dtype more needs its size

FLOAT64_COPIES = 3
"""The check holds inputs, outputs and gradients in float64 besides, and the reference's temporaries."""

CHECK_S = {
    VariantKind.EAGER: 5.0,
    VariantKind.COMPILED: 20.0,
    VariantKind.TRITON: 8.0,
    VariantKind.PEER: 8.0,
}
"""Seconds of a check, process and imports included, where nothing was measured yet."""

AUTOTUNED_S = 60.0
"""The same for a variant that tunes its kernels."""

TIMING_S = 6.0
"""Seconds of a timing process besides its budget: imports, warm-up, inputs."""

AT_A_TIME = 4
"""Checks that run beside each other, as a rule."""


class BlockCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one block of a plan will take on one device."""

    experiment: str
    """Name of the experiment."""
    workloads: int
    """Its workloads."""
    variants: int
    """Its variants."""
    directions: int
    """Its directions."""
    cells: int
    """Workloads times variants times directions."""
    seconds: float
    """Predicted device time."""
    measured: bool
    """Whether earlier sweeps were asked, or rules only."""
    memory_bytes: int | None
    """Predicted memory of the largest workload; None where nobody can say."""
    largest: str
    """Label of that workload."""
    left_out: int
    """Workloads beyond the budget's memory."""


class PlanCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole plan will take on one device."""

    name: str
    """The plan's name."""
    device_type: str
    """``cpu`` or ``cuda``."""
    blocks: list[BlockCost]
    """By block."""
    cells: int
    """All cells."""
    seconds: float
    """Predicted device time; over several devices it is divided by their number."""


def predict(name: str, plans: Sequence[Plan], budget: Budget, earlier: Iterable[Sweep] = ()) -> PlanCost:
    """What plans will take on one device.

    Args:
        name: of the sweep.
        plans: one a block.
        budget: of the plan.
        earlier: sweeps whose units' cost is known.
    """
    known = _known(earlier)
    blocks = [_block(plan, budget, known) for plan in plans]
    return PlanCost(
        name=name,
        device_type=plans[0].device_type if plans else "",
        blocks=blocks,
        cells=sum(block.cells for block in blocks),
        seconds=sum(block.seconds for block in blocks),
    )


def memory_bytes(experiment: Experiment, workload: Workload, directions: Sequence[Direction]) -> int | None:
    """Memory that checking one workload takes: what it reads and writes, and that again in float64.

    Example:
        >>> from fuselab.experiment import load_registry
        >>> silu = load_registry(entry_points=())["silu"]
        >>> memory_bytes(silu, silu.workload((1024, 1024), "bf16"), [Direction.FORWARD])
        54525952
    """
    size = BYTES.get(workload.dtype, 4)
    if experiment.target is not None:
        tensors = [spec.value for text in workload.arguments.items() if (spec := parse_argument("=".join(text)))]
        moved = sum(_bytes(value) for value in tensors) * 2
    else:
        found = [experiment.traffic(workload, direction) for direction in directions]
        if not found or any(traffic is None for traffic in found):
            return None
        moved = sum(traffic.bytes_moved for traffic in found if traffic is not None)
    return moved + FLOAT64_COPIES * moved * 8 // size


def _bytes(value: object) -> int:
    """Bytes of an argument; one that is no tensor has next to none."""
    count = 1
    for axis in getattr(value, "shape", ()):
        count *= axis
    return count * BYTES.get(getattr(value, "dtype", ""), 0)


def _block(plan: Plan, budget: Budget, known: Mapping[str, float]) -> BlockCost:
    sizes = {w.label: memory_bytes(plan.experiment, w, plan.directions) for w in plan.workloads}
    said = {label: size for label, size in sizes.items() if size is not None}
    largest = max(said, key=lambda label: said[label], default="")
    allowed = None if budget.memory_gb is None else budget.memory_gb * 1e9
    left_out = sum(1 for size in said.values() if allowed is not None and size > allowed)
    measured = known.get(plan.experiment.name)
    seconds = (len(plan.workloads) - left_out) * (measured or _unit_seconds(plan, budget))
    return BlockCost(
        experiment=plan.experiment.name,
        workloads=len(plan.workloads),
        variants=len(plan.variants),
        directions=len(plan.directions),
        cells=plan.cells,
        seconds=seconds,
        measured=measured is not None,
        memory_bytes=said[largest] if largest else None,
        largest=largest,
        left_out=left_out,
    )


def _unit_seconds(plan: Plan, budget: Budget) -> float:
    """Seconds of one workload by rule: its checks beside each other, then its groups."""
    checks = []
    for name in plan.variants:
        variant = plan.experiment.variant(name)
        options = variant.compile_options
        checks.append(AUTOTUNED_S if options and "autotune" in (options.mode or "") else CHECK_S[variant.kind])
    timing = Settings(budget_s=budget.timing_s).budget(plan.device_type) * len(plan.variants)
    at_a_time = min(budget.jobs or AT_A_TIME, len(checks))
    return max(*checks, sum(checks) / at_a_time) + TIMING_S + timing * len(plan.directions)


def _known(earlier: Iterable[Sweep]) -> dict[str, float]:
    """Mean seconds of a unit by experiment, from what was measured."""
    seconds: dict[str, list[float]] = {}
    for sweep in earlier:
        for unit in sweep.units():
            seconds.setdefault(unit.run.partition("/")[0], []).append(unit.seconds)
    return {experiment: fmean(found) for experiment, found in seconds.items()}
