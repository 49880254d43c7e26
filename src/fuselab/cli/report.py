"""``fuselab report``: runs as one page that opens from disk, offline, and can be mailed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuselab.cli.app import Json, app, escaped, print_json, words


@app.command()
def report(
    run_names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs by path or id, the start of it, or 'latest': every experiment of the last `fuselab run`.",
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page to write; report.html in the run's directory, or beside the runs' directories."
        ),
    ] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Take out paths, host and user names.")] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    out: Annotated[
        Path, typer.Option("--runs", envvar="FUSELAB_OUT", help="Directory that holds the runs.", show_default=True)
    ] = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write runs as one page: the verdict, why, what is left, and every kernel down to machine code.

    The page is one file without a server: it loads nothing and sends nothing.
    """
    from fuselab import store
    from fuselab.page.build import REPORT, write
    from fuselab.page.model import together

    if run_names == ["latest"]:
        runs = together(store.open_run("latest", out), out)
    else:
        runs = [store.open_run(name, out) for name in dict.fromkeys(run_names)]
    first = runs[0].path
    path = file or (first / REPORT if len(runs) == 1 else first.parent.parent / REPORT)
    if path.is_dir():
        path = path / REPORT
    write(path, runs, redact=redact)
    size = path.stat().st_size
    if as_json:
        print_json({"report": str(path.absolute()), "bytes": size, "runs": [str(run.path) for run in runs]})
    else:
        count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
        words.print(f"{escaped(str(path))}  {count}, {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)
    if open_it:
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            words.print(f"no browser was found; open {escaped(path.absolute().as_uri())}", highlight=False)
