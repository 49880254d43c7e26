"""``fuselab calibrate``: the measuring engine measured."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, app, print_json, words


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="auto, cpu or cuda.")] = "auto",
    pairs: Annotated[int, typer.Option(min=4, help="A/A pairs, rounded up to whole groups.")] = 100,
    repeats: Annotated[int, typer.Option(min=0, help="Fresh processes that repeat one comparison.")] = 5,
    seed: Annotated[int, typer.Option(envvar="FUSELAB_SEED", help="Seed of the orders.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure the measuring engine: copies of one function, controls of known size, coverage, repeatability.

    Exits with 1 if a bar fails. About 10 minutes for 100 pairs on 2 CPU cores, which should have nothing else to do.
    """
    from fuselab.api import calibrated
    from fuselab.report.calibration import calibration_table

    environment, found = calibrated(device, pairs, seed=seed, repeats=repeats, console=words)
    if as_json:
        print_json({"environment": environment, "passed": found.passed, **dataclasses.asdict(found)})
    else:
        Console().print(calibration_table(found.bars, environment, found.seconds))
    if found.interrupted:
        words.print("interrupted: the bars are those of what had been recorded until then", highlight=False)
        raise typer.Exit(130)
    if not found.passed:
        raise typer.Exit(1)
