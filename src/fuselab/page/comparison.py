"""The page of a comparison: one file, no scripts at all, and ``fuselab.compare`` for a notebook.

What folds open is a ``details`` element and what is drawn is SVG that stands in the file, so there is nothing to run:
the policy of the page lets no script through, and its one style sheet by its hash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fuselab.comparison import RunsComparison, compare_runs, parse_share
from fuselab.comparison.records import CellChange, CellSide, Judgement, KernelChange, SideComparison, StageDifference
from fuselab.page.redact import redacted, redactor_of
from fuselab.page.security import policy
from fuselab.report import figures
from fuselab.report.comparison import (
    ComparisonView,
    change_text,
    comparison_document,
    fact_changes,
    kernel_words,
    sentence,
    variant_of,
)
from fuselab.report.text import printable
from fuselab.store import Run
from fuselab.store.files import write_atomically

__all__ = ["Compared", "compare", "comparison_page", "redacted_comparison"]

_TEMPLATES = Path(__file__).parent / "templates"

DIFF_CHARACTERS = 1_500_000
"""Text of diffs that a page carries; behind it a kernel keeps its figures and the number of its lines."""

_KEPT = frozenset({"changed", "device_type"})
"""Fields that are words of ours, by which others are looked up."""
_WIDEST = 0.30
"""Share to which the scale of the intervals reaches at most; what lies beyond is an arrow at its end."""
_CHART = 260
_ROW = 26
_SAMPLES = (620, 150)
_MARKS = {
    Judgement.REGRESSION: "▲",
    Judgement.BROKEN: "✕",
    Judgement.SLOWER: "△",
    Judgement.FASTER: "▼",
    Judgement.MENDED: "✓",
    Judgement.EQUIVALENT: "=",
    Judgement.UNRESOLVED: "?",
}
_KINDS = {
    Judgement.REGRESSION: "bad",
    Judgement.BROKEN: "bad",
    Judgement.SLOWER: "bad",
    Judgement.FASTER: "good",
    Judgement.MENDED: "good",
    Judgement.EQUIVALENT: "same",
}


def compare(
    *runs: str | Path,
    variants: Sequence[str] = (),
    fail_over: float | str | None = None,
    out: str | Path = "runs",
    redact: bool = False,
) -> Compared:
    """Compare runs with the first, or variants of one run: ``fuselab compare`` as a function.

    Args:
        runs: paths or ids, each with ``@VARIANT`` where one variant is meant; the first is the base.
        variants: with one run: its variants to compare, the first the base.
        fail_over: share beyond which a slower cell is a regression, ``0.02`` or ``"2%"``; the runs' margin without.
        out: directory that holds the runs.
        redact: whether paths, host and user names are taken out, so that what is written can be mailed.

    Raises:
        UsageError: nothing to compare with, different experiments, or no workload in common.
        UnknownNameError: no such run or variant.
        StoreError: a run cannot be read.

    Example:
        >>> compared = fuselab.compare("rms_norm/latest", variants=["eager", "compile"])  # doctest: +SKIP
        >>> compared.failures  # doctest: +SKIP
        []
    """
    share = parse_share(fail_over) if isinstance(fail_over, str) else fail_over
    found = compare_runs([str(run) for run in runs], Path(out), variants=variants, fail_over=share)
    return Compared(redacted_comparison(found) if redact else found)


def redacted_comparison(comparison: RunsComparison) -> RunsComparison:
    """The comparison without paths, host and user names, as ``fuselab report --redact`` takes them out.

    Args:
        comparison: from ``compare_runs``, as it stands: its runs are read again for the names in them.

    Raises:
        StoreError: a run cannot be read any more.
    """
    redact = redactor_of(Run(Path(path)) for path in dict.fromkeys(side.path for side in comparison.runs))
    return msgspec.structs.replace(redacted(comparison, redact, _KEPT), redacted=True)


@dataclass(frozen=True, repr=False)
class Compared:
    """A comparison that displays itself: a table in a notebook and on a terminal."""

    record: RunsComparison
    """Everything that is known."""

    @property
    def failures(self) -> list[CellChange]:
        """Cells that are slower by more than the threshold, or broken."""
        return self.record.failures

    def document(self) -> dict[str, Any]:
        """Plain data: what ``--json`` prints."""
        return comparison_document(self.record)

    def page(self) -> str:
        """The page as HTML."""
        return comparison_page(self.record)

    def write(self, path: str | Path) -> Path:
        """Write the page.

        Raises:
            StoreError: the disk refused.
        """
        write_atomically(Path(path), self.page().encode())
        return Path(path)

    def __repr__(self) -> str:
        return "\n".join(
            f"{one.new} against {one.base}: {sentence(self.record, one)}" for one in self.record.comparisons
        )

    def _repr_mimebundle_(self, include: Sequence[str], exclude: Sequence[str], **_: Any) -> dict[str, str]:
        return ComparisonView(self.record)._repr_mimebundle_(include, exclude)


def comparison_page(comparison: RunsComparison) -> str:
    """The page of a comparison: HTML that needs nothing beside it.

    Args:
        comparison: from ``compare_runs``.
    """
    style = (_TEMPLATES / "comparison.css").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    return environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        style=Markup(style),  # noqa: S704 - a file of ours
        policy=policy([], [style]),
        sides=[_Against(comparison, one) for one in comparison.comparisons],
        percent=lambda share: f"{share * 100:g}%",
        value=lambda text: text or figures.NOTHING,
    )


class _Against:
    """One run against the base, as the template shows it."""

    def __init__(self, comparison: RunsComparison, one: SideComparison) -> None:
        self.one = one
        self.sentence = sentence(comparison, one)
        self.failing = any(cell.fails for cell in one.cells)
        self._scale = _Scale.over([*one.cells], comparison.threshold)
        named = {run.label: run.variant for run in comparison.runs}
        self._variants = named.get(one.base) is not None and named.get(one.new) is not None
        self.heads = [f"{label} {named.get(label) or ''}".strip() for label in (one.base, one.new)]
        self._room = DIFF_CHARACTERS // len(comparison.comparisons)

    @property
    def groups(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Workloads with their cells."""
        by_workload: dict[str, list[CellChange]] = {}
        for cell in self.one.cells:
            by_workload.setdefault(cell.workload, []).append(cell)
        for workload, cells in by_workload.items():
            yield workload, [self._cell(cell) for cell in cells]

    @property
    def axis(self) -> Markup:
        """The scale above the intervals."""
        return self._scale.axis()

    @property
    def same_kernels(self) -> int:
        """How many kernels are the same."""
        return sum(kernel.same for kernel in self.one.kernels)

    @property
    def kernels(self) -> Iterator[dict[str, Any]]:
        """Kernels that are not the same."""
        for kernel in self.one.kernels:
            side = kernel.new or kernel.base
            if kernel.same or side is None:
                continue
            other = kernel.base.name if kernel.base is not None and kernel.base.name != side.name else ""
            yield {
                "kernel": kernel,
                "name": side.name,
                "was": other,
                "words": kernel_words(kernel),
                "operations": side.operations,
                "facts": fact_changes(kernel),
                "stages": [self._stage(stage) for stage in kernel.stages],
                "place": _place(kernel),
            }

    def _stage(self, stage: StageDifference) -> dict[str, Any]:
        shown = len(stage.text) <= self._room
        self._room -= len(stage.text) if shown else 0
        note = stage.note if shown else "the diff is not shown: the page would be too large; it is in --json"
        return {
            "name": stage.stage.value,
            "added": stage.added,
            "removed": stage.removed,
            "lines": [(_LINES.get(line[:1], ""), line) for line in stage.text.split("\n")]
            if shown and stage.text
            else [],
            "note": note,
            "same": not stage.text and not stage.note,
        }

    def _cell(self, cell: CellChange) -> dict[str, Any]:
        return {
            "cell": cell,
            "variant": "" if self._variants else variant_of(cell),
            "kind": _KINDS.get(cell.judgement, "unknown"),
            "mark": _MARKS.get(cell.judgement, "·"),
            "base": _time(cell.base),
            "new": _time(cell.new),
            "change": change_text(cell.change),
            "relative": change_text(cell.relative) if cell.relative else "",
            "interval": self._scale.interval(cell),
            "samples": _samples(cell, self.one),
            "speedups": _speedups(cell),
            "share": [figures.share(s.ceiling_share) if s else figures.NOTHING for s in (cell.base, cell.new)],
            "kernels": [_count(s.kernels_launched if s else None) for s in (cell.base, cell.new)],
            "memory": [figures.size(s.peak_memory_bytes if s else None) for s in (cell.base, cell.new)],
        }


_LINES = {"+": "add", "-": "del", "@": "hunk"}


@dataclass(frozen=True)
class _Scale:
    """The scale that all intervals of one comparison share, symmetric about no change."""

    reach: float
    threshold: float

    @classmethod
    def over(cls, cells: Sequence[CellChange], threshold: float) -> _Scale:
        ends = [
            abs(end)
            for cell in cells
            if cell.change is not None
            for end in (cell.change.low, cell.change.high, cell.change.change)
            if end is not None and math.isfinite(end)
        ]
        return cls(min(max([*ends, threshold * 1.5, 0.02]) * 1.08, _WIDEST), threshold)

    def x(self, share: float) -> float:
        return _CHART / 2 * (1 + max(-1.0, min(1.0, share / self.reach)))

    def axis(self) -> Markup:
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if self.reach / s < 4)
        ticks = [n * step for n in range(-int(self.reach / step), int(self.reach / step) + 1)]
        texts = "".join(
            f'<text x="{self.x(t):.1f}" y="12" text-anchor="middle">{"+" if t > 0 else ""}{t * 100:g}%</text>'
            for t in ticks
        )
        return _svg(_CHART, 16, "axis", texts, "")

    def interval(self, cell: CellChange) -> Markup:
        middle = _ROW / 2
        parts = [
            f'<line class="{kind}" x1="{self.x(at):.1f}" x2="{self.x(at):.1f}" y1="0" y2="{_ROW}"/>'
            for kind, at in (("zero", 0.0), ("past", self.threshold))
        ]
        change = cell.change
        if change is None or not math.isfinite(change.change):
            return _svg(_CHART, _ROW, "interval", "".join(parts), "")
        kind = _KINDS.get(cell.judgement, "unknown")
        low, high = change.low, change.high
        if low is not None and high is not None:
            left, right = self.x(low), self.x(high)
            wide = max(right - left, 2)
            parts.append(
                f'<rect class="{kind} range" x="{left:.1f}" y="{middle - 4}" width="{wide:.1f}" height="8" rx="2"/>'
            )
        x = self.x(change.change)
        if abs(change.change) > self.reach:
            inwards = 9 if change.change < 0 else -9
            points = f"{x:.1f},{middle} {x + inwards:.1f},{middle - 6} {x + inwards:.1f},{middle + 6}"
            parts.append(f'<polygon class="{kind} point" points="{points}"/>')
        else:
            parts.append(f'<rect class="{kind} point" x="{x - 1.5:.1f}" y="{middle - 8}" width="3" height="16"/>')
        return _svg(_CHART, _ROW, "interval", "".join(parts), f"change {change_text(change)}")


def _samples(cell: CellChange, one: SideComparison) -> Markup:
    """Durations by round, the base's as rings and the new ones as dots; nothing where neither has two."""
    series = [
        (label, kind, [d for d in side.durations_ns if math.isfinite(d)])
        for label, kind, side in ((one.base, "ring", cell.base), (one.new, "dot", cell.new))
        if side is not None
    ]
    values = [d for _, _, durations in series for d in durations]
    if len(values) < 2 or min(values) <= 0:
        return Markup("")
    width, height = _SAMPLES
    low, high = min(values), max(values)
    span = (high - low) or high * 0.01
    rounds = max(len(durations) for _, _, durations in series)
    left, right, top, bottom = 84, width - 12, 12, height - 24

    def place(n: int, duration: float) -> tuple[float, float]:
        return left + (n + 0.5) * (right - left) / rounds, bottom - (duration - low) / span * (bottom - top)

    parts = [
        f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{figures.duration(d)}</text>'
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        for y, d in ((top, high), (bottom, low))
    ]
    for _, kind, durations in series:
        for n, duration in enumerate(durations):
            x, y = place(n, duration)
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    parts.append(f'<text x="{left}" y="{height - 6}">round 0</text>')
    parts.append(f'<text x="{right}" y="{height - 6}" text-anchor="end">round {rounds - 1}</text>')
    words = ", ".join(f"{label} {len(durations)} rounds" for label, _, durations in series)
    return _svg(width, height, "samples", "".join(parts), f"samples by round: {words}")


def _svg(width: float, height: float, kind: str, inner: str, label: str) -> Markup:
    """A picture from parts that hold numbers and words of ours alone; its label is made of them too."""
    said = f'role="img" aria-label="{Markup.escape(printable(label))}"' if label else 'aria-hidden="true"'
    picture = (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" {said}>{inner}</svg>'
    )
    return Markup(picture)  # noqa: S704 - numbers, and what was escaped above


def _speedups(cell: CellChange) -> list[str]:
    return [
        figures.NOTHING
        if side is None or side.verdict is None
        else f"{figures.ratio(side.speedup, side.speedup_low, side.speedup_high)} {side.verdict.value}"
        for side in (cell.base, cell.new)
    ]


def _time(side: CellSide | None) -> str:
    if side is None:
        return figures.NOTHING
    if side.correct is False:
        return "wrong"
    if side.median_ns is None:
        return side.status.value.replace("_", " ")
    return figures.duration(side.median_ns, side.low_ns, side.high_ns)


def _count(value: int | None) -> str:
    return figures.NOTHING if value is None else str(value)


def _place(kernel: KernelChange) -> str:
    return f"{kernel.direction.value} {kernel.workload}"


def _shown(value: Any) -> Any:
    """Words from elsewhere, with what would be obeyed or reordered instead of shown made visible."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value, keep="\n\t")
