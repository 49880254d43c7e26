"""The sides of a comparison: ``RUN`` or ``RUN@VARIANT``, opened and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from fuselab import store
from fuselab.comparison.records import RunSide
from fuselab.errors import UnknownNameError, UsageError
from fuselab.measure.verdicts import settle
from fuselab.records import Direction, Environment, Measurement, RunMetadata, RunStatus, Workload
from fuselab.store import Run

__all__ = ["Side", "open_sides", "without_seed"]

_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def without_seed(workload: Workload) -> str:
    """The workload's key whatever its seed: the values of the inputs do not decide what a cell measures."""
    return msgspec.structs.replace(workload, seed=0).key


@dataclass(frozen=True)
class Side:
    """One run as it is read for a comparison."""

    label: str
    run: Run
    metadata: RunMetadata
    environment: Environment
    raw: tuple[Measurement, ...]
    """Cells as they are stored."""
    variant: str | None
    """The variant that was asked for."""
    notes: tuple[str, ...] = ()

    @cached_property
    def cells(self) -> dict[tuple[str, Direction, str], Measurement]:
        """Cells with the verdicts that stand, by workload (whatever its seed), direction and variant."""
        return {(without_seed(m.workload), m.direction, m.variant): m for m in settle(self.raw)}

    @cached_property
    def stored(self) -> dict[tuple[str, Direction, str], Measurement]:
        """The same as they are stored: with the comparisons that a verdict may have lost since."""
        return {(without_seed(m.workload), m.direction, m.variant): m for m in self.raw}

    @cached_property
    def workloads(self) -> dict[str, Workload]:
        """Workloads of the plan and of the cells by their key whatever the seed, in that order."""
        planned = [*self.metadata.plan, *(m.workload for m in self.raw)]
        found: dict[str, Workload] = {}
        for workload in planned:
            found.setdefault(without_seed(workload), workload)
        return found

    @property
    def variants(self) -> list[str]:
        """The variants to compare, in order."""
        if self.variant is not None:
            return [self.variant]
        return list(dict.fromkeys([*self.metadata.variants, *(m.variant for m in self.raw)]))

    def record(self) -> RunSide:
        """What the comparison says of this run."""
        return RunSide(
            label=self.label,
            id=self.metadata.id,
            path=str(self.run.path),
            experiment=self.metadata.experiment,
            variant=self.variant,
            status=self.metadata.status,
            device=self.environment.device,
            device_type=self.environment.device_type,
            created_at=self.metadata.created_at,
            versions={n: v for n, v in self.environment.versions.items() if n in ("torch", "triton", "fuselab")},
            notes=list(self.notes),
        )


def open_sides(names: Sequence[str], root: Path, variants: Sequence[str] = ()) -> list[Side]:
    """Open what is to be compared; the first is the base.

    Args:
        names: ``RUN`` or ``RUN@VARIANT`` each, RUN being whatever ``store.open_run`` takes. A run without a variant
            takes the base's.
        root: directory that holds the runs.
        variants: with one RUN alone: its variants to be compared, the first the base.

    Raises:
        UsageError: fewer than two sides, different experiments, or a variant named for some other than the base only.
        UnknownNameError: no such run or variant.
        StoreError: a run cannot be read.
    """
    if variants:
        if len(names) != 1 or "@" in _split(names[0], root)[1]:
            raise UsageError(
                "--variants compares variants of one run",
                hint="fuselab compare RUN --variants eager,compile; across runs: fuselab compare A@eager B@compile",
            )
        names = [f"{names[0]}@{variant}" for variant in variants]
    if len(names) < 2:
        raise UsageError(
            "there is nothing to compare it with",
            hint="name two runs, the first the base: fuselab compare A B; or variants of one: RUN --variants a,b",
        )
    if len(names) > len(_LABELS):
        raise UsageError(f"{len(names)} runs are more than a table can show", hint=f"at most {len(_LABELS)}")
    split = [_split(name, root) for name in names]
    base_variant = split[0][1].removeprefix("@")
    for name, (_, variant) in zip(names, split, strict=True):
        if variant and not base_variant:
            raise UsageError(
                f"{name} names a variant and the base {names[0]} does not",
                hint="name one for the base, which the others then share, or for none",
            )
    opened: dict[str, tuple[Run, RunMetadata]] = {}
    sides = []
    for label, (place, variant) in zip(_LABELS, split, strict=False):
        if place not in opened:
            run = store.open_run(place, root)
            opened[place] = run, run.metadata()
        sides.append(_side(label, *opened[place], variant.removeprefix("@") or base_variant or None))
    _require_one_experiment(sides)
    return sides


def _split(name: str, root: Path) -> tuple[str, str]:
    """``RUN`` and ``@VARIANT`` or nothing; a directory whose own name has an ``@`` is a run as it stands."""
    place, at, variant = name.rpartition("@")
    if not at or not place or not variant or "/" in variant:
        return name, ""
    if (Path(name) / "metadata.json").is_file() or (root / name / "metadata.json").is_file():
        return name, ""
    return place, f"@{variant}"


def _side(label: str, run: Run, metadata: RunMetadata, variant: str | None) -> Side:
    raw = tuple(run.measurements())
    known = list(dict.fromkeys([*metadata.variants, *(m.variant for m in raw)]))
    if variant is not None and variant not in known:
        raise UnknownNameError("variant", variant, known)
    notes = list(run.notes())
    if metadata.status is not RunStatus.COMPLETE:
        notes.insert(0, f"the run is {metadata.status.value}" + (f": {metadata.error}" if metadata.error else ""))
    if not raw:
        notes.append("nothing was measured")
    return Side(label, run, metadata, run.environment(), raw, variant, tuple(notes))


def _require_one_experiment(sides: Sequence[Side]) -> None:
    base = sides[0].metadata.experiment
    for side in sides[1:]:
        if side.metadata.experiment != base:
            raise UsageError(
                f"{sides[0].metadata.id} and {side.metadata.id} are runs of different experiments:"
                f" {base} and {side.metadata.experiment}",
                hint="a comparison is of one experiment; fuselab list-runs shows which runs there are",
            )
