"""A captured graph in the words of the cards: its text and tables, and the device that it was compiled for."""

from __future__ import annotations

from collections.abc import Mapping

from fuselab.capture.output_code import OutputCode
from fuselab.capture.trace import CompiledGraph
from fuselab.card.graph import GraphFacts, TimedConfiguration
from fuselab.targets import Target, match

__all__ = ["graph_facts", "present_target"]


def graph_facts(
    graph: CompiledGraph, code: OutputCode, timings: Mapping[str, TimedConfiguration] | None = None
) -> GraphFacts:
    """What the cards of a graph's kernels are made from.

    Args:
        graph: the graph.
        code: its output module, read.
        timings: what autotuning timed, by hash of the configuration.
    """
    nodes_of: dict[str, list[str]] = {}
    for launched in code.launches:
        nodes_of.setdefault(launched.name, []).extend(graph.nodes_of.get(launched.key, ()))
    post_grad = ""
    if graph.post_grad_path is not None and graph.post_grad_path.is_file():
        post_grad = graph.post_grad_path.read_text(encoding="utf-8", errors="replace")
    snapshot = graph.snapshot
    return GraphFacts(
        code=graph.output_path.read_text(encoding="utf-8"),
        nodes_of=nodes_of,
        schedule=None if snapshot is None else snapshot.schedule,
        refusals=graph.refusals,
        buffers={} if snapshot is None else snapshot.buffers,
        post_grad=post_grad,
        timings=timings or {},
    )


def present_target(graph: CompiledGraph) -> Target | None:
    """The described device that the GPU of this machine is, for a graph that was compiled for it."""
    if graph.snapshot is None or "cuda" not in {device.partition(":")[0] for device in graph.snapshot.devices}:
        return None
    import torch

    return match(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
