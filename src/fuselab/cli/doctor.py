"""``fuselab doctor`` and ``fuselab list``: what is here."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, print_json
from fuselab.experiment import load_registry


@app.command()
def doctor(out: Out = Path("runs"), as_json: Json = False) -> None:
    """Show what is here, what works, what is missing and the command that mends it."""
    from fuselab.checks import checks, main_job_can_run
    from fuselab.report.checks import checks_table

    found = checks(out)
    if as_json:
        print_json({"can_run": main_job_can_run(found), "checks": found})
    else:
        Console().print(checks_table(found))
    if not main_job_can_run(found):
        raise typer.Exit(1)


@app.command("list")
def list_experiments(as_json: Json = False) -> None:
    """List experiments, their variants, options and presets, and the described devices."""
    from fuselab.report.catalogue import catalogue_document, catalogue_view
    from fuselab.targets import TARGETS

    registry = load_registry()
    if as_json:
        print_json(catalogue_document(registry, TARGETS))
    else:
        console = Console()
        console.print(catalogue_view(registry, TARGETS, console.width))
