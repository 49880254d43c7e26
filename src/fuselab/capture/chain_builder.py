"""Building ``chain.json``: the compiler's provenance of nodes and lines, joined with every stage's location records.

One graph at a time: its nodes and kernels are built, written and forgotten, so that a capture of many large graphs
needs the memory of the largest.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from fuselab.capture.chain import CHAIN_VERSION, OUTSIDE, ChainGraph, ChainKernel, ChainLine, ChainNode
from fuselab.capture.files import Files
from fuselab.capture.internals import NodeFacts, WrittenLine
from fuselab.capture.provenance import GraphNode, user_line
from fuselab.capture.statements import Kind, Statement, reachable, read_cpp, read_triton
from fuselab.capture.trace import CompiledGraph
from fuselab.ir.locations import LineTable, invert, source_lines
from fuselab.records import Direction, Stage

__all__ = ["BuiltKernel", "ChainBuilder"]

_LINED = (Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.AMDGCN, Stage.SASS, Stage.ASSEMBLY)
_MOST_ABOVE = 8
_NEIGHBOURHOOD = 8
"""How far a node without a line of its own looks for one."""


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel as the chain needs it."""

    kernel_id: str
    name: str
    backend: str
    folder: Path | None
    """Where its source and stages were saved; None for an extern call."""
    source: str = ""
    compiled_from: str = ""
    """The file that the compiler compiled, as its location records name it."""
    nodes: tuple[str, ...] = ()
    """Post-grad nodes that the compiler's kernel-wise record names."""
    launched_at: tuple[int, ...] = ()
    written_in: tuple[str, int] | None = None
    """For a kernel that the user wrote: its file, and how many lines stand there above its source."""
    shift: int = 0
    """How many lines of the file that was compiled stand above the source."""


@dataclass
class ChainBuilder:
    """Writes the chain of every direction of one capture."""

    files: Files
    library_roots: tuple[str, ...]
    _open: dict[Direction, IO[bytes]] = field(default_factory=dict)
    _fx_of: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    def prepare(self, graphs: Iterable[CompiledGraph]) -> None:
        """Learn which forward nodes the autograd sequence numbers of backward nodes stand for."""
        for graph in graphs:
            mapping = _post_to_pre(graph)
            for name, facts in (graph.snapshot.facts if graph.snapshot else {}).items():
                fx = list(facts.fx) or mapping.get(name, [])
                if facts.sequence is not None and fx:
                    known = self._fx_of.setdefault((graph.number, facts.sequence), [])
                    known += [one for one in fx if one not in known]

    def add(self, graph: CompiledGraph, nodes: Sequence[GraphNode], kernels: Sequence[BuiltKernel]) -> None:
        """Build one graph's part and write it."""
        facts = graph.snapshot.facts if graph.snapshot else {}
        written = graph.snapshot.lines if graph.snapshot else {}
        users, neighbours, texts = self._user_lines(nodes, facts)
        built = [self._kernel(kernel, written.get(kernel.name, []), users, texts) for kernel in kernels]
        homes = _homes(kernels, built)
        built = [_trimmed(kernel, homes) for kernel in built]
        mapping = _post_to_pre(graph)
        chain_nodes = []
        for node in nodes:
            fact = facts.get(node.name, NodeFacts(bool(node.operator and homes.get(node.name))))
            homed = homes.get(node.name, [])
            fx = mapping.get(node.name) or list(fact.fx)
            if not fx and fact.sequence is not None:
                fx = self._fx_of.get((graph.number, fact.sequence), [])
            chain_nodes.append(
                ChainNode(
                    name=node.name,
                    operator=node.operator,
                    aten=fact.aten,
                    fx=fx,
                    user=users.get(node.name, ""),
                    user_from="neighbours" if node.name in neighbours else "own",
                    computes=fact.computes,
                    kernel=homed[0] if homed else "",
                    also=homed[1:],
                )
            )
        part = ChainGraph(
            number=graph.number,
            post_grad_graph=graph.post_grad_path.name if graph.post_grad_path else "",
            output_code=graph.output_path.name,
            sources=texts,
            nodes=chain_nodes,
            kernels=built,
        )
        self._write(graph.direction, msgspec.json.encode(part))

    def add_outside(self, direction: Direction, kernels: Sequence[BuiltKernel]) -> None:
        """Kernels of one direction that belong to no graph."""
        texts: dict[str, str] = {}
        built = [self._kernel(kernel, [], {}, texts) for kernel in kernels]
        self._write(direction, msgspec.json.encode(ChainGraph(number=OUTSIDE, sources=texts, kernels=built)))

    def close(self) -> None:
        """Finish the files."""
        for direction, file in self._open.items():
            file.write(b"\n]}\n")
            file.close()
            path = self.files.into / f"graphs/{direction.value}/chain.json"
            Path(file.name).replace(path)
            self.files.note(path, direction, Stage.PROVENANCE)
        self._open.clear()

    def _write(self, direction: Direction, part: bytes) -> None:
        file = self._open.get(direction)
        if file is None:
            folder = self.files.into / f"graphs/{direction.value}"
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / f".chain.json.{os.getpid()}.tmp").open("wb")
            head = f'{{"schema_version":{CHAIN_VERSION},"direction":"{direction.value}","graphs":[\n'
            file.write(head.encode())
            self._open[direction] = file
        else:
            file.write(b",\n")
        file.write(part)

    def _user_lines(
        self, nodes: Sequence[GraphNode], facts: Mapping[str, NodeFacts]
    ) -> tuple[dict[str, str], set[str], dict[str, str]]:
        """Each node's user line, which of them are a neighbour's, and the lines' text."""
        lines: dict[str, str] = {}
        texts: dict[str, str] = {}
        seen: dict[str, str] = {}
        for node in nodes:
            if node.stack_trace:
                if node.stack_trace not in seen:
                    seen[node.stack_trace] = line = user_line(node.stack_trace, self.library_roots)
                    if line and line not in texts:
                        texts[line] = _text_of(line, node.stack_trace)
                if seen[node.stack_trace]:
                    lines[node.name] = seen[node.stack_trace]
        own = dict(lines)
        for name in facts:
            if name not in own:
                found = _nearest(name, facts, own)
                if found:
                    lines[name] = found
        return lines, set(lines) - set(own), texts

    def _kernel(
        self,
        kernel: BuiltKernel,
        written: Sequence[WrittenLine],
        users: Mapping[str, str],
        texts: dict[str, str],
    ) -> ChainKernel:
        if kernel.folder is None:
            return ChainKernel(
                kernel_id=kernel.kernel_id,
                name=kernel.name,
                backend=kernel.backend,
                launched_at=list(kernel.launched_at),
                nodes=list(kernel.nodes),
            )
        if kernel.backend == "cpp":
            listed = read_cpp(kernel.source)
        else:
            listed = read_triton(kernel.source, first=kernel.written_in is not None)
        statements = {statement.line: statement for statement in listed}
        tables, absent = _tables(kernel, kernel.folder)
        lines = _lines(kernel, statements, written, users)
        became = {stage: invert(table) for stage, table in tables.items()}
        last = next((s for s in ("sass", "amdgcn", "assembly", "ptx", "llir", "ttgir", "ttir") if tables.get(s)), "")
        with_code = {line for line, s in statements.items() if any(n in became.get(last, {}) for n in _span(s))}
        for line, chain_line in lines.items():
            statement = statements[line]
            for stage, table in became.items():
                reached = [at for n in _span(statement) for at in table.get(n, ())]
                if reached:
                    chain_line.became[stage] = reached
            if last and line not in with_code and statement.kind is not Kind.CONTROL:
                folded = reachable(line, "consumers", statements, with_code)
                chain_line.folded.extend(sorted(folded or reachable(line, "producers", statements, with_code)))
            for user in chain_line.user:
                if user not in texts:
                    texts[user] = _text_of(user, "")
        recorded = dict.fromkeys(node for line in lines.values() if line.how == "written" for node in line.nodes)
        return ChainKernel(
            kernel_id=kernel.kernel_id,
            name=kernel.name,
            backend=kernel.backend,
            launched_at=list(kernel.launched_at),
            nodes=list(recorded) or list(kernel.nodes),
            lines=list(lines.values()),
            came_from={stage: {k: list(v) for k, v in table.items()} for stage, table in tables.items()},
            absent=absent,
        )


def _tables(kernel: BuiltKernel, folder: Path) -> tuple[dict[str, LineTable], dict[str, str]]:
    """For each saved stage its lines to those of the source; stages without a usable record with the reason."""
    tables: dict[str, LineTable] = {}
    absent: dict[str, str] = {}
    ptx: str | None = None
    for stage in _LINED:
        path = folder / stage.value
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        ptx = text if stage is Stage.PTX else ptx
        table = source_lines(stage, text, kernel.compiled_from, ptx)
        if kernel.shift:
            table = _shifted(table, kernel.shift, kernel.source.count("\n") + 1)
        if table:
            tables[stage.value] = table
        else:
            absent[stage.value] = "no location record of it names the kernel's source"
    return tables, absent


def _shifted(table: LineTable, shift: int, lines: int) -> LineTable:
    """Lines of the file to lines of the function that stands in it; those of other functions are left out."""
    moved = {line: tuple(at - shift for at in places if 0 < at - shift <= lines) for line, places in table.items()}
    return {line: places for line, places in moved.items() if places}


def _span(statement: Statement) -> range:
    return range(statement.line, statement.last + 1)


def _lines(
    kernel: BuiltKernel,
    statements: Mapping[int, Statement],
    written: Sequence[WrittenLine],
    users: Mapping[str, str],
) -> dict[int, ChainLine]:
    """Every statement with the nodes and user lines that it is of."""
    nodes_at = _placed(written, [line.strip() for line in kernel.source.splitlines()])
    lines: dict[int, ChainLine] = {}
    for line, statement in statements.items():
        nodes = list(dict.fromkeys(n for at in _span(statement) for n in nodes_at.get(at, ())))
        how = "written" if nodes else ""
        if kernel.written_in is not None:
            file, above = kernel.written_in
            lines[line] = ChainLine(line=line, kind=statement.kind.value, how="source", user=[f"{file}:{line + above}"])
            continue
        if not nodes and nodes_at and statement.kind is not Kind.CONTROL:
            known = set(nodes_at) & set(statements)
            near = reachable(line, "consumers", statements, known) or reachable(line, "producers", statements, known)
            nodes = list(dict.fromkeys(n for at in sorted(near) for n in nodes_at[at]))
            how = "dataflow" if nodes else ""
        elif not nodes and not nodes_at and kernel.nodes and statement.kind is not Kind.CONTROL:
            nodes, how = list(kernel.nodes), "kernel"
        user = list(dict.fromkeys(users[n] for n in nodes if n in users))
        lines[line] = ChainLine(line=line, kind=statement.kind.value, nodes=nodes, how=how, user=user)
    return lines


def _placed(written: Sequence[WrittenLine], text: Sequence[str]) -> dict[int, list[str]]:
    """Recorded lines where they stand in the saved source, which begins with a few lines more than what was recorded.

    A record counts only where the line still says what was written: text may be rewritten on its way.
    """
    best: dict[int, list[str]] = {}
    for above in range(_MOST_ABOVE):
        found: dict[int, list[str]] = {}
        for record in written:
            at = record.line + above
            if at <= len(text) and text[at - 1] == record.text:
                found.setdefault(at, []).extend(record.nodes)
        if len(found) > len(best):
            best = found
    return best


def _homes(kernels: Sequence[BuiltKernel], built: Sequence[ChainKernel]) -> dict[str, list[str]]:
    """Each node's kernels, the one it belongs to first: by lines where there are any, else by the kernel's record."""
    order = sorted(range(len(built)), key=lambda i: min(kernels[i].launched_at, default=1 << 60))
    homes: dict[str, list[str]] = {}
    for index in order:
        if any(line.how == "written" for line in built[index].lines):
            for node in built[index].nodes:
                homes.setdefault(node, []).append(built[index].kernel_id)
    by_line = set(homes)
    for index in order:  # extern calls, templates, and what left no line of its own
        for node in kernels[index].nodes:
            if node not in by_line:
                homes.setdefault(node, []).append(built[index].kernel_id)
    return {node: list(dict.fromkeys(ids)) for node, ids in homes.items()}


def _trimmed(kernel: ChainKernel, homes: Mapping[str, Sequence[str]]) -> ChainKernel:
    """An extern call's record names what its arguments descend from as well: what others compute is left out."""
    mine = [node for node in kernel.nodes if kernel.kernel_id in homes.get(node, ())]
    return kernel if mine == kernel.nodes else msgspec.structs.replace(kernel, nodes=mine)


def _post_to_pre(graph: CompiledGraph) -> dict[str, list[str]]:
    mapping = graph.mapping.get("postToPre")
    return {name: list(pre) for name, pre in mapping.items()} if isinstance(mapping, dict) else {}


def _nearest(name: str, facts: Mapping[str, NodeFacts], known: Mapping[str, str]) -> str:
    """The user line of the nearest node that has one, what it feeds before what it is fed by."""
    for step in ("users", "inputs"):
        seen = {name}
        front = [name]
        for _ in range(_NEIGHBOURHOOD):
            front = [n for at in front for n in getattr(facts[at], step) if n not in seen and n in facts]
            seen.update(front)
            for candidate in front:
                if candidate in known:
                    return known[candidate]
    return ""


def _text_of(place: str, stack_trace: str) -> str:
    """The text of a user's line, from the traceback itself where it is printed there, else from the file."""
    file, _, line = place.rpartition(":")
    printed = stack_trace.splitlines()
    for number, text in enumerate(printed[:-1]):
        if text.strip().startswith(f'File "{file}", line {line}'):
            following = printed[number + 1].strip()
            if following and not following.startswith("File "):
                return following
    return linecache.getline(file, int(line)).strip() if line.isdecimal() else ""
