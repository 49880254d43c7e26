"""Plans: grids, constraints, what they become, and complaints that name the file, the line and the field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab.errors import UsageError
from fuselab.experiment import load_registry
from fuselab.records import Direction
from fuselab.sweep.cost import memory_bytes, predict
from fuselab.sweep.grid import MOST_VALUES, Constraint, points, values
from fuselab.sweep.plan import read_plan, reference_of

REGISTRY = load_registry(entry_points=())

WHOLE = """
name = "norms"
seed = 3
variants = ["eager", "compile"]
margin = 0.02

[budget]
timing_s = 0.5
cells = 100

[[experiment]]
name = "rms_norm"
shape = "{rows}x{width}"
where = ["rows * width <= 2**20", "dtype != 'bf16' or width >= 1024"]

[experiment.axes]
rows = {from = 256, to = 4096, times = 4}
width = [256, 1024]
dtype = ["f32", "bf16"]
casting = ["none", "llama"]

[[experiment]]
file = "own.py:halves"
arguments = ["x={dtype}[{rows},8]:requires_grad"]
directions = "forward"
axes.rows = [1, 2, 4]
axes.dtype = ["f32"]

[[experiment]]
name = "silu"
preset = "smoke"
variants = "compile"
"""


@pytest.fixture
def read(tmp_path):
    """A plan from its text, with a user's file beside it."""
    (tmp_path / "own.py").write_text("def halves(x, name=''):\n    return x / 2\n")

    def from_text(text):
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return read_plan(path, REGISTRY)

    return from_text


def test_a_whole_plan(read, tmp_path):
    plan = read(WHOLE)
    norms, own, silu = plan.plans("cpu")
    assert (plan.name, plan.margin, plan.cold, plan.budget.timing_s) == ("norms", 0.02, True, 0.5)
    assert {(w.shape, w.dtype) for w in norms.workloads} == {
        ((256, 256), "f32"), ((256, 1024), "f32"), ((256, 1024), "bf16"),
        ((1024, 256), "f32"), ((1024, 1024), "f32"), ((1024, 1024), "bf16"), ((4096, 256), "f32"),
    }  # fmt: skip
    assert {w.options["casting"] for w in norms.workloads} == {"none", "llama"}
    assert all(w.seed == 3 for w in norms.workloads)
    assert norms.cells == 14 * 2 * 2
    assert own.directions == (Direction.FORWARD,)
    assert [w.arguments for w in own.workloads] == [{"x": f"f32[{n},8]:requires_grad"} for n in (1, 2, 4)]
    assert reference_of(own.reference, own.workloads[1]).arguments == ["x=f32[2,8]:requires_grad"]
    assert own.reference.target == f"{tmp_path / 'own.py'}:halves"
    assert silu.variants == ("eager", "compile")
    assert silu.workloads == tuple(w for w in silu.workloads if w.seed == 3)
    assert len(silu.workloads) == len(REGISTRY["silu"].workloads("smoke", "cpu"))


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (('name = "rms_norm"', 'name = "rmsnorm"'), 12, ["experiment 1.name", "did you mean 'rms_norm'"]),
        (("seed = 3", "sead = 3"), 3, ["sead", "did you mean 'seed'"]),
        (("timing_s = 0.5", "timing = 0.5"), 8, ["budget.timing", "did you mean 'timing_s'"]),
        (("timing_s = 0.5", 'timing_s = "fast"'), 8, ["'fast' is not a number"]),
        (("timing_s = 0.5", "timing_s = -1"), 8, ["nothing to measure within"]),
        (("margin = 0.02", "margin = 2"), 5, ["between 0 and 1"]),
        (('dtype = ["f32", "bf16"]', 'dtype = ["f32", "bf61"]'), 19, ["axes.dtype", "bf61", "bf16"]),
        (('casting = ["none", "llama"]', 'casting = ["none", "lama"]'), 20, ["axes.casting", "'gemma'"]),
        (('casting = ["none", "llama"]', 'cast = ["none"]'), 20, ["axes.cast", "did you mean 'casting'"]),
        (("times = 4}", "time = 4}"), 17, ["axes.rows", "did you mean 'times'"]),
        (("from = 256, to = 4096", "from = 4096, to = 256"), 17, ["down to 256"]),
        (('"{rows}x{width}"', '"{row}x{width}"'), 13, ["shape", "did you mean 'rows'"]),
        (("rows * width <=", "row * width <="), 14, ["where", "did you mean 'rows'"]),
        (("rows * width <= 2**20", "rows *"), 14, ["where", "not an expression"]),
        (("rows * width <= 2**20", "rows.real < 1"), 14, ["where", "Attribute"]),
        (("rows * width <= 2**20", "rows < 1"), 14, ["where", "no combination"]),
        (('variants = "compile"', 'variants = "compil"'), 32, ["experiment 3.variants", "did you mean 'compile'"]),
        (('directions = "forward"', 'directions = "foward"'), 25, ["2.directions", "did you mean 'forward'"]),
        (('"own.py:halves"', '"own.py:halfs"'), 24, ["halfs", "halves"]),
        (("x={dtype}[", "y={dtype}["), 24, ["no parameter 'y'"]),
        (('preset = "smoke"', 'preset = "smok"'), 31, ["experiment 3.preset", "did you mean 'smoke'"]),
        (("axes.rows = [1, 2, 4]", "axes.rows = [[1], 2]"), 26, ["axes.rows", "no value of an axis"]),
        (('name = "norms"', 'name = "../norms"'), 2, ["no name for a directory"]),
        (('name = "norms"', "name = norms"), 2, ["is not TOML"]),
    ],
)  # fmt: skip
def test_fault_24_complaints_name_line_field_and_nearest_match(read, change, line, words):
    assert change[0] in WHOLE
    with pytest.raises(UsageError) as complaint:
        read(WHOLE.replace(*change, 1))
    text = str(complaint.value)
    assert "plan.toml" in text
    assert f"line {line}" in text, text
    for word in words:
        assert word in text


def test_a_plan_beyond_its_budget_is_refused_with_the_number(read):
    plan = read(WHOLE.replace("cells = 100", "cells = 10"))
    with pytest.raises(UsageError, match=r"has \d+ cells, and its budget allows 10"):
        plan.plans("cpu")


def test_fault_28_a_secret_in_an_argument_is_refused(read):
    token = "hf_" + "AbCdEfGh1234567890"
    text = f"""[[experiment]]\nfile = "own.py:halves"\narguments = ["x=f32[4]", "name='{token}'"]\n"""
    with pytest.raises(UsageError, match="looks like a secret") as complaint:
        read(text)
    assert token not in str(complaint.value)


def test_a_plan_without_experiments_says_what_to_write(read):
    with pytest.raises(UsageError, match="no \\[\\[experiment\\]\\]"):
        read('name = "empty"\n')


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)))
def test_points_are_the_product_that_constraints_allow(axes):
    found = list(points(axes, [Constraint(f"{name} % 2 == 1", list(axes)) for name in axes]))
    odd = 1
    for listed in axes.values():
        odd *= sum(value % 2 for value in listed)
    assert len(found) == odd
    assert all(value % 2 == 1 for point in found for value in point.values())


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ({"from": 1, "to": 1024, "count": 3}, (1, 32, 1024)),
        ({"from": 8, "to": 30, "step": 8}, (8, 16, 24)),
        ({"from": 8, "to": 8, "times": 2}, (8,)),
        ([1, 1, 2], (1, 2)),
        (True, (True,)),
    ],
)
def test_grids(axis, expected):
    assert values(axis) == expected


@pytest.mark.parametrize(
    "axis",
    [{"from": 1, "to": 10**9, "step": 1}, {"from": 0, "to": 4, "times": 2}, {"from": 1, "to": 4, "step": 0}, [], {}],
)
def test_grids_that_cannot_be(axis):
    with pytest.raises(UsageError):
        values(axis)
    assert MOST_VALUES < 10**9


@pytest.mark.parametrize("text", ["rows ** 999 > 1", "rows / (rows - 1) > 0", "rows < 'wide'", "'a' * rows == 'a'"])
def test_a_constraint_without_a_value_says_where(text):
    with pytest.raises(UsageError, match="rows = 1"):
        list(points({"rows": (1,)}, [Constraint(text, ["rows"])]))


def test_a_prediction_counts_cells_and_says_whom_it_leaves_out(read):
    plan = read(WHOLE.replace("cells = 100", "memory_gb = 0.02"))
    cost = predict(plan.name, plans := plan.plans("cpu"), plan.budget)
    assert cost.cells == sum(p.cells for p in plans)
    assert [b.cells for b in cost.blocks] == [56, 3 * 2, plans[2].cells]
    norms = cost.blocks[0]
    largest = max(memory_bytes(plans[0].experiment, w, plans[0].directions) for w in plans[0].workloads)
    assert norms.memory_bytes == largest
    assert 0 < norms.left_out < 14
    assert cost.seconds > 0
    assert not norms.measured
