"""Matrix products, convolutions and attention of a graph: what libraries run, with shapes, operations and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fuselab.offline import internals
from fuselab.offline.messages import LibraryCall
from fuselab.records import DTYPES, Direction

if TYPE_CHECKING:
    import torch

__all__ = ["Calls"]

_SHORT = {long: short for short, long in DTYPES.items()}


class Calls:
    """Collects the library calls of the graphs that come by."""

    def __init__(self) -> None:
        self.found: list[LibraryCall] = []

    def add(self, graph: torch.fx.GraphModule, direction: Direction) -> None:
        """Take note of every operator of a graph that torch has a formula for the operations of."""
        for node in graph.graph.nodes:
            if node.op != "call_function":
                continue
            operations = internals.flops(node)
            if operations is None:
                continue
            inputs, outputs = list(_tensors(node.args)), list(_tensors([node]))
            self.found.append(
                LibraryCall(
                    operator=str(node.target),
                    direction=direction,
                    inputs=[_text(t) for t in inputs],
                    outputs=[_text(t) for t in outputs],
                    flops=operations,
                    bytes_moved=sum(_bytes(t) for t in [*inputs, *outputs]),
                )
            )


def _tensors(arguments: Any) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils import _pytree as pytree

    for leaf in pytree.tree_leaves(arguments):
        value = leaf.meta.get("val") if isinstance(leaf, torch.fx.Node) else leaf
        for tensor in pytree.tree_leaves(value):
            if isinstance(tensor, torch.Tensor):
                yield tensor


def _text(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return f"{_SHORT.get(name, name)}[{','.join(str(internals.plain(n)) for n in tensor.shape)}]"


def _bytes(tensor: torch.Tensor) -> int:
    count = tensor.element_size()
    for n in tensor.shape:
        count *= int(internals.plain(n))
    return count
