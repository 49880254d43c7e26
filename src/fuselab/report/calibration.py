"""The bars of a calibration as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fuselab.records import Environment
from fuselab.report.table import headline

__all__ = ["calibration_table"]


class Bar(Protocol):
    """One bar, as ``measure.calibrate`` has it; that module imports torch, and this room does not."""

    @property
    def name(self) -> str:
        """What is measured."""

    @property
    def target(self) -> str:
        """What it has to be."""

    @property
    def value(self) -> float | None:
        """What it is."""

    @property
    def passed(self) -> bool | None:
        """Whether it holds; None where it could not be measured."""

    @property
    def detail(self) -> str:
        """What else is known."""


def calibration_table(bars: Sequence[Bar], environment: Environment, seconds: float) -> RenderableType:
    """One line a bar: what it has to be, what it is, whether it holds."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("bar", "target", "measured", "", "detail"):
        table.add_column(column, overflow="fold", justify="right" if column == "measured" else "left")
    words = {True: "[green]holds[/]", False: "[bold red]fails[/]", None: "[dim]not measured[/]"}
    for bar in bars:
        value = "-" if bar.value is None else f"{bar.value:.4g}"
        table.add_row(escape(bar.name), escape(bar.target), value, words[bar.passed], escape(bar.detail))
    failed = sum(bar.passed is False for bar in bars)
    verdict = Text(f"{failed} of {len(bars)} bars fail", "bold red") if failed else Text("no bar fails", "green")
    return Group(headline(environment), Text(), table, Text(), verdict.append(f", {seconds:.0f} s", "dim"))
