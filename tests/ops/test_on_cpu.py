"""Without a GPU and without the interpreter: torch's own operators in the place of the kernels, and one warning."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

from fuselab import ops
from fuselab.ops import inputs
from fuselab.ops.inputs import NotFusedWarning
from fuselab.ops.launch import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter takes CPU tensors")

WEIGHT = torch.linspace(0.5, 1.5, 8)


def both(function):
    return lambda x: torch.cat(function(x, 2 * x, WEIGHT.to(x.dtype)))


UNARY = {
    "rms_norm": (
        lambda x: ops.rms_norm(x, WEIGHT.to(x.dtype)),
        lambda x: ops.rms_norm_reference(x, WEIGHT.to(x.dtype)),
    ),
    "rms_norm gemma": (
        lambda x: ops.rms_norm(x, WEIGHT.to(x.dtype), 1e-3, "gemma"),
        lambda x: ops.rms_norm_reference(x, WEIGHT.to(x.dtype), 1e-3, "gemma"),
    ),
    "add_rms_norm": (both(ops.add_rms_norm), both(ops.add_rms_norm_reference)),
    "layer_norm_gelu": (
        lambda x: ops.layer_norm_gelu(x, WEIGHT.to(x.dtype), None, approximate="tanh"),
        lambda x: ops.layer_norm_gelu_reference(x, WEIGHT.to(x.dtype), None, approximate="tanh"),
    ),
    "softmax_dropout": (
        lambda x: ops.softmax_dropout(x, 0.0, scale=0.5, mask=WEIGHT > 0.7),
        lambda x: ops.softmax_dropout_reference(x, 0.0, scale=0.5, mask=WEIGHT > 0.7),
    ),
    "silu": (ops.silu, ops.silu_reference),
    "swiglu": (ops.swiglu, ops.swiglu_reference),
    "geglu": (ops.geglu, ops.geglu_reference),
    "geglu tanh": (lambda x: ops.geglu(x, approximate="tanh"), lambda x: ops.geglu_reference(x, None, "tanh")),
    "swiglu pair": (lambda x: ops.swiglu(x, 2 * x), lambda x: ops.swiglu_reference(x, 2 * x)),
    "geglu pair": (lambda x: ops.geglu(x, 2 * x), lambda x: ops.geglu_reference(x, 2 * x)),
}


@pytest.fixture
def unsaid(monkeypatch):
    """As in a process that has not been told yet."""
    monkeypatch.setattr(inputs, "_fallback_said", False)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.filterwarnings("ignore::fuselab.ops.inputs.NotFusedWarning")
def test_computes_what_the_reference_does(name, dtype):
    ours, reference = UNARY[name]
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    y, wanted = ours(leaves[0]), reference(leaves[1])
    assert y.dtype == wanted.dtype == dtype
    assert torch.equal(y, wanted)
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy)
    wanted.backward(dy)
    assert torch.equal(leaves[0].grad, leaves[1].grad)
    assert leaves[0].grad.abs().max() > 0.01


def test_says_so_once(unsaid):
    x = torch.randn(2, 4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ops.silu(x)
        ops.silu(x)
        ops.swiglu(x)
        ops.geglu(x, x)
    assert [w.category for w in said] == [NotFusedWarning]
    assert said[0].filename == __file__
    text = str(said[0].message)
    assert text.startswith("fuselab.ops.silu: ")
    assert "not the fused kernel" in text


def test_says_so_to_whoever_turned_warnings_into_errors(unsaid):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotFusedWarning):
            ops.silu(torch.randn(2, 4))


def test_a_process_says_it_once():
    code = "import torch; from fuselab import ops; x = torch.ones(2, 4); [f(x) for f in (ops.silu, ops.geglu) * 3]"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("NotFusedWarning") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
def test_compiled_in_one_graph(name, unsaid):
    torch.compiler.reset()
    counters.clear()
    ours, reference = UNARY[name]
    function = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for rows in (3, 5, 7):
            x = torch.randn(rows, 8, requires_grad=True)
            y = function(x)
            assert torch.equal(y, reference(x))
            (dx,) = torch.autograd.grad(y.sum(), x)
            assert torch.equal(dx, torch.autograd.grad(reference(x).sum(), x)[0])
    assert [w.category for w in said].count(NotFusedWarning) == 1
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.filterwarnings("ignore::fuselab.ops.inputs.NotFusedWarning")
def test_refuses_what_the_kernels_refuse():
    for operator, call in (("silu", ops.silu), ("swiglu", ops.swiglu), ("geglu", ops.geglu)):
        for bad in (torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.int32)):
            with pytest.raises(TypeError, match=f"^{operator}: .*supported dtypes: torch.float32"):
                call(bad)
        with pytest.raises(TypeError, match=f"^{operator}: .* is a list"):
            call([1.0])
        with pytest.raises(RuntimeError, match=f"^{operator}: .* is on meta"):
            call(torch.ones(2, 4, device="meta"))
    with pytest.raises(ValueError, match="has to be even"):
        ops.swiglu(torch.ones(2, 3))
    with pytest.raises(ValueError, match="have to be equal"):
        ops.geglu(torch.ones(2, 4), torch.ones(4, 2))


@pytest.mark.filterwarnings("ignore::fuselab.ops.inputs.NotFusedWarning")
def test_dropout_is_torchs_own():
    x = torch.randn(64, 64)
    torch.manual_seed(3)
    y = ops.softmax_dropout(x, 0.25)
    torch.manual_seed(3)
    assert torch.equal(y, torch.nn.functional.dropout(torch.softmax(x, -1), 0.25))
    assert 0.2 < (y == 0).double().mean() < 0.3
    assert torch.equal(ops.softmax_dropout(x, 0.25, training=False), torch.softmax(x, -1))
    assert torch.equal(ops.softmax_dropout(x, 0.0, dim=0), torch.softmax(x, 0))
    assert not ops.softmax_dropout(x, 1.0).any()


@pytest.mark.parametrize(
    "module",
    [
        lambda device: ops.RMSNorm(8, device=device),
        lambda device: ops.RMSNorm(8, casting="gemma", device=device),
        lambda device: ops.AddRMSNorm(8, device=device),
        lambda device: ops.LayerNormGELU(8, device=device),
        lambda device: ops.LayerNormGELU(8, bias=False, device=device),
    ],
    ids=["rms_norm", "gemma", "add_rms_norm", "layer_norm_gelu", "no bias"],
)
def test_a_module_from_the_meta_device_begins_as_one_made_here(module):
    built = module("meta").to_empty(device="cpu")
    for parameter in built.parameters():
        parameter.data.fill_(torch.nan)
    built.reset_parameters()
    here = module("cpu").state_dict()
    assert here.keys() == built.state_dict().keys()
    assert all(torch.equal(here[name], value) for name, value in built.state_dict().items())
    assert all(parameter.requires_grad for parameter in built.parameters())
