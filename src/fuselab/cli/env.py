"""``fuselab env``: what the environment variables of torch and triton do, what is set here, what nothing reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, app, print_json
from fuselab.errors import UsageError


@app.command()
def env(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One variable; with --set a script or notebook to look through."),
    ] = None,
    is_set: Annotated[
        bool, typer.Option("--set", help="Show what is set here, or by a script, and what is wrong with it.")
    ] = False,
    dead: Annotated[
        bool, typer.Option("--dead", help="List variables that public code sets and that no torch or triton reads.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Show a variable's effect live, in processes with it and without.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Explain the environment variables of torch and triton, with this machine's values."""
    from fuselab.env_vars.catalogue import catalogue
    from fuselab.env_vars.installation import Installation
    from fuselab.report import env as view

    if sum((is_set, dead, probe)) > 1:
        raise UsageError("--set, --dead and --probe ask for different things", hint="give one of them")
    known, installation, console = catalogue(), Installation.here(), Console()
    if is_set:
        from fuselab.env_vars.findings import report_of
        from fuselab.env_vars.script import report_of_script

        report = report_of(os.environ, installation) if name is None else report_of_script(Path(name), installation)
        if as_json:
            print_json(view.report_document(report))
        else:
            console.print(view.report_view(report))
    elif dead:
        if name is not None:
            raise UsageError(f"--dead lists them all; {name!r} is one too many", hint=f"fuselab env {name}")
        if as_json:
            print_json({"dead": known.dead})
        else:
            console.print(view.dead_table(known.dead))
    elif probe:
        from fuselab.env_vars.probes import run_probes

        outcomes = run_probes(None if name is None else [known.find(name).name])
        if as_json:
            print_json({"outcomes": outcomes})
        else:
            console.print(view.outcomes_view(outcomes))
        if any(outcome.passed is False for outcome in outcomes):
            raise typer.Exit(1)
    elif name is not None:
        variable = known.find(name)
        if as_json:
            print_json(view.variable_document(variable, installation, os.environ))
        else:
            console.print(view.variable_page(variable, installation, os.environ))
    elif as_json:
        print_json(view.env_document(known.variable, installation, os.environ))
    else:
        console.print(view.env_table(known.variable, installation, os.environ))
