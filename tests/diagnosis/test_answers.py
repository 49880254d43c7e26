"""What counts as an equal answer, and what never does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from fuselab.diagnosis.answers import ROUNDINGS, collect, compare

X = torch.linspace(-2.0, 2.0, 16)


def compared(wanted, got, tmp_path, *, said=([], [])):
    kept = tmp_path / "answers.pt"
    torch.save([collect(len, wanted, {}, said[0], 0, gradients=False)], kept)
    return compare([collect(len, got, {}, said[1], 0, gradients=False)], kept)


EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("wanted", "got", "equal"),
    [
        (X, X.clone(), True),
        (X, X * (1 + 2 * EPS), True),
        (X, X + X.square().mean().sqrt() * ROUNDINGS * EPS * 4, False),
        (X, torch.zeros_like(X), False),
        (X * 1e-30, torch.zeros_like(X), False),
        (torch.zeros(4), torch.zeros(4), True),
        (torch.zeros(4), torch.full((4,), 1e-30), False),
        (X, X.double(), False),
        (X, X[:8], False),
        (X, X.bfloat16().float(), False),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 0.0]), False),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")]), False),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("inf")]), False),
        (torch.arange(4), torch.arange(4), True),
        (torch.arange(4), torch.arange(4) + 1, False),
        ((X, 3), (X, 3), True),
        ((X, 3), (X, 4), False),
        ((X, 3), (X,), False),
        ({"a": X}, {"b": X}, False),
        (X + 1j * X, X + 1j * X, True),
        (X + 1j * X, X - 1j * X, False),
        (None, None, True),
    ],
)
def test_equal_or_not(wanted, got, equal, tmp_path):
    result = compared(wanted, got, tmp_path)
    assert result.equal is equal
    assert bool(result.reason) is not equal
    assert result.compared > 0 or not equal


def test_bitwise_is_said_of_what_is(tmp_path):
    assert compared(X, X.clone(), tmp_path).bitwise
    assert not compared(X, X * (1 + 2 * EPS), tmp_path).bitwise


def test_what_is_said_is_an_answer_too(tmp_path):
    assert compared(X, X, tmp_path, said=(["a", "b"], ["a", "b"])).equal
    assert "does not say 'b'" in compared(X, X, tmp_path, said=(["a", "b"], ["a"])).reason
    assert "says 'b'" in compared(X, X, tmp_path, said=(["b"], ["b", "b"])).reason


def test_gradients_and_changed_arguments_are_answers(tmp_path):
    @dataclass
    class Output:
        logits: torch.Tensor

    def answers(factor):
        x = X.clone().requires_grad_()
        buffer = torch.zeros(2)
        buffer += factor
        return collect(len, Output(x * x), {"x": x, "buffer": buffer}, [], 0, gradients=True)

    kept = tmp_path / "answers.pt"
    torch.save([answers(1.0)], kept)
    assert {"output.logits", "argument x", "argument buffer", "gradient of x"} <= answers(1.0)["tensors"].keys()
    assert compare([answers(1.0)], kept).equal
    assert "argument buffer" in compare([answers(2.0)], kept).reason


def test_a_call_that_is_missing(tmp_path):
    kept = tmp_path / "answers.pt"
    torch.save([], kept)
    assert not compare([collect(len, X, {}, [], 0, gradients=False)], kept).equal
