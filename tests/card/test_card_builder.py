"""Cards of kernels of which little is known: each section says what is absent, and why."""

from __future__ import annotations

from fuselab.card.builder import CardBuilder
from fuselab.card.fusion import FusedGroup
from fuselab.card.graph import GraphFacts

CPP_MODULE = """
k = async_compile.cpp_pybinding(['float*'], r'''
extern "C" void kernel(float* in_out_ptr0) { }
''')
def call(args):
    arg0_1, = args
    mystery = lookup(arg0_1)
    k(mystery)
"""


def test_what_cannot_be_read_is_absent_with_its_reason(tmp_path):
    graph = GraphFacts(CPP_MODULE, schedule=())
    builder = CardBuilder(graph)
    card, repro = builder.fill({"name": "k", "backend": "cpp"}, tmp_path)
    assert repro is None
    absent = {
        name: section["absent"] for name, section in card.items() if isinstance(section, dict) and "absent" in section
    }
    assert absent["traffic"] == "the C++ source could not be read"
    assert absent["instructions"] == "assembly was not captured"
    assert absent["split"] == "Inductor's schedule could not be read in this version of torch"
    assert "repro" in absent
    assert "mystery is not known before it runs" in str(card["launch"])


def test_a_kernel_that_breaks_the_card_does_not_break_the_capture(tmp_path):
    graph = GraphFacts(CPP_MODULE, schedule=())
    builder = CardBuilder(graph)
    (tmp_path / "kernel.py").write_text("@triton.jit\ndef f(x): pass")
    card, repro = builder.fill({"name": "k", "backend": "triton", "config": "not a dictionary"}, tmp_path)
    assert repro is None
    assert "AttributeError" in card["incomplete"]


def test_refusals_are_laid_to_kernels(tmp_path):
    schedule = [
        FusedGroup("op0_op1", "FusedSchedulerNode", (("op0", ("sum_1",)), ("op1", ("mul",)))),
        FusedGroup("op2", "SchedulerNode", (("op2", ("mm",)),)),
    ]
    text = CPP_MODULE.replace("k(mystery)", "k(mystery)\n    extern_kernels.mm(arg0_1)")
    refusals = {"cannot fuse op0_op1 with op2: node2 is extern or nop": 3}
    graph = GraphFacts(text, {"k": ["sum_1", "mul"], "extern_kernels.mm": ["mm"]}, schedule, refusals)
    card, _ = CardBuilder(graph).fill({"name": "k", "backend": "cpp"}, tmp_path)
    (refusal,) = card["split"]["from"]
    assert refusal["neighbour"] == "extern_kernels.mm"
    assert refusal["words"] == "the second is a call of a library, which nothing can be fused into"
    assert (refusal["times"], refusal["final"]) == (3, True)
    assert card["split"]["never_tried_with"] == []
