"""Which modules ``patch`` takes, what it leaves and why, and that a model is the same before, meanwhile and after."""

import copy
import functools
import inspect
import io
import pickle

import patched_models
import pytest
import torch
import torch.nn.functional as F
from patched_models import (
    OPERATORS,
    Block,
    GemmaMLP,
    GemmaRMSNorm,
    LlamaMLP,
    LlamaRMSNorm,
    PytorchGELUTanh,
    SiLUActivation,
    randomised,
)
from torch import nn

from fuselab import ops
from fuselab.ops.patch import Left, Patch, Swapped, patch


def described(module):
    """Everything of a model that patching must leave alone."""
    return {
        name: (
            {key: id(p) for key, p in each._parameters.items()},
            {key: id(b) for key, b in each._buffers.items()},
            {key: id(m) for key, m in each._modules.items()},
            {key: value for key, value in vars(each).items() if not key.startswith("_")},
            [list(hooks) for key, hooks in vars(each).items() if key.endswith("_hooks")],
        )
        for name, each in module.named_modules()
    }


# What is recognised.


def test_everything_in_one_model():
    model = patched_models.model()
    patched = patch(model)
    assert {each.name: each.operator for each in patched.swapped} == OPERATORS
    assert patched.left == ()
    assert patched.swapped[1] == Swapped("3.norm", "LlamaRMSNorm", "rms_norm, casting 'llama'")


class OwnNorm(nn.RMSNorm):
    def forward(self, x):
        return super().forward(x) * 2


class PlainNorm(nn.RMSNorm):
    """A subclass without a forward of its own."""


class OwnSiLU(nn.SiLU):
    def forward(self, x):
        return F.silu(x) + 1


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return self[1](x)


class OtherRMSNorm(LlamaRMSNorm):
    def forward(self, states):
        dtype = states.dtype
        states = states.to(torch.float32)
        square = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(square + self.variance_epsilon)
        return self.weight * states.to(dtype) * 2


class BranchingRMSNorm(LlamaRMSNorm):
    def forward(self, states):
        if states.shape[0] > 100:
            return states
        return self.weight * states


class DecoratedRMSNorm(LlamaRMSNorm):
    @torch.no_grad()
    def forward(self, states):
        dtype = states.dtype
        states = states.to(torch.float32)
        square = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(square + self.variance_epsilon)
        return self.weight * states.to(dtype)


class BiasedRMSNorm(LlamaRMSNorm):
    def __init__(self, width):
        super().__init__(width)
        self.bias = nn.Parameter(torch.ones(width))


class SwappedMLP(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


class LateMLP(LlamaMLP):
    def forward(self, x):
        down = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        self.last = down
        return down


class Swish(nn.Module):
    def forward(self, input):
        return nn.functional.silu(input)


class ShadowedMLP(LlamaMLP):
    """As Llama's, in a place where ``self.act_fn`` is not what the name says."""

    def __init__(self):
        super().__init__(8, 8, nn.Tanh())


def own_instance_forward(module):
    module.forward = lambda x: x
    return module


UNKNOWN_NORM = "its forward is not that of a known RMSNorm"
UNKNOWN_MLP = "its forward is not down_proj(act_fn(gate_proj(x)) * up_proj(x)) with SiLU or GELU"
OWN = "it has a forward of its own"
ALONE = "no nn.GELU comes right after it in an nn.Sequential"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (OwnNorm(8), OWN),
        (nn.RMSNorm((4, 8)), "it normalises 2 axes, the operator one"),
        (own_instance_forward(nn.RMSNorm(8)), OWN),
        (nn.SiLU(inplace=True), "it works in place"),
        (OwnSiLU(), OWN),
        (OtherRMSNorm(8), UNKNOWN_NORM),
        (BranchingRMSNorm(8), UNKNOWN_NORM),
        (DecoratedRMSNorm(8), UNKNOWN_NORM),
        (BiasedRMSNorm(8), UNKNOWN_NORM),
        (own_instance_forward(LlamaRMSNorm(8)), OWN),
        (SwappedMLP(8, 8), UNKNOWN_MLP),
        (LateMLP(8, 8), UNKNOWN_MLP),
        (ShadowedMLP(), UNKNOWN_MLP),
        (LlamaMLP(8, 8, nn.SiLU(inplace=True)), UNKNOWN_MLP),
        (LlamaMLP(8, 8, Swish()), UNKNOWN_MLP),
        (own_instance_forward(LlamaMLP(8, 8)), OWN),
        (nn.LayerNorm(8), ALONE),
        (nn.LayerNorm((4, 8)), "it normalises 2 axes, the operator one"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_left(module, reason):
    before = type(module)
    patched = patch(module)
    assert patched.left[0] == Left("", before.__name__, reason)
    assert not [each for each in patched.swapped if each.name == ""]
    assert type(module) is before


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (nn.RMSNorm(8), "rms_norm, casting 'none'"),
        (nn.RMSNorm(8, elementwise_affine=False), "rms_norm, casting 'none'"),
        (PlainNorm(8, eps=1e-3), "rms_norm, casting 'none'"),
        (nn.SiLU(), "silu"),
        (SiLUActivation(), "silu"),
        (GemmaRMSNorm(8), "rms_norm, casting 'gemma'"),
        (LlamaMLP(8, 8), "swiglu"),
        (LlamaMLP(8, 8, nn.SiLU()), "swiglu"),
        (GemmaMLP(8, 8), "geglu, approximate 'tanh'"),
        (LlamaMLP(8, 8, PytorchGELUTanh()), "geglu, approximate 'tanh'"),
        (LlamaMLP(8, 8, nn.GELU(approximate="tanh")), "geglu, approximate 'tanh'"),
        (nn.Sequential(nn.LayerNorm(8), nn.GELU()), "layer_norm_gelu"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_swapped_by_itself(module, operator):
    assert patch(module).swapped[0] == Swapped("", type(module).__mro__[1].__name__, operator)
    assert type(module).__name__ == f"Fused{type(module).__mro__[1].__name__}"


def test_a_pair_is_one_in_a_sequential_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.gelu = nn.GELU()
            self.apart = nn.Sequential(nn.LayerNorm(8), nn.Dropout(), nn.GELU())
            self.own = OwnSequential(nn.LayerNorm(8), nn.GELU())
            self.listed = nn.ModuleList([nn.LayerNorm(8), nn.GELU()])
            self.two_axes = nn.Sequential(nn.LayerNorm((4, 8)), nn.GELU())

    patched = patch(Model())
    assert patched.swapped == ()
    reasons = {each.name: each.reason for each in patched.left}
    assert reasons == {
        "own": f"{OWN}: whether its LayerNorm feeds its GELU is not certain",
        "norm": ALONE,
        "apart.0": ALONE,
        "own.0": ALONE,
        "listed.0": ALONE,
        "two_axes.0": "it normalises 2 axes, the operator one",
    }


def test_a_class_that_was_changed_since_is_not_what_its_name_says():
    class LateRMSNorm(LlamaRMSNorm):
        forward = LlamaRMSNorm.forward

    assert patch(LateRMSNorm(8)).swapped
    LateRMSNorm.forward = lambda self, x: x
    assert patch(LateRMSNorm(8)).left[0].reason == UNKNOWN_NORM


def test_names_that_stand_for_something_else():
    source = """
import torch
class LlamaRMSNorm(torch.nn.Module):
    def forward(self, x):
        return self.weight * x
"""
    scope = {}
    exec(compile(source, "nowhere.py", "exec"), scope)  # its source cannot be read
    module = scope["LlamaRMSNorm"]()
    module.weight = nn.Parameter(torch.ones(8))
    assert patch(module).left == (Left("", "LlamaRMSNorm", UNKNOWN_NORM),)


def test_modules_of_the_package_are_neither_swapped_nor_left():
    patched = patch(nn.ModuleList([ops.RMSNorm(8), ops.AddRMSNorm(8), ops.LayerNormGELU(8), ops.SiLU(), ops.SwiGLU()]))
    assert (patched.swapped, patched.left) == ((), ())


def test_not_a_module():
    with pytest.raises(TypeError, match=r"patch: model is a dict; expected a torch\.nn\.Module"):
        patch({})


# A model is the same meanwhile, and after.


def test_the_model_is_left_as_it_was():
    model = randomised(patched_models.model())
    calls = []
    model[6].register_forward_hook(lambda *_: calls.append("after"))
    model[6].register_forward_pre_hook(lambda *_: calls.append("before"))
    model[3].mlp.register_buffer("kept", torch.ones(1))
    before, classes, keys = described(model), [type(m) for m in model.modules()], list(model.state_dict())
    x = torch.randn(4, 32)
    expected = model(x)
    calls.clear()
    patched = patch(model)
    assert described(model) == before
    assert list(model.state_dict()) == keys
    assert all(isinstance(m, cls) for m, cls in zip(model.modules(), classes, strict=True))
    found = model(x)
    assert calls == ["before", "after"]
    torch.testing.assert_close(found, expected)
    model.eval()
    assert not model[6].training
    patched.undo()
    assert [type(m) for m in model.modules()] == classes
    assert not model[6].training
    model.train()
    assert described(model) == before
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.RMSNorm(8),
        nn.SiLU(),
        SiLUActivation(),
        LlamaRMSNorm(8),
        GemmaRMSNorm(8),
        LlamaMLP(8, 8),
        nn.Sequential(nn.LayerNorm(8), nn.GELU()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_the_input_has_the_name_that_it_had(module):
    signature = inspect.signature(module.forward)
    (name,) = signature.parameters
    x = torch.randn(2, 8)
    expected = module(x)
    with patch(module) as patched:
        assert patched.swapped
        assert list(inspect.signature(module.forward).parameters) == [name]
        assert torch.equal(module(**{name: x}), expected)
        assert torch.equal(module(x), expected)


def test_undoing_twice_and_leaving_a_block():
    model = patched_models.model()
    classes = [type(m) for m in model.modules()]
    patched = patch(model)
    with pytest.raises(ZeroDivisionError), patched:
        raise ZeroDivisionError
    assert [type(m) for m in model.modules()] == classes
    patched.undo()
    assert [type(m) for m in model.modules()] == classes


def test_patching_again_swaps_what_is_new():
    model = patched_models.model()
    first = patch(model)
    model.append(nn.SiLU())
    classes = [type(m) for m in model.modules()]
    second = patch(model)
    assert [each.name for each in second.swapped] == ["11"]
    assert {each.reason for each in second.left} == {"it is patched already"}
    assert {each.name for each in second.left} == {each.name for each in first.swapped}
    assert [type(m) for m in model.modules()][:-1] == classes[:-1]
    first.undo()
    assert type(model[11]).__name__ == "FusedSiLU"
    second.undo()
    assert not any(type(m).__name__.startswith("Fused") for m in model.modules())


def test_a_shared_module_is_swapped_once():
    norm, mlp = nn.RMSNorm(8), LlamaMLP(8, 8)
    model = nn.ModuleList([Block(norm, mlp), Block(norm, mlp), norm])
    patched = patch(model)
    assert [each.name for each in patched.swapped] == ["0.norm", "0.mlp", "0.mlp.act_fn"]
    assert model[0].norm is model[1].norm is model[2] is norm
    patched.undo()
    assert type(norm) is nn.RMSNorm


def test_an_activation_that_is_shared_and_patched_already():
    """Layer by layer: the second MLP is taken as the first was, and stays when the first is undone."""
    act_fn = nn.SiLU()
    first, second = LlamaMLP(8, 8, act_fn), LlamaMLP(8, 8, act_fn)
    patched = patch(first)
    again = patch(second)
    assert again.swapped == (Swapped("", "LlamaMLP", "swiglu"),)
    assert again.left == (Left("act_fn", "SiLU", "it is patched already"),)
    patched.undo()
    assert type(second).__name__ == "FusedLlamaMLP"
    again.undo()
    assert type(second) is LlamaMLP


def test_a_class_that_was_exchanged_since_is_named():
    model = nn.Sequential(nn.SiLU(), nn.RMSNorm(8))
    patched = patch(model)
    model[1].__class__ = type("Sharded", (type(model[1]),), {})
    with pytest.raises(RuntimeError, match=r"patch\.undo: the class of 1 was exchanged since; undo in the opposite"):
        patched.undo()
    assert type(model[0]).__name__ == "FusedSiLU"  # nothing was put back


def hooked_as_by_accelerate(module):
    """What ``accelerate.hooks.add_hook_to_module`` does to a module; returns what undoes it."""
    module._old_forward = module.forward
    module.forward = functools.update_wrapper(
        functools.partial(lambda self, *args: self._old_forward(*args), module), module._old_forward
    )

    def remove():
        module.forward = module._old_forward
        del module._old_forward

    return remove


def test_a_forward_that_an_instance_was_given_since_is_named():
    model = nn.Sequential(nn.SiLU(), nn.RMSNorm(8))
    patched = patch(model)
    remove = hooked_as_by_accelerate(model[1])
    x = torch.randn(2, 8)
    expected = model(x)
    with pytest.raises(RuntimeError, match=r"patch\.undo: 1 was given a forward of its own since.*opposite order"):
        patched.undo()
    assert type(model[0]).__name__ == "FusedSiLU"  # nothing was put back
    remove()
    patched.undo()
    assert [type(m) for m in model] == [nn.SiLU, nn.RMSNorm]
    assert "forward" not in vars(model[1]), "it would be the fused one"
    assert torch.equal(model(x), expected)


def test_members_of_a_pair_are_themselves_elsewhere():
    norm, gelu = nn.LayerNorm(8), nn.GELU()
    model = nn.Sequential(norm, gelu)
    x = torch.randn(3, 8)
    patch(model)
    assert torch.equal(norm(x), F.layer_norm(x, (8,), norm.weight, norm.bias))
    assert torch.equal(gelu(x), F.gelu(x))
    assert torch.equal(model[:1](x), norm(x))
    model[1] = nn.ReLU()
    assert torch.equal(model(x), F.relu(norm(x)))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies_are_patched_too(how):
    model = randomised(patched_models.model())
    patch(model)
    x = torch.randn(4, 32)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(other(x), model(x))
    assert all(a is not b for a, b in zip(other.parameters(), model.parameters(), strict=True))


def test_a_state_dict_goes_both_ways():
    plain, other = randomised(patched_models.model(), 1), patched_models.model()
    patch(other)
    other.load_state_dict(plain.state_dict())
    x = torch.randn(4, 32)
    torch.testing.assert_close(other(x), plain(x))
    again = patched_models.model()
    again.load_state_dict(other.state_dict())
    assert torch.equal(again(x), plain(x))


def test_a_training_step_goes_on():
    model = randomised(patched_models.model())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    with patch(model):
        model(torch.randn(4, 32)).square().mean().backward()
        optimiser.step()
    assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_moved_and_cast():
    model = patched_models.model().double()
    patch(model)
    x = torch.randn(4, 32, dtype=torch.float64)
    found = model(x)  # which no operator takes
    assert found.dtype == torch.float64
    with torch.device("meta"):
        assert model.to("meta")(torch.empty(4, 32, dtype=torch.float64)).shape == (4, 32)


def test_on_a_cpu_it_computes_what_it_did():
    model = randomised(patched_models.model())
    x = torch.randn(4, 32)
    expected = model(x)
    with patch(model):
        assert torch.equal(model(x), expected)


def test_printed():
    model = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.SiLU(), nn.SiLU(inplace=True))
    patched = patch(model)
    assert str(patched) == "\n".join(
        ["2 modules call a fused operator, 1 were left", "  2 x silu", "  left 3 (SiLU): it works in place"]
    )
    assert isinstance(patched, Patch)
    assert "FusedSiLU()" in repr(model)
    norm = nn.RMSNorm(8)
    patch(norm)
    assert repr(norm).startswith("FusedRMSNorm((8,), eps=None")


@pytest.mark.slow
def test_compiled_on_a_cpu():
    model = randomised(patched_models.model())
    x = torch.randn(4, 32)
    expected = model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    with patch(model):
        torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(compiled(x), expected)


# On a GPU.


def _errors(found, expected, truth):
    error, allowed = ((t.double() - truth).square().mean().sqrt() for t in (found, expected))
    return float(error), float(allowed), float(truth.square().mean().sqrt())


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "autocast", "compiled", "compiled autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_on_a_gpu(dtype, mode):
    if "autocast" in mode and dtype != torch.float32:
        pytest.skip("autocast is for float32 models")
    model = randomised(patched_models.model(256)).cuda().to(dtype)
    wide = copy.deepcopy(model).double()
    x = torch.randn(64, 256, device="cuda", dtype=dtype)

    def step(module, given):
        given = given.detach().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled="autocast" in mode):
            y = module(given)
        gradients = torch.autograd.grad(y.float().square().mean(), [given, *module.parameters()])
        return [y.detach(), *gradients]

    with torch.autocast("cuda", enabled=False):
        inputs = x.double().requires_grad_()
        y = wide(inputs)
        truth = [y.detach(), *torch.autograd.grad(y.square().mean(), [inputs, *wide.parameters()])]
    expected = step(model, x)
    called = torch.compile(model, fullgraph=True) if "compiled" in mode else model
    with patch(model):
        found = step(called, x)
    for mine, theirs, true in zip(found, expected, truth, strict=True):
        assert mine.dtype == theirs.dtype
        error, allowed, size = _errors(mine, theirs, true)
        assert error <= 3 * allowed + torch.finfo(dtype).eps * size


@pytest.mark.gpu
def test_the_operators_are_called_on_a_gpu():
    """Kernels of ours run for every swapped kind, and torch's own for a layout that ours would copy."""
    model = patched_models.model(256).cuda().bfloat16()
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    with patch(model), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        model(x)
        torch.cuda.synchronize()
    names = " ".join(event.key for event in profile.key_averages())
    for kernel in ("layer_norm_gelu", "rms_norm", "silu", "swiglu", "geglu"):
        assert kernel in names, names
    image = torch.randn(2, 8, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    activation = nn.SiLU()
    with patch(activation):
        assert activation(image).stride() == image.stride()
