"""Kernels of two runs, matched and set side by side.

Within a workload, a direction and a variant kernels are matched by, in this order: the same generated code up to
names, hashes and paths (a kernel that was only renumbered); the same name; the same ATen operators of the compiler's
provenance, all of them or at least half (a kernel that took in one operator more). What is left is gone, or new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from fuselab.comparison.records import KernelChange, KernelMatch, KernelSide, StageDifference
from fuselab.comparison.sides import Side
from fuselab.comparison.text import cleaned, difference
from fuselab.errors import StoreError
from fuselab.ir.instructions import parse_sass
from fuselab.ir.instructions_cpu import parse_assembly
from fuselab.records import Artifact, Direction, Kernel, Scalar, Stage

__all__ = ["compare_kernels"]

MOST_DIFFS = 200
"""Kernels whose stages are read and compared; of those behind them only figures are."""

_READ_BYTES = 4 << 20
_HALF = 0.5
_STAGES = (Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.SASS, Stage.AMDGCN, Stage.ASSEMBLY)
_FIGURES = ("launches", "registers", "spills", "shared_bytes", "num_warps", "num_stages")


class _Card(msgspec.Struct):
    """What is read of a kernel's card."""

    config: dict[str, Scalar | None] = {}


def compare_kernels(base: Side, new: Side, pairs: Sequence[tuple[str, str]]) -> list[KernelChange]:
    """Every kernel of either side for the variants that are compared, in the order of the base's plan.

    Args:
        base, new: the sides.
        pairs: variant of the base and variant of the new side; an empty name where a side has none.
    """
    itself = base.run.path == new.run.path
    changes: list[KernelChange] = []
    before, after = _by_place(base), _by_place(new)
    for workload, label in {**_labels(new), **_labels(base)}.items():
        for direction in Direction:
            for ours, theirs in pairs:
                olds = before.get((workload, direction, ours), [])
                news = after.get((workload, direction, theirs), [])
                for match, old, young in _matched(olds, news, itself and ours == theirs):
                    shown = len(changes) < MOST_DIFFS
                    changes.append(_change(label, direction, match, old, young, (base.label, new.label), shown))
    return changes


@dataclass(frozen=True)
class _Captured:
    """One kernel of one run, its files read when they are asked for."""

    side: Side
    kernel: Kernel
    artifacts: dict[Stage, Artifact]

    @cached_property
    def source(self) -> list[str]:
        """Its source, cleaned; empty where there is none to read."""
        if self.kernel.backend == "extern":
            return []
        stage = Stage.CPP if self.kernel.backend == "cpp" else Stage.TRITON
        return cleaned(self._text(self.kernel.file_path), stage, self.kernel.name)

    def stage(self, stage: Stage) -> list[str]:
        """A stage, cleaned; empty where it was not saved."""
        return cleaned(self.raw(stage), stage, self.kernel.name)

    def raw(self, stage: Stage) -> str:
        """A stage as it was captured; empty where it was not saved."""
        artifact = self.artifacts.get(stage)
        return self._text(artifact.path) if artifact is not None and artifact.path is not None else ""

    def record(self) -> KernelSide:
        """What the comparison says of it."""
        kernel = self.kernel
        facts: dict[str, Scalar] = {
            name: value for name in _FIGURES if (value := getattr(kernel, name)) is not None
        }  # fmt: skip
        facts.update({name: value for name, value in self._config().items() if value is not None})
        return KernelSide(
            kernel_id=kernel.kernel_id,
            name=kernel.name,
            backend=kernel.backend,
            file_path=kernel.file_path,
            operations=kernel.operations,
            facts=facts,
            instructions=self._instructions(),
        )

    def _config(self) -> dict[str, Scalar | None]:
        text = self._text(f"kernels/{self.kernel.kernel_id}/card.json")
        try:
            return msgspec.json.decode(text, type=_Card).config if text else {}
        except msgspec.DecodeError:  # an older card, or none of ours: its figures are in the record anyway
            return {}

    def _instructions(self) -> dict[str, float]:
        """By class from the SASS, by width of the registers from a CPU's assembly; each counted once."""
        if sass := self.raw(Stage.SASS):
            mix = parse_sass(sass)
            return {"all": float(mix.static), **{name: float(n) for name, n in mix.classes.most_common()}}
        if assembly := self.raw(Stage.ASSEMBLY):
            try:
                widths = parse_assembly(assembly, "kernel")
            except ValueError:  # it has no such function: the assembly of something else
                return {}
            return {"all": float(widths.total), **{name: float(n) for name, n in widths.widths.most_common()}}
        return {}

    def _text(self, path: str) -> str:
        try:
            return self.side.run.read_text(path, _READ_BYTES)
        except StoreError:  # gone, or not text: the comparison says that there is nothing to compare
            return ""


def _by_place(side: Side) -> dict[tuple[str, Direction, str], list[_Captured]]:
    artifacts: dict[str, dict[Stage, Artifact]] = {}
    for artifact in side.metadata.artifacts:
        if artifact.kernel_id is not None:
            artifacts.setdefault(artifact.kernel_id, {})[artifact.stage] = artifact
    keys = {workload.key: plain for plain, workload in side.workloads.items()}
    found: dict[tuple[str, Direction, str], list[_Captured]] = {}
    for kernel in side.metadata.kernels:
        place = keys.get(kernel.workload, kernel.workload), kernel.direction, kernel.variant
        found.setdefault(place, []).append(_Captured(side, kernel, artifacts.get(kernel.kernel_id, {})))
    return found


def _labels(side: Side) -> dict[str, str]:
    return {plain: workload.label for plain, workload in side.workloads.items()}


def _matched(
    olds: Sequence[_Captured], news: Sequence[_Captured], itself: bool
) -> Iterator[tuple[KernelMatch, _Captured | None, _Captured | None]]:
    """Pairs in the order of the base, then what is new."""
    if itself:
        yield from ((KernelMatch.CODE, kernel, kernel) for kernel in olds)
        return
    pairs: dict[int, tuple[KernelMatch, _Captured]] = {}
    left = list(news)

    def take(number: int, match: KernelMatch, found: _Captured | None) -> None:
        if found is not None:
            pairs[number] = match, found
            left.remove(found)

    for number, old in enumerate(olds):
        # Of several kernels with the same code, the one of the same name is the one.
        alike = [k for k in left if old.source and k.source == old.source]
        named = [k for k in alike if k.kernel.name == old.kernel.name]
        take(number, KernelMatch.CODE, next(iter(named or alike), None))
    for number, old in enumerate(olds):
        if number not in pairs:
            take(number, KernelMatch.NAME, next((k for k in left if k.kernel.name == old.kernel.name), None))
    for number, old in enumerate(olds):
        if number not in pairs:
            nearest = max(left, key=lambda k: _overlap(old.kernel, k.kernel), default=None)
            if nearest is not None and _overlap(old.kernel, nearest.kernel) >= _HALF:
                take(number, KernelMatch.OPERATIONS, nearest)
    for number, old in enumerate(olds):
        match, found = pairs.get(number, (KernelMatch.GONE, None))
        yield match, old, found
    yield from ((KernelMatch.NEW, None, kernel) for kernel in left)


def _overlap(old: Kernel, new: Kernel) -> float:
    """Operators in common over operators of either."""
    ours, theirs = set(old.operations), set(new.operations)
    return len(ours & theirs) / len(ours | theirs) if ours and theirs else 0.0


def _change(
    label: str,
    direction: Direction,
    match: KernelMatch,
    old: _Captured | None,
    young: _Captured | None,
    labels: tuple[str, str],
    shown: bool,
) -> KernelChange:
    before, after = (None if k is None else k.record() for k in (old, young))
    changed: list[str] = []
    stages: list[StageDifference] = []
    if old is not None and young is not None and old is not young and before is not None and after is not None:
        for ours, theirs in ((before.facts, after.facts), (before.instructions, after.instructions)):
            changed += [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if shown:
            stages = list(_stages(old, young, labels))
    return KernelChange(
        workload=label, direction=direction, match=match, base=before, new=after, changed=changed, stages=stages
    )


def _stages(old: _Captured, young: _Captured, labels: tuple[str, str]) -> Iterator[StageDifference]:
    if old.kernel.backend != "extern" or young.kernel.backend != "extern":
        stage = Stage.CPP if young.kernel.backend == "cpp" else Stage.TRITON
        yield difference(old.source, young.source, stage, labels)
    for stage in _STAGES:
        before, after = old.stage(stage), young.stage(stage)
        if before and after:
            yield difference(before, after, stage, labels)
        elif before or after:
            where = labels[0] if after else labels[1]
            artifact = (old if after else young).artifacts.get(stage)
            why = artifact.absent if artifact is not None and artifact.absent else "it was not saved"
            yield StageDifference(stage=stage, note=f"{where} has none: {why}")
