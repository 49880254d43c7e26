"""A kernel's operators, cut out of its graph."""

from __future__ import annotations

import pytest

from fuselab.card.operators import read_operators

GRAPH = """
class GraphModule(torch.nn.Module):
    def forward(self, x: "f32[4, 8][8, 1]cpu", seed: "i64[1][1]cpu"):
        amax: "f32[4, 1][1, 1]cpu" = torch.ops.aten.amax.default(x, [-1], True)
        sub: "f32[4, 8][8, 1]cpu" = torch.ops.aten.sub.Tensor(x, amax);  x = amax = None
        random: "f32[4, 8][8, 1]cpu" = torch.ops.prims.inductor_random.default([4, 8], seed, 'rand');  seed = None
        gt: "b8[4, 8][8, 1]cpu" = torch.ops.aten.gt.Scalar(random, 0.5);  random = None
        mul: "f32[4, 8][8, 1]cpu" = torch.ops.aten.mul.Tensor(gt, sub);  sub = None
        other: "f32[4, 8][8, 1]cpu" = torch.ops.aten.exp.default(elsewhere)
        return (mul, gt, amax)
"""


def test_operators_are_cut_out_and_what_was_drawn_is_given():
    found = read_operators(GRAPH, ["x", "seed"], ["amax", "gt", "mul"])
    assert found.outputs == ("amax", "mul")
    assert found.drawn == ("gt",)
    scope = {}
    exec(found.source, scope)
    torch = pytest.importorskip("torch")
    x = torch.arange(32.0).reshape(4, 8)
    mask = torch.rand(4, 8) > 0.5
    result = scope["operators"](torch, {"x": x}, {"gt": mask})
    assert torch.equal(result["mul"], mask * (x - 7 - torch.arange(4.0)[:, None] * 8))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (["x"], [], "does not say which graph nodes"),
        (["x", "seed"], ["mul"], "everything that it stores depends on random numbers"),
        (["x"], ["other"], "other is computed from elsewhere"),
    ],
)
def test_operators_that_cannot_be_cut_out_say_why(inputs, outputs, reason):
    found = read_operators(GRAPH, inputs, outputs)
    assert found.source == ""
    assert reason in found.reason


def test_a_graph_that_is_no_python_is_said():
    assert "could not be read" in read_operators("def f(:", ["x"], ["y"]).reason
