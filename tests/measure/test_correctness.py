"""The gate rejects what is planted, names it, and accepts what is right in other roundings."""

from __future__ import annotations

import importlib

import planted
import pytest
import torch
import torch.nn.functional as F

from fuselab.experiment import Inputs
from fuselab.measure.correctness import NO_BACKWARD, check
from fuselab.records import Direction

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = (Direction.FORWARD, Direction.BACKWARD)
FORWARD, BACKWARD = BOTH


def eager_of(experiment):
    return experiment.variant("eager").build(planted.workload())


def run(experiment, implementation, workload=None, device="cpu", directions=BOTH, **kwargs):
    workload = workload or planted.workload()
    return check(experiment, workload, implementation, eager_of(experiment), device, directions, **kwargs)


@pytest.mark.parametrize("wrong", [p for p in planted.PLANTED if not p.gpu], ids=lambda p: p.name)
def test_planted_wrong_variant_is_rejected(wrong):
    found = run(wrong.experiment, wrong.build())
    assert not found[wrong.direction].correct
    assert wrong.words in found[wrong.direction].reason
    if wrong.direction is BACKWARD and wrong.name != "gradient cut":
        assert found[FORWARD].correct, found[FORWARD].reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("wrong", planted.PLANTED, ids=lambda p: p.name)
def test_planted_wrong_variant_is_rejected_on_cuda(wrong):
    # Large enough that a kernel on another stream is still at work when the current one goes on.
    workload = planted.workload((4096, 2048)) if wrong.gpu else planted.workload()
    found = run(wrong.experiment, wrong.build(), workload, "cuda")
    assert not found[wrong.direction].correct
    assert wrong.words in found[wrong.direction].reason


EXPERIMENTS = [planted.RMS_NORM, planted.LAYER_NORM_GELU, planted.SILU, planted.SOFTMAX_DROPOUT]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_eager_passes_its_own_gate(experiment, dtype):
    found = run(experiment, eager_of(experiment), planted.workload(dtype=dtype))
    for direction in BOTH:
        assert found[direction].correct, found[direction].reason
        assert found[direction].tensors


def rms_norm_in_float32(x, w):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + planted.EPS) * w.float()).to(x.dtype)


def rms_norm_by_division(x, w):
    y = x.float()
    return (w.float() * (y / (y.pow(2).sum(-1, keepdim=True) / y.shape[-1] + planted.EPS).sqrt())).to(x.dtype)


def silu_by_sigmoid(x):
    return (x.float() * torch.sigmoid(x.float())).to(x.dtype)


def silu_by_tanh(x):
    return (x.float() * (0.5 + 0.5 * torch.tanh(x.float() / 2))).to(x.dtype)


def layer_norm_by_hand(x, w, b):
    y = x.float()
    rstd = torch.rsqrt(y.var(-1, unbiased=False, keepdim=True) + planted.EPS)
    return F.gelu((y - y.mean(-1, keepdim=True)) * rstd * w.float() + b.float()).to(x.dtype)


def softmax_by_hand(x):
    e = torch.exp(x.float() - x.detach().float().amax(-1, keepdim=True))
    return (e / e.sum(-1, keepdim=True) * (torch.rand_like(e) >= planted.P) / (1 - planted.P)).to(x.dtype)


RIGHT = {
    "rms_norm in float32": (planted.RMS_NORM, rms_norm_in_float32),
    "rms_norm by division": (planted.RMS_NORM, rms_norm_by_division),
    "F.rms_norm": (planted.RMS_NORM, lambda x, w: F.rms_norm(x, x.shape[-1:], w, planted.EPS)),
    "silu by sigmoid": (planted.SILU, silu_by_sigmoid),
    "silu by tanh": (planted.SILU, silu_by_tanh),
    "layer_norm by hand": (planted.LAYER_NORM_GELU, layer_norm_by_hand),
    "softmax by hand": (planted.SOFTMAX_DROPOUT, softmax_by_hand),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("shape", [(48, 96), (7, 1023), (1, 1), (300, 4096)])
def test_right_in_other_roundings_is_accepted(name, dtype, shape):
    experiment, implementation = RIGHT[name]
    found = run(experiment, implementation, planted.workload(shape, dtype))
    for direction in BOTH:
        assert found[direction].correct, found[direction].reason


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(
    "name", ["zeros", "x0.95", "x0.95 of rms_norm", "wrong activation", "dropped eps", "unwritten last column"]
)
def test_coarse_errors_are_rejected_in_16_bits_too(name, dtype):
    wrong = next(p for p in planted.PLANTED if p.name == name)
    found = run(wrong.experiment, wrong.build(), planted.workload((64, 1024), dtype))
    assert not found[FORWARD].correct


class Module(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 96))
        self.scale = scale

    def forward(self, x):
        weight = self.weight
        if self.scale != 1.0:  # right in the forward, wrong in the gradient of the weight alone
            weight = weight * self.scale + (weight * (1 - self.scale)).detach()
        return planted.rms_norm(x, weight)


def module_experiment():
    eager = Module()
    return planted.experiment("module", eager, planted.rows)


def test_gradients_of_parameters_are_compared():
    experiment = module_experiment()
    right = run(experiment, Module())
    assert right[BACKWARD].correct, right[BACKWARD].reason
    assert [t.name for t in right[BACKWARD].tensors] == ["grad x", "grad weight"]
    wrong = run(experiment, Module(scale=0.97))
    assert wrong[FORWARD].correct
    assert "grad weight" in wrong[BACKWARD].reason


@pytest.mark.slow
def test_compiled_module_and_function_pass():
    experiment = module_experiment()
    found = run(experiment, torch.compile(Module(), dynamic=False))
    assert found[BACKWARD].correct, found[BACKWARD].reason
    assert [t.name for t in found[BACKWARD].tensors] == ["grad x", "grad weight"]
    found = run(planted.LAYER_NORM_GELU, torch.compile(planted.layer_norm_gelu, dynamic=False))
    assert found[FORWARD].correct, found[FORWARD].reason
    assert found[BACKWARD].correct, found[BACKWARD].reason
    found = run(planted.SOFTMAX_DROPOUT, torch.compile(planted.softmax_dropout, dynamic=False))
    assert found[FORWARD].correct, found[FORWARD].reason
    assert found[BACKWARD].correct, found[BACKWARD].reason


def test_random_function_without_witness_is_named():
    experiment = planted.experiment("noisy", planted.softmax_dropout, planted.rows)
    found = run(experiment, planted.softmax_dropout)
    assert "not deterministic" in found[FORWARD].reason
    assert "witness" in found[FORWARD].reason
    assert not found[BACKWARD].correct


def test_nothing_to_differentiate_is_named():
    experiment = planted.experiment("silu", F.silu, lambda w, d: planted.rows(w, d).map(torch.Tensor.detach))
    found = run(experiment, F.silu)
    assert found[FORWARD].correct
    assert found[BACKWARD].reason == NO_BACKWARD
    assert "--direction forward" in NO_BACKWARD, "the way out"


def test_given_inputs_are_used_and_left_as_they_were():
    small = planted.rows(planted.workload((4, 96)), "cpu", weights=1)
    before = [t.detach().clone() for t in small.args]
    found = run(planted.RMS_NORM, planted.rms_norm, inputs=small)
    assert found[FORWARD].correct
    assert found[FORWARD].checked_shape == (4, 96)
    assert all(torch.equal(a, b) for a, b in zip(before, small.args, strict=True))
    assert all(t.grad is None for t in small.args)


def test_nan_and_infinity_where_eager_has_them_pass():
    def inputs(workload, device):
        made = planted.rows(workload, device)
        with torch.no_grad():
            made.args[0][3, 5] = float("nan")
            made.args[0][7, 1] = float("inf")
            made.args[0][9, :] = float("-inf")
        return made

    experiment = planted.experiment("softmax", lambda x: torch.softmax(x, -1), inputs)
    found = run(experiment, lambda x: torch.softmax(x, -1))
    assert found[FORWARD].correct, found[FORWARD].reason
    hidden = run(experiment, lambda x: torch.softmax(x, -1).nan_to_num(0.0))
    assert "a finite value where eager has NaN" in hidden[FORWARD].reason


def test_overflow_of_eager_may_be_avoided_but_not_added():
    def inputs(workload, device):
        return Inputs((torch.full((8, 64), 300.0, dtype=torch.float16, device=device).requires_grad_(),), names=("x",))

    def overflowing(x):
        return (x * x).mean(-1)

    def careful(x):
        return x.float().square().mean(-1).clamp(max=7e4).to(x.dtype)

    experiment = planted.experiment("mean_square", overflowing, inputs)
    assert run(experiment, careful)[FORWARD].correct
    calm = planted.experiment("mean_square", lambda x: (x * 0.01 * x).mean(-1), inputs)
    assert "+Inf" in run(calm, lambda x: (x * x).mean(-1) * 0.01)[FORWARD].reason


def test_strided_and_expanded_inputs_keep_their_layout():
    seen = []

    def strided(workload, device):
        x = torch.randn(48, 192, generator=torch.Generator().manual_seed(workload.seed))[:, ::2].to(device)
        b = torch.randn(1, 96).to(device).expand(48, 96)
        return Inputs((x.requires_grad_(), b), names=("x", "b"))

    def function(x, b):
        seen.append((x.stride(), b.stride()))
        return F.silu(x) + b

    found = run(planted.experiment("strided", function, strided), function)
    assert found[BACKWARD].correct, found[BACKWARD].reason
    assert (192, 2) in {s for s, _ in seen}


def test_integer_outputs_are_compared_exactly():
    experiment = planted.experiment("argmax", lambda x: (x.sum(-1), x.argmax(-1)), planted.rows)
    assert run(experiment, lambda x: (x.sum(-1), x.argmax(-1)))[FORWARD].correct
    wrong = run(experiment, lambda x: (x.sum(-1), x.argmax(-1).clamp(max=90)))
    assert "output[1]: differs from the reference" in wrong[FORWARD].reason


def test_exceptions_reach_the_caller():
    def broken(x):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run(planted.SILU, broken)


def test_pure_parts_import_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, fuselab.measure, fuselab.measure.statistics, fuselab.measure.sequential, fuselab.measure.verdicts;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module("fuselab.measure").__doc__
