"""``fuselab diagnose``: graph breaks and recompilations of your own code, and what removes them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, app, escaped, print_json, words


@app.command()
def diagnose(
    target: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A function, a module class or an instance.")],
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]:requires_grad'.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="What differs between calls: x.0=8,16,32 (sizes of an axis), x.dtype=f32,bf16, "
            "x.layout=contiguous,transposed, scale=0.1,0.2, @grad_mode=true,false. May be repeated.",
        ),
    ] = None,
    calls: Annotated[
        int | None, typer.Option(help="How many calls: as many as --vary has values, or 3.", show_default=False)
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Try the edits that need no judgement in a copy and show which hold.")
    ] = False,
    patch: Annotated[
        bool, typer.Option("--patch", help="With --prove: print only the proved edits, as a patch for `patch -p0`.")
    ] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Backend of torch.compile; left out, eager to count with and inductor to time with.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of parameters and inputs.")] = 0,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds after which a process is given up.")] = 600.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when there is a graph break or a recompilation.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find graph breaks and recompilations: your line, the reason, the edit that removes it, and its proof.

    Your function is called several times in a process of its own, first as it is and then compiled. No file of yours
    is changed.
    """
    from fuselab.diagnosis import diagnose as find
    from fuselab.report.diagnosis import diagnosis_view

    found = find(
        target,
        arg or [],
        vary=vary or [],
        calls=calls,
        prove=prove or patch,
        backend=backend,
        device=device,
        seed=seed,
        deadline_s=deadline,
        tell=lambda text: words.print(f"[dim]{escaped(text)}[/]", highlight=False),
    )
    if as_json:
        print_json(found)
    elif patch:
        proved = found.proved.patch if found.proved else ""
        if not proved:
            words.print("no edit was proved, so there is no patch; without --patch every finding is shown")
        typer.echo(proved, nl=False)
    else:
        Console().print(diagnosis_view(found))
    if found.failure is not None or (strict and found.findings):
        raise typer.Exit(1)
