"""Records of the structured trace, one at a time, without a compiler."""

from __future__ import annotations

import logging
import tracemalloc

import pytest

from fuselab.capture import internals
from fuselab.capture.completeness import list_absences
from fuselab.capture.files import Files
from fuselab.capture.trace import FusionHandler, Recorder, TraceHandler
from fuselab.records import Direction, Stage

ID = {"frame_id": 0, "frame_compile_id": 0, "attempt": 0}


@pytest.fixture
def recorder(tmp_path, monkeypatch) -> Recorder:
    monkeypatch.setattr(internals, "compiling_backward", lambda: None)
    monkeypatch.setattr(internals, "current_graph", lambda: None)
    return Recorder(Files(tmp_path, "compile", "w"))


def send(recorder: Recorder, metadata, payload=None) -> None:
    record = logging.LogRecord("torch.__trace", logging.DEBUG, "", 0, "", None, None)
    record.metadata, record.payload = metadata, payload
    TraceHandler(recorder).handle(record)


def test_unknown_kinds_are_counted_and_do_no_harm(recorder):
    for _ in range(3):
        send(recorder, {"a_kind_of_tomorrow": {"x": 1}, **ID}, "payload")
    send(recorder, {"artifact": {"name": "new_artifact", "encoding": "string"}, **ID}, "x")
    send(recorder, {}, None)
    send(recorder, {"artifact": None, **ID}, None)
    assert recorder.records["a_kind_of_tomorrow"] == 3
    assert recorder.records["new_artifact"] == 1
    assert recorder.warnings == []
    assert recorder.files.artifacts == []


def test_a_record_that_cannot_be_read_is_a_warning(recorder):
    send(recorder, {"inductor_output_code": {"file_path": "/x.py"}, **ID}, "x = 1")
    send(recorder, {"artifact": {"name": "inductor_provenance_tracking_node_mappings"}, **ID}, "{not json")
    assert len(recorder.warnings) == 1
    assert "was not captured: JSONDecodeError" in recorder.warnings[0]


def test_the_directory_going_away_does_not_reach_the_compiler(recorder, tmp_path):
    recorder.files.into = tmp_path / "file"
    recorder.files.into.write_text("not a directory")
    send(recorder, {"aot_joint_graph": {}, **ID}, "graph")
    assert "was not captured" in recorder.warnings[0]


def test_a_graph_from_the_cache_is_filed_by_the_direction_that_its_code_names(recorder):
    send(recorder, {"inductor_post_grad_graph": {}, **ID}, "class G: pass")
    send(recorder, {"inductor_output_code": {"filename": "/c/x.py"}, **ID}, "# AOT ID: ['0_backward']\n")
    assert [(a.direction, a.stage) for a in recorder.files.artifacts] == [
        (Direction.BACKWARD, Stage.POST_GRAD_GRAPH),
        (Direction.BACKWARD, Stage.OUTPUT_CODE),
    ]
    assert recorder.graphs[0].module_path == "/c/x.py"


def test_a_graph_whose_code_never_came_is_kept(recorder):
    send(recorder, {"inductor_post_grad_graph": {}, **ID}, "class G: pass")
    recorder.flush()
    assert [a.stage for a in recorder.files.artifacts] == [Stage.POST_GRAD_GRAPH]


def test_graphs_are_numbered_in_order_of_compilation(recorder):
    for frame in (5, 9, 5):
        send(recorder, {"aot_joint_graph": {}, "frame_id": frame, "frame_compile_id": 0}, f"graph of {frame}")
    assert [a.path for a in recorder.files.artifacts] == [
        "graphs/forward/joint_graph.py",
        "graphs/forward/joint_graph.1.py",
        "graphs/forward/joint_graph_2.py",
    ]


def test_warnings_come_once(recorder):
    metrics = {"recompile_reason": "0/0: k == 2", "co_name": "f", "co_filename": "m.py", "co_firstlineno": 1}
    for _ in range(2):
        send(recorder, {"compilation_metrics": metrics, **ID})
    assert len(recorder.warnings) == 1


def test_refusals_to_fuse_are_counted_and_bounded(recorder):
    handler = FusionHandler(recorder)
    message = "cannot fuse buf%d with buf1: too far apart"
    for index in range(6000):
        handler.handle(logging.LogRecord("f", logging.DEBUG, "", 0, message, (index,), None))
    handler.handle(
        logging.LogRecord("f", logging.DEBUG, "", 0, "cannot fuse buf%d with buf1: too far apart", (0,), None)
    )
    handler.handle(logging.LogRecord("f", logging.DEBUG, "", 0, "===== attempting fusion", (), None))
    handler.handle(logging.LogRecord("f", logging.DEBUG, "", 0, "%d arguments", (), None))
    assert len(recorder.refusals) == 5000
    assert recorder.refusals["cannot fuse buf0 with buf1: too far apart"] == 2


def test_absences_name_what_did_not_happen(recorder):
    list_absences(recorder.files, recorder)
    assert {a.absent for a in recorder.files.artifacts} == {"no compilation happened while the capture was open"}
    assert {(a.direction, a.stage) for a in recorder.files.artifacts} >= {
        (direction, stage) for direction in Direction for stage in (Stage.POST_GRAD_GRAPH, Stage.OUTPUT_CODE)
    }


def test_a_backward_that_did_not_run_is_named(recorder):
    send(recorder, {"aot_forward_graph": {}, **ID}, "g")
    send(recorder, {"aot_backward_graph": {}, **ID}, "g")
    list_absences(recorder.files, recorder)
    reasons = {a.stage: a.absent for a in recorder.files.artifacts if a.direction is Direction.BACKWARD and not a.path}
    assert reasons[Stage.OUTPUT_CODE].startswith("the backward graph is compiled when it first runs")
    assert Stage.BACKWARD_GRAPH not in reasons


def test_graphs_are_written_as_they_come_and_not_kept(recorder, tmp_path):
    """Ten thousand nodes are some megabytes of text a stage, and there are many stages and graphs."""
    graph = "    mul: Sym() = torch.ops.aten.mul.Tensor(mul_1, mul_2)  # some comment about where it stands\n" * 10_000
    tracemalloc.start()
    for number in range(20):
        send(recorder, {"dynamo_output_graph": {}, "frame_id": number, "frame_compile_id": 0, "attempt": 0}, graph)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < len(graph)
    assert peak < 4 * len(graph)
    assert len(list((tmp_path / "graphs" / "forward").iterdir())) == 20
