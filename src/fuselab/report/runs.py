"""Runs on a terminal: the list of them, one with everything it holds, one kernel of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from fuselab.records import Artifact, Environment, Kernel, Measurement, RunMetadata, RunStatus, Status
from fuselab.report import figures
from fuselab.report.card import card_lines
from fuselab.report.clocks import clocks_view
from fuselab.report.table import results_table
from fuselab.report.text import one_line, printable
from fuselab.store import Rejected, RunSummary

__all__ = ["kernel_view", "run_view", "runs_table"]

_STATUS_STYLES = {
    RunStatus.COMPLETE: "green",
    RunStatus.RUNNING: "cyan",
    RunStatus.FAILED: "bold red",
    RunStatus.INTERRUPTED: "yellow",
}
_FINE = frozenset({Status.OK, Status.CHECKED, Status.UNAVAILABLE})
_KERNELS_SHOWN = 100
_MOST_HIGHLIGHTED = 256 << 10
"""Characters of a text that is highlighted: a megabyte of it takes 3 s."""
_REASON = 160
_SUFFIX_LEXERS = {".py": "python", ".cpp": "cpp", ".c": "cpp", ".cu": "cpp"}
_TEXT_LEXERS = (
    ("import triton", "python"),
    ("#include", "cpp"),
    (".target sm_", "ptx"),
    ("; ModuleID", "llvm"),
    ("target triple", "llvm"),
    ("\t.text\n", "gas"),
)


def runs_table(summaries: Sequence[RunSummary], rejected: Sequence[Rejected], options: str = "") -> RenderableType:
    """The runs below a root, the newest first; below them what was set aside and why.

    Args:
        summaries, rejected: from ``store.list_runs``.
        options: what the commands that are named need to find this root, ``--out DIRECTORY``.
    """
    more = f" {printable(options)}" if options else ""
    if not summaries and not rejected:
        return Text(f"no runs here; make one: fuselab run{more}", style="yellow")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("cells", justify="right", no_wrap=True)
    table.add_column("kernels", justify="right", no_wrap=True)
    table.add_column("preset", no_wrap=True)
    table.add_column("device", overflow="fold")
    for run in summaries:
        table.add_row(
            printable(run.id),
            Text(run.status.value, _STATUS_STYLES[run.status]),
            Text(f"{sum(run.cells.values())}/{run.planned_cells}"),
            str(run.kernels),
            Text(printable(run.preset or figures.NOTHING)),
            Text(printable(run.device)),
        )
    parts: list[RenderableType] = [table] if summaries else []
    for run in summaries:
        parts += [Text(f"{printable(run.id)}: {remark}", style) for remark, style in _remarks(run)]
    unfinished = [run for run in summaries if run.status in (RunStatus.INTERRUPTED, RunStatus.FAILED)]
    if unfinished:
        name = printable(unfinished[0].id) if len(unfinished) == 1 else "all"
        end = "\n  " if more else " "  # a command that is wrapped cannot be copied
        parts.append(Text(f"to go on where it stopped:{end}fuselab run --resume {name}{more}", "dim"))
    parts += [
        Text(f"set aside: {printable(r.path)}: {one_line(r.reason, _REASON)}", "yellow", overflow="fold")
        for r in rejected
    ]
    return Group(*parts)


def run_view(metadata: RunMetadata, environment: Environment, measurements: Sequence[Measurement]) -> RenderableType:
    """A run with everything it holds: what ran, the table, kernels by variant, stages that were saved or not."""
    parts: list[RenderableType] = [*_heading(metadata), Text(), results_table(measurements, environment)]
    clocks = clocks_view(measurements)
    if clocks is not None:
        parts += [Text(), Text("clocks", style="bold"), clocks]
    labels = {workload.key: workload.label for workload in metadata.plan}
    if metadata.kernels:
        parts += [Text(), Text("kernels", style="bold"), *_kernels(metadata.kernels, labels)]
    if metadata.artifacts:
        parts += [Text(), Text("stages", style="bold"), _stages(metadata.artifacts)]
    return Group(*parts)


def kernel_view(kernel: Kernel, text: str, card: Mapping[str, Any] | None = None) -> Text:
    """The text of a kernel, highlighted, below a comment that says what it is; still valid source when it is copied.

    With its ``card`` the comment says what it moves, executes and is limited by as well.

    Printed with ``soft_wrap=True`` its lines stay whole in a file or a pipe.
    """
    lexer = _lexer(kernel, text)
    mark = {"python": "#", "llvm": ";"}.get(lexer, "//")
    facts = [printable(kernel.name), printable(kernel.kernel_id)]
    if kernel.operations:
        facts.append(f"computes {', '.join(map(printable, kernel.operations))}")
    if kernel.source_lines:
        facts.append(f"from {', '.join(map(printable, kernel.source_lines))}")
    resources = _resources(kernel)
    if resources:
        facts.append(resources)
    facts += card_lines(card or {})
    comment = "\n".join(f"{mark} {fact}" for fact in facts)
    source = printable(text, keep="\n\t")
    code = f"{comment}\n{source}"
    if len(code) > _MOST_HIGHLIGHTED:
        return Text(code)
    # Highlighted text rather than a Syntax block, which cuts lines off at the width of the terminal.
    return Syntax(code, lexer, theme="ansi_dark", background_color="default").highlight(code)


def _remarks(run: RunSummary) -> Iterator[tuple[str, str]]:
    """What a reader of the list should know beyond the numbers."""
    failed = [f"{count} {status.value.replace('_', ' ')}" for status, count in run.cells.items() if status not in _FINE]
    if failed:
        yield f"failed cells: {', '.join(failed)}", "red"
    if run.error:
        yield one_line(run.error, _REASON), "red"
    for note in run.notes[:3]:
        yield one_line(note, _REASON), "yellow"


def _heading(metadata: RunMetadata) -> Iterator[Text]:
    yield Text.assemble(
        (printable(metadata.id), "bold"), "  ", (metadata.status.value, _STATUS_STYLES[metadata.status])
    )
    yield Text(printable(metadata.description))
    facts = [f"started {printable(metadata.created_at[:19])} UTC"]
    taken = _seconds(metadata)
    if taken is not None:
        facts.append(f"took {figures.elapsed(taken)}")
    if metadata.preset:
        facts.append(f"preset {printable(metadata.preset)}")
    facts.append(f"seed {metadata.seed}")
    if metadata.target:
        facts.append(printable(metadata.target))
    yield Text(" · ".join(facts), style="dim")
    if metadata.command:
        yield Text(f"$ {' '.join(map(printable, metadata.command))}", style="dim")
    if metadata.error:
        yield Text(printable(metadata.error, keep="\n"), style="red")


def _seconds(metadata: RunMetadata) -> float | None:
    try:
        start = datetime.fromisoformat(metadata.created_at)
        return (datetime.fromisoformat(metadata.finished_at or "") - start).total_seconds()
    except (ValueError, TypeError):  # not finished, or a date that somebody edited
        return None


def _kernels(kernels: Sequence[Kernel], labels: dict[str, str]) -> Iterator[Text]:
    previous = ""
    for kernel in sorted(kernels, key=lambda k: (k.variant, k.workload, k.direction == "backward"))[:_KERNELS_SHOWN]:
        place = f"{kernel.variant}  {labels.get(kernel.workload, kernel.workload)}  {kernel.direction.value}"
        folder, file = _split(kernel)
        if place != previous:
            yield Text(f"  {printable(place)}", style="cyan")
            yield Text(f"  {printable(folder)}", style="dim", overflow="fold")
            previous = place
        operations = ", ".join(
            printable(operation.removeprefix("aten.").removesuffix(".default")) for operation in kernel.operations
        )
        line = Text(f"    {printable(kernel.name)}", style="bold")
        line.append(f"  {operations or 'operators not recorded'}", style="not bold" if operations else "not bold dim")
        yield line
        facts = [printable(file), figures.size(kernel.size_bytes), _resources(kernel)]
        yield Text(f"      {'  '.join(fact for fact in facts if fact)}", style="dim", overflow="fold")
    if len(kernels) > _KERNELS_SHOWN:
        yield Text(f"  and {len(kernels) - _KERNELS_SHOWN} more: metadata.json has all of them", style="yellow")


def _split(kernel: Kernel) -> tuple[str, str]:
    """The directory that all kernels of one variant, workload and direction share, and the rest of the path."""
    parts = kernel.file_path.split("/")
    return "/".join(parts[:4]), "/".join(parts[4:])


def _resources(kernel: Kernel) -> str:
    launches = f"{kernel.launches} launch{'es' if kernel.launches != 1 else ''}"
    facts = (
        (kernel.launches, launches),
        (kernel.registers, f"{kernel.registers} registers"),
        (kernel.spills or None, f"{kernel.spills} spills"),
        (kernel.shared_bytes or None, f"{figures.size(kernel.shared_bytes)} shared"),
        (kernel.num_warps, f"{kernel.num_warps} warps"),
        (kernel.num_stages, f"{kernel.num_stages} stages"),
    )
    return ", ".join(text for value, text in facts if value is not None)


def _stages(artifacts: Sequence[Artifact]) -> Table:
    """What there is of each stage by variant, or why there is none; stages with one answer share a row."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column("variant", style="cyan", no_wrap=True)
    table.add_column("stage", overflow="fold")
    table.add_column("what", overflow="fold")
    by_stage: dict[tuple[str, str], list[Artifact]] = {}
    for artifact in artifacts:
        by_stage.setdefault((artifact.variant, artifact.stage.value), []).append(artifact)
    rows: dict[tuple[str, str], list[str]] = {}
    for (variant, stage), found in sorted(by_stage.items(), key=lambda item: item[0][0]):
        rows.setdefault((variant, _what(found)), []).append(stage)
    previous = ""
    for (variant, what), stages in rows.items():
        style = "dim" if what.startswith("absent") else ""
        table.add_row(
            Text(printable(variant) if variant != previous else ""), Text(", ".join(stages)), Text(what, style)
        )
        previous = variant
    return table


def _what(artifacts: Sequence[Artifact]) -> str:
    """How many files of one stage there are, and the reasons for those that are not there."""
    present = [artifact for artifact in artifacts if artifact.path is not None]
    parts = []
    if present:
        total = figures.size(sum(artifact.size_bytes for artifact in present))
        parts.append(f"{len(present)} file{'s' if len(present) != 1 else ''}, {total}")
    reasons = dict.fromkeys(one_line(artifact.absent, _REASON) for artifact in artifacts if artifact.path is None)
    return "; ".join([*parts, *(f"absent: {reason}" for reason in reasons)])


def _lexer(kernel: Kernel, text: str) -> str:
    for sign, lexer in _TEXT_LEXERS:
        if sign in text[:4096]:
            return lexer
    suffix = kernel.file_path[kernel.file_path.rfind(".") :] if "module {" not in text[:4096] else ""
    return _SUFFIX_LEXERS.get(suffix, "text")
