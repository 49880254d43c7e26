"""A diagnosis on a terminal: each finding with its line, the edit as a diff, and the proof before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fuselab.diagnosis.records import (
    Counts,
    Diagnosis,
    Edit,
    Failure,
    Finding,
    FindingKind,
    Frame,
    Guard,
    Proof,
    ProofStatus,
    Proved,
)
from fuselab.report.figures import duration
from fuselab.report.text import one_line, printable

__all__ = ["diagnosis_view"]

_STYLES = {
    FindingKind.GRAPH_BREAK: "bold red",
    FindingKind.RECOMPILE: "bold yellow",
    FindingKind.LIMIT: "bold red",
    FindingKind.FAILURE: "bold red",
}
_VERDICTS = {
    ProofStatus.PROVED: "green",
    ProofStatus.STILL_THERE: "yellow",
    ProofStatus.DIFFERENT: "bold red",
    ProofStatus.FAILED: "bold red",
}
_DIFF = {"+": "green", "-": "red", "@": "dim"}
_WIDE = 160


def diagnosis_view(diagnosis: Diagnosis) -> RenderableType:
    """Everything that was found, and what was proved."""
    parts: list[RenderableType] = []
    for number, finding in enumerate(diagnosis.findings, 1):
        proofs = [proof for proof in diagnosis.proofs if proof.finding == number - 1]
        parts += [_finding_view(number, finding, proofs), Text()]
    if diagnosis.proved is not None:
        parts += [_proved_view(diagnosis.proved, diagnosis.calls), Text()]
    if diagnosis.failure is not None:
        parts += [_failure_view(diagnosis.failure), Text()]
    parts += [Text(f"note: {printable(note)}", "dim") for note in diagnosis.notes]
    parts.append(_sentence(diagnosis))
    return Group(*parts)


def _finding_view(number: int, finding: Finding, proofs: Sequence[Proof]) -> RenderableType:
    head = Text(f"{number}. {finding.kind.value}", _STYLES[finding.kind])
    head.append(f"  {finding.title}", "bold")
    if finding.times > 1:
        head.append(f"  {finding.times} times", "dim")
    lines: list[RenderableType] = [head]
    body: list[RenderableType] = [_place_line(finding.place)]
    if finding.place is not None and finding.place.source:
        body.append(Text(f"    {one_line(finding.place.source, _WIDE)}", "cyan"))
    if finding.guards:
        body += [Text(f"guard: {_guard_words(guard)}") for guard in finding.guards[:1]]
        if len(finding.guards) > 1:
            body.append(Text(f"       and {len(finding.guards) - 1} more values of it", "dim"))
    else:
        body.append(Text(f"compiler: {one_line(finding.reason, _WIDE)}"))
    if finding.function_skipped:
        body.append(Text("the compiler gave up on the whole function here", "red"))
    body += [Text(finding.explanation, "dim"), Text(finding.advice)]
    if finding.cause in ("unsupported", "other_guard"):
        body += [Text(f"hint: {one_line(hint, _WIDE)}", "dim") for hint in finding.hints[:3]]
    body += _edit_views(finding, proofs)
    return Group(*lines, Padding(Group(*body), (0, 0, 0, 3)))


def _edit_views(finding: Finding, proofs: Sequence[Proof]) -> list[RenderableType]:
    """The proved edit; without proofs the likeliest; after failed ones what was tried, and what needs judgement."""
    by_name = {proof.edit: proof for proof in proofs}
    views: list[RenderableType] = []
    proved = [e for e in finding.edits if (p := by_name.get(e.name)) and p.status is ProofStatus.PROVED]
    untried = [e for e in finding.edits if e.name not in by_name]
    for proof in proofs:
        if proof.status is not ProofStatus.PROVED:
            line = Text(f"tried {proof.edit}: ", "dim").append(proof.status.value, _VERDICTS[proof.status])
            views.append(line.append(f", {one_line(proof.reason, _WIDE)}", "dim"))
    for edit in proved:
        views += [Text(f"proved: {edit.title}", "green"), _diff_view(edit)]
    if proved:
        return views
    if untried:
        edit = untried[0]
        words = "needs your judgement" if edit.judgement or finding.judgement else "not proved, try --prove"
        views += [Text(f"{edit.title} ({words}):"), _diff_view(edit)]
    elif finding.judgement:
        views.append(Text("what to do needs your judgement", "yellow"))
    return views


def _diff_view(edit: Edit) -> RenderableType:
    lines = [Text(printable(line), _DIFF.get(line[:1], "")) for line in edit.diff.splitlines()]
    return Padding(Group(*lines), (0, 0, 0, 2))


def _place_line(place: Frame | None) -> Text:
    if place is None:
        return Text("no line of yours was recorded", "dim")
    text = Text(f"{printable(_shown(place.file))}:{place.line}")
    return text.append(f" in {printable(place.function)}", "dim") if place.function else text


def _shown(file: str) -> str:
    """A path as seen from the working directory, where it is below it."""
    here = str(Path.cwd()) + "/"
    return file.removeprefix(here)


def _guard_words(guard: Guard) -> str:
    subject = f"{guard.subject_kind} {guard.subject}" if guard.subject else "torch's state"
    if guard.subject.startswith("___stack"):
        subject = "a value under way"
    return printable(f"{subject}: {guard.expression}")


def _proved_view(proved: Proved, calls: int) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    before, after = proved.before, proved.after
    rows: list[tuple[str, str, str]] = [
        ("graph breaks", str(before.graph_breaks), str(after.graph_breaks)),
        ("recompilations", str(before.recompiles), str(after.recompiles)),
        ("graphs compiled", str(before.graphs), str(after.graphs)),
    ]
    if before.limits or after.limits:
        rows.append(("recompile limits reached", str(before.limits), str(after.limits)))
    rows += [
        (f"first {calls} calls, compiling", _time(before.first_pass_s), _time(after.first_pass_s)),
        (f"{calls} calls later on", _time(before.pass_s), _time(after.pass_s)),
    ]
    for row in rows:
        table.add_row(*row)
    number = len(proved.edits)
    title = Text(f"{number} edit{'s' if number != 1 else ''} in a copy", "bold").append(
        f", timed with backend {proved.backend}", "dim"
    )
    same = "every answer is the same" if proved.equality.bitwise else "every answer is the same up to rounding"
    answers = Text(f"{same}: {proved.equality.compared} tensors and values compared", "green")
    return Group(title, table, answers)


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds * 1e9)


def _failure_view(failure: Failure) -> RenderableType:
    text = Text(f"stopped at {failure.stage}: ", "bold red")
    text.append(one_line(failure.reason, 4 * _WIDE))
    if failure.place is None:
        return text
    return Group(text, Padding(_place_line(failure.place), (0, 0, 0, 3)))


def _sentence(diagnosis: Diagnosis) -> Text:
    counts = diagnosis.counts or Counts(graph_breaks=0, recompiles=0, graphs=0)
    number = f"{diagnosis.calls} call{'s' if diagnosis.calls != 1 else ''}"
    if diagnosis.clean:
        return Text(f"no graph break and no recompilation in {number}, {_many(counts.graphs, 'graph')}", "green")
    text = Text(
        f"{_many(counts.graph_breaks, 'graph break')}, {_many(counts.recompiles, 'recompilation')}, "
        f"{_many(counts.graphs, 'graph')} in {number}",
        "bold",
    )
    return text.append(f" (backend {diagnosis.backend}, torch {diagnosis.versions.get('torch', '?')})", "dim")


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
