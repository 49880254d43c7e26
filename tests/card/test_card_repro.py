"""The script that runs one kernel alone."""

from __future__ import annotations

import math

import pytest
from launch_module import MODULE

from fuselab.card.launch import read_launches
from fuselab.card.repro import ReproFacts, repro_script


def repro_facts(**changes):
    (launch,) = read_launches(MODULE.replace("buf4, s77", "s77"))
    names = ("x", "view", "out", "sum", "n", "p", "none")
    return ReproFacts(
        **{
            "name": "k",
            "backend": "triton",
            "file": "kernel.py",
            "function": "k",
            "launch": launch,
            "names": names,
            "roles": {"out": "output"},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "name", ["a'b\"c", "'''; import os #", "x\ny", "\u202eevil\0", "../../etc/passwd", "}{[", "k" * 400]
)
def test_a_hostile_name_is_data_of_the_script(name):
    script = repro_script(repro_facts(name=name))
    scope = {"__name__": "loaded"}
    exec(compile(script, "repro.py", "exec"), scope)
    assert scope["KERNEL"]["name"] == name
    assert scope["KERNEL"]["buffers"]["buf0"] == {"dtype": "bfloat16", "elements": 40, "read": True}
    assert "fuselab" not in script


def test_an_unknown_argument_is_a_reason_not_a_script():
    (launch,) = read_launches(MODULE)
    with pytest.raises(ValueError, match="buf4 is not known before it runs"):
        repro_script(repro_facts(launch=launch))


def test_zeros_and_nans_do_not_pass_a_comparison():
    torch = pytest.importorskip("torch")
    from fuselab.card.repro_script import TOLERANCE, _error

    expected = torch.randn(64, 64)
    assert _error(expected + 1e-6, expected) < TOLERANCE["float32"]
    assert _error(torch.zeros(64, 64), expected) > 10 * max(TOLERANCE.values())
    assert _error(torch.full((64, 64), math.nan), expected) == math.inf
    assert _error(torch.full((4,), math.nan), torch.full((4,), math.nan)) == math.inf
    assert _error(torch.zeros(4), torch.zeros(4)) == 0.0
    assert _error(torch.ones(4), torch.zeros(4)) == math.inf


SOFTMAX_BACKWARD = """
def operators(torch, inputs, drawn):
    x, mask, grad, amax, total = (inputs[name] for name in ("x", "mask", "grad", "amax", "total"))
    scaled = torch.ops.aten.mul.Tensor(x, 0.125)
    masked = torch.ops.aten.add.Tensor(scaled, mask)
    wide = torch.ops.prims.convert_element_type.default(masked, torch.float32)
    exp = torch.ops.aten.exp.default(torch.ops.aten.sub.Tensor(wide, amax))
    share = torch.ops.aten.div.Tensor(exp, total)
    share = torch.ops.prims.convert_element_type.default(share, torch.bfloat16)
    product = torch.ops.aten.mul.Tensor(grad, share)
    product = torch.ops.prims.convert_element_type.default(product, torch.float32)
    rows = torch.ops.aten.sum.dim_IntList(product, [-1], True)
    result = torch.ops.aten.sub.Tensor(product, torch.ops.aten.mul.Tensor(share, rows))
    return {"result": torch.ops.prims.convert_element_type.default(result, torch.bfloat16)}
"""


@pytest.fixture
def softmax_backward(monkeypatch):
    """The attention's softmax backward with random inputs: its references, and what a kernel that stays wide stores."""
    torch = pytest.importorskip("torch")
    from fuselab.card import repro_script as script

    monkeypatch.setattr(script, "OPERATORS", SOFTMAX_BACKWARD)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(64, rows, columns, generator=generator).to(getattr(torch, dtype))
        for name, rows, columns, dtype in (
            ("x", 16, 256, "bfloat16"),
            ("mask", 1, 256, "bfloat16"),
            ("grad", 16, 256, "bfloat16"),
            ("amax", 16, 1, "float32"),
            ("total", 16, 1, "float32"),
        )
    }
    inputs["total"] = inputs["total"].abs() + 0.5
    rounded, wide = (script.expected_values(inputs, {}, wide=wide)["result"] for wide in (False, True))
    return script, rounded, wide


def test_rounding_between_operators_is_not_an_error_of_the_kernel(softmax_backward):
    script, rounded, wide = softmax_backward
    limit = script.TOLERANCE["bfloat16"]
    stored = wide.bfloat16()
    assert wide.dtype.itemsize == 8
    assert script._error(stored, rounded) > limit  # alone, the operators one by one would fail a right kernel
    assert script._apart(stored, rounded, wide) < limit / 4
    assert script._apart(rounded, rounded, wide) == 0.0
    assert script._apart(((rounded.double() + wide) / 2).bfloat16(), rounded, wide) < limit / 4


@pytest.mark.parametrize(
    "wrong", [lambda x: x * 0, lambda x: x * 1.1, lambda x: x.roll(1, 0), lambda x: x + math.nan, lambda x: -x]
)
def test_a_wrong_kernel_is_far_from_both_references(softmax_backward, wrong):
    script, rounded, wide = softmax_backward
    assert script._apart(wrong(wide).bfloat16(), rounded, wide) > script.TOLERANCE["bfloat16"]


def test_bits_that_are_looked_at_as_another_type_have_no_wide_reference(monkeypatch):
    torch = pytest.importorskip("torch")
    from fuselab.card import repro_script as script

    operators = (
        "def operators(torch, inputs, drawn):\n    return {'y': torch.ops.aten.view.dtype(inputs['x'], torch.int16)}"
    )
    monkeypatch.setattr(script, "OPERATORS", operators)
    inputs = {"x": torch.randn(8).bfloat16()}
    assert script.expected_values(inputs, {})["y"].dtype == torch.int16
    with pytest.raises(script.OperatorsFailedError, match="another type"):
        script.expected_values(inputs, {}, wide=True)
