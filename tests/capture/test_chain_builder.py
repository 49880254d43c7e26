"""Joining nodes, lines and stages, without a compiler: large graphs, missing sources, several homes."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from fuselab.capture.chain import Chain, coverage, read_chain
from fuselab.capture.chain_builder import BuiltKernel, ChainBuilder
from fuselab.capture.files import Files
from fuselab.capture.internals import GraphSnapshot, NodeFacts, WrittenLine
from fuselab.capture.provenance import GraphNode
from fuselab.capture.trace import CompiledGraph
from fuselab.records import Direction

SOURCE = (
    "\nauto tmp0 = in_ptr0[x0];\nauto tmp1 = static_cast<float>(2.0);\nauto tmp2 = tmp0 * tmp1;\nout_ptr0[x0] = tmp2;\n"
)


def graph_of(tmp_path, nodes, facts, lines, number=0, direction=Direction.FORWARD, mapping=None) -> CompiledGraph:
    path = tmp_path / f"output_code.{number}.py"
    path.write_text("")
    snapshot = GraphSnapshot(direction is Direction.BACKWARD, False, tuple(nodes), (), ("cpu",), facts, lines)
    return CompiledGraph(direction, number, path, "", snapshot, None, mapping=mapping or {})


def cpp(tmp_path, name, nodes=(), source=SOURCE, at=(1,)) -> BuiltKernel:
    folder = tmp_path / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    return BuiltKernel(f"v/w/forward/{name}", name, "cpp", folder, source, "/c/k.cpp", tuple(nodes), at)


def built(tmp_path, graph, kernels) -> Chain:
    chain = ChainBuilder(Files(tmp_path, "v", "w"), ())
    chain.prepare([graph])
    chain.add(graph, graph.snapshot.nodes, kernels)
    chain.close()
    return read_chain(tmp_path / f"graphs/{graph.direction.value}/chain.json")


NODES = [
    GraphNode("x", ""),
    GraphNode("mul", "aten.mul.Tensor", 'File "<stdin>", line 3, in f'),
    GraphNode("seed", "prims.inductor_seeds.default"),
]
FACTS = {
    "x": NodeFacts(False, users=("mul",)),
    "mul": NodeFacts(True, ("y",), 5, "aten.mul.Tensor", ("x",), ("seed",)),
    "seed": NodeFacts(True, inputs=("mul",)),
}
LINES = [
    WrittenLine(1, "auto tmp0 = in_ptr0[x0];", ("mul",)),
    WrittenLine(3, "auto tmp2 = tmp0 * tmp1;", ("mul",)),
    WrittenLine(4, "this line was rewritten", ("seed",)),
]


def test_lines_are_joined_where_they_still_say_what_was_written(tmp_path):
    kernel = cpp(tmp_path, "k", ["mul"])
    (kernel.folder / "assembly").write_text("1 <kernel>:\n/c/k.cpp:4\n   1:\tvmulps\n/c/k.cpp:5\n   2:\tvmovups\n")
    (graph,) = built(tmp_path, graph_of(tmp_path, NODES, FACTS, {"k": LINES}), [kernel]).graphs
    (found,) = graph.kernels
    by_line = {line.line: line for line in found.lines}
    assert {line: (entry.how, entry.nodes) for line, entry in by_line.items()} == {
        2: ("written", ["mul"]),
        3: ("dataflow", ["mul"]),
        4: ("written", ["mul"]),
        5: ("dataflow", ["mul"]),
    }
    assert by_line[4].became == {"assembly": [3]}
    assert by_line[2].folded == by_line[3].folded == [4]
    assert found.came_from == {"assembly": {3: [4], 5: [5]}}
    assert coverage([found]) == {"lines": 3, "to_user": 3, "to_instruction": 3, "direct": 2}
    assert graph.sources == {"<stdin>:3": ""}  # typed in: there is no text
    seed = graph.node("seed")
    assert (seed.user, seed.user_from, seed.kernel) == ("<stdin>:3", "neighbours", "")


def test_a_node_of_two_kernels_belongs_to_the_first_that_is_launched(tmp_path):
    kernels = [cpp(tmp_path, "late", ["mul"], at=(20,)), cpp(tmp_path, "early", ["mul"], at=(10,))]
    call = BuiltKernel("v/w/forward/aten.seeds", "aten.seeds", "extern", None, nodes=("seed", "mul"), launched_at=(5,))
    graph = graph_of(tmp_path, NODES, FACTS, {"late": LINES, "early": LINES})
    (found,) = built(tmp_path, graph, [*kernels, call]).graphs
    mul = found.node("mul")
    assert (mul.kernel, mul.also) == ("v/w/forward/early", ["v/w/forward/late"])
    assert found.node("seed").kernel == "v/w/forward/aten.seeds"
    assert found.kernels[2].nodes == ["seed"]  # what its arguments descend from is not its own


def test_without_recorded_lines_the_kernel_as_a_whole_is_known(tmp_path):
    (graph,) = built(tmp_path, graph_of(tmp_path, NODES, FACTS, {}), [cpp(tmp_path, "k", ["mul"])]).graphs
    assert {line.how for line in graph.kernels[0].lines} == {"kernel"}
    assert graph.node("mul").kernel == "v/w/forward/k"


def test_backward_nodes_find_the_forwards_fx_nodes_by_sequence_number(tmp_path):
    forward = graph_of(tmp_path, NODES, FACTS, {})
    gradient = [GraphNode("mul_1", "aten.mul.Tensor")]
    backward = graph_of(tmp_path, gradient, {"mul_1": NodeFacts(True, sequence=5)}, {}, direction=Direction.BACKWARD)
    chain = ChainBuilder(Files(tmp_path, "v", "w"), ())
    chain.prepare([forward, backward])
    chain.add(backward, gradient, [])
    chain.close()
    (graph,) = read_chain(tmp_path / "graphs/backward/chain.json").graphs
    assert graph.nodes[0].fx == ["y"]


def test_nothing_compiled_writes_nothing(tmp_path):
    chain = ChainBuilder(Files(tmp_path, "v", "w"), ())
    chain.prepare([])
    chain.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ten_thousand_nodes_are_joined_quickly_and_graph_by_graph(tmp_path):
    count, graphs = 10_000, 6
    names = [f"mul_{n}" for n in range(count)]
    trace = 'File "model.py", line 3, in f\n    y = x * 2\n'
    nodes = [GraphNode(name, "aten.mul.Tensor", trace) for name in names]
    facts = {
        name: NodeFacts(True, ("y",), n, "aten.mul.Tensor", (names[n - 1],) if n else (), tuple(names[n + 1 : n + 2]))
        for n, name in enumerate(names)
    }
    lines = [WrittenLine(n + 1, f"auto tmp{n + 1} = tmp{n} * tmp{n};", (name,)) for n, name in enumerate(names)]
    source = "\n" + "\n".join(line.text for line in lines) + "\n"
    kernel = cpp(tmp_path, "k", names, source)
    chain = ChainBuilder(Files(tmp_path, "v", "w"), ())
    start = time.process_time()
    peaks = []
    tracemalloc.start()
    for number in range(graphs):
        tracemalloc.reset_peak()
        chain.add(graph_of(tmp_path, nodes, facts, {"k": lines}, number), nodes, [kernel])
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    chain.close()
    assert time.process_time() - start < 120  # about 10 s with memory traced
    assert max(peaks) < 1.5 * peaks[0]  # no graph is kept for the next
    assert len(read_chain(tmp_path / "graphs/forward/chain.json").graphs) == graphs
