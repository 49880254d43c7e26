"""A sweep's report: one file that opens from disk, fetches nothing and runs nothing.

Its policy allows one style sheet, by hash, and pictures that lie in the page; there is no script. Charts are embedded
as images, in which a browser runs nothing either. Every word from elsewhere is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from fuselab.records import Measurement, RunStatus, Status, Verdict
from fuselab.report import figures
from fuselab.store.files import write_atomically
from fuselab.sweep.charts import Chart, charts
from fuselab.sweep.results import Results

__all__ = ["render", "write_page"]

MOST_FAILURES = 500
"""Failed cells that the page lists; the export has all of them."""

FINE = frozenset({Status.OK, Status.CHECKED, Status.UNAVAILABLE})

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.dim { color: var(--dim); } .bad { color: #c0392b; } .note { color: #a66a00; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; overflow-x: auto; } figure img { background: #fff; max-width: none; }
figcaption { color: var(--dim); font-size: .9rem; } code { overflow-wrap: anywhere; }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ record.id }}</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ record.id }}</h1>
<p>{{ record.status.value }}, {{ done }} of {{ planned }} cells{% if failed %},
<span class="bad">{{ failed|length }} failed</span>{% endif %}
<span class="dim">started {{ record.created_at[:19] }} UTC</span></p>
{% if record.error %}<p class="bad">{{ record.error }}</p>{% endif %}
{% for note in record.notes %}<p class="note">{{ note }}</p>{% endfor %}
<h2>Runs</h2>
<div class="wide"><table>
<tr><th>run</th><th>device</th><th class="number">cells</th><th class="number">failed</th>
<th class="number">faster</th><th class="number">equal</th><th class="number">slower</th>
<th class="number">unclear</th></tr>
{% for run in runs %}<tr><td><code>{{ run.id }}</code></td><td>{{ run.device }}</td>
{% for figure in run.figures %}<td class="number">{{ figure }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="dim">Verdicts are against the baseline of the same workload and direction, on the same model of device;
models are never pooled.</p>
{% if pictures %}<h2>Charts</h2>{% endif %}
{% for picture in pictures %}<figure><img src="{{ picture.source }}" alt="{{ picture.title }}">
<figcaption>{{ picture.title }}: {{ picture.caption }}</figcaption></figure>
{% endfor %}
{% for text in left_out %}<p class="dim">{{ text }}</p>{% endfor %}
{% if failed %}<h2>Failed cells</h2>
<div class="wide"><table><tr><th>status</th><th>cell</th><th>reason</th></tr>
{% for m in failed[:most] %}<tr><td class="bad">{{ m.status.value }}</td>
<td>{{ m.experiment }} {{ m.variant }} {{ m.workload.label }} {{ m.direction.value }}</td><td>{{ m.reason }}</td></tr>
{% endfor %}</table></div>
{% if failed|length > most %}<p class="dim">and {{ failed|length - most }} more in the export</p>{% endif %}{% endif %}
</body>
</html>
"""


def write_page(results: Results, path: Path, *, x: str | None = None, y: str | None = None) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        results: of the sweep, running or not.
        path: of the page.
        x, y: axes of the heat maps; the two with most values unless given.

    Raises:
        UnknownNameError: no such axis.
        StoreError: the disk refused.
    """
    write_atomically(path, render(results, x=x, y=y).encode())


def render(results: Results, *, x: str | None = None, y: str | None = None) -> str:
    """The page as text."""
    cells = results.cells
    drawn, left_out = charts(cells, x, y)
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE)
    return template.render(
        record=results.record,
        running=results.record.status is RunStatus.RUNNING,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        style=_trusted(STYLE),
        runs=[_run(outcome) for outcome in results.outcomes],
        done=len(cells),
        planned=sum(_planned(outcome.metadata) for outcome in results.outcomes),
        failed=[m for m in cells if m.status not in FINE],
        pictures=[_picture(chart) for chart in drawn],
        left_out=left_out,
        most=MOST_FAILURES,
    )


def _run(outcome: Any) -> dict[str, Any]:
    cells: tuple[Measurement, ...] = outcome.measurements
    verdicts = Counter(m.comparison.verdict for m in cells if m.comparison)
    counts = [verdicts[v] for v in (Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER, Verdict.UNRESOLVED)]
    memory = outcome.environment.device_memory_bytes
    device = outcome.environment.device + (f", {figures.size(memory)}" if memory else "")
    shown = [f"{len(cells)}/{_planned(outcome.metadata)}", sum(m.status not in FINE for m in cells), *counts]
    return {"id": outcome.metadata.id, "device": device, "figures": shown}


def _planned(metadata: Any) -> int:
    return len(metadata.plan) * len(metadata.variants) * len(metadata.directions)


def _picture(chart: Chart) -> dict[str, str]:
    encoded = base64.b64encode(chart.svg.encode()).decode()
    return {"title": chart.title, "caption": chart.caption, "source": f"data:image/svg+xml;base64,{encoded}"}


def _trusted(style: str) -> Any:
    """Our own style sheet, which the policy allows by its hash and which must not be escaped."""
    from markupsafe import Markup

    return Markup(style)  # noqa: S704 - a constant of this module
