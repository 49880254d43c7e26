"""``PLAN.toml``: what to measure, within which limits, on which devices; read and validated before anything starts.

Pure: nothing is imported, compiled or run, and a user's file is only parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fuselab.device import DEVICES
from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import BASELINE, PRESETS, Experiment
from fuselab.experiments.arguments import parse_argument, parse_dtype, parse_shape
from fuselab.plan import CACHES, FLOAT_DTYPES, Plan, parse_directions
from fuselab.records import Direction, Scalar, Workload
from fuselab.store.encoding import require_no_secret
from fuselab.sweep.grid import Constraint, points, values
from fuselab.sweep.toml_file import Table, read_toml
from fuselab.worker.messages import ExperimentReference

__all__ = ["EVERY_MODEL", "Block", "Budget", "SweepPlan", "read_plan", "reference_of"]

EVERY_MODEL = "*"
"""In ``models``: measure everything once on each model of GPU that there is."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a sweep."""

    timing_s: float | None = None
    """Seconds of timing for each variant of a group; None: 1 on a GPU, 2 on a CPU."""
    check_s: float = 600.0
    """Seconds after which a variant's check is given up."""
    jobs: int | None = None
    """Checks at a time on each worker; None: by its cores."""
    cells: int | None = None
    """Most cells: a plan with more is refused."""
    hours: float | None = None
    """Hours after which nothing new is begun; what is left can be resumed."""
    memory_gb: float | None = None
    """Device memory in 10^9 bytes: workloads predicted to need more are left out, and their cells say so."""
    retries: int = 2
    """How often a workload whose worker was lost is begun again."""


@dataclass(frozen=True)
class Block:
    """One ``[[experiment]]`` of the plan."""

    experiment: Experiment
    reference: ExperimentReference
    variants: tuple[str, ...]
    directions: tuple[Direction, ...]
    baseline: str
    preset: str | None
    workloads: tuple[Workload, ...]
    """Empty where a preset says them."""
    seed: int

    def for_device(self, device_type: str, *, margin: float, cold: bool) -> Plan:
        """What is to be done on a type of device: becomes one run for each model."""
        workloads = self.workloads
        if self.preset is not None:
            found = self.experiment.workloads(self.preset, device_type)
            workloads = tuple(msgspec.structs.replace(w, seed=self.seed) for w in found)
        return Plan(
            experiment=self.experiment,
            reference=self.reference,
            workloads=workloads,
            variants=self.variants,
            directions=self.directions,
            baseline=self.baseline,
            device_type=device_type,
            seed=self.seed,
            preset=self.preset,
            margin=margin,
            cold=cold,
        )


@dataclass(frozen=True)
class SweepPlan:
    """A whole plan."""

    name: str
    path: Path
    device: str
    margin: float
    cold: bool
    budget: Budget
    models: tuple[str, ...]
    blocks: tuple[Block, ...]

    def on(self, device: str) -> SweepPlan:
        """The same plan on another device than it says.

        Raises:
            UnknownNameError: there is no such device.
        """
        if device not in DEVICES:
            raise UnknownNameError("device", device, DEVICES)
        return replace(self, device=device)

    def plans(self, device_type: str) -> list[Plan]:
        """One plan a block, for this type of device.

        Raises:
            UsageError: there are more cells than the budget allows.
        """
        plans = [block.for_device(device_type, margin=self.margin, cold=self.cold) for block in self.blocks]
        cells = sum(plan.cells for plan in plans)
        if self.budget.cells is not None and cells > self.budget.cells:
            raise UsageError(
                f"{self.path.name} has {cells} cells, and its budget allows {self.budget.cells}",
                hint="narrow the axes, add a constraint (where), or raise budget.cells",
            )
        return plans


def read_plan(path: Path, registry: Mapping[str, Experiment]) -> SweepPlan:
    """Read and validate a plan.

    Raises:
        UsageError: something in it cannot be; the message has the file, the line, the field, and the nearest match.
    """
    table = read_toml(path)
    name = table.take("name", str, path.stem)
    if not _NAME.fullmatch(name):
        raise table.refuse("name", f"{name!r} is no name for a directory", hint="letters, digits, - and _")
    device = _one_of(table, "device", "auto", DEVICES)
    caches = _one_of(table, "caches", "cold", CACHES)
    margin = table.take("margin", float, 0.01)
    if not 0.0 < margin < 1.0:
        raise table.refuse("margin", f"a margin lies between 0 and 1, got {margin:g}", hint="margin = 0.01 is 1%")
    placement = table.table("placement")
    models = placement.words("models", ())
    placement.finish()
    budget = _budget(table.table("budget"))
    blocks = [_block(entry, table, registry) for entry in table.tables("experiment")]
    for shared in ("seed", "baseline", "variants", "directions"):  # read by each block, known here
        table.taken.append(shared)
    table.finish()
    if not blocks:
        raise table.refuse("", "there is no [[experiment]] in it", hint='[[experiment]]\nname = "rms_norm"')
    return SweepPlan(name, path, device, margin, caches == "cold", budget, models, tuple(blocks))


def reference_of(experiment: ExperimentReference, workload: Workload) -> ExperimentReference:
    """How a worker finds the experiment of one workload: a user's code takes that workload's own arguments."""
    if not experiment.target:
        return experiment
    arguments = [f"{name}={text}" for name, text in workload.arguments.items()]
    return msgspec.structs.replace(experiment, arguments=arguments)


def _one_of(table: Table, name: str, default: str, allowed: Sequence[str]) -> str:
    word = table.take(name, str, default)
    if word not in allowed:
        error = UnknownNameError(name, word, allowed)
        raise table.refuse(name, error.message, hint=error.hint)
    return word


def _budget(table: Table) -> Budget:
    fields = {"timing_s": float, "check_s": float, "jobs": int, "cells": int, "hours": float, "memory_gb": float}
    found: dict[str, float | int] = {}
    for name, kind in fields.items():
        value = table.take(name, kind, kind(-1)) if name in table.entries else None
        table.taken.append(name)
        if value is not None:
            if value <= 0:
                raise table.refuse(name, f"{value:g} is nothing to measure within", hint="a number above 0")
            found[name] = value
    retries = table.take("retries", int, 2)
    if retries < 0:
        raise table.refuse("retries", f"{retries} is below 0")
    table.finish()
    return replace_budget(Budget(retries=retries), found)


def replace_budget(budget: Budget, changes: Mapping[str, float | int]) -> Budget:
    """The budget with some of its limits changed."""
    return msgspec.structs.replace(budget, **changes)


def _block(table: Table, whole: Table, registry: Mapping[str, Experiment]) -> Block:
    seed = table.take("seed", int, whole.take("seed", int, 0))
    axes_table = table.table("axes")
    axes: dict[str, tuple[Scalar, ...]] = {}
    for name in axes_table.entries:
        with axes_table.naming(name):
            axes[name] = values(axes_table.entries[name])
    where = table.words("where", ())
    with table.naming("where"):
        constraints = [Constraint(text, list(axes)) for text in where]
        found = list(points(axes, constraints)) if axes else []
    if axes and not found:
        raise table.refuse("where", "no combination of the axes is left", hint="loosen a constraint")
    own = table.take("file", str, "")
    if own:
        experiment, workloads = _own_code(table, axes_table, own, found, axes, seed)
        preset = None
        reference = ExperimentReference(target=experiment.target or "", seed=seed)
    else:
        experiment, preset, workloads = _registered(table, axes_table, registry, found, axes, seed)
        reference = ExperimentReference(name=experiment.name, seed=seed)
    with table.naming():
        for workload in workloads:
            require_no_secret(workload)
    variants, baseline = _variants(table, whole, experiment)
    directions = _directions(table if "directions" in table.entries else whole)
    table.taken.append("directions")
    table.finish()
    unique = tuple({workload.key: workload for workload in workloads}.values())
    return Block(experiment, reference, variants, directions, baseline, preset, unique, seed)


def _registered(
    table: Table,
    axes_table: Table,
    registry: Mapping[str, Experiment],
    found: Sequence[Mapping[str, Scalar]],
    axes: Mapping[str, Sequence[Scalar]],
    seed: int,
) -> tuple[Experiment, str | None, list[Workload]]:
    name = table.take("name", str, "")
    if name not in registry:
        error = UnknownNameError("experiment", name, registry)
        raise table.refuse("name", error.message, hint=f'{error.hint}; your own code: file = "FILE.py:NAME"')
    experiment = registry[name]
    shape = table.take("shape", str, "")
    if "preset" in table.entries or not axes:
        if axes or shape:
            raise table.refuse("preset", "a preset says the workloads, and there are axes as well", hint="one of them")
        return experiment, _one_of(table, "preset", "quick", PRESETS), []
    used = _placeholders(table, "shape", shape, axes)
    if bool(shape) == ("shape" in axes):
        raise table.refuse(
            "shape", "the shape is said by neither or by both of shape and axes.shape",
            hint='shape = "{rows}x{width}" with the axes rows and width, or axes.shape = ["4096x1024"]',
        )  # fmt: skip
    for axis in axes:
        if axis not in ("shape", "dtype") and axis not in used and axis not in experiment.options:
            known = ["shape", "dtype", *used, *experiment.options]
            error = UnknownNameError(f"axis of {name}", axis, known, plural="axes")
            raise axes_table.refuse(axis, error.message, hint=error.hint)
    workloads = []
    for point in found:
        with axes_table.naming("shape" if "shape" in axes else ""):
            size = parse_shape(str(point["shape"]) if "shape" in point else _filled(shape, point))
        with axes_table.naming("dtype"):
            dtype = parse_dtype(str(point.get("dtype", "f32")))
            if dtype not in FLOAT_DTYPES:
                raise UsageError(f"experiments have floating inputs, not {dtype}", hint=", ".join(FLOAT_DTYPES))
        options = {axis: value for axis, value in point.items() if axis in experiment.options}
        with axes_table.naming(next(iter(options), "")):
            workloads.append(experiment.workload(size, dtype, seed, options))
    return experiment, None, workloads


def _own_code(
    table: Table,
    axes_table: Table,
    target: str,
    found: Sequence[Mapping[str, Scalar]],
    axes: Mapping[str, Sequence[Scalar]],
    seed: int,
) -> tuple[Experiment, list[Workload]]:
    from fuselab.experiments.user import experiment_from

    templates = table.words("arguments", ())
    used = {name for text in templates for name in _placeholders(table, "arguments", text, axes)}
    for axis in axes:
        if axis not in used:
            error = UnknownNameError("axis", axis, used, plural="axes used by arguments")
            raise axes_table.refuse(axis, error.message, hint=error.hint)
    # A path in a plan is relative to the plan, so that it means the same wherever the sweep is started.
    file, colon, name = target.rpartition(":")
    placed = f"{(table.path.parent / file).absolute()}{colon}{name}" if file else target
    experiment: Experiment | None = None
    workloads = []
    with table.naming("arguments" if templates else "file"):
        for point in found or [{}]:
            texts = [_filled(text, point) for text in templates]
            if experiment is None:
                experiment = experiment_from(placed, texts, seed=seed)
            specs = [parse_argument(text) for text in texts]
            workloads.append(Workload(arguments={spec.name: spec.text for spec in specs}, seed=seed))
    assert experiment is not None  # noqa: S101 - there is at least one point
    return replace(experiment, workloads=lambda _preset, _device: tuple(workloads)), workloads


def _placeholders(table: Table, field: str, text: str, axes: Mapping[str, Sequence[Scalar]]) -> list[str]:
    names = _PLACEHOLDER.findall(text)
    for name in names:
        if name not in axes:
            error = UnknownNameError("axis", name, axes, plural="axes")
            raise table.refuse(field, f"{text!r}: {error.message}", hint=error.hint)
    return names


def _filled(text: str, point: Mapping[str, Scalar]) -> str:
    return _PLACEHOLDER.sub(lambda match: str(point[match[1]]), text)


def _variants(table: Table, whole: Table, experiment: Experiment) -> tuple[tuple[str, ...], str]:
    named = table if "variants" in table.entries else whole
    names = named.words("variants", ()) or tuple(v.name for v in experiment.variants)
    with named.naming("variants"):
        for name in names:
            experiment.variant(name)
    judge = table if "baseline" in table.entries else whole
    baseline = judge.take("baseline", str, BASELINE)
    with judge.naming("baseline"):
        experiment.variant(baseline)
    table.taken += ["variants", "baseline"]
    unique = tuple(dict.fromkeys(names))
    return (unique if baseline in unique else (baseline, *unique)), baseline


def _directions(table: Table) -> tuple[Direction, ...]:
    words = table.words("directions", ("both",))
    with table.naming("directions"):
        return tuple(dict.fromkeys(d for word in words for d in parse_directions(word)))
