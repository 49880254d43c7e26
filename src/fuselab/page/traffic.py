"""What eager writes and reads back, and what fusion saves, from the captured graphs.

*One by one*: every operator of a graph is a kernel that reads its arguments and writes its results. For a forward that
is the graph as Dynamo took it from the source, which is what eager runs; what eager keeps for its backward beyond that
is not in it. For a backward it is the backward graph, whose operators eager's own formulas partly have in one.

*Fused*: the post-grad graph, with the nodes of each kernel together: a kernel reads what comes from outside and writes
what is used outside or returned. Nodes in no kernel (calls of a library) are kernels of their own.

Both count each tensor of a kernel once, as ``records.Traffic`` does for the whole cell. Where the kernels' cards have
counted the loads and stores of their code, that figure is beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fuselab.errors import StoreError
from fuselab.page.graphs import Graph, Operator, Tensor, parse_graphs
from fuselab.page.model import Group, RunData
from fuselab.records import Artifact, Direction, Kernel, Measurement, Stage

__all__ = ["Movement", "Picture", "TensorRow", "one_by_one", "picture_of", "together"]

_ONE_BY_ONE = {
    Direction.FORWARD: (Stage.DYNAMO_GRAPH, Stage.FORWARD_GRAPH, Stage.INFERENCE_GRAPH),
    Direction.BACKWARD: (Stage.BACKWARD_GRAPH, Stage.POST_GRAD_GRAPH),
}


@dataclass(frozen=True)
class TensorRow:
    """One tensor and who moves it."""

    tensor: Tensor
    written_by: str
    """The operator or kernel; empty for an input."""
    read_by: tuple[str, ...]
    read_bytes: int
    written_bytes: int
    returned: bool = False

    @property
    def moved(self) -> int:
        """Bytes written and read, all readers together."""
        return self.read_bytes + self.written_bytes

    @property
    def kind(self) -> str:
        """``input``, ``output`` or ``between``: written only to be read back."""
        if not self.written_by:
            return "input"
        return "output" if self.returned else "between"


@dataclass(frozen=True)
class Movement:
    """One way of running a graph."""

    rows: tuple[TensorRow, ...]
    kernels: int
    sized: bool = True
    """Whether every tensor has a size; else what has none is left out."""

    @property
    def moved(self) -> int:
        """Bytes over all tensors."""
        return sum(row.moved for row in self.rows)

    @property
    def between(self) -> int:
        """Bytes of tensors that are written only to be read back."""
        return sum(row.moved for row in self.rows if row.kind == "between")


@dataclass(frozen=True)
class Picture:
    """Both ways of one group."""

    group: Group
    variant: str
    """Whose graphs and kernels these are."""
    stage: Stage
    eager: Movement
    fused: Movement
    fewest: int | None
    """What the cell has to move at least."""
    counted: int | None
    """Bytes that the kernels' cards counted; None where one of them has none."""


def one_by_one(graph: Graph) -> Movement:
    """Every operator a kernel of its own."""
    return _movement(graph, [(o.operator, [o]) for o in graph.operators])


def together(graph: Graph, kernels: Sequence[tuple[str, frozenset[str]]]) -> Movement:
    """The nodes of each kernel together; those that are in none by themselves.

    Args:
        graph: whose nodes they are.
        kernels: name and nodes of each. A node that several kernels compute anew is in each of them.
    """
    by_name = {o.name: o for o in graph.operators}
    covered = {n for _, nodes in kernels for n in nodes}
    groups = [(name, [by_name[n] for n in by_name if n in nodes]) for name, nodes in kernels]
    groups += [(o.operator, [o]) for o in graph.operators if o.name not in covered]
    return _movement(graph, [(name, operators) for name, operators in groups if operators])


def _movement(graph: Graph, groups: Sequence[tuple[str, Sequence[Operator]]]) -> Movement:
    inside = [{t.name for o in operators for t in o.writes} for _, operators in groups]
    readers: dict[str, list[tuple[str, Tensor]]] = {}
    for (name, operators), own in zip(groups, inside, strict=True):
        read: dict[str, Tensor] = {}
        for tensor in (t for o in operators for t in o.reads if t.name not in own):
            known = read.get(tensor.name)
            if known is None or (known.bytes or 0) < (tensor.bytes or 0):
                read[tensor.name] = tensor
        for tensor in read.values():
            readers.setdefault(tensor.name, []).append((name, tensor))
    rows: dict[str, TensorRow] = {}
    for tensor in graph.inputs:
        if tensor.name in readers:
            rows[tensor.name] = _row(tensor, "", readers[tensor.name], returned=False)
    for name, operators in groups:
        for tensor in (t for o in operators for t in o.writes):
            returned = tensor.name in graph.returned
            if tensor.name not in rows and (returned or tensor.name in readers):
                rows[tensor.name] = _row(tensor, name, readers.get(tensor.name, ()), returned=returned)
    return Movement(tuple(rows.values()), len(groups), graph.sized)


def _row(tensor: Tensor, writer: str, readers: Sequence[tuple[str, Tensor]], *, returned: bool) -> TensorRow:
    return TensorRow(
        tensor=tensor,
        written_by=writer,
        read_by=tuple(name for name, _ in readers),
        read_bytes=sum(t.bytes or 0 for _, t in readers),
        written_bytes=(tensor.bytes or 0) if writer else 0,
        returned=returned,
    )


def picture_of(group: Group) -> Picture | None:
    """Both ways of one group, from the first variant that has graphs; None where no variant has.

    A file that cannot be read counts as one that is not there: the panes say so where they show it.
    """
    run = group.run
    for cell in group.cells:
        found = _of_cell(run, group, cell)
        if found is not None:
            return found
    return None


def _of_cell(run: RunData, group: Group, cell: Measurement) -> Picture | None:
    graphs = {
        a.stage: a
        for a in run.metadata.artifacts
        if (a.variant, a.workload, a.direction) == (cell.variant, cell.workload.key, cell.direction) and a.path
    }
    stage = next((s for s in _ONE_BY_ONE[cell.direction] if s in graphs), None)
    if stage is None or Stage.POST_GRAD_GRAPH not in graphs:
        return None
    source = _graphs(run, graphs[stage])
    fused_graphs = _graphs(run, graphs[Stage.POST_GRAD_GRAPH])
    kernels = run.kernels_of(cell)
    named = [(k.name, frozenset(k.nodes)) for k in kernels if k.nodes]
    if not source or not fused_graphs or not named:
        return None
    eager = _sum(one_by_one(g) for g in source)
    fused = _sum(together(g, named) for g in fused_graphs)
    if not eager.rows or not fused.rows:
        return None
    fewest = cell.traffic.bytes_moved if cell.traffic else None
    return Picture(group, cell.variant, stage, eager, fused, fewest, _counted(run, kernels))


def _sum(movements: Iterable[Movement]) -> Movement:
    """Several graphs of one function, as after a graph break."""
    found = list(movements)
    return Movement(
        tuple(row for m in found for row in m.rows), sum(m.kernels for m in found), all(m.sized for m in found)
    )


def _graphs(run: RunData, artifact: Artifact) -> list[Graph]:
    try:
        return parse_graphs(run.run.read_text(artifact.path or ""))
    except StoreError:
        return []


def _counted(run: RunData, kernels: Sequence[Kernel]) -> int | None:
    """Sum of what the cards counted from the kernels' code, over their launches."""
    total = 0
    for kernel in kernels:
        folder = kernel.file_path.rpartition("/")[0]
        try:
            card = json.loads(run.run.read_text(f"{folder}/card.json"))
        except (StoreError, ValueError, RecursionError):
            return None
        traffic = card.get("traffic") if isinstance(card, dict) else None
        if not isinstance(traffic, dict):
            return None
        moved = [traffic.get("read_bytes"), traffic.get("written_bytes")]
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in moved):
            return None
        total += int(sum(v for v in moved if v is not None)) * (kernel.launches or 1)
    return total if kernels else None
