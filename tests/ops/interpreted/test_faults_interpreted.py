"""Bad input and unusual use of the operators: rows 1 to 8 of the fault table that are not layouts or shapes."""

import pytest
import torch
import torch.nn.functional as F
from operator_cases import OPERATORS, check, make_inputs
from torch.autograd import forward_ad
from torch.library import opcheck
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from fuselab import ops

INF, NAN = float("inf"), float("nan")
NAMES = [*OPERATORS, "softmax_dropout"]


def call(operator, inputs):
    torch.manual_seed(5)
    return call_unseeded(operator, inputs)


def call_unseeded(operator, inputs):
    if operator == "softmax_dropout":
        return ops.softmax_dropout(inputs["x"], 0.25, scale=0.5)
    return OPERATORS[operator].ours(**inputs)


def inputs_of(operator, shape=(3, 10), dtype=torch.float32):
    if operator == "softmax_dropout":
        return {"x": torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)}
    return make_inputs(operator, shape, dtype)


def first(result):
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6), (0,), (3, 0)], ids=str)
@pytest.mark.parametrize("operator", NAMES)
def test_no_elements(operator, shape):
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator, shape).items()}
    y = first(call(operator, inputs))
    assert y.shape == (shape if "packed" not in operator else (*shape[:-1], shape[-1] // 2))
    gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
    for value, gradient in zip(inputs.values(), gradients, strict=True):
        assert gradient.shape == value.shape
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64, torch.bool], ids=str)
@pytest.mark.parametrize("operator", NAMES)
def test_unsupported_dtypes(operator, dtype):
    inputs = inputs_of(operator)
    name = next(iter(inputs))
    inputs[name] = inputs[name].to(dtype)
    with pytest.raises(TypeError) as raised:
        call(operator, inputs)
    assert f"{name} is {dtype}" in str(raised.value)
    assert "supported dtypes: torch.float32, torch.float16, torch.bfloat16" in str(raised.value)
    assert str(raised.value).startswith(operator.removesuffix("_packed"))


@pytest.mark.parametrize("operator", NAMES)
def test_not_a_tensor(operator):
    inputs = inputs_of(operator)
    name = next(iter(inputs))
    with pytest.raises(TypeError, match=f"{name} is a list; expected a torch.Tensor"):
        call(operator, inputs | {name: [1.0]})


@pytest.mark.parametrize("operator", NAMES)
def test_unsupported_device(operator):
    inputs = {k: v.to("meta") for k, v in inputs_of(operator).items()}
    with pytest.raises(RuntimeError, match="is on meta; supported devices: cuda, and cpu by torch's operators"):
        call(operator, inputs)


@pytest.mark.parametrize("operator", ["layer_norm_gelu", "rms_norm", "add_rms_norm", "swiglu", "geglu"])
def test_two_devices(operator):
    inputs = inputs_of(operator)
    name = list(inputs)[-1]
    with pytest.raises(ValueError, match=rf"{name} is on meta but \w+ is on cpu; move it with {name}.to\('cpu'\)"):
        call(operator, inputs | {name: inputs[name].to("meta")})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: ops.rms_norm(x, torch.ones(9)), r"weight has shape \(9,\); expected \(10,\), the last axis of x"),
        (lambda x: ops.rms_norm(x, torch.ones(1, 10)), r"weight has shape \(1, 10\); expected \(10,\)"),
        (lambda x: ops.layer_norm_gelu(x, None, torch.ones(1)), r"bias has shape \(1,\); expected \(10,\)"),
        (lambda x: ops.rms_norm(torch.tensor(1.0), None), "x has no axes"),
        (lambda x: ops.layer_norm_gelu(torch.tensor(1.0), None, None), "x has no axes"),
        (lambda x: ops.add_rms_norm(x, x[0], None), r"residual has shape \(10,\); expected that of x, \(3, 10\)"),
        (lambda x: ops.rms_norm(x, None, casting="bert"), "casting='bert'; allowed: 'llama', 'gemma', 'none'"),
        (lambda x: ops.RMSNorm(4, casting="bert"), "RMSNorm: casting='bert'; allowed"),
        (lambda x: ops.layer_norm_gelu(x, None, None, approximate="erf"), "approximate='erf'; allowed: 'none', 'tanh'"),
        (lambda x: ops.geglu(x, x, approximate="erf"), "geglu: approximate='erf'; allowed"),
        (lambda x: ops.swiglu(x, x[:2]), r"a has shape \(3, 10\) and b \(2, 10\); they have to be equal"),
        (lambda x: ops.swiglu(x[:, :9]), r"packed input of shape \(3, 9\); its last axis has to be even"),
        (lambda x: ops.geglu(torch.tensor(1.0)), r"packed input of shape \(\)"),
        (lambda x: ops.softmax_dropout(x, -0.1), "p=-0.1; allowed: a probability from 0 to 1"),
        (lambda x: ops.softmax_dropout(x, 1.5), "p=1.5; allowed: a probability from 0 to 1"),
        (lambda x: ops.softmax_dropout(x, NAN), "p=nan; allowed: a probability from 0 to 1"),
        (lambda x: ops.SoftmaxDropout(2.0), "SoftmaxDropout: p=2.0; allowed"),
        (lambda x: ops.softmax_dropout(x, 0.1, dim=2), "dim=2 for x with 2 axes; allowed: -2 to 1"),
        (lambda x: ops.softmax_dropout(x, mask=torch.ones(4)), r"mask has shape \(4,\), which does not broadcast"),
        (lambda x: ops.softmax_dropout(x[0], mask=torch.ones(1, 10)), r"mask has shape \(1, 10\), which does not"),
        (lambda x: ops.softmax_dropout(x, mask=torch.ones(10, device="meta")), "mask is on meta but x is on cpu"),
    ],
)
def test_values_that_are_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run(torch.randn(3, 10))


def test_softmax_of_a_number():
    x = torch.tensor(3.0, requires_grad=True)
    for y in (ops.softmax_dropout(x, 0.0), ops.softmax_dropout(x, 0.0, mask=torch.tensor(True), dim=0)):
        assert torch.equal(y, torch.tensor(1.0))
        assert torch.equal(torch.autograd.grad(y, x)[0], torch.tensor(0.0))
    with pytest.raises(ValueError, match="dim=1 for x with 0 axes; allowed: -1 to 0"):
        ops.softmax_dropout(x, 0.0, dim=1)


def test_mask_of_integers():
    with pytest.raises(
        TypeError, match=r"mask is torch.int64; supported dtypes: torch.bool \(True = keep\), torch.float"
    ):
        ops.softmax_dropout(torch.randn(3, 4), mask=torch.ones(4, dtype=torch.int64))


def test_dropping_nothing_and_everything():
    x = torch.randn(4, 9, requires_grad=True)
    for y in (ops.softmax_dropout(x, 0.0), ops.softmax_dropout(x, 0.7, training=False)):
        torch.testing.assert_close(y, F.softmax(x, -1))
    y = ops.softmax_dropout(x, 1.0)
    assert torch.equal(y, torch.zeros(4, 9))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros(4, 9))
    state = torch.get_rng_state()
    ops.softmax_dropout(x, 0.5, training=False)
    assert torch.equal(torch.get_rng_state(), state), "a call that drops nothing draws nothing"


@pytest.mark.parametrize("operator", NAMES)
def test_second_derivative_is_refused_by_name(operator):
    name = operator.removesuffix("_packed")
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator).items()}
    y = first(call(operator, inputs))
    (gradient,) = torch.autograd.grad(y.square().sum(), [next(iter(inputs.values()))], create_graph=True)
    with pytest.raises(RuntimeError, match=f"fuselab.ops.{name} has no second derivative.*{name}_reference"):
        gradient.sum().backward()


TRANSFORMS = {
    "vmap": lambda function: lambda x: torch.func.vmap(function)(x[None]),
    "grad": lambda function: torch.func.grad(lambda x: function(x).sum()),
    "jvp": lambda function: lambda x: torch.func.jvp(function, (x,), (x,)),
    "jacrev": torch.func.jacrev,
}


def of_one_input(operator):
    """The operator as a function of its first input, and that input."""
    inputs = inputs_of(operator)
    name = next(iter(inputs))
    return lambda x: first(call_unseeded(operator, inputs | {name: x})), inputs[name]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("operator", NAMES)
def test_transforms_are_refused_by_name(operator, transform):
    function, x = of_one_input(operator)
    name = operator.removesuffix("_packed")
    with pytest.raises(RuntimeError, match=f"fuselab.ops.{name} knows no torch.func transforms.*{name}_reference"):
        TRANSFORMS[transform](function)(x)
    # Where x is not transformed itself, there is nothing to lose.
    torch.func.vmap(lambda other: other + function(x).sum(), randomness="same")(torch.ones(2))


@pytest.mark.parametrize("operator", NAMES)
def test_a_tangent_is_refused_and_not_lost(operator):
    function, x = of_one_input(operator)
    refused = pytest.raises(
        RuntimeError, match=f"fuselab.ops.{operator.removesuffix('_packed')} knows no .*forward-mode"
    )
    with forward_ad.dual_level():
        for leaf in (x, x.clone().requires_grad_()):
            with refused:
                function(forward_ad.make_dual(leaf, torch.ones_like(leaf)))
        y = function(leaf)  # which has none
        with refused:
            torch.autograd.grad(y, leaf, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


class Wrapped(torch.Tensor):
    """Has its numbers elsewhere than at its own address, as DTensor and what collectives return do."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def unwrap(x):
            return x.inner if isinstance(x, cls) else x

        return function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))


@pytest.mark.parametrize("operator", [*OPERATORS, "softmax_dropout"])
def test_one_tensor_of_a_subclass(operator):
    """The others are plain ones; and a plain call's gradient comes in as one."""
    inputs = inputs_of(operator)
    if operator == "softmax_dropout":
        inputs |= {"p": 0.0, "mask": torch.randn(3, 10)}
    run = ops.softmax_dropout if operator == "softmax_dropout" else OPERATORS[operator].ours
    wanted = first(run(**inputs))
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(first(run(**inputs | {name: Wrapped(value)})), wanted)
    leaves = {k: v.requires_grad_() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    y = first(run(**inputs | leaves))
    dy = torch.randn(y.shape)
    plain, found = (torch.autograd.grad(y, list(leaves.values()), g, retain_graph=True) for g in (dy, Wrapped(dy)))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("operator", NAMES)
def test_first_derivative_with_create_graph(operator):
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator).items()}
    y = first(call(operator, inputs))
    leaves = list(inputs.values())
    plain = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    for a, b in zip(torch.autograd.grad(y.sum(), leaves, create_graph=True), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("operator", NAMES)
def test_retained_graph_and_repeats_agree_to_the_bit(operator):
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator, (40, 130)).items()}
    y = first(call(operator, inputs))
    leaves = list(inputs.values())
    runs = [torch.autograd.grad(y.square().sum(), leaves, retain_graph=True) for _ in range(3)]
    again = first(call(operator, inputs))
    assert torch.equal(y, again)
    runs.append(torch.autograd.grad(again.square().sum(), leaves))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("operator", NAMES)
def test_checkpointing_replays(operator):
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator).items()}
    leaves = list(inputs.values())
    y = first(call(operator, inputs))
    wanted = torch.autograd.grad(y.square().sum(), leaves)
    torch.manual_seed(5)

    def block(*values):
        return first(call_unseeded(operator, dict(zip(inputs, values, strict=True))))

    replayed = checkpoint(block, *leaves, use_reentrant=False)
    torch.rand(7)  # the generator moves on before the backward
    assert torch.equal(replayed, y)
    for a, b in zip(torch.autograd.grad(replayed.square().sum(), leaves), wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("operator", NAMES)
def test_autocast_leaves_dtypes_alone(operator):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = inputs_of(operator, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = first(call(operator, inputs))
        assert y.dtype == dtype
        assert torch.equal(y, first(call(operator, inputs)))


@pytest.mark.parametrize("operator", NAMES)
def test_without_autograd(operator):
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator).items()}
    recorded = first(call(operator, inputs))
    assert recorded.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = first(call(operator, inputs))
        assert not y.requires_grad
        assert torch.equal(y, recorded)


def test_aliased_inputs():
    x = torch.randn(3, 8, requires_grad=True)
    reference = x.detach().double().requires_grad_()
    for run, plain in (
        (lambda x: ops.swiglu(x, x), lambda x: F.silu(x) * x),
        (lambda x: ops.add_rms_norm(x, x, None)[0], lambda x: ops.rms_norm_reference(x + x, None)),
        (lambda x: ops.layer_norm_gelu(x, x[0], x[0]), lambda x: ops.layer_norm_gelu_reference(x, x[0], x[0])),
    ):
        gradient, wanted = (torch.autograd.grad(f(v).square().sum(), v)[0] for f, v in ((run, x), (plain, reference)))
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


def test_only_some_gradients():
    x, weight, bias = torch.randn(5, 8), torch.randn(8), torch.randn(8)
    for wanted in range(3):
        leaves = [v.clone().requires_grad_(i == wanted) for i, v in enumerate((x, weight, bias))]
        everything = [v.clone().requires_grad_() for v in (x, weight, bias)]
        (found,) = torch.autograd.grad(ops.layer_norm_gelu(*leaves).sum(), leaves[wanted])
        assert torch.equal(found, torch.autograd.grad(ops.layer_norm_gelu(*everything).sum(), everything[wanted])[0])
    for weight_like in (None, weight):
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(ops.rms_norm(leaf, weight_like).sum(), leaf)
        twin = x.double().requires_grad_()
        wide = None if weight_like is None else weight_like.double()
        (wanted,) = torch.autograd.grad(ops.rms_norm_reference(twin, wide).sum(), twin)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_only_one_output_of_add_rms_norm_is_used():
    x, residual, weight = (torch.randn(s, requires_grad=True) for s in ((4, 6), (4, 6), (6,)))
    leaves = [x, residual, weight]
    _, total = ops.add_rms_norm(*leaves)
    dx, dresidual, dweight = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
    assert torch.equal(dx, torch.ones(4, 6))
    assert torch.equal(dresidual, torch.ones(4, 6))
    assert dweight is None or not dweight.any()
    y, _ = ops.add_rms_norm(*leaves)
    twins = [v.detach().double().requires_grad_() for v in leaves]
    wanted = torch.autograd.grad(ops.add_rms_norm_reference(*twins)[0].square().sum(), twins)
    for a, b in zip(torch.autograd.grad(y.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)
    y, total = ops.add_rms_norm(*leaves)
    (y.sum() + total.sum()).backward()
    assert x.grad is not residual.grad
    x.grad.zero_()
    assert residual.grad.any(), "the gradients of x and residual are not one tensor"


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_residual_of_another_dtype(dtypes):
    x, residual = (torch.randn(4, 6).to(d).requires_grad_() for d in dtypes)
    y, total = ops.add_rms_norm(x, residual, torch.ones(6, dtype=dtypes[0]))
    assert total.dtype == torch.float32
    assert torch.equal(total, x + residual)
    for value, gradient in zip((x, residual), torch.autograd.grad(y.sum() + total.sum(), [x, residual]), strict=True):
        assert gradient.dtype == value.dtype


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("operator", list(OPERATORS))
def test_not_a_number_where_eager_has_it(operator, value):
    inputs = inputs_of(operator, (3, 8))
    next(iter(inputs.values()))[1, 2] = value
    ours = first(OPERATORS[operator].ours(**inputs))
    # In float64: torch's vectorised float32 GELU answers NaN to inf on a CPU, and on a GPU it does not.
    eager = first(OPERATORS[operator].eager(**{k: v.double() for k, v in inputs.items()}))
    assert torch.equal(ours.isnan(), eager.isnan())
    assert torch.equal(ours.isinf(), eager.isinf())


def test_equal_rows_and_the_largest_float16():
    constant = torch.full((2, 8), 3.0, requires_grad=True)
    y = ops.layer_norm_gelu(constant, None, None)
    assert torch.equal(y, torch.zeros(2, 8))
    assert torch.isfinite(torch.autograd.grad(y.sum(), constant)[0]).all()
    zeros = torch.zeros(2, 8, requires_grad=True)
    y = ops.rms_norm(zeros, torch.ones(8))
    assert torch.equal(y, torch.zeros(2, 8))
    assert torch.isfinite(torch.autograd.grad(y.sum(), zeros)[0]).all()
    for operator in ("layer_norm_gelu", "rms_norm", "silu"):
        check(operator, (3, 16), torch.float16, magnitude=15_000.0)


@pytest.mark.parametrize("operator", NAMES)
def test_one_operator_under_compile(operator):
    """The same numbers through the dispatcher, traced whole; a kernel in the interpreter is opaque to the compiler."""
    inputs = {k: v.requires_grad_() for k, v in inputs_of(operator).items()}
    leaves = list(inputs.values())
    seen = []

    def backend(graph, _):
        seen.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(lambda **inputs: first(call_unseeded(operator, inputs)), fullgraph=True, backend=backend)
    eager = first(call(operator, inputs))
    torch.manual_seed(5)
    y = compiled(**inputs)
    assert torch.equal(y, eager)
    assert any("fuselab" in name or operator.removesuffix("_packed") in name for name in seen), seen
    pairs = zip(
        torch.autograd.grad(y.square().sum(), leaves), torch.autograd.grad(eager.square().sum(), leaves), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def opcheck_cases():
    x, w, b = (torch.randn(s, requires_grad=True) for s in ((3, 10), (10,), (10,)))
    other = torch.randn(3, 10, requires_grad=True)
    seed, mask = torch.tensor([5]), torch.randn(3, 10) > -1
    operators = torch.ops.fuselab
    return {
        "rms_norm": (operators.rms_norm, (x, None, w, 1e-6, "llama")),
        "add_rms_norm": (operators.rms_norm, (x, other, w, 1e-6, "gemma")),
        "layer_norm_gelu": (operators.layer_norm_gelu, (x, w, b, 1e-5, "none")),
        "layer_norm_gelu without weights": (operators.layer_norm_gelu, (x, None, None, 1e-5, "tanh")),
        "softmax_dropout": (operators.softmax_dropout, (x, seed, mask, 0.1, 0.5)),
        "softmax_dropout with a learned mask": (operators.softmax_dropout, (x, seed, b, 0.1, 0.5)),
        "softmax": (operators.softmax_dropout, (x, None, None, 0.0, 1.0)),
        "silu": (operators.silu, (x,)),
        "swiglu": (operators.swiglu, (x, other)),
        "swiglu packed": (operators.swiglu, (x, None)),
        "geglu": (operators.geglu, (x, other, "none")),
        "geglu packed": (operators.geglu, (x, None, "tanh")),
    }


@pytest.mark.parametrize("name", opcheck_cases())
def test_opcheck(name):
    operator, arguments = opcheck_cases()[name]
    results = opcheck(operator.default, arguments)
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) == 4


def test_modules_are_their_functions():
    x, residual = torch.randn(3, 10), torch.randn(3, 10)
    mask = torch.randn(10) > -1
    assert torch.equal(ops.SiLU()(x), ops.silu(x))
    assert torch.equal(ops.SwiGLU()(x), ops.swiglu(x))
    assert torch.equal(ops.SwiGLU()(x, residual), ops.swiglu(x, residual))
    assert torch.equal(ops.GEGLU("tanh")(x), ops.geglu(x, approximate="tanh"))
    for casting, weight in (("llama", torch.ones(10)), ("gemma", torch.zeros(10)), ("none", torch.ones(10))):
        norm = ops.RMSNorm(10, eps=1e-3, casting=casting)
        assert torch.equal(norm.weight, weight)
        assert torch.equal(norm(x), ops.rms_norm(x, weight, 1e-3, casting))
        both = ops.AddRMSNorm(10, casting=casting)(x, residual)
        assert all(
            torch.equal(a, b) for a, b in zip(both, ops.add_rms_norm(x, residual, weight, casting=casting), strict=True)
        )
    module = ops.LayerNormGELU(10, eps=1e-3, approximate="tanh")
    assert torch.equal(module(x), ops.layer_norm_gelu(x, torch.ones(10), torch.zeros(10), 1e-3, "tanh"))
    assert sorted(dict(module.named_parameters())) == ["bias", "weight"]
    assert [n for n, _ in ops.LayerNormGELU(10, bias=False).named_parameters()] == ["weight"]
    dropout = ops.SoftmaxDropout(0.5, scale=2.0)
    torch.manual_seed(0)
    y = dropout(x, mask)
    torch.manual_seed(0)
    assert torch.equal(y, ops.softmax_dropout(x, 0.5, True, 2.0, mask))
    assert torch.equal(dropout.eval()(x), ops.softmax_dropout(x, 0.0, True, 2.0))
    assert "p=0.5, scale=2.0" in repr(dropout)
    assert "10, eps=0.001, approximate='tanh', bias=True" in repr(module)
