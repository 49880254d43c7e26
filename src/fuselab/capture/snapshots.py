"""What was in memory when a graph was compiled, kept beside the compiler's caches for the time they are hit.

A cache hit replays the output code but not the graph it was made from, its schedule, nor the whole provenance mapping
(torch leaves it out for a backward graph that is compiled when it first runs). One JSON file an output module, named by
the hash of its text, fills that in.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from fuselab.capture.files import Files
from fuselab.capture.internals import GraphSnapshot
from fuselab.capture.trace import CompiledGraph

__all__ = ["recall", "remember"]


class _Kept(msgspec.Struct, frozen=True):
    snapshot: GraphSnapshot
    nodes_of: dict[str, list[str]]
    stack_traces_of: dict[str, list[str]]
    refusals: dict[str, int]


def remember(directory: Path, graph: CompiledGraph, files: Files) -> None:
    """Keep what was in memory for a graph that was compiled just now."""
    if graph.snapshot is None:
        return
    kept = _Kept(graph.snapshot, graph.nodes_of, graph.stack_traces_of, graph.refusals)
    files.put(_path(directory, graph), msgspec.json.encode(kept))


def recall(directory: Path, graph: CompiledGraph) -> bool:
    """Fill in a graph that came from a cache; whether there was anything to fill in."""
    path = _path(directory, graph)
    if graph.snapshot is not None or not path.is_file():
        return False
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except msgspec.MsgspecError:
        return False  # written by another version of this package
    graph.snapshot = kept.snapshot
    graph.nodes_of = {**graph.nodes_of, **kept.nodes_of}
    graph.stack_traces_of = {**graph.stack_traces_of, **kept.stack_traces_of}
    graph.refusals = kept.refusals
    return True


def _path(directory: Path, graph: CompiledGraph) -> Path:
    digest = hashlib.sha256(graph.output_path.read_bytes()).hexdigest()
    return directory / "fuselab" / f"{digest[:32]}.json"
