"""What there is to run: experiments, their variants, options and presets, and the described devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fuselab.experiment import PRESETS, Experiment
from fuselab.targets import Target

__all__ = ["catalogue_document", "catalogue_view"]

_SHARE = 3
"""Names of the longest that have to fit beside each other before one is given its room."""


def catalogue_document(registry: Mapping[str, Experiment], targets: Mapping[str, Target]) -> dict[str, Any]:
    """The catalogue as JSON-ready data."""
    return {
        "experiments": [
            {
                "name": e.name,
                "description": e.description,
                "variants": [{"name": v.name, "kind": v.kind.value, "description": v.description} for v in e.variants],
                "options": {name: list(values) for name, values in e.options.items()},
                "presets": {
                    preset: {device: [w.label for w in e.workloads(preset, device)] for device in ("cpu", "cuda")}
                    for preset in PRESETS
                },
            }
            for e in registry.values()
        ],
        "targets": list(targets.values()),
    }


def catalogue_view(registry: Mapping[str, Experiment], targets: Mapping[str, Target], width: int) -> RenderableType:
    """The catalogue for a terminal of that many columns."""
    table = Table(title="experiments", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    # A variant's name that is cut in two cannot be copied: it stays whole, with its comma, where there is room.
    longest = 1 + max((len(v.name) for e in registry.values() for v in e.variants), default=0)
    for column in ("name", "what it studies", "variants", "options (default first)"):
        whole = column == "variants" and _SHARE * longest <= width
        table.add_column(column, overflow="fold", min_width=longest if whole else None)
    for e in registry.values():
        options = "\n".join(f"{name}: {', '.join(map(str, v)) or 'any'}" for name, v in e.options.items())
        table.add_row(
            f"[bold]{escape(e.name)}[/]",
            escape(e.description),
            escape(", ".join(v.name for v in e.variants)),
            escape(options),
        )
    presets = Table(
        title="workloads of a preset, on a CPU and on a GPU", title_justify="left", title_style="bold", box=None,
        padding=(0, 2, 0, 0),
    )  # fmt: skip
    for column in ("experiment", *PRESETS):
        presets.add_column(column)
    for e in registry.values():
        counts = [f"{len(e.workloads(p, 'cpu'))} / {len(e.workloads(p, 'cuda'))}" for p in PRESETS]
        presets.add_row(escape(e.name), *counts)
    devices = Text("described devices: ", style="bold")
    devices.append(", ".join(targets), style="not bold")
    own = Text("your own code: fuselab run FILE.py:NAME --arg 'x=bf16[4096,1024]:requires_grad'", style="dim")
    return Group(table, Text(), presets, Text(), devices, own)
