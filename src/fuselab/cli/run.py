"""``fuselab run``: compile, capture, check, time, and keep everything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words
from fuselab.errors import UsageError
from fuselab.experiment import BASELINE, load_registry

if TYPE_CHECKING:
    from fuselab.runner import Outcome


@app.command()
def run(
    what: Annotated[
        list[str] | None, typer.Argument(help="Experiments, or your own code as FILE.py:NAME; nothing means all four.")
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]:requires_grad'.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Shape of the main input: 4096x1024. May be repeated.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", help="bf16, f16, f32 or f64. May be repeated.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the experiment: approximate=tanh.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only this variant. May be repeated.")] = None,
    direction: Annotated[str, typer.Option(help="forward, backward or both.")] = "both",
    baseline: Annotated[str, typer.Option(help="The variant that speedups are quoted against.")] = BASELINE,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    preset: Annotated[str, typer.Option(envvar="FUSELAB_PRESET", help="smoke, quick or full.")] = "quick",
    out: Out = Path("runs"),
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of inputs and of the order of rounds.")] = 0,
    margin: Annotated[float, typer.Option(help="Relative difference below which two variants are equivalent.")] = 0.01,
    caches: Annotated[
        str, typer.Option(help="cold: buffers rotate beyond twice the last-level cache; warm: the same ones again.")
    ] = "cold",
    budget: Annotated[
        float | None,
        typer.Option(min=0.01, help="Seconds of timing for each variant and cell; 1 on a GPU, 2 on a CPU."),
    ] = None,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds after which a variant's check is given up.")] = 600.0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Variants compiled at a time; by the cores of the machine.")
    ] = None,
    resume: Annotated[
        list[str] | None,
        typer.Option("--resume", help="Go on with a run that did not finish: its path or id, or 'all'."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on any warning: graph breaks, recompiles, throttling.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run experiments: compile, capture, check, time, and keep everything.

    Without arguments all four experiments run at preset quick on whatever the machine has.
    """
    from fuselab import runner
    from fuselab.api import carry_out_selection, resume_runs
    from fuselab.plan import select

    settings = runner.Settings(budget_s=budget, deadline_s=deadline, jobs=jobs)
    registry = load_registry()
    if resume:
        if what:
            raise UsageError(
                f"--resume goes on with what the run was doing; {what[0]!r} cannot be added", hint="leave it out"
            )
        outcomes = resume_runs(resume, out, registry, settings, console=words)
    else:
        selection = select(
            what or [],
            registry,
            shapes=shape or [],
            dtypes=dtype or [],
            arguments=arg or [],
            options=option or [],
            variants=variant or [],
            direction=direction,
            baseline=baseline,
            preset=preset,
            seed=seed,
            margin=margin,
            caches=caches,
        )
        outcomes = carry_out_selection(
            selection, device, out, settings, console=words, command=["fuselab", *sys.argv[1:]]
        )
    _print_outcomes(outcomes, as_json=as_json)
    _judge(outcomes, strict=strict)


def _print_outcomes(outcomes: list[Outcome], *, as_json: bool) -> None:
    from fuselab.page.build import REPORT
    from fuselab.report.document import run_document
    from fuselab.report.summary import next_step, summary_view

    if as_json:
        print_json(run_document(outcomes))
        return
    Console().print(summary_view(outcomes))
    words.print(next_step(outcomes), highlight=False)
    first = outcomes[0].path
    page = (first if len(outcomes) == 1 else first.parent.parent) / REPORT
    if page.is_file():
        words.print(f"report: {escaped(str(page))}", highlight=False)


def _judge(outcomes: list[Outcome], *, strict: bool) -> None:
    """Exit 1 when a cell failed, or under ``--strict`` when anything was warned of."""
    failed = sum(len(o.failed_cells) for o in outcomes)
    warned = [w for o in outcomes for w in o.warnings]
    if failed:
        words.print(f"[bold red]{failed} cell{'s' if failed > 1 else ''} failed[/]", highlight=False)
    if strict and warned:
        words.print(f"[bold red]--strict: {len(warned)} warnings[/], the first: {escaped(warned[0])}", highlight=False)
    if failed or (strict and warned):
        raise typer.Exit(1)
