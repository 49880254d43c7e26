"""The operators under test: inputs, reference, eager counterpart, and the gate that a result has to pass.

A result passes when its root-mean-square and its maximum error against float64 are at most twice eager's own (bfloat16:
three times) plus one rounding of its dtype, and NaN and Inf are where eager has them.

Where the terms of a gradient cancel, its own size says nothing of what rounding does to it: with rows of one element
the gradient of x is exactly zero, and a fused multiply-add leaves the rounding error of the product that it subtracts
from. So one float32 rounding of the terms, element by element, is not counted as an error there: ``Operator.terms``.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuselab import ops
from fuselab.ops.layer_norm_gelu_launch import can_be_packed
from fuselab.ops.replay import Replays
from fuselab.ops.rms_norm_few_rows import is_few_rows

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KNOWS_FEW_ROWS = ("rms_norm", "add_rms_norm")
FACTOR = {torch.float32: 2.0, torch.float16: 2.0, torch.bfloat16: 3.0}


def _eager_layer_norm_gelu(x, weight, bias, eps=1e-5, approximate="none"):
    # F.layer_norm takes one dtype for everything on a GPU.
    if weight is not None and weight.dtype != x.dtype:
        y = F.layer_norm(x.float(), x.shape[-1:], weight.float(), None if bias is None else bias.float(), eps).to(
            x.dtype
        )
    else:
        y = F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return F.gelu(y, approximate=approximate)


def _eager_rms_norm(x, weight, eps=1e-6, casting="llama"):
    # As the models write it.
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    if casting == "llama":
        return weight * h.to(x.dtype)
    scale = 1.0 + weight.float() if casting == "gemma" else weight.float()
    return (h * scale).to(x.dtype)


def _eager_softmax_dropout(x, keep, p, scale=None, mask=None, dim=-1):
    scores = x if scale is None else x * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else (scores + mask).to(x.dtype)
    y = F.softmax(scores, dim=dim)
    return y if keep is None else y * (keep * (1 / (1 - p))).to(y.dtype)


def _eager_silu(x):
    return F.silu(x)  # whose own argument is called input


def _halves(a, b):
    return a.chunk(2, -1) if b is None else (a, b)


def _eager_swiglu(a, b=None):
    a, b = _halves(a, b)
    return F.silu(a) * b


def _eager_geglu(a, b=None, approximate="none"):
    a, b = _halves(a, b)
    return F.gelu(a, approximate=approximate) * b


@dataclass(frozen=True)
class Operator:
    """Functions of keyword arguments, tensors and options alike."""

    ours: Callable[..., Any]
    reference: Callable[..., Any]
    eager: Callable[..., Any]
    inputs: Callable[..., dict[str, Tensor | None]]
    terms: Callable[..., dict[str, Tensor]] | None = None
    """By input, the sum of the magnitudes of the terms that its gradient is made of: a function of the inputs, the
    options and the incoming gradient."""


def _layer_norm_gelu_terms(dy, x, weight, bias, eps=1e-5, approximate="none"):
    # The gradient of x is rstd * (d - mean(d) - x_hat * mean(x_hat * d)), with d = dy * gelu' * weight.
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    x_hat = (centred * rstd).abs()
    z = (centred * rstd * weight + bias).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.gelu(z, approximate=approximate).sum(), z)
    d = (dy * slope * weight).abs()
    return {"x": rstd * (d + d.mean(-1, keepdim=True) + x_hat * (x_hat * d).mean(-1, keepdim=True))}


def _rms_norm_terms(dy, x, weight, eps=1e-6, casting="llama", residual=None):
    # The gradient of x is rstd * (d - x_hat * mean(x_hat * d)), with d = dy * weight.
    total = x if residual is None else x + residual
    rstd = torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
    x_hat, d = (total * rstd).abs(), (dy * (1 + weight if casting == "gemma" else weight)).abs()
    terms = rstd * (d + x_hat * (x_hat * d).mean(-1, keepdim=True))
    return {"x": terms, "residual": terms}


def softmax_dropout_terms(dy, x, keep, p, scale=None, mask=None, dim=-1):
    # The gradient of the scores is y * (d - sum(y * d)), with d = dy * keep / (1 - p).
    y = _eager_softmax_dropout(x, None, 0.0, scale, mask, dim)
    d = (dy * keep / (1 - p)).abs()
    scores = (y * (d + (y * d).sum(dim, keepdim=True))).nan_to_num(0.0, 0.0)
    learned = mask is not None and mask.is_floating_point()
    return {"x": scores * abs(1.0 if scale is None else scale)} | (
        {"mask": scores.sum_to_size(mask.shape)} if learned else {}
    )


def _x_weight_bias(x, vector, **_):
    return {"x": x, "weight": vector(), "bias": vector()}


OPERATORS = {
    "layer_norm_gelu": Operator(
        ops.layer_norm_gelu,
        ops.layer_norm_gelu_reference,
        _eager_layer_norm_gelu,
        _x_weight_bias,
        _layer_norm_gelu_terms,
    ),
    "rms_norm": Operator(
        ops.rms_norm,
        ops.rms_norm_reference,
        _eager_rms_norm,
        lambda x, vector, **_: {"x": x, "weight": vector()},
        _rms_norm_terms,
    ),
    "add_rms_norm": Operator(
        ops.add_rms_norm,
        ops.add_rms_norm_reference,
        lambda x, residual, weight, **options: (_eager_rms_norm(x + residual, weight, **options), x + residual),
        lambda x, vector, again: {"x": x, "residual": again(), "weight": vector()},
        _rms_norm_terms,
    ),
    "silu": Operator(ops.silu, ops.silu_reference, _eager_silu, lambda x, **_: {"x": x}),
    "swiglu": Operator(ops.swiglu, ops.swiglu_reference, _eager_swiglu, lambda x, again, **_: {"a": x, "b": again()}),
    "swiglu_packed": Operator(ops.swiglu, ops.swiglu_reference, _eager_swiglu, lambda x, **_: {"a": x}),
    "geglu": Operator(ops.geglu, ops.geglu_reference, _eager_geglu, lambda x, again, **_: {"a": x, "b": again()}),
    "geglu_packed": Operator(ops.geglu, ops.geglu_reference, _eager_geglu, lambda x, **_: {"a": x}),
}


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Every new tensor starts as NaN, so that an element nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


@contextlib.contextmanager
def replaced(**values: Any) -> Iterator[None]:
    """These names have other values in every module of ``fuselab.ops`` that has them, and no call is replayed."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("fuselab.ops.")]
    before = [(module, name, vars(module)[name]) for module in modules for name in values if name in vars(module)]
    assert {name for _, name, _ in before} == set(values), f"fuselab.ops has not all of {', '.join(values)}"

    def forget() -> None:
        for value in itertools.chain(*(vars(module).values() for module in modules)):
            if isinstance(value, Replays):
                value.clear()

    forget()
    for module, name, _ in before:
        setattr(module, name, values[name])
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        forget()


PACKED = {
    "packed": {"_NOT_PACKED": 0},
    "packed, more a thread": {"_NOT_PACKED": 0, "_LITTLE_PACKED": 0},
}
"""What ``layer_norm_gelu`` does with more rows than a test has, for ``replaced``."""


def ways_of_more_rows(operator: str, x: Tensor) -> dict[str, dict[str, Any]]:
    """The other ways on which an operator goes where it has more rows of this kind, by name, for ``replaced``."""
    width = x.shape[-1]
    if operator == "layer_norm_gelu" and can_be_packed(x, width):
        return PACKED
    if operator in KNOWS_FEW_ROWS and is_few_rows(x.numel() // max(width, 1), width):
        return {"as many rows": {"is_few_rows": lambda M, N: False}}
    return {}


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another layout of memory."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "offset":  # not on a 16-byte boundary
        return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)
    if layout == "rows":  # rows apart from one another
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 3), float("nan"))
        wide[..., 1:-2] = x
        return wide[..., 1:-2]
    if layout == "columns":  # every other column of a tensor
        return torch.stack([x, torch.full_like(x, float("nan"))], -1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    raise AssertionError(layout)


def gate(name: str, ours: Tensor, reference: Tensor, eager: Tensor, terms: Tensor | None = None) -> None:
    """Raise AssertionError unless ``ours`` is as near the float64 reference as eager is, up to the factor.

    ``terms`` is, for each element, the sum of the magnitudes of what it is made of, where that cancels.
    """
    assert ours.shape == reference.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(reference.shape)}"
    ours64, eager64 = ours.detach().double(), eager.detach().double()
    reference = reference.detach().double()
    for what, test in (("NaN", torch.isnan), ("Inf", torch.isinf)):
        assert torch.equal(test(ours64), test(eager64)), f"{name}: {what} elsewhere than in eager"
    finite = torch.isfinite(eager64) & torch.isfinite(reference)
    if not finite.any():
        return
    wanted = reference[finite]
    error, allowed = (ours64[finite] - wanted).abs(), (eager64[finite] - wanted).abs()
    if terms is not None:
        error = (error - torch.finfo(torch.float32).eps * terms.detach()[finite]).clamp(min=0)
    factor, rounding = FACTOR[ours.dtype], torch.finfo(ours.dtype).eps
    for what, measure in (("rms", lambda t: t.square().mean().sqrt()), ("max", lambda t: t.abs().max())):
        found, bound = float(measure(error)), factor * float(measure(allowed)) + rounding * float(measure(wanted))
        assert found <= bound, (
            f"{name}: {what} error {found:.3g}, allowed {bound:.3g} (eager {float(measure(allowed)):.3g})"
        )


def make_inputs(operator: str, shape, dtype, other=None, device="cpu", seed=0, magnitude=1.0, mean=0.0):
    """Inputs of an operator by name; ``other`` is the dtype of everything but the first, ``mean`` the first's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

    other = dtype if other is None else other
    x = (normal(shape, torch.float64) * magnitude + mean).to(dtype)
    return OPERATORS[operator].inputs(
        x=x,
        vector=lambda: (1 + normal(shape[-1:], torch.float64) / 2).to(other),
        again=lambda: normal(shape, other),
    )


def _outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


def evaluate(function, inputs, options, grads=None):
    """Outputs and gradients of all inputs; ``grads`` makes the incoming gradients from the outputs."""
    leaves = {
        k: v if v is None or not v.is_floating_point() else v.detach().requires_grad_() for k, v in inputs.items()
    }
    outputs = _outputs(function(**leaves, **options))
    if grads is None:
        return outputs, {}
    wanted = {k: v for k, v in leaves.items() if v is not None and v.requires_grad}
    gradients = torch.autograd.grad(outputs, list(wanted.values()), grads(outputs))
    return outputs, dict(zip(wanted, gradients, strict=True))


def compare(name, inputs, options, ours, reference, eager, grad_layout="contiguous", seed=1, terms=None):
    """Outputs and gradients of ``ours`` through the gate; ``terms`` as an ``Operator`` has it."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []

    def grads(outputs):
        if not drawn:
            for y in outputs:
                g = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype).to(y.device)
                if grad_layout == "expanded":
                    g = g.reshape(-1)[:1].reshape([1] * y.dim()).expand(y.shape) if y.numel() else g
                else:
                    g = lay_out(g, grad_layout)
                drawn.append(g)
        return [g.to(y.dtype) if g.dtype != y.dtype else g for g, y in zip(drawn, outputs, strict=True)]

    before = {k: None if v is None else v.clone() for k, v in inputs.items()}
    with poisoned():
        outputs, gradients = evaluate(ours, inputs, options, grads)
    for key, value in inputs.items():
        assert value is None or torch.equal(value, before[key]), f"{name}: input {key} was written to"
    doubled = {k: v.double() if v is not None and v.is_floating_point() else v for k, v in inputs.items()}
    outputs64, gradients64 = evaluate(reference, doubled, options, grads)
    eager_outputs, eager_gradients = evaluate(eager, inputs, options, grads)
    cancelling = {} if terms is None else terms(drawn[0].double(), **doubled, **options)
    for index, (y, y64, y_eager) in enumerate(zip(outputs, outputs64, eager_outputs, strict=True)):
        assert y.dtype == y_eager.dtype, f"{name}: output {index} is {y.dtype}, eager's {y_eager.dtype}"
        gate(f"{name} output {index}", y, y64, y_eager)
    for key, gradient in gradients.items():
        assert gradient.dtype == inputs[key].dtype
        gate(f"{name} gradient of {key}", gradient, gradients64[key], eager_gradients[key], cancelling.get(key))


def check(
    operator, shape, dtype, options=None, *, other=None, layout="contiguous", grad_layout="contiguous", device="cpu",
    magnitude=1.0, mean=0.0, seed=0,
):  # fmt: skip
    """One case: outputs and every gradient against float64 and eager."""
    op = OPERATORS[operator]
    inputs = {
        k: None if v is None else lay_out(v, layout) if v.dim() == len(shape) and v.dim() > 1 else v
        for k, v in make_inputs(operator, shape, dtype, other, device, seed, magnitude, mean).items()
    }
    name = f"{operator} {'x'.join(map(str, shape))} {dtype} {options or ''} {layout} {grad_layout}"
    compare(name, inputs, options or {}, op.ours, op.reference, op.eager, grad_layout, terms=op.terms)
    for way, values in ways_of_more_rows(operator, next(iter(inputs.values()))).items():
        with replaced(**values):
            compare(
                f"{name} {way}", inputs, options or {}, op.ours, op.reference, op.eager, grad_layout, terms=op.terms
            )


def check_softmax_dropout(
    shape, dtype, p=0.3, *, scale=None, mask=None, dim=-1, layout="contiguous", grad_layout="contiguous", device="cpu",
    seed=0, magnitude=1.0,
):  # fmt: skip
    """One case of softmax_dropout, given the elements that it kept (which equal scores after the same seed show)."""
    generator = torch.Generator().manual_seed(seed)
    x = (magnitude * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).to(device)
    x = lay_out(x, layout) if len(shape) > 1 else x
    torch.manual_seed(seed)
    keep = ops.softmax_dropout(torch.zeros(shape, device=device), p, True, dim=dim) != 0

    def ours(x, mask):
        torch.manual_seed(seed)
        return ops.softmax_dropout(x, p, True, scale=scale, mask=mask, dim=dim)

    def reference(x, mask):
        return ops.softmax_dropout_reference(x, p, keep, scale=scale, mask=mask, dim=dim)

    def eager(x, mask):
        return _eager_softmax_dropout(x, keep, p, scale, mask, dim)

    def terms(dy, x, mask):
        return softmax_dropout_terms(dy, x, keep, p, scale, mask, dim)

    name = f"softmax_dropout {'x'.join(map(str, shape))} {dtype} p={p} scale={scale} dim={dim} {layout} {grad_layout}"
    compare(name, {"x": x, "mask": mask}, {}, ours, reference, eager, grad_layout, terms=terms)
