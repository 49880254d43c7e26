"""Every registered experiment: inputs, references, workloads, variants; and that its inputs show what is wrong."""

from __future__ import annotations

import importlib.util
import itertools
import math

import msgspec
import pytest
import torch
from torch.nn import functional

from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import PRESETS, Experiment, Inputs, VariantKind, load_registry
from fuselab.experiments import layer_norm_gelu, rms_norm
from fuselab.records import DTYPES, Direction, Workload

REGISTRY = load_registry([])
DEVICES = ("cpu", "cuda")


def small_workloads() -> list[tuple[Experiment, Workload]]:
    """Every combination of options, at shapes of two and four axes and an odd width."""
    found = []
    for experiment in REGISTRY.values():
        allowed = {name: values for name, values in experiment.options.items() if values}
        for choice in itertools.product(*allowed.values()):
            options = dict(zip(allowed, choice, strict=True))
            found += [
                (experiment, experiment.workload(shape, "f32", 1, options)) for shape in ((12, 64), (2, 3, 8, 37))
            ]
    return found


SMALL = small_workloads()
IDS = [f"{experiment.name} {workload.label}" for experiment, workload in SMALL]


def wide(inputs: Inputs) -> Inputs:
    """The same inputs in float64, as leaves."""
    return inputs.map(
        lambda t: t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t.detach()
    )


def outputs_and_gradients(function, inputs: Inputs, **witness) -> list[torch.Tensor]:
    outputs = function(*inputs.args, **inputs.kwargs, **witness)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(7)
    starts = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    gradients = torch.autograd.grad(outputs, [t for _, t in inputs.differentiable()], starts)
    return [*(o.detach() for o in outputs), *gradients]


def judged(experiment: Experiment, workload: Workload, function, inputs: Inputs) -> list[torch.Tensor]:
    """What the reference says to the inputs, given what ``function`` drew on them."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        output = function(*inputs.args, **inputs.kwargs)
    witness = experiment.witness(workload, inputs, output) if experiment.witness else {}
    return outputs_and_gradients(experiment.reference(workload), wide(inputs), **witness)


def called(function, inputs: Inputs) -> list[torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return outputs_and_gradients(function, inputs)


# The reference


@pytest.mark.parametrize(("experiment", "workload"), SMALL, ids=IDS)
def test_eager_in_float64_is_the_reference(experiment, workload):
    inputs = wide(experiment.make_inputs(workload, "cpu"))
    function = experiment.variant("eager").build(workload)
    for got, expected in zip(called(function, inputs), judged(experiment, workload, function, inputs), strict=True):
        assert got.dtype == expected.dtype == torch.float64
        assert float(expected.abs().max()) > 0
        assert float((got - expected).abs().max()) <= 1e-12 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("variant", ["manual", "module", "compile-manual"])
def test_every_spelling_of_silu_is_the_reference(variant):
    experiment = REGISTRY["silu"]
    workload = experiment.workload((64, 64), "f64")
    inputs = experiment.make_inputs(workload, "cpu")
    function = experiment.variant(variant).build(workload)
    for got, expected in zip(called(function, inputs), judged(experiment, workload, function, inputs), strict=True):
        assert float((got - expected).abs().max()) < 1e-14


@pytest.mark.parametrize(("x", "y"), [(-800.0, 0.0), (0.0, 0.0), (800.0, 800.0), (-20.0, -20 / (1 + math.exp(20)))])
def test_the_reference_of_silu_is_exact_at_both_ends(x, y):
    reference = REGISTRY["silu"].reference(Workload(shape=(1,)))
    leaf = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    output = reference(leaf)
    assert output.item() == pytest.approx(y, rel=1e-15, abs=1e-300)
    (gradient,) = torch.autograd.grad(output, leaf)
    assert bool(gradient.isfinite())


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_everything(p, expected):
    experiment = REGISTRY["softmax_dropout"]
    workload = experiment.workload((64, 256), "f32", 0, {"p": p})
    inputs = experiment.make_inputs(workload, "cpu")
    function = experiment.variant("eager").build(workload)
    output = function(*inputs.args)
    witness = experiment.witness(workload, inputs, output)
    assert experiment.check_witness(workload, witness) == ""
    reference = experiment.reference(workload)(*wide(inputs).args, **witness)
    assert float((output - reference).detach().abs().max()) < 1e-7
    assert float(reference.detach().sum(-1).mean()) == pytest.approx(expected)


# Inputs


@pytest.mark.parametrize(("experiment", "workload"), SMALL, ids=IDS)
def test_inputs_come_from_the_seed_alone(experiment, workload):
    torch.manual_seed(1)
    first = experiment.make_inputs(workload, "cpu")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = experiment.make_inputs(workload, "cpu")
    other = experiment.make_inputs(msgspec.structs.replace(workload, seed=workload.seed + 1), "cpu")
    assert len(first.names) == len(first.args)
    for (name, a), (_, b), (_, c) in zip(first.tensors(), again.tensors(), other.tensors(), strict=True):
        assert torch.equal(a, b), name
        if name != "mask":
            assert not torch.equal(a, c), name
            assert a.requires_grad
            assert a.is_leaf
            assert a.dtype == torch.float32
    torch.manual_seed(1)
    experiment.make_inputs(workload, "cpu")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64"])
@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_inputs_have_the_dtype_and_the_shape(experiment, dtype):
    inputs = experiment.make_inputs(experiment.workload((8, 32), dtype), "cpu")
    assert inputs.args[0].shape == (8, 32)
    assert all(t.dtype == getattr(torch, DTYPES[dtype]) for _, t in inputs.tensors() if t.is_floating_point())


@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_integers_are_no_dtype_of_an_experiment(experiment):
    with pytest.raises(UsageError, match="floating inputs, not i64"):
        experiment.make_inputs(experiment.workload((8, 32), "i64"), "cpu")


@pytest.mark.parametrize(("layout", "strides"), [("contiguous", (32, 1)), ("transposed", (1, 8)), ("sliced", (40, 1))])
@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_layouts_change_the_strides_and_not_the_values(experiment, layout, strides):
    plain = experiment.workload((8, 32), "f32")
    workload = msgspec.structs.replace(plain, layout=layout)
    inputs, expected = experiment.make_inputs(workload, "cpu"), experiment.make_inputs(plain, "cpu")
    assert inputs.args[0].stride() == strides
    assert inputs.args[0].is_leaf
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(inputs.tensors(), expected.tensors(), strict=True))
    called(experiment.variant("eager").build(workload), inputs)


@pytest.mark.parametrize(
    ("shape", "layout", "error", "says"),
    [
        ((8, 32), "slised", UnknownNameError, "did you mean 'sliced'"),
        ((32,), "transposed", UsageError, "at least two axes"),
    ],
)
def test_layouts_that_cannot_be(shape, layout, error, says):
    with pytest.raises(error, match=says):
        REGISTRY["silu"].make_inputs(Workload(shape=shape, layout=layout), "cpu")


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), "much", True])
def test_p_has_to_be_a_probability(p):
    experiment = REGISTRY["softmax_dropout"]
    workload = Workload(shape=(8, 32), dtype="f32", options={"p": p, "scale": "none", "mask": "none"})
    for function in (experiment.reference, experiment.variant("eager").build):
        with pytest.raises(UsageError, match="is no probability"):
            function(workload)
    with pytest.raises(UsageError, match="is no probability"):
        experiment.make_inputs(workload, "cpu")


@pytest.mark.parametrize("p", [float("nan"), float("inf")])
def test_an_option_that_json_has_no_word_for_is_refused_before_a_run_keeps_it(p):
    with pytest.raises(UsageError, match=f"softmax_dropout has no p={p}"):
        REGISTRY["softmax_dropout"].workload((8, 32), "f32", 0, {"p": p})


def test_masks_leave_something_of_every_row():
    experiment = REGISTRY["softmax_dropout"]
    causal = experiment.make_inputs(experiment.workload((2, 3, 5, 7), "f32", 0, {"mask": "causal"}), "cpu").args[1]
    assert causal.dtype == torch.bool
    assert causal.int().sum(-1).tolist() == [1, 2, 3, 4, 5]
    padding = experiment.make_inputs(experiment.workload((6, 3, 5, 64), "bf16", 0, {"mask": "padding"}), "cpu").args[1]
    assert padding.shape == (6, 1, 1, 64)
    assert (padding == 0).sum(-1).flatten().tolist() == [56, 48, 40, 32, 56, 48]
    assert bool(padding[padding != 0].isneginf().all())


# That the inputs show what is wrong


def no_eps_rms(x, weight):
    return functional.rms_norm(x, (x.shape[-1],), weight, 0.0)


def layer_for_rms(x, weight):
    return functional.layer_norm(x, (x.shape[-1],), weight, None, rms_norm.EPS)


def no_weight(x, weight):
    return functional.rms_norm(x, (x.shape[-1],), None, rms_norm.EPS)


def short_rms(x, weight):
    """One element too few in the mean."""
    return x * torch.rsqrt(x[:, :-1].float().pow(2).mean(-1, keepdim=True) + rms_norm.EPS).to(x.dtype) * weight


def no_eps_layer(x, weight, bias):
    return functional.gelu(functional.layer_norm(x, (x.shape[-1],), weight, bias, 0.0))


def no_bias(x, weight, bias):
    return functional.gelu(functional.layer_norm(x, (x.shape[-1],), weight, None, layer_norm_gelu.EPS))


def relu_for_gelu(x, weight, bias):
    return functional.relu(functional.layer_norm(x, (x.shape[-1],), weight, bias, layer_norm_gelu.EPS))


def tanh_for_erf(x, weight, bias):
    return functional.gelu(
        functional.layer_norm(x, (x.shape[-1],), weight, bias, layer_norm_gelu.EPS), approximate="tanh"
    )


@pytest.mark.parametrize(
    ("name", "wrong", "dtypes"),
    [
        ("rms_norm", no_eps_rms, ("f32", "bf16", "f16")),
        ("rms_norm", layer_for_rms, ("f32", "bf16", "f16")),
        ("rms_norm", no_weight, ("f32", "bf16", "f16")),
        ("rms_norm", short_rms, ("f32",)),
        ("layer_norm_gelu", no_eps_layer, ("f32", "bf16", "f16")),
        ("layer_norm_gelu", no_bias, ("f32", "bf16", "f16")),
        ("layer_norm_gelu", relu_for_gelu, ("f32", "bf16", "f16")),
        ("layer_norm_gelu", tanh_for_erf, ("f32",)),
    ],
)
def test_inputs_show_a_wrong_implementation(name, wrong, dtypes):
    """The bound of a check is a small multiple of eager's own error, so a fault has to stand out of that."""
    experiment = REGISTRY[name]
    for dtype in dtypes:
        workload = experiment.workload((64, 1024), dtype)
        inputs = experiment.make_inputs(workload, "cpu")
        truth = experiment.reference(workload)(*wide(inputs).args)
        right = (experiment.variant("eager").build(workload)(*inputs.args) - truth).detach().norm()
        error = (wrong(*inputs.args) - truth).detach().norm()
        assert float(error) > 4 * float(right) > 0, dtype


# Workloads, variants


@pytest.mark.parametrize("device_type", DEVICES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_presets_hold_workloads_that_the_experiment_can_have(experiment, preset, device_type):
    workloads = experiment.workloads(preset, device_type)
    assert len({w.key for w in workloads}) == len(workloads) > 0
    for workload in workloads:
        made = experiment.workload(workload.shape, workload.dtype, workload.seed, workload.options)
        assert msgspec.structs.replace(made, layout=workload.layout) == workload
        for direction in Direction:
            traffic = experiment.traffic(workload, direction)
            assert 0 < traffic.bytes_moved < 32e9
        reasons = {v.name: v.unavailable(workload, device_type) for v in experiment.variants}
        assert reasons["eager"] is None
        assert reasons["compile"] is None
        assert reasons["triton"] is None
        assert (reasons["compile-max-autotune"] is None) == (device_type == "cuda")


@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_presets_grow(experiment):
    for device_type in ("cpu", "cuda"):
        smoke, quick, full = (experiment.workloads(preset, device_type) for preset in PRESETS)
        assert len(smoke) <= len(quick) == 2 < len(full)  # a quick run is minutes: mostly compiling and tuning
        assert max(math.prod(w.shape) for w in smoke) < min(math.prod(w.shape) for w in quick)
    assert [w.label.split()[:2] for w in experiment.workloads("smoke", "cpu")] == [["64x256", "f32"]]
    assert {w.dtype for w in experiment.workloads("quick", "cpu")} == {"f32", "bf16"}


@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_every_experiment_has_the_usual_variants(experiment):
    kinds = {v.name: v.kind for v in experiment.variants}
    assert len(kinds) == len(experiment.variants)
    assert kinds["eager"] is VariantKind.EAGER
    assert kinds["compile"] is kinds["compile-max-autotune"] is VariantKind.COMPILED
    assert kinds["triton"] is VariantKind.TRITON
    assert kinds["liger"] is kinds["quack"] is VariantKind.PEER
    for variant in experiment.variants:
        assert (variant.compile_options is not None) == (variant.kind is VariantKind.COMPILED)
    tuned = experiment.variant("compile-max-autotune").compile_options
    assert tuned.mode == "max-autotune-no-cudagraphs"
    assert tuned.options == {"coordinate_descent_tuning": True}
    assert all(name in torch._inductor.list_options() for name in tuned.options)


PEERS = [
    ("rms_norm", "liger", {"casting": "llama"}, "bf16", None),
    ("rms_norm", "liger", {"casting": "gemma", "form": "add"}, "bf16", None),
    ("rms_norm", "liger", {"casting": "none"}, "f32", None),
    ("rms_norm", "liger", {"casting": "none"}, "bf16", "computes in the input's dtype"),
    ("rms_norm", "quack", {"casting": "none"}, "bf16", None),
    ("rms_norm", "quack", {"casting": "llama"}, "bf16", "no Llama casting order"),
    ("rms_norm", "quack", {"casting": "none"}, "f64", "takes bf16, f16, f32, not f64"),
    ("silu", "liger", {"form": "swiglu"}, "bf16", "backward leaves its inputs as they were"),
    ("silu", "liger", {"form": "silu"}, "bf16", "no SiLU by itself"),
    ("silu", "quack", {"form": "swiglu"}, "bf16", "outside of a matrix multiplication"),
    ("layer_norm_gelu", "liger", {}, "bf16", "no LayerNorm fused with GELU"),
    ("layer_norm_gelu", "quack", {}, "bf16", "no LayerNorm fused with GELU"),
    ("softmax_dropout", "liger", {}, "bf16", "no softmax fused with dropout"),
    ("softmax_dropout", "quack", {}, "bf16", "no softmax fused with dropout"),
]


@pytest.mark.parametrize(("name", "peer", "options", "dtype", "lacks"), PEERS)
def test_a_peer_says_what_it_lacks(monkeypatch, name, peer, options, dtype, lacks):
    experiment = REGISTRY[name]
    workload = experiment.workload((64, 256), dtype, 0, options)
    unavailable = experiment.variant(peer).unavailable
    if lacks is not None:
        assert lacks in unavailable(workload, "cuda")
        assert lacks in unavailable(workload, "cpu")
        return
    package = {"liger": "liger-kernel", "quack": "quack-kernels"}[peer]
    assert "need a GPU" in unavailable(workload, "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert unavailable(workload, "cuda").endswith(f"is not installed: pip install {package}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert unavailable(workload, "cuda") is None


def test_a_peer_without_the_kernel_refuses_to_build():
    variant = REGISTRY["layer_norm_gelu"].variant("liger")
    with pytest.raises(Exception, match="no LayerNorm fused with GELU"):
        variant.build(Workload(shape=(4, 8)))


@pytest.mark.parametrize("variant", ["manual", "module", "compile-manual"])
def test_spellings_of_silu_are_not_of_swiglu(variant):
    experiment = REGISTRY["silu"]
    unavailable = experiment.variant(variant).unavailable
    assert unavailable(experiment.workload((4, 8), "f32"), "cpu") is None
    assert "SwiGLU" in unavailable(experiment.workload((4, 8), "f32", 0, {"form": "swiglu"}), "cpu")


@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_triton_says_when_it_cannot(monkeypatch, experiment):
    unavailable = experiment.variant("triton").unavailable
    assert "not f64" in unavailable(experiment.workload((4, 8), "f64"), "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in unavailable(experiment.workload((4, 8), "f32"), "cpu")
