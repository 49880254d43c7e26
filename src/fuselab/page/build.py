"""The page, put together: runs in, one HTML document out, with everything in it."""

from __future__ import annotations

import base64
import importlib.resources
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from fuselab import __version__
from fuselab.page import cost, roofline, samples, scaling, speedup, traffic_chart, verdict
from fuselab.page.drawing import Chart
from fuselab.page.model import RunData, Variants, groups_of, load
from fuselab.page.overview import about, cell_rows, stylesheet_marks, warnings_of
from fuselab.page.panes import Panes, panes
from fuselab.page.redact import redactor_of, unchanged
from fuselab.page.security import policy
from fuselab.page.traffic import Picture, picture_of
from fuselab.records import Direction
from fuselab.report import figures
from fuselab.report.certificate import certificate_line
from fuselab.store import Run
from fuselab.store.files import write_atomically

__all__ = ["REPORT", "build", "write"]

REPORT = "report.html"
"""Name of the page within a run's directory, and below the root for all runs of one invocation."""

_TRAFFIC_DRAWN = 60
"""Groups whose traffic is drawn; of more, the rest are counted."""
_SAMPLES_DRAWN = 160


@dataclass(frozen=True)
class _Switched:
    """A chart of both directions."""

    forward: Chart | None
    backward: Chart | None

    def __bool__(self) -> bool:
        return self.forward is not None or self.backward is not None


def build(runs: Sequence[Run], *, redact: bool = False) -> str:
    """The page of some runs.

    Args:
        runs: in the order in which they are shown.
        redact: whether paths, host and user names are taken out.

    Raises:
        StoreError: the metadata or the environment of a run cannot be read.
    """
    change = redactor_of(runs) if redact else unchanged
    data = [load(run, index, change) for index, run in enumerate(runs)]
    variants = Variants(data)
    below = panes(runs, redact=change)
    scripts, styles = [_static("page.js"), below.script], [_static("page.css"), below.style]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            policy=policy(scripts, styles),
            scripts=scripts,
            styles=styles,
            panes=below,
            documents=_documents(below),
            redacted=redact,
            version=__version__,
            **_sections(data, variants),
        )
    )


def write(path: Path, runs: Sequence[Run], *, redact: bool = False) -> Path:
    """Write the page of some runs to a file, whole or not at all.

    Raises:
        StoreError: a run cannot be read, or the file cannot be written.
    """
    write_atomically(path.absolute(), build(runs, redact=redact).encode("utf-8", "replace"))
    return path


def _sections(data: Sequence[RunData], variants: Variants) -> dict[str, Any]:
    every_group = [group for run in data for group in groups_of(run)]
    drawn = [picture for group in every_group[:_TRAFFIC_DRAWN] if (picture := picture_of(group))]
    found = verdict.tallies(data, variants)
    calls = cost.first_calls(data)
    sampled = [
        (group.run, samples.SampleSection(group.anchor, group.label, group.direction.value, said, chart))
        for group in every_group[:_SAMPLES_DRAWN]
        if (chart := samples.samples_chart(group, variants))
        for said in [samples.noise(group.cells)]
    ]
    certificates = [line.plain for run in data if (line := certificate_line(run.cells)) is not None]
    cells = [cell for run in data for cell in run.cells]
    return {
        "runs": data,
        "sentence": verdict.sentence(data, found),
        "answers": verdict.answers(data, found, drawn),
        "tallies": found,
        "device": verdict.device_name(data),
        "cpu": any(run.environment.device_type == "cpu" for run in data),
        "about": [about(run) for run in data],
        "certificate": certificate_line(cells),
        "certificates": certificates,
        "warnings": warnings_of(data),
        "marks": stylesheet_marks(variants),
        "speedup": _switched(lambda d: speedup.speedup_chart(data, variants, d)),
        "roofline": _switched(lambda d: roofline.roofline_chart(data, variants, d)),
        "uncounted": roofline.uncounted(data),
        "scaling": _switched(lambda d: scaling.scaling_chart(data, variants, d)),
        "samples": [(run, [s for r, s in sampled if r is run]) for run in data if any(r is run for r, _ in sampled)],
        "noise": samples.noise(cells),
        "traffic": _traffic(data, drawn),
        "cost": cost.cost_chart(calls, variants),
        "measured_costs": [cost.pictures(c, run.redact) for run in data for c in cost.costs_beside(run)],
        "table": cell_rows(data, variants),
    }


def _traffic(data: Sequence[RunData], drawn: Sequence[Picture]) -> list[dict[str, Any]]:
    """By run: the workload in which a forward writes most only to read it back first, the others behind it."""
    sections = []
    for run in data:
        mine = [p for p in drawn if p.group.run is run]
        if not mine:
            continue
        largest = max(
            mine, key=lambda p: (p.eager.between if p.group.direction is Direction.FORWARD else 0, p.fewest or 0)
        )
        first = largest.group.label
        entries = [(p.group.label, _entry(p)) for p in mine]
        sections.append(
            {
                "run": run,
                "first": [entry for label, entry in entries if label == first],
                "others": [entry for label, entry in entries if label != first],
            }
        )
    return sections


def _entry(picture: Picture) -> dict[str, Any]:
    return {
        "picture": picture,
        "chart": traffic_chart.traffic_chart(picture),
        "ways": traffic_chart.ways(picture),
        "saved": traffic_chart.saved(picture),
        "counted": figures.size(picture.counted),
        "direction": picture.group.direction.value,
    }


def _switched(chart: Callable[[Direction], Chart | None]) -> _Switched:
    return _Switched(chart(Direction.FORWARD), chart(Direction.BACKWARD))


def _documents(below: Panes) -> list[tuple[str, str]]:
    return [(name, base64.b64encode(data).decode("ascii")) for name, data in below.data.items()]


def _static(name: str) -> str:
    return importlib.resources.files("fuselab.page").joinpath("static", name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fuselab.page", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
