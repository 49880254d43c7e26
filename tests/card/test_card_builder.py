"""Cards of kernels of which little is known: each section says what is absent, and why."""

from __future__ import annotations

import json
import time

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


def test_cards_of_a_graph_with_thousands_of_kernels_are_bounded_and_quick(tmp_path):
    """10,000 nodes that nothing fused: every pair of neighbours was refused, every card could name all the others."""
    count, nodes = 2000, 10_000
    kernels = {f"k{n}": [f"mul_{n * 5 + i}" for i in range(5)] for n in range(count)}
    members = [tuple((f"op{n * 5 + i}", (f"mul_{n * 5 + i}",)) for i in range(5)) for n in range(count)]
    schedule = [FusedGroup("_".join(name for name, _ in m), "FusedSchedulerNode", m) for m in members]
    said = [f"cannot fuse {schedule[n].name} with {schedule[n + 1].name}: device mismatch" for n in range(count - 1)]
    text = "def call(args):\n    pass\n"
    start = time.process_time()
    builder = CardBuilder(GraphFacts(text, kernels, schedule, dict.fromkeys(said, 1)))
    sizes = []
    for name in kernels:
        card, _ = builder.fill({"name": name, "backend": "extern"}, tmp_path)
        sizes.append(len(json.dumps(card)))
        neighbours = {refusal["neighbour"] for refusal in card["split"]["from"]}
        number = int(name[1:])
        assert neighbours == {f"k{n}" for n in (number - 1, number + 1) if 0 <= n < count}
        assert card["split"]["neighbours"]["never_tried"] == count - 1 - len(neighbours)
    assert sum(len(found) for found in kernels.values()) == nodes
    assert max(sizes) < 5000
    assert time.process_time() - start < 30  # about 1 s
