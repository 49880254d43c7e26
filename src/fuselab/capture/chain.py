"""The chain as data: ``chain.json`` of one direction, from the user's line to the lines of the machine code and back.

Records only, torch-free: what is written here is read by ``fuselab show`` and by tests. Lines are numbered from 1. A
kernel's stages lie beside its source under the stage's name (``ttir``, ``ptx``, ``sass``, ``assembly``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

__all__ = ["Chain", "ChainGraph", "ChainKernel", "ChainLine", "ChainNode", "read_chain"]

CHAIN_VERSION = 1

OUTSIDE = -1
"""Number of the graph that stands for no graph: kernels that the user's code launches by itself."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the chain's records; what has its default value is left out of the file."""


class ChainNode(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One node of a post-grad graph."""

    name: str
    operator: str = ""
    """``aten.rsqrt.default``; empty for what is no operator."""
    aten: str = ""
    """The operator that it was decomposed from."""
    fx: list[str] = []
    """Nodes of Dynamo's graph that it descends from."""
    user: str = ""
    """The user's line, ``file:line``."""
    user_from: str = "own"
    """``own``: the compiler recorded it for this node; ``neighbours``: for what it feeds or is fed by."""
    computes: bool = False
    """Whether it computes something; views, inputs and folded constants do not."""
    kernel: str = ""
    """``kernel_id`` of the one kernel or extern call that it belongs to: the first that computes it."""
    also: list[str] = []
    """Kernels that compute it again (recomputed rather than loaded) or finish it (a reduction in two steps)."""


class ChainLine(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a kernel's source."""

    line: int
    kind: str
    """``load``, ``store``, ``compute``, ``constant``, ``layout``, ``index`` or ``control``."""
    nodes: list[str] = []
    """Post-grad nodes that it was written for."""
    how: str = ""
    """``written``: recorded as it was generated; ``dataflow``: what the lines that use its value were written for;
    ``kernel``: known of the kernel as a whole only; ``source``: the line is the user's own; empty where unknown."""
    user: list[str] = []
    """The user's lines, ``file:line``."""
    became: dict[str, list[int]] = {}
    """Stage to its lines."""
    folded: list[int] = []
    """Lines of this source whose instructions took it in, where it has none of its own in the last stage."""


class ChainKernel(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One kernel or extern call."""

    kernel_id: str
    name: str
    backend: str
    launched_at: list[int] = []
    """Lines of the output code."""
    nodes: list[str] = []
    """Nodes that belong to it, and those that it computes again."""
    lines: list[ChainLine] = []
    came_from: dict[str, dict[int, list[int]]] = {}
    """Stage to its lines to the lines of this source."""
    absent: dict[str, str] = {}
    """Stage to the reason why its lines are not mapped."""

    @property
    def last_stage(self) -> str:
        """The machine code, or the lowest stage there is; empty where there is none."""
        stages = ("sass", "amdgcn", "assembly", "ptx", "llir", "ttgir", "ttir")
        return next((stage for stage in stages if self.came_from.get(stage)), "")


class ChainGraph(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One compiled graph."""

    number: int
    """Which graph of the capture, from 0; ``OUTSIDE`` for kernels that belong to none."""
    post_grad_graph: str = ""
    """File beside ``chain.json``."""
    output_code: str = ""
    """File beside ``chain.json``."""
    sources: dict[str, str] = {}
    """The user's lines (``file:line``) to their text, as far as it is available."""
    nodes: list[ChainNode] = []
    kernels: list[ChainKernel] = []

    def node(self, name: str) -> ChainNode | None:
        """The node of that name."""
        return next((node for node in self.nodes if node.name == name), None)


class Chain(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Everything of one variant, workload and direction."""

    direction: str
    graphs: list[ChainGraph] = []
    schema_version: int = CHAIN_VERSION

    def kernel(self, name: str) -> tuple[ChainGraph, ChainKernel] | None:
        """A kernel by its id or name, with its graph."""
        found = [(graph, kernel) for graph in self.graphs for kernel in graph.kernels]
        by_id = [pair for pair in found if pair[1].kernel_id == name]
        by_name = [pair for pair in found if pair[1].name == name]
        return next(iter((*by_id, *by_name)), None)


def read_chain(path: Path) -> Chain:
    """Read ``chain.json``.

    Raises:
        msgspec.MsgspecError: it is not a chain.
    """
    return msgspec.json.decode(path.read_bytes(), type=Chain)


def coverage(kernels: Iterable[ChainKernel]) -> dict[str, int]:
    """How many of the lines that load, store or compute are mapped.

    ``lines`` of them there are; ``to_user`` have a user line; ``to_instruction`` have an instruction of their own or
    were folded into one; ``direct`` have one of their own.
    """
    count = {"lines": 0, "to_user": 0, "to_instruction": 0, "direct": 0}
    for kernel in kernels:
        last = kernel.last_stage
        for line in kernel.lines:
            if line.kind in {"load", "store", "compute"}:
                direct = bool(line.became.get(last))
                count["lines"] += 1
                count["to_user"] += bool(line.user)
                count["direct"] += direct
                count["to_instruction"] += direct or bool(line.folded)
    return count
