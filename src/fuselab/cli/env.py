"""``fuselab env``: what the environment variables of torch and triton do, what is set here, what nothing reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fuselab.cli.app import Json, app, print_json
from fuselab.errors import UsageError

if TYPE_CHECKING:
    from fuselab.env_vars.catalogue import Dead
    from fuselab.env_vars.installation import Installation


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

    if sum((is_set, dead, probe)) > 1:
        raise UsageError("--set, --dead and --probe ask for different things", hint="give one of them")
    if dead and name is not None:
        raise UsageError(f"--dead lists them all; {name!r} is one too many", hint=f"fuselab env {name}")
    installation = Installation.here()
    failed = False
    if is_set:
        document, shown = _what_is_set(name, installation)
    elif probe:
        document, shown, failed = _probed(name)
    else:
        document, shown = _explained(name, installation, catalogue().dead if dead else None)
    if as_json:
        print_json(document)
    else:
        Console().print(shown)
    if failed:
        raise typer.Exit(1)


def _explained(name: str | None, installation: Installation, dead: Sequence[Dead] | None) -> tuple[Any, Any]:
    from fuselab.env_vars.catalogue import catalogue
    from fuselab.report import env as view

    if dead is not None:
        return {"dead": dead}, view.dead_table(dead)
    if name is None:
        variables = catalogue().variable
        return (
            view.env_document(variables, installation, os.environ),
            view.env_table(variables, installation, os.environ),
        )
    if name.endswith((".py", ".ipynb")):
        raise UsageError(f"{name!r} is a file and no variable", hint=f"what it sets: fuselab env --set {name}")
    variable = catalogue().find(name)
    return (
        view.variable_document(variable, installation, os.environ),
        view.variable_page(variable, installation, os.environ),
    )


def _what_is_set(script: str | None, installation: Installation) -> tuple[Any, Any]:
    from fuselab.env_vars.findings import report_of
    from fuselab.env_vars.script import report_of_script
    from fuselab.report import env as view

    report = report_of(os.environ, installation) if script is None else report_of_script(Path(script), installation)
    return view.report_document(report), view.report_view(report)


def _probed(name: str | None) -> tuple[Any, Any, bool]:
    from fuselab.env_vars.catalogue import catalogue
    from fuselab.env_vars.probes import run_probes
    from fuselab.report import env as view

    outcomes = run_probes(None if name is None else [catalogue().find(name).name])
    failed = any(outcome.passed is False for outcome in outcomes)
    return view.outcomes_document(outcomes), view.outcomes_view(outcomes), failed
