"""What stands around the charts: the machine and versions, warnings, the legend, and the table of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from fuselab.page.drawing import SHAPES, outline
from fuselab.page.model import RunData, Variants, groups_of, speedup_of
from fuselab.records import Measurement, Status, Verdict
from fuselab.report import figures
from fuselab.report.text import printable

__all__ = ["About", "Row", "about", "cell_rows", "stylesheet_marks", "warnings_of"]

_MOST_ROWS = 2000
_MOST_WARNINGS = 200


@dataclass(frozen=True)
class About:
    """One run and where it took place."""

    run: RunData
    facts: tuple[tuple[str, str], ...]
    state: str
    problem: str


@dataclass(frozen=True)
class Row:
    """One line of the table; a heading where it is the first of its workload."""

    heading: str
    experiment: str
    direction: str
    variant: str
    place: int
    status: str
    time: str
    speedup: str
    verdict: str
    ceiling: str
    kernels: str
    correct: str
    note: str
    href: str


def about(run: RunData) -> About:
    """The facts of one run, in words."""
    metadata, environment = run.metadata, run.environment
    versions = [f"{name} {version}" for name, version in environment.versions.items()]
    facts = [
        ("run", metadata.id),
        ("what", metadata.description),
        ("started", f"{metadata.created_at[:19].replace('T', ' ')} UTC"),
        ("took", _taken(metadata.created_at, metadata.finished_at)),
        ("preset", metadata.preset or ""),
        ("command", " ".join(metadata.command)),
        ("target", metadata.target or ""),
        ("device", environment.device),
        ("compute capability", environment.compute_capability or ""),
        ("memory", figures.size(environment.device_memory_bytes) if environment.device_memory_bytes else ""),
        ("last-level cache", figures.size(environment.l2_bytes) if environment.l2_bytes else ""),
        ("driver", environment.driver or ""),
        ("CUDA", environment.cuda_runtime or ""),
        ("processor", f"{environment.cpu}, {environment.cpu_cores} cores" if environment.cpu else ""),
        ("system", environment.os),
        ("Python", environment.python),
        ("compiler", environment.compiler or ""),
        ("versions", ", ".join(versions)),
        ("variables", ", ".join(f"{name}={value}" for name, value in environment.variables.items())),
        (
            "caches",
            "cold: buffers rotate beyond the last-level cache" if metadata.cold else "warm: the same buffers again",
        ),
        ("margin of equivalence", figures.share(metadata.margin)),
        ("seed", str(metadata.seed)),
        ("directory", str(run.redact(str(run.path)))),
    ]
    planned = len(metadata.plan) * len(metadata.variants) * len(metadata.directions)
    state = metadata.status.value
    if len(run.cells) < planned:
        state += f", {len(run.cells)} of {planned} cells"
    return About(
        run, tuple((k, printable(v)) for k, v in facts if v), state, printable(metadata.error or "", keep="\n")
    )


def _taken(start: str, end: str | None) -> str:
    try:
        return figures.elapsed((datetime.fromisoformat(end or "") - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):  # not finished, or a date that somebody edited
        return ""


def warnings_of(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """Every different warning, with where it was given; what could not be read comes first."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            found.setdefault(printable(note), []).append(run.metadata.id)
        for group in groups_of(run):
            for cell in group.cells:
                where = f"{run.metadata.experiment} {group.label} {cell.direction.value} {cell.variant}"
                for warning in cell.warnings:
                    found.setdefault(printable(warning), []).append(where)
                if cell.status not in (Status.OK, Status.CHECKED, Status.UNAVAILABLE):
                    reason = printable(cell.reason, keep="\n") or "no reason was given"
                    found.setdefault(f"{cell.status.value.replace('_', ' ')}: {reason}", []).append(where)
    shown = [(text, _places(where)) for text, where in found.items()]
    if len(shown) > _MOST_WARNINGS:
        shown = [*shown[:_MOST_WARNINGS], (f"and {len(shown) - _MOST_WARNINGS} more", "fuselab show RUN --json")]
    return shown


def _places(where: Sequence[str]) -> str:
    different = list(dict.fromkeys(where))
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return ", ".join(different[:3]) + more


def stylesheet_marks(variants: Variants) -> list[tuple[str, int, Markup]]:
    """The legend: name, number and drawn mark of each variant."""
    found = []
    for name in variants.drawn:
        place = variants.place(name)
        path = outline(SHAPES[place % len(SHAPES)], 7, 7, 4.5)
        mark = Markup(
            '<svg class="key" width="14" height="14" aria-hidden="true"><path class="mark v{}" d="{}"/></svg>'
        )
        found.append((printable(name), place, mark.format(place, path)))
    return found


def cell_rows(runs: Sequence[RunData], variants: Variants) -> list[Row]:
    """Every cell, the page's charts as text; beyond two thousand the rest is in ``show --json``."""
    rows = []
    for run in runs:
        for group in groups_of(run):
            for number, cell in enumerate(group.cells):
                heading = f"{run.metadata.experiment}  {group.label}" if number == 0 else ""
                kernels = run.kernels_of(cell)
                href = run.kernel_href(kernels[0]) if kernels else ""
                rows.append(_row(run, cell, heading, variants.place(cell.variant), href))
                if len(rows) >= _MOST_ROWS:
                    return rows
    return rows


def _row(run: RunData, cell: Measurement, heading: str, place: int, href: str) -> Row:
    comparison = cell.comparison
    span = speedup_of(cell)
    speed = figures.ratio(span[1], span[0], span[2]).replace("x", "\u00d7") if span else ""
    verdict = comparison.verdict.value if comparison and cell.status is Status.OK and cell.correct is not False else ""
    note = "; ".join([*cell.labels, *([cell.reason] if cell.reason else [])])
    return Row(
        heading=heading,
        experiment=run.metadata.experiment,
        direction=cell.direction.value,
        variant=printable(cell.variant),
        place=place,
        status=cell.status.value.replace("_", " "),
        time=figures.duration(cell.median_ns, cell.low_ns, cell.high_ns) if cell.status is Status.OK else "",
        speedup="baseline" if verdict == Verdict.BASELINE.value else speed,
        verdict="" if verdict == Verdict.BASELINE.value else verdict,
        ceiling=figures.share(cell.ceiling.share) if cell.ceiling and cell.status is Status.OK else "",
        kernels="" if cell.kernels_launched is None else str(cell.kernels_launched),
        correct={True: "yes", False: "no", None: ""}[cell.correct],
        note=printable(note),
        href=href,
    )
