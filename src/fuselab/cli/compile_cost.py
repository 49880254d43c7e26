"""``fuselab compile-cost``: what compiling costs, and after how many calls it has paid."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words

LINE_EVERY_S = 15.0
"""Where there is no terminal, a sign of life this often."""


@app.command("compile-cost")
def compile_cost(
    what: Annotated[str, typer.Argument(help="An experiment, or your own code as FILE.py:NAME.")],
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]'.")
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", help="Shape of the main input: 4096x1024.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="bf16, f16, f32 or f64.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the experiment: approximate=tanh.")
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option("--mode", help="default, reduce-overhead or max-autotune. May be repeated; default without."),
    ] = None,
    dynamic: Annotated[str, typer.Option(help="static, dynamic or both.")] = "static",
    scope: Annotated[str, typer.Option(help="whole, regional (every repeated block by itself) or both.")] = "whole",
    start: Annotated[
        list[str] | None,
        typer.Option("--start", help="eager, cold, warm, artifacts or aoti. May be repeated; all without."),
    ] = None,
    calls: Annotated[
        str, typer.Option(help="inference (a forward without gradients) or training (forward and backward).")
    ] = "inference",
    shapes: Annotated[
        str | None,
        typer.Option("--shapes", help="A stream of shapes, 8x512,16x512*3, or a file with one a line; see the page."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="For the stream: eager, automatic, static, dynamic, mark_dynamic or padding. May be repeated.",
        ),
    ] = None,
    buckets: Annotated[
        str, typer.Option(help="Sizes to pad varying axes to: 128,256,512; powers of two without.")
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds: each way of starting has a process in each.")] = 3,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    out: Out = Path("runs"),
    caches: Annotated[
        Path | None, typer.Option("--caches", help="Directory for the compilers' caches while it is measured.")
    ] = None,
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of inputs and of the order of processes.")] = 0,
    steady: Annotated[float, typer.Option(min=0.01, help="Seconds for the steady state of each process.")] = 0.5,
    budget: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a stream, or endless recompiling, is stopped.")
    ] = 60.0,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds after which a process is given up.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Measure what compiling costs: by way of starting and by phase, and after how many calls it has paid.

    Every start is a fresh process: eager, cold (empty caches), warm (disk caches), artifacts (saved cache artifacts),
    aoti (an AOTInductor package). With --shapes: which strategy is cheapest for a stream of shapes.
    Exits with 1 if a process failed.
    """
    from fuselab.errors import UnknownNameError
    from fuselab.plan import parse_options
    from fuselab.report.break_even import break_even_svg
    from fuselab.report.compile_cost import compile_cost_document, compile_cost_view
    from fuselab.report.waterfall import waterfall_svg
    from fuselab.startup.cost import compile_cost as measured
    from fuselab.startup.measurement import Limits
    from fuselab.store.files import write_atomically

    dynamics = {"static": [False], "dynamic": [True], "both": [False, True]}
    scopes = {"whole": ["whole"], "regional": ["regional"], "both": ["whole", "regional"]}
    if dynamic not in dynamics:
        raise UnknownNameError("kind of shapes", dynamic, dynamics, plural="kinds of shapes")
    if scope not in scopes:
        raise UnknownNameError("scope", scope, scopes)
    with words.status("looking at this machine") as status:
        last = 0.0

        def progress(text: str, done: int, planned: int) -> None:
            nonlocal last
            line = f"{done} of {planned} processes  {escaped(text)}"
            status.update(line)
            if not words.is_terminal and time.monotonic() - last > LINE_EVERY_S:
                last = time.monotonic()
                words.print(line, highlight=False)

        cost = measured(
            what,
            args=arg or [],
            shape=shape,
            dtype=dtype,
            options=parse_options(option or []),
            modes=mode or ["default"],
            dynamic=dynamics[dynamic],
            scopes=scopes[scope],
            starts=start or None,
            calls=calls,
            repeats=repeats,
            shapes=shapes,
            buckets=buckets,
            strategies=strategy or [],
            device=device,
            out=out,
            caches=caches,
            seed=seed,
            limits=Limits(steady_s=steady, budget_s=budget, deadline_s=deadline),
            progress=progress,
        )
    if cost.starts:
        write_atomically(Path(cost.path) / "waterfall.svg", waterfall_svg(cost).encode())
        write_atomically(Path(cost.path) / "break-even.svg", break_even_svg(cost).encode())
    if as_json:
        print_json(compile_cost_document(cost))
    else:
        console = Console()
        console.print(compile_cost_view(cost, console.width))
    words.print(f"kept in {escaped(cost.path)}", highlight=False)
    if cost.failures or (cost.stream is not None and cost.stream.cheapest is None):
        raise typer.Exit(1)
