"""Patched models against themselves, with the kernels in Triton's interpreter."""

import copy

import patched_models
import pytest
import torch
from patched_models import LlamaMLP, LlamaRMSNorm, randomised
from torch import nn

from fuselab.ops import patched_forwards
from fuselab.ops.patch import patch


@pytest.fixture(autouse=True)
def seeded():
    """The same models and inputs in every run: of few numbers an error is now and then three times another's."""
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """Names of the operators that patched modules call."""
    called = []
    for name in ("layer_norm_gelu", "rms_norm", "silu", "swiglu", "geglu"):
        function = getattr(patched_forwards, name)

        def counted(*arguments, name=name, function=function):
            called.append(name)
            return function(*arguments)

        monkeypatch.setattr(patched_forwards, name, counted)
    return called


def step(model, x):
    given = x.detach().requires_grad_()
    y = model(given)
    gradients = torch.autograd.grad(y.float().square().mean(), [given, *model.parameters()])
    return [y.detach(), *gradients]


def same(found, expected, truth, dtype):
    """As near to float64 as the unpatched model is, up to the factor of the operators' tests and a rounding."""
    for mine, theirs, true in zip(found, expected, truth, strict=True):
        assert mine.dtype == theirs.dtype
        error, allowed = ((t.double() - true).square().mean().sqrt() for t in (mine, theirs))
        assert error <= 3 * allowed + torch.finfo(dtype).eps * true.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_whole_model(dtype, calls):
    model = randomised(patched_models.model()).to(dtype)
    x = torch.randn(3, 2, 32, dtype=dtype)
    wide = copy.deepcopy(model).double()
    truth, expected = step(wide, x.double()), step(model, x)
    assert calls == []
    with patch(model):
        found = step(model, x)
    assert calls == [
        "layer_norm_gelu", "rms_norm", "swiglu", "rms_norm", "geglu", "rms_norm", "geglu", "rms_norm", "silu",
        "layer_norm_gelu",
    ]  # fmt: skip
    same(found, expected, truth, dtype)
    assert torch.equal(step(model, x)[0], expected[0])


CASES = {
    "no weight": lambda: nn.RMSNorm(16, elementwise_affine=False),
    "large eps": lambda: nn.RMSNorm(16, eps=0.5),
    "Llama's eps": lambda: LlamaRMSNorm(16, eps=0.5),
    "no bias": lambda: nn.Sequential(nn.LayerNorm(16, eps=0.3, bias=False), nn.GELU()),
    "no affine": lambda: nn.Sequential(nn.LayerNorm(16, elementwise_affine=False), nn.GELU("tanh")),
}


@pytest.mark.parametrize("case", CASES)
def test_settings_are_the_modules_own(case, calls):
    model = randomised(CASES[case]())
    x = torch.randn(5, 16) / 4
    expected = model(x)
    patch(model)
    torch.testing.assert_close(model(x), expected)
    assert len(calls) == 1


def test_default_eps_where_it_decides(calls):
    """A row of 1e-4 has a mean square of 1e-8, which is less than float32's eps of 1.2e-7."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = nn.RMSNorm(16).to(dtype)
        x = torch.full((1, 16), 1e-4, dtype=dtype)
        expected = model(x)
        patch(model)
        torch.testing.assert_close(model(x), expected)
    assert len(calls) == 3


@pytest.mark.parametrize("casting", ["llama", "gemma", "none"])
def test_casting_of_mixed_dtypes(casting, calls):
    classes = {
        "llama": LlamaRMSNorm, "gemma": patched_models.GemmaRMSNorm, "none": patched_models.Olmo2RMSNorm
    }  # fmt: skip
    model = randomised(classes[casting](64))
    x = torch.randn(8, 64, dtype=torch.bfloat16)
    expected = model(x)
    patch(model)
    found = model(x)
    assert found.dtype == expected.dtype
    # The interpreter cuts where a GPU rounds to bfloat16.
    torch.testing.assert_close(found, expected, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-5)
    assert calls == ["rms_norm"]


def test_what_is_set_later_counts(calls):
    for norm in (LlamaRMSNorm(16), patched_models.GemmaRMSNorm(16), nn.RMSNorm(16)):
        name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
        patch(norm)
        x = torch.randn(5, 16) / 4
        before = norm(x)
        setattr(norm, name, 0.5)
        found = norm(x)
        assert not torch.allclose(found, before, rtol=0.1)
        torch.testing.assert_close(found, type(norm).__mro__[1].forward(norm, x))
    mlp = randomised(LlamaMLP(16, 16))
    patched = patch(mlp)
    mlp(x)
    assert calls == ["rms_norm"] * 6 + ["swiglu"]
    mlp.act_fn = nn.Tanh()
    found = mlp(x)
    patched.undo()
    assert torch.equal(found, mlp(x))


def test_an_activation_that_two_mlps_share(calls):
    act_fn = nn.SiLU()
    first, second = LlamaMLP(8, 8, act_fn), LlamaMLP(8, 8, act_fn)
    patched = patch(first)
    patch(second)
    x = torch.randn(2, 8)
    second(x)
    patched.undo()  # of the activation, too
    second(x)
    first(x)
    assert calls == ["swiglu"] * 2


# Calls that are made as before.


def hooked(model):
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append("norm"))
    return model, seen


def test_hooks_on_members_of_a_pair_see_what_they_did(calls):
    model, seen = hooked(nn.Sequential(nn.LayerNorm(8), nn.GELU()))
    patch(model)
    model(torch.randn(2, 8))
    assert (calls, seen) == ([], ["norm"])


def test_hooks_on_an_activation_see_what_they_did(calls):
    model, seen = LlamaMLP(8, 8, nn.GELU()), []
    model.act_fn.register_forward_hook(lambda *_: seen.append("act"))
    patch(model)
    model(torch.randn(2, 8))
    assert (calls, seen) == ([], ["act"])


def test_hooks_on_every_module(calls):
    model = nn.Sequential(nn.LayerNorm(8), nn.GELU())
    patch(model)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        model(torch.randn(2, 8))
    finally:
        handle.remove()
    assert (calls, seen) == ([], ["LayerNorm", "GELU", "FusedSequential"])
    model(torch.randn(2, 8))
    assert calls == ["layer_norm_gelu"]


def test_another_width_gets_torchs_own_error(calls):
    model = nn.Sequential(nn.LayerNorm(8), nn.GELU())
    patch(model)
    with pytest.raises(RuntimeError, match="normalized_shape"):
        model(torch.randn(2, 9))
    assert calls == []


def test_function_transforms(calls):
    model = nn.RMSNorm(8)
    x = torch.randn(4, 8)
    expected = torch.func.vmap(model)(x)
    patch(model)
    torch.testing.assert_close(torch.func.vmap(model)(x), expected)
    torch.func.jvp(model, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        model(torch.autograd.forward_ad.make_dual(x, x))
    assert calls == []


@pytest.mark.parametrize(
    "x", [torch.randn(2, 8, dtype=torch.float64), torch.randn(8, 2).t()], ids=["float64", "layout"]
)
def test_inputs_that_silu_does_not_take(x, calls):
    model = nn.SiLU()
    patch(model)
    assert model(x).stride() == x.stride()
    assert calls == []


def test_tensor_subclasses(calls):
    class Tagged(torch.Tensor):
        pass

    model = nn.SiLU()
    patch(model)
    assert isinstance(model(torch.randn(2, 8).as_subclass(Tagged)), Tagged)
    assert calls == []


def test_checkpointed(calls):
    model = randomised(patched_models.model())
    x = torch.randn(3, 32)
    expected = step(model, x)
    patch(model)
    given = x.detach().requires_grad_()
    y = torch.utils.checkpoint.checkpoint(model, given, use_reentrant=False)
    (gradient,) = torch.autograd.grad(y.square().mean(), given)
    torch.testing.assert_close(gradient, expected[1])
    assert len(calls) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled(dtype):
    model = randomised(patched_models.model()).to(dtype)
    x = torch.randn(3, 32, dtype=dtype)
    wide = copy.deepcopy(model).double()
    truth, expected = step(wide, x.double()), step(model, x)
    patch(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    same(step(compiled, x), expected, truth, dtype)
