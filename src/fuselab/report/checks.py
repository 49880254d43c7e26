"""Doctor's checks as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fuselab.records import Check, CheckStatus

__all__ = ["checks_table"]

STYLES = {CheckStatus.OK: "green", CheckStatus.WARNING: "yellow", CheckStatus.MISSING: "bold red"}


def checks_table(checks: Sequence[Check]) -> RenderableType:
    """One line a check, with the remedy below what is not ok, and a sentence that sums up."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column("status", no_wrap=True)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in checks:
        style = STYLES[check.status]
        table.add_row(f"[{style}]{check.status.value}[/]", escape(check.name), escape(check.detail))
        if check.remedy:
            table.add_row("", "", f"[{style}]->[/] {escape(check.remedy)}")
    missing = [c for c in checks if c.status is CheckStatus.MISSING]
    required = [c.name for c in missing if c.required]
    if required:
        sentence = Text(f"`fuselab run` cannot work here until this is mended: {', '.join(required)}", "bold red")
    elif missing:
        sentence = Text("`fuselab run` works here; what is missing only limits what it can show.", "yellow")
    else:
        sentence = Text("Everything that `fuselab run` needs is here.", "green")
    return Group(table, Text(), sentence)
