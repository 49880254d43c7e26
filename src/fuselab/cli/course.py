"""``fuselab course``: the notebooks and exercises to work in, and how many of them are solved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fuselab.cli.app import Json, app, escaped, print_json, words


@app.command()
def course(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to work in; fuselab-course unless given.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the exercises of DIR, or of this folder; name some to check those.")
    ] = False,
    exercise: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="With --check: exercises, all unless given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that you changed.")] = False,
    device: Annotated[str, typer.Option(envvar="FUSELAB_DEVICE", help="For --check: auto, cpu or cuda.")] = "auto",
    deadline: Annotated[float, typer.Option(help="For --check: seconds that one exercise may take.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Copy the course's notebooks, exercises and data to work in, or check the exercises.

    Your own work is never overwritten without --force. With --check, exits with 1 unless all are right.
    """
    if check:
        _check(folder, exercise or [], device=device, deadline_s=deadline, as_json=as_json)
        return
    from fuselab.course.files import copy_course
    from fuselab.errors import UsageError

    if exercise:
        raise UsageError(f"{exercise[0]} is for --check", hint=f"fuselab course --check {exercise[0]}")
    copied = copy_course(folder or Path("fuselab-course"), force=force)
    if as_json:
        print_json(copied)
        return
    words.print(f"{escaped(copied.folder)}: {len(copied.written)} files written", highlight=False)
    if copied.kept:
        words.print(
            f"  kept as you changed them: {escaped(', '.join(copied.kept))} (--force overwrites)", highlight=False
        )
    words.print(f"next: cd {escaped(copied.folder)}; jupyter notebook pytorch-triton-basics.ipynb", highlight=False)


def _check(folder: Path | None, names: list[str], *, device: str, deadline_s: float, as_json: bool) -> None:
    from fuselab.course.checking import check_all
    from fuselab.course.exercises import EXERCISES

    # `fuselab course --check rms_norm_forward`: a name that is no folder is an exercise's.
    if folder is not None and not folder.is_dir():
        names, folder = [str(folder), *names], None
    here = Path() if Path("exercises").is_dir() or Path.cwd().name == "exercises" else Path("fuselab-course")
    root = (folder or here).absolute()
    say = (lambda name: words.print(f"[dim]{name}[/]", highlight=False)) if words.is_terminal else None
    score = check_all(root, names, device=device, deadline_s=deadline_s, say=say)
    if as_json:
        print_json({"solved": score.solved, "of": len(score.verdicts), "verdicts": score.verdicts})
    else:
        table = Table(title=f"{score.solved} of {len(score.verdicts)} exercises solved", title_justify="left")
        for heading in ("exercise", "level", "outcome", "why"):
            table.add_column(heading)
        for name, _, outcome, why in score.rows():
            table.add_row(name, str(EXERCISES[name].level), outcome, escaped(why))
        Console().print(table)
        for verdict in score.verdicts:
            if not verdict.ok and names:
                Console().print(str(verdict), markup=False, highlight=False, soft_wrap=True)
    if score.solved < len(score.verdicts):
        raise typer.Exit(1)
