"""``fuselab list-runs`` and ``fuselab show``: what earlier runs hold."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words
from fuselab.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from fuselab.store import Run
    from fuselab.sweep.record import Sweep

_IDS = 4
"""Kernels of one name whose ids are told."""


@app.command("list-runs")
def list_runs(out: Out = Path("runs"), as_json: Json = False) -> None:
    """List the runs in a directory; what cannot be read is named with the reason."""
    from fuselab import store
    from fuselab.report.runs import runs_table

    summaries, rejected = store.list_runs(out)
    if as_json:
        print_json({"runs": summaries, "rejected": rejected})
    else:
        known = out == Path("runs") or str(out) == os.environ.get("FUSELAB_OUT")
        Console().print(runs_table(summaries, rejected, "" if known else f"--out {shlex.quote(str(out))}"))


@app.command()
def show(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's path or id, the start of it, or 'latest'.")],
    kernel: Annotated[str | None, typer.Option("--kernel", help="Show one kernel: its name or id.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="With --kernel: another stage than the source, such as ptx.")
    ] = None,
    line: Annotated[
        int | None,
        typer.Option(
            "--line",
            min=1,
            help="With --kernel: the chain of one line of its source, or of --stage: whence and whereto.",
        ),
    ] = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show a run or a sweep: what was measured, the kernels that were generated, every stage that was saved."""
    from fuselab import runner, store
    from fuselab.report.document import run_document
    from fuselab.report.runs import run_view

    if kernel is None and line is None and stage is None and (found_sweep := _sweep_of(run_name, out)) is not None:
        from fuselab.cli.sweep import print_sweep

        print_sweep(found_sweep, as_json=as_json)
        return
    run = store.open_run(run_name, out)
    outcome = runner.load_outcome(run)
    console = Console()
    if line is not None and kernel is None:
        raise UsageError(
            "--line is a line of a kernel", hint="name one with --kernel; without --line it is shown whole"
        )
    if stage is not None and kernel is None:
        raise UsageError(
            f"--stage {stage} is a stage of a kernel", hint="name one with --kernel; `fuselab show RUN` lists them"
        )
    if kernel is not None:
        _say_which(run, kernel)
    if kernel is not None and line is not None:
        from fuselab.api import kernel_line
        from fuselab.report.chain import render_line

        view = kernel_line(run, kernel, line, stage)
        if as_json:
            print_json(view)
        else:
            console.print(render_line(view), soft_wrap=True)
    elif kernel is not None:
        from fuselab.api import kernel_card, kernel_text
        from fuselab.report.runs import kernel_view

        found, text = kernel_text(run, kernel, stage)
        card = kernel_card(run, found)
        if as_json:
            print_json({"kernel": found, "card": card, "text": text})
        else:
            console.print(kernel_view(found, text, card), soft_wrap=True)
    elif as_json:
        print_json(run_document([outcome]))
    else:
        console.print(run_view(outcome.metadata, outcome.environment, outcome.measurements))


def _say_which(run: Run, name: str) -> None:
    """A kernel's name is often that of another workload's or direction's as well: the first is shown."""
    from fuselab.api import kernels_named

    first, *others = kernels_named(run, name)
    if others:
        ids = ", ".join(escaped(k.kernel_id) for k in others[:_IDS])
        more = f" and {len(others) - _IDS} more" if len(others) > _IDS else ""
        words.print(
            f"{len(others) + 1} kernels are named so; shown is {escaped(first.kernel_id)}, the"
            f" other{'s' if len(others) > 1 else ''}: {ids}{more}",
            highlight=False,
        )


def _sweep_of(name: str, out: Path) -> Sweep | None:
    """The sweep of that name; ``latest`` alone means a run."""
    from fuselab.sweep.record import open_sweep

    try:
        return None if name == "latest" else open_sweep(name, out)
    except UnknownNameError:
        return None
