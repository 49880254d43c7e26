"""The structured trace, received in the process: each record becomes a file, a warning or a count as it arrives.

``torch._logging.trace_structured`` emits whenever its logger has a handler, also long after torch was imported, in the
thread that compiles. So a record is more than its payload: while the output code is recorded, the graph that it was
made from, the schedule and the provenance tables still stand in memory and are read there (``internals``). Graphs are
written to disk at once and not kept.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuselab.capture import internals, interruptions
from fuselab.capture.files import Files
from fuselab.capture.internals_calls import digest
from fuselab.capture.output_code import read_aot_id
from fuselab.records import Direction, Stage

__all__ = ["CompiledGraph", "FusionHandler", "Recorder", "TraceHandler"]

_STAGES: dict[str, tuple[Stage, Direction]] = {
    "dynamo_output_graph": (Stage.DYNAMO_GRAPH, Direction.FORWARD),
    "aot_joint_graph": (Stage.JOINT_GRAPH, Direction.FORWARD),
    "aot_forward_graph": (Stage.FORWARD_GRAPH, Direction.FORWARD),
    "aot_inference_graph": (Stage.INFERENCE_GRAPH, Direction.FORWARD),
    "aot_backward_graph": (Stage.BACKWARD_GRAPH, Direction.BACKWARD),
}

_CONTEXT = frozenset(
    {"rank", "frame_id", "frame_compile_id", "compiled_autograd_id", "attempt", "stack", "has_payload", "subgraph_name"}
)
"""Keys of a record that say where it comes from; the other one is what it is."""

_MOST_REFUSALS = 5000
"""Distinct refusals to fuse that are kept for one graph; a graph of 10,000 nodes makes millions."""


@dataclass
class CompiledGraph:
    """One graph that Inductor generated code for, or took from its cache."""

    direction: Direction
    number: int
    """Which graph of this capture, from 0; a forward graph and its backward share it."""
    output_path: Path
    """The saved output code."""
    module_path: str
    """Where Inductor itself keeps that module."""
    snapshot: internals.GraphSnapshot | None
    """The graph in memory; None when it came from a cache."""
    post_grad_path: Path | None
    """The saved post-grad graph."""
    nodes_of: dict[str, list[str]] = field(default_factory=dict)
    stack_traces_of: dict[str, list[str]] = field(default_factory=dict)
    mapping: dict[str, Any] = field(default_factory=dict)
    """The provenance mapping as torch records it: pre-grad to post-grad to kernel."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Why nodes were not fused, with how often each was said."""


@dataclass
class Recorder:
    """What arrived so far."""

    files: Files
    library_roots: tuple[str, ...] = ()
    graphs: list[CompiledGraph] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)
    """How often each kind of record came, those that nobody here knows included."""
    refusals: Counter[str] = field(default_factory=Counter)
    output_digests: set[str] = field(default_factory=set)
    """Of the output code that came: what runs and is not among them was compiled before."""
    _phases: interruptions.Phases = field(default_factory=interruptions.Phases)
    _broken: str = ""
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    _post_grad: dict[tuple[object, ...], tuple[str | None, Path | None]] = field(default_factory=dict)

    def receive(self, metadata: Mapping[str, Any], payload: str | None) -> None:
        """Take one record of the structured trace."""
        kind = next((key for key in metadata if key not in _CONTEXT), "")
        detail = metadata.get(kind)
        name = str(detail.get("name", "")) if kind == "artifact" and isinstance(detail, Mapping) else kind
        self.records[name] += 1
        compile_id = tuple(metadata.get(key) for key in ("compiled_autograd_id", "frame_id", "frame_compile_id"))
        if name in _STAGES:
            stage, direction = _STAGES[name]
            self.files.graph_stage(direction, stage, self._number(compile_id), payload or "")
        elif name == "inductor_post_grad_graph":
            self._receive_post_grad(compile_id, payload or "")
        elif name == "inductor_output_code":
            self._receive_output_code(compile_id, detail if isinstance(detail, Mapping) else {}, payload or "")
        elif name == "inductor_provenance_tracking_node_mappings":
            self._receive_provenance(payload, "mapping")
        elif name == "inductor_provenance_tracking_kernel_stack_traces":
            self._receive_provenance(payload, "stack_traces_of")
        elif name == "dynamo_graph_break_reason":
            self.warn(interruptions.graph_break(payload or "", self.library_roots))
        elif name == "chromium_event":
            self._phases.event(payload or "")
        elif name == "dynamo_error":
            self._broken = self._phases.broken()
        elif name in {"compilation_metrics", "bwd_compilation_metrics"} and isinstance(detail, Mapping):
            self.warn(interruptions.recompile(detail))
            self.warn(interruptions.failure(detail, self._broken or self._phases.broken()))
            self._broken = ""

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text and text not in self.warnings:
            self.warnings.append(text)

    def refused(self, text: str) -> None:
        """Keep why two nodes were not fused."""
        if text in self.refusals or len(self.refusals) < _MOST_REFUSALS:
            self.refusals[text] += 1

    def flush(self) -> None:
        """Write what still waits for a later record that never came: the compilation failed in between."""
        for compile_id, (text, _) in self._post_grad.items():
            if text is not None:
                self.files.graph_stage(Direction.FORWARD, Stage.POST_GRAD_GRAPH, self._number(compile_id), text)
        self._post_grad.clear()

    def _number(self, compile_id: tuple[object, ...]) -> int:
        return self._numbers.setdefault(compile_id, len(self._numbers))

    def _receive_post_grad(self, compile_id: tuple[object, ...], text: str) -> None:
        backward = internals.compiling_backward()
        if backward is None:  # from a cache: the output code that follows says which direction it is
            self._post_grad[compile_id] = (text, None)
            return
        direction = Direction.BACKWARD if backward else Direction.FORWARD
        path = self.files.graph_stage(direction, Stage.POST_GRAD_GRAPH, self._number(compile_id), text)
        self._post_grad[compile_id] = (None, path)

    def _receive_output_code(self, compile_id: tuple[object, ...], detail: Mapping[str, Any], text: str) -> None:
        snapshot = internals.current_graph()
        self.output_digests.add(digest(text))
        backward = snapshot.backward if snapshot else read_aot_id(text).endswith("_backward")
        direction = Direction.BACKWARD if backward else Direction.FORWARD
        number = self._number(compile_id)
        waiting, post_grad = self._post_grad.pop(compile_id, (None, None))
        if waiting is not None:
            post_grad = self.files.graph_stage(direction, Stage.POST_GRAD_GRAPH, number, waiting)
        nodes_of, stack_traces_of = internals.kernel_records() if snapshot else ({}, {})
        self.graphs.append(
            CompiledGraph(
                direction=direction,
                number=number,
                output_path=self.files.graph_stage(direction, Stage.OUTPUT_CODE, number, text),
                module_path=str(detail.get("file_path") or detail.get("filename") or ""),
                snapshot=snapshot,
                post_grad_path=post_grad,
                nodes_of=nodes_of,
                stack_traces_of=stack_traces_of,
                refusals=dict(self.refusals),
            )
        )
        self.refusals.clear()

    def _receive_provenance(self, payload: str | None, attribute: str) -> None:
        value = json.loads(payload) if payload else None
        if not self.graphs or not isinstance(value, dict):
            return
        graph = self.graphs[-1]  # the record follows its graph's output code, in the same thread
        if attribute == "mapping":
            graph.mapping = value
            graph.nodes_of = {**value.get("cppCodeToPost", {}), **graph.nodes_of}
        else:
            graph.stack_traces_of = {**value, **graph.stack_traces_of}


class TraceHandler(logging.Handler):
    """Hands every record of the structured trace to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.DEBUG)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a record that cannot be read is a warning, not a failed compilation."""
        metadata = getattr(record, "metadata", None)
        if not isinstance(metadata, Mapping):
            return
        try:
            self._recorder.receive(metadata, getattr(record, "payload", None))
        except Exception as error:  # noqa: BLE001 - raising here would fail the user's compilation
            self._recorder.warn(f"a trace record was not captured: {type(error).__name__}: {error}")


class FusionHandler(logging.Handler):
    """Hands the scheduler's refusals to fuse to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.DEBUG)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises, for the same reason."""
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - formatting runs the scheduler's own code
            text = f"a refusal that could not be printed: {type(error).__name__}: {error}"
        if text.startswith("cannot fuse"):
            self._recorder.refused(text)
