"""``fuselab inspect``: the kernels of any GPU, from a machine without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(metavar="EXPERIMENT|FILE.py:NAME", help="What to inspect.")],
    target: Annotated[
        str, typer.Option("--target", help="Described devices, with commas between them: h100,b200,mi300x.")
    ] = "h100",
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]:requires_grad'.")
    ] = None,
    shape: Annotated[list[str] | None, typer.Option("--shape", help="A shape of an experiment: 4096x1024.")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", help="A dtype of an experiment: bf16, f16, f32.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of an experiment: approximate=tanh.")
    ] = None,
    variant: Annotated[
        str, typer.Option(help="compile, another compiled variant, or triton for an experiment's own kernels.")
    ] = "compile",
    direction: Annotated[str, typer.Option(help="forward, backward or both.")] = "both",
    targets_file: Annotated[
        Path | None, typer.Option("--targets-file", envvar="FUSELAB_TARGETS", help="A TOML file with more devices.")
    ] = None,
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of module construction.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes beside each other: as many as cores.", show_default=False)
    ] = None,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds after which a process is given up.")] = 900.0,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Also run the kernels on the CPU, interpreted on small inputs, and compare with eager."
        ),
    ] = False,
    recorded: Annotated[
        str | None,
        typer.Option("--recorded", metavar="RUN", help="A run on a device: what it measured of the same kernels."),
    ] = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show what torch.compile would run on devices that need not be here; nothing is measured.

    Forward and backward are traced and lowered for each device, every kernel is compiled down to its machine code, and
    the devices stand side by side with what differs and why. Times are predictions, with their error. With --check the
    generated kernels are run in Triton's interpreter and their results compared. Exit code 1 when something could not
    be shown, or a result is not eager's.
    """
    from fuselab import targets
    from fuselab.offline import inspect as find
    from fuselab.report.inspect import inspection_view

    known = targets.read(targets_file) if targets_file else targets.TARGETS
    found = find(
        what,
        arg or [],
        targets=[targets.find(name, known) for name in target.split(",") if name.strip()],
        shapes=shape or [],
        dtypes=dtype or [],
        options=option or [],
        variant=variant,
        direction=direction,
        seed=seed,
        out=out,
        jobs=jobs,
        deadline_s=deadline,
        check=check,
        recorded=recorded,
        command=["fuselab", *sys.argv[1:]],
        tell=lambda text: words.print(f"[dim]{escaped(text)}[/]", highlight=False),
    )
    if as_json:
        print_json(found)
    else:
        Console().print(inspection_view(found))
    if found.failed:
        raise typer.Exit(1)
