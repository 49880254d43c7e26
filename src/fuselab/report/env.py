"""Environment variables for a terminal: the table, one variable's page, what is set here, what nothing reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fuselab.env_vars.catalogue import SUBJECTS, Dead, Moment, Variable
from fuselab.store.redaction import MASK, names_secret, scrub

if TYPE_CHECKING:
    from fuselab.env_vars.findings import Report
    from fuselab.env_vars.installation import Installation
    from fuselab.env_vars.probes import Outcome

__all__ = [
    "dead_table",
    "env_document",
    "env_table",
    "outcomes_document",
    "outcomes_view",
    "report_document",
    "report_view",
    "shown_value",
    "variable_document",
    "variable_page",
]

MOMENTS = {
    Moment.IMPORT: "once, while {readers} is imported",
    Moment.DECORATION: "when the function is wrapped by torch.compile or triton.jit",
    Moment.COMPILE: "at each compile",
    Moment.LAUNCH: "at each launch",
    Moment.CALL: "each time it is needed",
    Moment.FIRST_USE: "once, when it is first needed",
}
_READABLE = 40
"""Columns that an explanation needs beside a name; with fewer it stands below it."""
_PROBE_WIDTH = 120
"""Columns in which a probe's figures stand beside each other."""
_BEFORE = {"cuda": "CUDA is first used", "nccl": "the process group is made"}


@dataclass(frozen=True)
class _ByWidth:
    """One of two forms: in columns where the terminal has room for them, else below each other."""

    least: int
    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.wide if options.max_width >= self.least else self.narrow


def _below(line: Text, indent: int = 2) -> RenderableType:
    return Padding(line, (0, 0, 0, indent))


def shown_value(name: str, value: str) -> str:
    """A value as it may be shown: what looks like a secret is masked.

    Example:
        >>> shown_value("TORCHINDUCTOR_REDIS_URL", "redis://me:swordfish@cache:6379")
        'redis://<redacted>@cache:6379'
    """
    return MASK if names_secret(name) else scrub(value)


def env_document(
    variables: Sequence[Variable], installation: Installation, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Every variable with this machine's values, JSON-ready."""
    return {
        "versions": installation.versions,
        "variables": [variable_document(variable, installation, environ, look=False) for variable in variables],
    }


def variable_document(
    variable: Variable, installation: Installation, environ: Mapping[str, str], *, look: bool = True
) -> dict[str, Any]:
    """One variable, JSON-ready; with ``look`` the installed lines that read it."""
    document: dict[str, Any] = msgspec.to_builtins(variable)
    document.pop("default_in")
    document["default"] = default_here(variable, installation)
    document["read_here"] = installation.in_range(variable)
    document["value"] = shown_value(variable.name, environ[variable.name]) if variable.name in environ else None
    if look:
        presence = installation.look(variable)
        document["where"] = list(presence.where)
        document["read_here"] = presence.found
        document["reason"] = presence.reason
    return document


def default_here(variable: Variable, installation: Installation) -> str:
    """The default in the installed release."""
    release = ".".join(installation.versions.get("torch", "").split(".")[:2])
    return variable.default_in.get(release, variable.default)


def env_table(variables: Sequence[Variable], installation: Installation, environ: Mapping[str, str]) -> RenderableType:
    """All variables by subject; what is set here stands out."""
    tables: list[RenderableType] = []
    lists: list[RenderableType] = []
    longest = 0
    for subject, meaning in SUBJECTS.items():
        rows = [variable for variable in variables if variable.subject == subject]
        if not rows:
            continue
        title = Text(subject, "bold").append(f"  {meaning}", "not bold dim")
        table = Table(title=title, title_justify="left", box=None, show_header=not tables, padding=(0, 2, 0, 0))
        table.add_column("variable", no_wrap=True, min_width=44)
        table.add_column("read", no_wrap=True, min_width=10)
        table.add_column("what it does", overflow="fold")
        lists.append(title)
        for variable in rows:
            here = installation.in_range(variable)
            name = Text(variable.name, "" if here else "dim")
            if variable.name in environ:
                name = Text(f"{variable.name}={shown_value(variable.name, environ[variable.name])}", "bold green")
            longest = max(longest, len(name.plain))
            read, does = Text(variable.read.value, "dim"), Text(variable.does, "" if here else "dim")
            table.add_row(name, read, does)
            lists += [Text.assemble(name, "  ", read), _below(does)]
        tables += [table, Text()]
        lists.append(Text())
    versions = ", ".join(f"{package} {version}" for package, version in installation.versions.items())
    set_here = sum(variable.name in environ for variable in variables)
    words = f"{len(variables)} variables, {set_here} set here; dim: not read by {versions or 'what is installed'}."
    end = Text(f"{words} fuselab env NAME shows one.")
    return _ByWidth(longest + 14 + _READABLE, Group(*tables, end), Group(*lists, end))


def variable_page(variable: Variable, installation: Installation, environ: Mapping[str, str]) -> RenderableType:
    """Everything about one variable, with the lines that read it here."""
    presence = installation.look(variable)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, value: str, style: str = "") -> None:
        if value:
            table.add_row(name, Text(value, style))

    value = environ.get(variable.name)
    row(
        "here", "not set" if value is None else shown_value(variable.name, value), "" if value is None else "bold green"
    )
    row("type", variable.type)
    row("default", default_here(variable, installation))
    row("read", MOMENTS[variable.read].format(readers=" or ".join(variable.readers) or "its library"))
    late = variable.too_late_after()
    row("set it", "before " + " or ".join(_BEFORE.get(event, f"{event} is imported") for event in late) if late else "")
    row("field", variable.field or "")
    row("instead", variable.instead or "")
    bound = f"{variable.package} {variable.since} and later" if variable.since else "the first release is not known"
    row("since", bound + (f", to {variable.until}" if variable.until else ""))
    row("read by", "\n".join(presence.where) or presence.reason, "" if presence.found else "yellow")
    row("example", f"{variable.name}={variable.example}")
    row("expect", variable.expect)
    return Group(Text(variable.name, "bold"), Text(variable.does), Text(), table)


def dead_table(dead: Sequence[Dead]) -> RenderableType:
    """What is set in public code and read by nothing, with what to use."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("nothing reads", no_wrap=True)
    table.add_column("use instead", overflow="fold")
    lines: list[RenderableType] = [Text("nothing reads, and what to use instead", "bold")]
    for entry in dead:
        use = Text(entry.use)
        if entry.note:
            use.append(f"  {entry.note}", "dim")
        table.add_row(Text(entry.name), use)
        lines += [Text(entry.name), _below(use)]
    longest = max((len(entry.name) for entry in dead), default=0)
    return _ByWidth(longest + 2 + 2 * _READABLE, table, Group(*lines))


def report_document(report: Report) -> dict[str, Any]:
    """What is set and what is wrong with it, JSON-ready and masked."""
    document: dict[str, Any] = msgspec.to_builtins(report)
    for setting in document["settings"]:
        setting["value"] = shown_value(setting["name"], setting["value"])
    for finding in document["findings"]:
        finding["message"] = scrub(finding["message"], dict(os.environ))
    return document


def report_view(report: Report) -> RenderableType:
    """What is set and what is wrong with it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for setting in report.settings:
        place = Text(f"{setting.where}: " if setting.where else "", "dim")
        name = place.append(f"{setting.name}={shown_value(setting.name, setting.value)}", "bold")
        table.add_row(name, Text(setting.does))
    parts: list[RenderableType] = [table if report.settings else Text("none of the known variables is set")]
    if report.findings:
        parts.append(Text())
    for finding in report.findings:
        line = Text(finding.kind.value, "bold yellow").append("  ")
        line.append(f"{finding.where}: " if finding.where else "", "dim").append(
            scrub(finding.message), "not bold default"
        )
        parts.append(line)
        if finding.remedy:
            parts.append(Text("  -> ", "yellow").append(finding.remedy, "default"))
    if report.settings and not report.findings:
        parts.append(Text("\nnothing is wrong with them", "green"))
    return Group(*parts)


def outcomes_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What probes saw, JSON-ready: ``with`` in place of the name that Python keeps for itself."""
    documents = [msgspec.to_builtins(outcome) for outcome in outcomes]
    return {"outcomes": [{name.rstrip("_"): value for name, value in one.items()} for one in documents]}


def outcomes_view(outcomes: Sequence[Outcome]) -> RenderableType:
    """What probes saw, without the variable and with it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "set to", "looked at", "without", "with"):
        table.add_column(column, overflow="fold", no_wrap=column in ("", "set to"))
    lines: list[RenderableType] = []
    for outcome in outcomes:
        mark = {True: "[green]as claimed[/]", False: "[bold red]not so[/]", None: "[yellow]not here[/]"}[outcome.passed]
        settings = " ".join(f"{name}={value}" for name, value in outcome.settings.items())
        seen = (outcome.without, outcome.with_) if outcome.passed is not None else (outcome.reason, "")
        words = [shown_value("", text) for text in (settings, outcome.looked_at, *seen)]
        table.add_row(mark, *map(escape, words))
        lines += [Text.from_markup(f"{mark}  {escape(words[0])}"), _below(Text(words[1]))]
        lines += [
            _below(Text.assemble((f"{name:9}", "dim"), text), 4)
            for name, text in zip(
                ("without", "with") if outcome.passed is not None else ("", ""), words[2:], strict=True
            )
            if text
        ]
    return _ByWidth(_PROBE_WIDTH, table, Group(*lines))
