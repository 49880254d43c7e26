"""``fuselab compare``: what changed between runs, or between variants of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fuselab.cli.app import Json, Out, app, escaped, print_json, words
from fuselab.errors import UsageError


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN[@VARIANT]...", help="Runs, the first the base: path, id, start of it, 'latest'."),
    ],
    variants: Annotated[
        str,
        typer.Option("--variants", help="With one RUN: its variants to compare, the first the base: eager,compile."),
    ] = "",
    fail_over: Annotated[
        str, typer.Option("--fail-over", metavar="SHARE", help="Exit with 1 on a regression past this share: 2%.")
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page of one file: diffs, charts, samples.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit's XML for a build server.")] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Take paths, host and user names out of all that is shown and written.")
    ] = False,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare runs with the first: what changed around them, in their times, in their kernels.

    Variants of one run were timed in the same rounds and are compared by them: RUN --variants eager,compile. Two runs
    were not measured together; their intervals are wider by the drift between them. With --fail-over the exit code is 1
    on a regression past it, or where a cell that was correct is wrong or fails, and 2 if nothing could be judged.
    """
    from fuselab.comparison import compare_runs, parse_share
    from fuselab.report.comparison import ComparisonView, comparison_document
    from fuselab.report.comparison import junit as junit_xml
    from fuselab.store.files import write_atomically

    names = [name.strip() for name in variants.split(",") if name.strip()]
    if variants and len(names) < 2:
        raise UsageError(f"--variants {variants} names one variant", hint="name two or more: --variants eager,compile")
    found = compare_runs(runs, out, variants=names, fail_over=parse_share(fail_over))
    if redact:
        from fuselab.page.comparison import redacted_comparison

        found = redacted_comparison(found)
    if as_json:
        print_json(comparison_document(found))
    else:
        Console().print(ComparisonView(found))
    if html is not None:
        from fuselab.page.comparison import comparison_page

        write_atomically(html, comparison_page(found).encode())
        words.print(f"page: {escaped(str(html))}", highlight=False)
    if junit is not None:
        write_atomically(junit, junit_xml(found).encode())
    if found.fail_over is None:
        return
    if found.failures:
        raise typer.Exit(1)
    if not found.judged:
        raise UsageError(
            "nothing could be judged, so nothing can be said to hold",
            hint="the table says why for each cell; compare runs of one device, with cells that were timed",
        )
