"""``fuselab sweep``: many cells over many devices, from a plan; and what is made of the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words
from fuselab.errors import StoreError, UsageError

if TYPE_CHECKING:
    from fuselab.sweep.plan import SweepPlan
    from fuselab.sweep.record import Sweep

_LOOPBACK = "127.0.0.1"


@app.command()
def sweep(
    plan: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="The plan, a TOML file: docs/sweep.md.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the cells and predict time and memory; nothing is measured.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with a sweep that did not finish: its id, or 'latest'.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler: tls://host:8786.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="A class of cluster that Dask's configuration describes: module:Class."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers; one for each GPU, or one on a CPU, unless said.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address that this host's own cluster binds to; another one than loopback needs TLS.")
    ] = _LOOPBACK,
    device: Annotated[
        str | None, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda, instead of the plan's.")
    ] = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Carry out a plan of many cells over many devices; nothing that was measured is lost.

    Exit code 1 when a cell failed or something is left to do.
    """
    from fuselab.experiment import load_registry
    from fuselab.sweep import conduct
    from fuselab.sweep.cluster import Where, require_sweep_extra
    from fuselab.sweep.plan import read_plan
    from fuselab.sweep.record import open_sweep
    from fuselab.sweep.watch import SweepWatcher

    if (plan is None) == (resume is None):
        raise UsageError("a sweep takes a plan, or --resume with a sweep", hint="fuselab sweep PLAN.toml")
    if scheduler and cluster:
        raise UsageError("--scheduler and --cluster are two places to run", hint="give one of them")
    where = Where(scheduler=scheduler, cluster=cluster, workers=workers, host=host)
    if plan is not None:
        read = read_plan(plan, load_registry())
        if device is not None:
            read = read.on(device)
        if dry_run:
            _predict(read, out, as_json=as_json)
            return
        require_sweep_extra("distributed")
        done = conduct.begin(read, where, out, SweepWatcher(words), ["fuselab", *sys.argv[1:]])
    else:
        require_sweep_extra("distributed")
        done = conduct.resume(open_sweep(str(resume), out), where, SweepWatcher(words))
    failed, left = print_sweep(done, as_json=as_json)
    words.print(f"the report: fuselab sweep-report {done.path.name}", highlight=False)
    if failed or left:
        said = [f"{failed} cell{'s' if failed > 1 else ''} failed" if failed else "", f"{left} left" if left else ""]
        words.print(f"[bold red]{', '.join(s for s in said if s)}[/]", highlight=False)
        raise typer.Exit(1)


@app.command("list-sweeps")
def list_sweeps(out: Out = Path("runs"), as_json: Json = False) -> None:
    """List the sweeps in a directory."""
    from fuselab.report.sweep import sweeps_view
    from fuselab.sweep import record

    records = []
    for found in record.list_sweeps(out):
        try:
            records.append(found.record())
        except StoreError as error:
            words.print(f"[yellow]set aside[/]: {escaped(error.message)}", highlight=False)
    if as_json:
        print_json(records)
    else:
        Console().print(sweeps_view(records))


@app.command("sweep-export")
def sweep_export(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's path or id, the start of it, or 'latest'.")],
    to: Annotated[Path, typer.Option(help="The file: .parquet or .jsonl, for pandas, polars and DuckDB.")] = Path(
        "cells.parquet"
    ),
    out: Out = Path("runs"),
) -> None:
    """Write every cell of a sweep as one flat row, as Parquet or JSON Lines."""
    from fuselab.sweep.record import open_sweep
    from fuselab.sweep.results import export, load_results

    count = export(load_results(open_sweep(name, out)), to)
    words.print(f"{count} cells in {escaped(str(to))}", highlight=False)


@app.command("sweep-report")
def sweep_report(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's path or id, the start of it, or 'latest'.")],
    to: Annotated[Path, typer.Option(help="The page.")] = Path("sweep.html"),
    x: Annotated[str | None, typer.Option(help="Axis across the heat maps; that with most values unless said.")] = None,
    y: Annotated[str | None, typer.Option(help="Axis down the heat maps.")] = None,
    out: Out = Path("runs"),
) -> None:
    """Write a page with heat maps over two axes, and time against memory; one file that fetches nothing."""
    from fuselab.sweep.page import write_page
    from fuselab.sweep.record import open_sweep
    from fuselab.sweep.results import load_results

    write_page(load_results(open_sweep(name, out)), to, x=x, y=y)
    words.print(f"{escaped(str(to))}", highlight=False)


def _predict(plan: SweepPlan, out: Path, *, as_json: bool) -> None:
    from fuselab.device import resolve
    from fuselab.report.sweep import cost_view
    from fuselab.sweep.cost import predict
    from fuselab.sweep.record import list_sweeps

    device_type = resolve(plan.device)
    cost = predict(plan.name, plan.plans(device_type), plan.budget, list_sweeps(out))
    if as_json:
        print_json(cost)
    else:
        Console().print(cost_view(cost.name, cost.device_type, cost.blocks, plan.models))


def print_sweep(found: Sweep, *, as_json: bool) -> tuple[int, int]:
    """Print a sweep; the number of cells that failed and that are left."""
    from fuselab.report.document import run_document
    from fuselab.report.sweep import sweep_view
    from fuselab.sweep.results import load_results

    results = load_results(found)
    planned = {
        o.metadata.id: len(o.metadata.plan) * len(o.metadata.variants) * len(o.metadata.directions)
        for o in results.outcomes
    }
    if as_json:
        print_json({"sweep": results.record, **run_document(results.outcomes)})
    else:
        cells = {o.metadata.id: o.measurements for o in results.outcomes}
        Console().print(sweep_view(results.record, cells, planned, [entry.model for entry in results.record.runs]))
    failed = sum(len(o.failed_cells) for o in results.outcomes)
    return failed, sum(planned.values()) - len(results.cells)
