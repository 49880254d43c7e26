"""What is not there, and why: every stage of a direction has a file or a reason."""

from __future__ import annotations

from fuselab.capture.files import Files
from fuselab.capture.trace import CompiledGraph, Recorder
from fuselab.records import Direction, Stage

__all__ = ["list_absences"]

_ONCE = (Stage.DYNAMO_GRAPH, Stage.JOINT_GRAPH)
"""Stages before the program is split in two; listed with the forward direction."""
_BOTH = (Stage.POST_GRAD_GRAPH, Stage.FUSION, Stage.OUTPUT_CODE, Stage.PROVENANCE)


def list_absences(files: Files, recorder: Recorder) -> None:
    """Record a reason for every stage that has no file, direction by direction."""
    have = {(a.direction, a.stage) for a in files.artifacts if a.path is not None and a.kernel_id is None}
    trained = (Direction.FORWARD, Stage.FORWARD_GRAPH) in have
    inference = (Direction.FORWARD, Stage.INFERENCE_GRAPH) in have
    for direction in Direction:
        for stage in _expected(direction):
            if (direction, stage) not in have:
                files.absent(direction, stage, _reason(direction, stage, recorder, trained, inference))


def _expected(direction: Direction) -> tuple[Stage, ...]:
    if direction is Direction.FORWARD:
        return (*_ONCE, Stage.FORWARD_GRAPH, Stage.INFERENCE_GRAPH, *_BOTH)
    return (Stage.BACKWARD_GRAPH, *_BOTH)


def _reason(direction: Direction, stage: Stage, recorder: Recorder, trained: bool, inference: bool) -> str:
    if not recorder.records:
        return "no compilation happened while the capture was open"
    mine = [graph for graph in recorder.graphs if graph.direction is direction]
    return _by_design(direction, stage, mine, trained, inference) or _by_accident(stage, mine, recorder)


def _by_design(
    direction: Direction, stage: Stage, mine: list[CompiledGraph], trained: bool, inference: bool
) -> str | None:
    if stage is Stage.INFERENCE_GRAPH and trained:
        return "compiled for training: there is a forward and a backward graph instead"
    if inference and (direction is Direction.BACKWARD or stage in {Stage.JOINT_GRAPH, Stage.FORWARD_GRAPH}):
        return "compiled for inference: no input requires a gradient"
    if direction is Direction.BACKWARD and trained and not mine and stage is not Stage.BACKWARD_GRAPH:
        return "the backward graph is compiled when it first runs, and it did not run while the capture was open"
    return None


def _by_accident(stage: Stage, mine: list[CompiledGraph], recorder: Recorder) -> str:
    if mine and all(graph.snapshot is None for graph in mine):
        return "taken from Inductor's cache, which does not keep this stage"
    if mine and stage is Stage.FUSION:
        return "Inductor's scheduler could not be read in this version of torch"
    if mine and stage is Stage.PROVENANCE:
        return "this version of torch recorded no provenance"
    if any("failed at" in warning for warning in recorder.warnings):
        return "the compilation failed before this stage"
    return "this version of torch did not record this stage"
