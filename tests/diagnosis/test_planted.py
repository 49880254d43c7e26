"""Planted graph breaks and recompilations: every one is found, at its line, with its cause.

Counted with backend "eager": guards and breaks are Dynamo's, and nothing behind it changes them.
"""

from __future__ import annotations

import pytest
from planting import PLANTED, marked_line

from fuselab.diagnosis import diagnose
from fuselab.diagnosis.records import FindingKind

pytestmark = pytest.mark.slow

BREAKS = [
    ("prints", "print"),
    ("prints_a_tensor", "print"),
    ("logs", "log"),
    ("warns", "warning"),
    ("item_in_arithmetic", "item"),
    ("item_in_branch", "item"),
    ("item_then_branch", "item"),
    ("float_of_tensor", "item"),
    ("tensor_branch", "data_dependent_branch"),
    ("tensor_conditional", "data_dependent_branch"),
    ("early_return", "data_dependent_branch"),
    ("data_dependent_loop", "data_dependent_loop"),
    ("nonzero", "data_dependent_shape"),
    ("unsupported_operator", "data_dependent_shape"),
    ("tolist", "tolist"),
    ("clock", "clock"),
    ("c_function", "python_function"),
    ("explicit", "explicit_break"),
    ("calls_disabled", "disabled_function"),
    ("context_manager", "context_manager"),
    ("inside_context_manager", "print"),
    ("reads_a_file", "input_output"),
    ("debugged", "debugger"),
    ("backward_inside", "autograd_inside"),
    ("Adaptive", "data_dependent_shape"),
]

RECOMPILES = [
    ("size", ["x=f32[4,4]"], ["x.0=4,8,16"], "changing_size", "x", 1),
    ("specialised", ["x=f32[4,4]"], ["x.0=8,10,16,20"], "shape_condition", "x", 1),
    ("integer", ["x=f32[4,4]", "k=2"], ["k=2,3,4"], "changing_integer", "k", 1),
    ("floating", ["x=f32[4,4]", "k=0.5"], ["k=0.5,0.25,0.125"], "changing_float", "k", 1),
    ("flag", ["x=f32[4,4]", "negate=true"], ["negate=true,false"], "changing_flag", "negate", 1),
    ("word", ["x=f32[4,4]", "mode=sin"], ["mode=sin,cos"], "changing_flag", "mode", 1),
    ("dtype", ["x=f32[4,4]"], ["x.dtype=f32,f64"], "changing_dtype", "x", 1),
    ("stride", ["x=f32[4,4]"], ["x.layout=contiguous,transposed"], "changing_stride", "x", 1),
    ("requires_grad", ["x=f32[4,4]"], ["x.requires_grad=false,true"], "changing_requires_grad", "x", 1),
    ("grad_mode", ["x=f32[4,4]"], ["@grad_mode=true,false"], "grad_mode", "grad_mode", 1),
    ("global_value", ["x=f32[4,4]"], [], "changing_global", "G['SCALE']", 2),
    ("Counter", ["x=f32[4,4]"], [], "changing_attribute", "self.step", 2),
    ("Decay", ["x=f32[4,4]"], [], "changing_attribute", "self.decay", 1),
    ("Training", ["x=f32[4,4]"], ["@training=true,false"], "training_mode", "self.norm.training", 1),
    ("measured", ["x=f32[4,4]"], [], "changing_intermediate", "___stack0", 1),
    ("optional", ["x=f32[4,4]", "bias=none"], ["bias=none,2.0"], "changing_flag", "bias", 1),
    ("grows", ["x=f32[4,4]"], [], "changing_length", "G['HOLDER'].values", 2),
]


def diagnosed(file, name, here, arguments=("x=f32[4,4]",), **options):
    return diagnose(f"{PLANTED / file}.py:{name}", list(arguments), observe=here, **options)


@pytest.mark.parametrize(("name", "cause"), BREAKS)
def test_every_planted_break_is_found_at_its_line(name, cause, here, monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    grad = ":requires_grad" if name == "backward_inside" else ""
    found = diagnosed("graph_breaks", name, here, [f"x=f32[4,4]{grad}"], calls=1)
    assert found.failure is None
    breaks = [f for f in found.findings if f.kind is FindingKind.GRAPH_BREAK]
    at_mark = [f for f in breaks if f.place.line == marked_line("graph_breaks", name)]
    assert [f.cause for f in at_mark][:1] == [cause], [(f.place.line, f.cause, f.reason) for f in breaks]
    assert at_mark[0].place.file == str(PLANTED / "graph_breaks.py")
    assert at_mark[0].place.source.endswith("# mark")
    assert at_mark[0].advice
    assert at_mark[0].explanation


@pytest.mark.parametrize(("name", "arguments", "vary", "cause", "subject", "times"), RECOMPILES)
def test_every_planted_recompile_is_found_at_its_line(name, arguments, vary, cause, subject, times, here):
    found = diagnosed("recompiles", name, here, arguments, vary=vary)
    assert found.failure is None
    recompiles = [f for f in found.findings if f.kind is FindingKind.RECOMPILE]
    planted = [f for f in recompiles if f.cause == cause]
    assert planted, [(f.cause, f.reason) for f in recompiles]
    finding = planted[0]
    assert finding.place.file == str(PLANTED / "recompiles.py")
    # torch 2.15 guards a global where its value reaches a tensor, a line below the one that reads it first.
    assert finding.place.line - marked_line("recompiles", name) in ((0, 1) if name == "global_value" else (0,))
    assert finding.guards[0].subject == subject
    assert finding.times == times
    assert found.counts.recompiles >= times


def test_a_break_in_a_helper_has_the_helpers_line(here):
    found = diagnosed("graph_breaks", "calls_helper", here, calls=1)
    (finding,) = found.findings
    assert finding.place.line == marked_line("graph_breaks", "inlined_helper")
    assert finding.place.function == "inlined_helper"
    assert found.counts.graph_breaks == 1


def test_numpy_without_a_translation(here):
    pytest.importorskip("numpy")
    found = diagnosed("numpy_break", "ordered", here, calls=1)
    at_mark = [f for f in found.findings if f.place.line == marked_line("numpy_break", "ordered")]
    assert "numpy" in [f.cause for f in at_mark]


def test_what_is_clean_is_said_to_be_clean(here):
    assert diagnosed("graph_breaks", "clean", here).clean
    found = diagnosed("recompiles", "clean", here, ["x=f32[4,4]", "k=2"], calls=4)
    assert found.clean
    assert found.counts.graphs == 1


def test_the_limit_is_a_finding_and_its_last_attempt_no_recompile(here):
    found = diagnosed("recompiles", "Counter", here, calls=12)
    limit = next(f for f in found.findings if f.kind is FindingKind.LIMIT)
    assert limit.place.function == "forward"
    assert (found.counts.recompiles, found.counts.limits, found.counts.graphs) == (7, 1, 8)


def test_code_without_a_source_is_found_without_an_edit(here):
    found = diagnosed("graph_breaks", "from_exec", here, calls=1)
    (finding,) = found.findings
    assert (finding.place.file, finding.place.line, finding.cause) == ("<string>", 3, "print")
    assert finding.edits == []


def test_a_diagnosis_is_the_same_again(here):
    first, second = (diagnosed("recompiles", "size", here, vary=["x.0=4,8,16"]) for _ in range(2))
    assert first.findings == second.findings


def test_breaks_everywhere_are_each_found_once(here):
    found = diagnosed("hostile", "breaks_everywhere", here, calls=2)
    assert found.failure is None
    expected = ["print", "print", "item", "data_dependent_branch", "print", "data_dependent_shape", "explicit_break"]
    breaks = [f for f in found.findings if f.kind is FindingKind.GRAPH_BREAK]
    assert [f.cause for f in breaks] == [*expected, "clock", "print"]
    # What float() and the clock give are Python floats that the code behind the break was compiled for.
    assert {f.cause for f in found.findings[9:]} == {"changing_intermediate"}
    assert found.counts.graph_breaks == 9


def test_a_break_in_a_loop_leaves_the_function_to_python(here):
    found = diagnosed("hostile", "breaks_in_a_loop", here, calls=1)
    (finding,) = found.findings
    assert (finding.place.source, finding.function_skipped) == ("print(i)", True)
    assert any("gave up" in note for note in found.notes)


@pytest.mark.parametrize(("name", "marked"), [("decorated", "decorated"), ("wrapped", "Printing")])
def test_what_is_compiled_already_is_taken_out_of_it(name, marked, here):
    found = diagnosed("graph_breaks", name, here, calls=2)
    (finding,) = found.findings
    assert (finding.cause, finding.place.line) == ("print", marked_line("graph_breaks", marked))
    assert found.counts.graphs == 2


def test_a_file_among_installed_packages_is_the_users_where_it_is_the_target(here, monkeypatch):
    from fuselab.diagnosis import internals

    monkeypatch.setattr(internals, "library_folders", lambda: (f"{PLANTED}/",))
    (finding,) = diagnosed("graph_breaks", "prints", here, calls=1).findings
    assert finding.place.line == marked_line("graph_breaks", "prints")
