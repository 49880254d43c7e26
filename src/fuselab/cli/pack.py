"""``fuselab pack`` and ``fuselab verify-pack``: warm-start packages and their proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, app, escaped, print_json, words
from fuselab.errors import UsageError


@app.command()
def pack(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="Your own code as FILE.py:NAME, or an experiment.")],
    output: Annotated[
        Path, typer.Option("--out", "-o", metavar="PACK", help="The file to write; replaces an older package.")
    ],
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of your function: 'x=bf16[4096,1024]'.")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option("--shape", help="Shape of an experiment's main input. May be repeated.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", help="bf16, f16, f32 or f64. May be repeated.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the experiment: approximate=tanh.")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="forward (inference), backward (a training step) or both.")
    ] = "forward",
    variant: Annotated[str, typer.Option(help="The compiled variant to pack.")] = "compile",
    aoti: Annotated[bool, typer.Option(help="Make an AOTInductor package of each forward, too.")] = True,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    preset: Annotated[str, typer.Option(help="Which calls of an experiment: smoke, quick or full.")] = "smoke",
    seed: Annotated[int, typer.Option(help="Seed of parameters and golden inputs.")] = 0,
    deadline: Annotated[float, typer.Option(help="Seconds that building may take.")] = 3600.0,
    as_json: Json = False,
) -> None:
    """Make a warm-start package: caches, built kernels, an AOTInductor package, golden answers, in one file.

    The old package stays in place until the new one is whole.
    """
    from fuselab.deploy.manifest import Reference
    from fuselab.deploy.packing import DIRECTIONS
    from fuselab.deploy.packing import pack as make
    from fuselab.device import resolve
    from fuselab.errors import UnknownNameError
    from fuselab.experiment import BASELINE, VariantKind, load_registry
    from fuselab.plan import select
    from fuselab.report.pack import packed_view

    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", direction, DIRECTIONS)
    selection = select(
        [what],
        load_registry(),
        shapes=shape or [],
        dtypes=dtype or [],
        arguments=arg or [],
        options=option or [],
        variants=[variant],
        baseline=BASELINE,
        preset=preset,
        seed=seed,
    )
    ((experiment, _),) = selection.experiments
    if experiment.variant(variant).kind is not VariantKind.COMPILED:
        names = [v.name for v in experiment.variants if v.kind is VariantKind.COMPILED]
        raise UsageError(f"{variant} is not compiled: nothing to pack", hint=f"variants: {', '.join(names)}")
    device_type = resolve(device)
    (plan,) = selection.plans(device_type)
    reference = Reference(
        name=plan.reference.name, target=plan.reference.target, arguments=plan.reference.arguments, seed=seed
    )
    packed = make(
        reference,
        plan.workloads,
        output,
        device_type=device_type,
        direction=direction,
        variant=variant,
        aoti=aoti,
        deadline_s=deadline,
        say=_say,
    )
    if as_json:
        print_json(packed)
    else:
        Console().print(packed_view(packed))
        words.print(f"next: fuselab verify-pack {escaped(str(output))}", highlight=False)


@app.command("verify-pack")
def verify_pack(
    package: Annotated[Path, typer.Argument(metavar="PACK", help="The package. Its code is run: trust it.")],
    model: Annotated[
        str, typer.Option("--model", metavar="FILE.py:NAME", help="Use this file, not the copy in the package.")
    ] = "",
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the whole file has to hash to.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Starts of each way, each a fresh process.")] = 3,
    way: Annotated[
        list[str] | None, typer.Option("--way", help="artifacts or aoti; all that the package has unless given.")
    ] = None,
    direction: Annotated[
        list[str] | None, typer.Option("--direction", help="forward or backward; all that it has unless given.")
    ] = None,
    without_compiler: Annotated[
        bool, typer.Option("--without-compiler", help="Hide every program on PATH from the warm starts.")
    ] = False,
    cold: Annotated[bool, typer.Option(help="Measure cold starts beside the warm ones.")] = True,
    at_least: Annotated[
        float | None, typer.Option("--at-least", help="Fail unless the best way starts this many times faster.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the starts.")] = 0,
    deadline: Annotated[float, typer.Option(help="Seconds that one start may take.")] = 1800.0,
    as_json: Json = False,
) -> None:
    """Prove that a package starts without compiling, answers as eager does, and how much faster it starts than cold.

    Exits with 1 if it does not.
    """
    from fuselab.deploy.proof import verify
    from fuselab.report.pack import proof_document, proof_view

    if at_least is not None and not cold:
        raise UsageError("--at-least needs the cold starts that --no-cold leaves out", hint="leave one of them out")
    proof = verify(
        package,
        target=_absolute(model),
        sha256=sha256,
        repeats=repeats,
        ways=way or [],
        directions=direction or [],
        without_compiler=without_compiler,
        cold=cold,
        at_least=at_least,
        seed=seed,
        deadline_s=deadline,
        say=_say,
    )
    if as_json:
        print_json(proof_document(proof))
    else:
        Console().print(proof_view(proof))
    if not proof.holds:
        raise typer.Exit(1)


def _absolute(target: str) -> str:
    if not target:
        return ""
    file, colon, name = target.rpartition(":")
    if not colon or not name or not file.endswith(".py"):
        raise UsageError(f"--model {target!r} is not FILE.py:NAME", hint="for example --model model.py:Block")
    if not Path(file).is_file():
        raise UsageError(f"there is no file {file!r}", hint="name the model's file: --model FILE.py:NAME")
    return f"{Path(file).absolute()}:{name}"


def _say(text: str) -> None:
    if words.is_terminal:
        words.print(f"[dim]{escaped(text)}[/]", highlight=False)
