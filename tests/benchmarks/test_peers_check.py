"""What is wrong is found before it is timed, and listed; what is right passes, peers' rounding included."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types

import peers_check
import peers_operators as peers
import pytest
import torch
import torch.nn.functional as F
from peers_check import check

SHAPE = (48, 64)


def inputs(operator, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for name in operator.tensors:
        vector = name in ("weight", "bias")
        values = torch.randn(SHAPE[1:] if vector else SHAPE, generator=generator)
        tensors.append((1 + values * 0.2 if vector else values).bfloat16().requires_grad_())
    return tensors


def judged(name, function, drops=True, variant=peers.OURS):
    operator = peers.OPERATORS[name]
    return check(operator, variant, function, inputs(operator), drops=drops)[1]


@pytest.mark.parametrize("name", peers.OPERATORS)
def test_eager_passes(name):
    assert judged(name, peers.OPERATORS[name].build[peers.EAGER]()) == ""


@pytest.mark.parametrize("name", peers.OPERATORS)
@pytest.mark.parametrize("rows", [5, 48])
def test_some_rows_at_a_time(name, rows, monkeypatch):
    """The reference's weight gradients are summed over the parts."""
    monkeypatch.setattr(peers_check, "ELEMENTS", rows * SHAPE[1])
    assert judged(name, peers.OPERATORS[name].build[peers.EAGER]()) == ""


def test_a_weight_multiplied_after_rounding_passes():
    """As Llama's casting has it: one rounding more than F.rms_norm."""

    def llama(x, weight):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + peers.RMS_NORM_EPS)).to(x.dtype) * weight

    assert judged("rms_norm", llama) == ""


def written_to(x):
    y = F.silu(x.clone())
    with torch.no_grad():
        x.mul_(2.0)
    return y


class AnotherMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = F.softmax(x.float(), -1)
        ctx.save_for_backward(y)
        return F.dropout(y, peers.P).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        d = F.dropout(dy.float(), peers.P)
        return (y * (d - (y * d).sum(-1, keepdim=True))).to(dy.dtype)


def last_column_lost(x):
    return torch.cat([F.silu(x[:, :-1]), torch.zeros_like(x[:, -1:])], -1)


@pytest.mark.parametrize(
    ("name", "function", "reason"),
    [
        ("silu", lambda x: F.silu(x) * 0, "output 0: all zeros: root-mean-square error"),
        ("silu", lambda x: F.silu(x) * 0.95, "output 0: root-mean-square error"),
        ("silu", last_column_lost, "output 0: root-mean-square error"),
        ("silu", lambda x: F.silu(x) + float("nan"), "output 0: NaN where eager has a finite value, at 3072 of 3072"),
        ("silu", lambda x: F.silu(x.float()), "an output is (48, 64) torch.float32"),
        ("silu", written_to, "x was written to"),
        ("silu", lambda x: F.silu(x).detach() + 0 * x, "gradient of x: all zeros: root-mean-square error"),
        ("geglu", lambda a, b: F.gelu(a) * b.detach() + 0 * b, "gradient of b: all zeros: root-mean"),
        ("rms_norm", lambda x, weight: F.layer_norm(x, x.shape[-1:], weight), "output 0: root-mean-square error"),
        ("rms_norm", lambda x, weight: F.rms_norm(x, x.shape[-1:], weight.detach()) + 0 * weight, "gradient of weight"),
        ("add_rms_norm", lambda x, residual, weight: (F.rms_norm(x + residual, x.shape[-1:], weight), x + 0 * residual),
         "output 1: root-mean-square error"),
        ("softmax_dropout", lambda x: F.softmax(x, -1), "1.00000 of the elements were kept, expected 0.9"),
        ("softmax_dropout", lambda x: F.dropout(F.softmax(x, -1), peers.P) * 0.9, "output 0: root-mean-square error"),
        ("softmax_dropout", AnotherMask.apply, "gradient of x: root-mean-square error"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name, function, reason):
    assert reason in judged(name, function)


def small_ones_too_large(x):
    """By 3%, where the bound of the largest error sees nothing."""
    y = F.silu(x.float())
    return (y + torch.where(y.abs() < 2.0**-6, 0.03 * y, 0).detach()).bfloat16()


@pytest.mark.parametrize("elements", [512 * 64, peers_check.ELEMENTS], ids=["some rows at a time", "at once"])
def test_a_systematic_error_is_refused_unless_it_is_pytorch_rounding_in_between(elements, monkeypatch):
    monkeypatch.setattr(peers_check, "ELEMENTS", elements)
    monkeypatch.setattr(sys.modules[__name__], "SHAPE", (2048, 64))
    assert judged("silu", small_ones_too_large).startswith("output 0: systematic error: results of about ")
    assert judged("silu", small_ones_too_large, variant=peers.EAGER) == ""


def test_memory_is_bounded_by_the_chunk(monkeypatch):
    """However large the cell is: the reference, in float64, sees some rows at a time, each once."""
    seen = []
    operator = peers.OPERATORS["rms_norm"]

    def reference(x, *others, keep=None):
        seen.append(tuple(x.shape))
        return operator.reference(x, *others, keep=keep)

    monkeypatch.setattr(peers_check, "ELEMENTS", 20 * SHAPE[1])
    monkeypatch.setattr(peers_check, "MEANS", 5 * SHAPE[1])
    watched = dataclasses.replace(operator, reference=reference)
    assert check(watched, peers.EAGER, operator.build[peers.EAGER](), inputs(operator), drops=False)[1] == ""
    assert seen == [(5, 64), (20, 64), (20, 64), (3, 64)]


def test_a_late_chunk_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(peers_check, "ELEMENTS", 20 * SHAPE[1])

    def last_row_lost(x):
        return torch.cat([F.silu(x[:-1]), torch.zeros_like(x[-1:])])

    assert judged("silu", last_row_lost).startswith("output 0: root-mean-square error")


def test_softmax_without_dropout_is_checked_as_such():
    assert judged("softmax_dropout", lambda x: F.softmax(x, -1), drops=False) == ""
    assert "output 0" in judged("softmax_dropout", lambda x: F.softmax(2 * x, -1), drops=False)


def worker(monkeypatch, **variants):
    """A worker that built SiLU by these functions."""
    import peers_worker

    operator = dataclasses.replace(peers.OPERATORS["silu"], build={k.replace("_", "-"): v for k, v in variants.items()})
    monkeypatch.setitem(peers.OPERATORS, "silu", operator)
    monkeypatch.setattr(peers_worker, "_lock", lambda _: types.SimpleNamespace(shared=contextlib.nullcontext))
    settings = {
        "device": "cpu", "seconds": 0.01, "rounds": 5, "build_deadline": 0.0, "lock": "",
        "variants": [*variants, peers.LIGER, peers.TUNED],
    }  # fmt: skip
    said = []
    made = peers_worker.Worker(settings, said.append)
    made.build({("silu", (4, 8)): ["forward", "backward"]})
    return made, said


def broken():
    raise RuntimeError("no such kernel")


def test_what_is_wrong_or_raises_is_listed_and_not_timed(monkeypatch):
    made, said = worker(monkeypatch, eager=lambda: F.silu, ours=lambda: lambda x: F.silu(x) * 0.9)
    assert [event["variant"] for event in said] == ["eager", "ours"]
    cell = made.cell("silu", (4, 8), "backward")
    assert set(cell["variants"]) == {"eager", "max-autotune", "ours"}
    assert cell["variants"]["ours"]["wrong"].startswith("output 0: root-mean-square error")
    assert cell["variants"]["max-autotune"] == {"absent": "not built: the time for building was over"}
    assert cell["variants"]["eager"]["us"] > 0
    assert "ratio" not in cell["variants"]["eager"]
    assert cell["baseline"] == "eager"
    made, _ = worker(monkeypatch, eager=lambda: F.silu, ours=broken)
    assert made.cell("silu", (4, 8), "forward")["variants"]["ours"] == {"error": "RuntimeError: no such kernel"}


def test_a_cell_has_everything_that_its_table_is_made_of(monkeypatch):
    made, _ = worker(monkeypatch, eager=lambda: lambda x: x * torch.sigmoid(x), ours=lambda: F.silu)
    cell = made.cell("silu", (4, 8), "forward")
    eager, ours = cell["variants"]["eager"], cell["variants"]["ours"]
    assert cell["bytes"] == 2 * 4 * 8 * 2
    assert cell["mix"] == "1:1"
    assert cell["ceiling"]["bytes_per_s"] > 0
    assert ours["low_us"] <= ours["us"] <= ours["high_us"]
    assert eager["ratio_low"] <= eager["ratio"] <= eager["ratio_high"]
    assert len(ours["samples_us"]) >= 5
    assert ours["errors"]["gradient of x"]["rms"] < 0.01
    assert set(peers_check.Errors().relative()) == {"rms", "max"}
