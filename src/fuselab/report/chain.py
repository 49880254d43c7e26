"""One line of a kernel with its chain: where it came from, what it became. Pure: chain and texts in, records out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from fuselab.capture.chain import ChainGraph, ChainKernel, ChainLine, ChainNode
from fuselab.errors import UsageError
from fuselab.report.text import printable

__all__ = ["LineView", "NodeView", "PlacedText", "SourceLine", "line_view", "render_line"]

_WAY_DOWN = ("ttir", "ttgir", "llir", "ptx", "sass", "amdgcn", "assembly")
_SHOWN = 12
"""Lines of one stage that are printed; the rest is counted."""


class PlacedText(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a text."""

    line: int
    text: str


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A post-grad node with what is above it."""

    name: str
    operator: str
    aten: str
    """The operator that it was decomposed from."""
    fx: list[str]
    """Nodes of Dynamo's graph."""
    user: str
    """``file:line``."""
    text: str
    """What stands there; empty where the source is not available."""


class SourceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the kernel's source with both directions of its chain."""

    line: int
    text: str
    kind: str
    how: str
    nodes: list[NodeView]
    user: dict[str, str]
    """The user's lines with their text."""
    became: dict[str, list[PlacedText]]
    """Stage to its lines."""
    folded: list[PlacedText]
    """Lines of the source whose instructions took it in."""


class LineView(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: one line of a stage, and the lines of the source that it belongs to."""

    kernel: str
    stage: str
    line: int
    text: str
    sources: list[SourceLine]


def line_view(
    graph: ChainGraph, kernel: ChainKernel, line: int, stage: str | None, texts: Mapping[str, str]
) -> LineView:
    """The chain of one line.

    Args:
        graph: the graph that the kernel is of.
        kernel: the kernel.
        line: from 1.
        stage: the stage that the line is of; None is the kernel's source.
        texts: the source under ``""``, and every saved stage under its name.

    Raises:
        UsageError: there is no such line, or nothing is recorded for it; the hint names the nearest that has something.
    """
    source = texts[""].splitlines()
    table = kernel.came_from.get(stage or "", {})
    if stage is not None and stage not in kernel.came_from:
        why = kernel.absent.get(stage, "there are no location records of it")
        raise UsageError(f"{kernel.name}: the lines of {stage} are not mapped: {why}")
    shown = source if stage is None else texts.get(stage, "").splitlines()
    if not 1 <= line <= len(shown):
        raise UsageError(f"{kernel.name}: {stage or 'the source'} has {len(shown)} lines, not {line}")
    by_line = {entry.line: entry for entry in kernel.lines}
    if stage is None:
        wanted = [entry.line for entry in kernel.lines if entry.line <= line][-1:]
        if not wanted or not _belongs(line, wanted[0], by_line, source):
            raise _nothing(kernel, "the source", line, sorted(by_line))
    else:
        wanted = list(table.get(line, ()))
        if not wanted:
            raise _nothing(kernel, stage, line, sorted(table))
    entries = [by_line.get(at) or ChainLine(line=at, kind="control") for at in wanted]
    return LineView(
        kernel=kernel.name,
        stage=stage or "source",
        line=line,
        text=shown[line - 1].strip().expandtabs(),
        sources=[_source_line(graph, entry, source, texts) for entry in entries],
    )


def _belongs(line: int, statement: int, by_line: Mapping[int, ChainLine], source: Sequence[str]) -> bool:
    """Whether a line is the statement's own or one that it runs on to."""
    if line == statement:
        return True
    text = source[line - 1].strip()
    return line not in by_line and bool(text) and text not in {"{", "}"} and by_line[statement].kind != "control"


def _nothing(kernel: ChainKernel, stage: str, line: int, known: Sequence[int]) -> UsageError:
    near = sorted(known, key=lambda at: abs(at - line))[:3]
    hint = f"lines near it that are: {', '.join(map(str, sorted(near)))}" if near else None
    return UsageError(f"{kernel.name}: line {line} of {stage} is not mapped to anything", hint=hint)


def _source_line(graph: ChainGraph, entry: ChainLine, source: Sequence[str], texts: Mapping[str, str]) -> SourceLine:
    found = [graph.node(name) or ChainNode(name=name) for name in entry.nodes]
    return SourceLine(
        line=entry.line,
        text=source[entry.line - 1].strip(),
        kind=entry.kind,
        how=entry.how,
        nodes=[
            NodeView(
                name=node.name,
                operator=node.operator,
                aten=node.aten,
                fx=list(node.fx),
                user=node.user,
                text=graph.sources.get(node.user, ""),
            )
            for node in found
        ],
        user={user: graph.sources.get(user, "") for user in entry.user},
        became={
            stage: _placed(entry.became[stage], texts.get(stage, "").splitlines())
            for stage in _WAY_DOWN
            if stage in entry.became
        },
        folded=_placed(entry.folded, source),
    )


def _placed(lines: Sequence[int], text: Sequence[str]) -> list[PlacedText]:
    return [PlacedText(line=at, text=text[at - 1].strip().expandtabs() if at <= len(text) else "") for at in lines]


_HOW = {
    "written": "",
    "dataflow": " (by what its value is used for)",
    "kernel": " (known of the kernel as a whole only)",
    "source": " (your own Triton kernel)",
    "": "",
}


def render_line(view: LineView) -> RenderableType:
    """The chain of a line for a terminal."""
    parts: list[RenderableType] = [
        Text(f"{printable(view.kernel)}  {view.stage} line {view.line}", style="bold"),
        Text(f"  {printable(view.text)}"),
    ]
    for source in view.sources:
        if view.stage != "source":
            parts.append(Text(f"source line {source.line}", style="bold"))
            parts.append(Text(f"  {printable(source.text)}"))
        parts += _up(source)
        parts += _down(source)
    return Group(*parts)


def _up(source: SourceLine) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(f"came from{_HOW.get(source.how, '')}", style="cyan")]
    if not source.nodes and not source.user:
        parts.append(Text("  nothing: it does no work of the graph's", style="dim"))
    for node in source.nodes:
        line = Text(f"  {printable(node.name)}", style="bold")
        line.append(f"  {printable(node.operator or 'no operator')}", style="not bold")
        if node.aten and node.aten != node.operator:
            line.append(f"  of {printable(node.aten)}", style="not bold")
        if node.fx:
            line.append(f"  FX {printable(', '.join(node.fx))}", style="not bold dim")
        parts.append(line)
    for user, text in source.user.items():
        parts.append(Text(f"  {printable(user)}", style="green", overflow="fold"))
        parts.append(
            Text(f"    {printable(text) if text else 'its source is not available'}", style="" if text else "dim")
        )
    return parts


def _down(source: SourceLine) -> list[RenderableType]:
    parts: list[RenderableType] = [Text("became", style="cyan")]
    for stage, lines in source.became.items():
        parts.append(Text(f"  {stage}"))
        parts += [
            Text(f"    {at.line:>6}  {printable(at.text)}", style="dim", overflow="ellipsis") for at in lines[:_SHOWN]
        ]
        if len(lines) > _SHOWN:
            parts.append(Text(f"            and {len(lines) - _SHOWN} more", style="yellow"))
    if source.folded:
        parts.append(Text("  no machine instruction of its own: part of what these lines became"))
        parts += [Text(f"    {at.line:>6}  {printable(at.text)}", style="dim") for at in source.folded[:_SHOWN]]
    if not source.became and not source.folded:
        parts.append(Text("  nothing that is recorded", style="dim"))
    return parts
