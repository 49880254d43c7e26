"""``--vary``: what it reads, what it refuses, what it makes of a call's arguments."""

from __future__ import annotations

import pytest
import torch

from fuselab.diagnosis.streams import DEFAULT_CALLS, length_of, parse_vary, varied
from fuselab.errors import ArgumentSpecError

X = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.0=8,16", ("x", "size", (8, 16), 0)),
        ("x.-1=8", ("x", "size", (8,), -1)),
        ("x.dtype=f32,bfloat16", ("x", "dtype", ("f32", "bf16"), 0)),
        ("x.layout=contiguous,transposed", ("x", "layout", ("contiguous", "transposed"), 0)),
        ("x.requires_grad=false,true", ("x", "requires_grad", (False, True), 0)),
        ("scale=0.5,1,none,true,tanh", ("scale", "value", (0.5, 1, None, True, "tanh"), 0)),
        ("@grad_mode=true,false", ("@grad_mode", "value", (True, False), 0)),
    ],
)
def test_what_is_read(text, expected):
    vary = parse_vary(text)
    assert (vary.name, vary.what, vary.values, vary.axis) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "x.0",
        "x.0=",
        "x.0=8,,9",
        "x.0=a",
        "x.0=-1",
        "x.shape=3",
        "x.dtype=f31",
        "x.layout=upside_down",
        "x.requires_grad=1",
        "x=f32[4]",
        "@nothing=true",
        "@grad_mode=maybe",
        "@grad_mode.0=3",
        "0=3",
    ],
)
def test_what_is_refused(text):
    with pytest.raises(ArgumentSpecError) as caught:
        parse_vary(text)
    assert caught.value.hint


def test_how_many_calls():
    assert length_of([], None) == DEFAULT_CALLS
    assert length_of([parse_vary("x.0=1,2,3,4"), parse_vary("k=1,2")], None) == 4
    assert length_of([parse_vary("x.0=1,2")], 7) == 7
    for wrong in (0, -1, 10**6):
        with pytest.raises(ArgumentSpecError):
            length_of([], wrong)


def test_arguments_of_a_call():
    varies = [parse_vary("x.0=2,5"), parse_vary("k=1,2,3")]
    first, second, third = (varied({"x": X, "k": 9, "other": "same"}, varies, call) for call in range(3))
    assert [tuple(values["x"].shape) for values in (first, second, third)] == [(2, 4), (5, 4), (2, 4)]
    assert [values["k"] for values in (first, second, third)] == [1, 2, 3]
    assert torch.equal(second["x"], X[[0, 1, 2, 0, 1]])
    assert first["other"] == "same"


def test_tensors_are_copies_with_their_layout_and_their_gradient():
    x = X.t().clone(memory_format=torch.preserve_format).requires_grad_()
    values = varied({"x": x}, [], 0)
    assert values["x"] is not x
    assert values["x"].stride() == x.stride()
    assert values["x"].requires_grad
    assert values["x"].is_leaf


def test_dtype_layout_and_gradient():
    assert varied({"x": X}, [parse_vary("x.dtype=bf16")], 0)["x"].dtype is torch.bfloat16
    transposed = varied({"x": X}, [parse_vary("x.layout=transposed")], 0)["x"]
    assert transposed.stride() == (1, 3)
    assert torch.equal(transposed, X)
    assert varied({"x": X}, [parse_vary("x.requires_grad=true")], 0)["x"].requires_grad


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("y.0=3", "there is no argument 'y'"),
        ("k.0=3", "no tensor"),
        ("x.2=3", "has 2 axes"),
        ("e.0=3", "is empty"),
        ("v.layout=transposed", "at least two axes"),
    ],
)
def test_what_does_not_fit_the_arguments(vary, words):
    values = {"x": X, "k": 3, "e": X[:0], "v": X[0]}
    with pytest.raises(ArgumentSpecError, match=words):
        varied(values, [parse_vary(vary)], 0)
