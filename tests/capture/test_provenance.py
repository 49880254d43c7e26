"""Joining kernels, graph nodes, operators and lines."""

from __future__ import annotations

import pytest

from fuselab.capture.provenance import GraphNode, join, parse_graph, user_line

GRAPH = [
    GraphNode("x", ""),
    GraphNode("mul", "aten.mul.Tensor", '  File "model.py", line 3, in f\n    y = x * 2\n'),
    GraphNode("mul_1", "aten.mul.Tensor", '  File "model.py", line 4, in f\n    y = y * 2\n'),
    GraphNode("rsqrt", "aten.rsqrt.default", '  File "model.py", line 3, in f\n    y = x * 2\n'),
]


def test_nodes_operators_and_lines_come_in_graph_order_each_once():
    kernel = join(["k:1", "k:2"], {"k:1": ["rsqrt", "mul"], "k:2": ["mul_1", "mul"], "other:3": ["x"]}, GRAPH)
    assert kernel.nodes == ("mul", "mul_1", "rsqrt")
    assert kernel.operations == ("aten.mul.Tensor", "aten.rsqrt.default")
    assert kernel.source_lines == ("model.py:3", "model.py:4")


def test_a_kernel_whose_name_contains_an_operator_gets_nothing_from_its_name():
    kernel = join(["triton_poi_fused_mul_rsqrt_0:1"], {"triton_poi_fused_mul_rsqrt_0:2": ["mul"]}, GRAPH)
    assert kernel.nodes == kernel.operations == kernel.source_lines == ()


def test_a_node_that_left_the_graph_is_kept_last():
    assert join(["k:1"], {"k:1": ["gone", "rsqrt"]}, GRAPH).nodes == ("rsqrt", "gone")


def test_lines_come_from_the_launch_where_the_nodes_have_none():
    bare = [GraphNode("mul", "aten.mul.Tensor")]
    kernel = join(["k:1"], {"k:1": ["mul"]}, bare, {"k:1": ['File "a.py", line 9, in g']})
    assert kernel.source_lines == ("a.py:9",)


@pytest.mark.parametrize(
    ("trace", "roots", "expected"),
    [
        ("", [], ""),
        ('File "a.py", line 1, in f', [], "a.py:1"),
        ('File "a.py", line 1, in f\n  File "/lib/torch/nn/x.py", line 2, in g', ["/lib/torch/"], "a.py:1"),
        ('File "/lib/torch/nn/x.py", line 2, in g', ["/lib/torch/"], "/lib/torch/nn/x.py:2"),
        ('File "with space.py", line 77, in <lambda>', [], "with space.py:77"),
    ],
)
def test_user_line(trace, roots, expected):
    assert user_line(trace, roots) == expected


def test_a_printed_graph_gives_its_nodes_back(recorded, golden):
    nodes = parse_graph(recorded("layer_norm_gelu_post_grad"))
    golden("parse_graph.layer_norm_gelu", [[n.name, n.operator, user_line(n.stack_trace)] for n in nodes])
    operators = {n.name: n.operator for n in nodes}
    assert operators["rsqrt"] == "aten.rsqrt.default"
    assert operators["getitem"] == ""
