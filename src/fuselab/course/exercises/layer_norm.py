"""LayerNorm (Ba, Kiros and Hinton, 2016), with a GELU after it, and the backward of both together."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.elementwise import gelu, gelu_gradient, tanh_gelu
from fuselab.course.exercises.exercise import OPTIMIZATION, Case, Exercise, Maker, next_power_of_2, rows

__all__ = ["EXERCISES"]

PROGRAMS = 3
"""Of the starter file of ``layer_norm_gelu_backward``."""


def _inputs(case: Case, make: Maker) -> dict[str, Any]:
    n = case.shape[-1]
    scale = case.options.get("scale", 1.0)
    x = make(*case.shape, scale=scale, shift=0.8 * scale, layout=case.layout)
    return {"x": x, "weight": make(n, scale=0.3, shift=1.2), "bias": make(n, shift=0.2), "eps": case.options["eps"]}


def _normalised(g: Any, mistake: str) -> tuple[Any, Any]:
    """The normalised rows and the factor of each."""
    x, eps = g.x, g.eps
    n = x.shape[1]
    block = next_power_of_2(n)
    mean = x.mean(1, keepdim=True)
    if mistake == "block_for_width":
        mean = mean * n / block
    if mistake == "assumed_contiguous":
        x = g.packed("x")
        mean = x.mean(1, keepdim=True)
    centred = x if mistake == "not_centred" else x - mean
    variance = centred.square().mean(1, keepdim=True)
    match mistake:
        case "not_centred":
            variance = (x - mean).square().mean(1, keepdim=True)
        case "sample_variance":
            variance = variance * n / (n - 1)
        case "padding_in_variance":
            variance = variance + (block - n) * mean.square() / n
        case "block_for_width":
            variance = (centred.square().sum(1, keepdim=True)) / block
        case "sum_for_mean":
            variance = variance * n
        case "load_without_mask":
            wide = g.beyond("x", block)
            mean = wide.sum(1, keepdim=True) / n
            centred = x - mean
            variance = (wide - mean).square().sum(1, keepdim=True) / n
    rstd = 1 / (variance + eps).sqrt()
    match mistake:
        case "eps_forgotten":
            rstd = 1 / variance.sqrt()
        case "eps_outside_root":
            rstd = 1 / (variance.sqrt() + eps)
        case "root_missing":
            rstd = 1 / (variance + eps)
    return centred * rstd, rstd


def _affine(g: Any, x_hat: Any, mistake: str) -> Any:
    weight = 1 if mistake == "weight_ignored" else 1 + g.weight if mistake == "weight_plus_one" else g.weight
    return x_hat * weight + (0 if mistake == "bias_ignored" else g.bias)


def _layer_norm_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    return (_affine(g, _normalised(g, mistake)[0], mistake),)


def _layer_norm_gelu_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    x_hat, _ = _normalised(g, mistake)
    match mistake:
        case "bias_after":
            return (gelu(x_hat * g.weight) + g.bias,)
        case "erf_argument":
            z = _affine(g, x_hat, "")
            return (0.5 * z * (1 + z.erf()),)
        case "half_missing":
            return (2 * gelu(_affine(g, x_hat, "")),)
        case "activation_ignored":
            return (_affine(g, x_hat, ""),)
        case "tanh_for_erf":
            return (tanh_gelu(_affine(g, x_hat, "")),)
    return (gelu(_affine(g, x_hat, mistake)),)


def _backward_inputs(case: Case, make: Maker) -> dict[str, Any]:
    return {"dy": make(*case.shape, shift=0.4), **_inputs(case, make)}


def _layer_norm_gelu_backward(g: Any, mistake: str) -> tuple[Any, ...]:
    x_hat, rstd = _normalised(g, mistake)
    z = _affine(g, x_hat, "")
    slope = gelu_gradient(z)
    if mistake == "activation_term_missing":
        slope = gelu(z) / z
    dz = g.dy if mistake == "activation_ignored" else g.dy * slope
    d = dz if mistake == "weight_ignored" else dz * g.weight
    mean = d.mean(1, keepdim=True)
    projection = (d * x_hat).mean(1, keepdim=True)
    match mistake:
        case "mean_term_missing":
            mean = 0
        case "projection_missing":
            projection = 0
        case "projection_not_averaged":
            n = d.shape[1]
            mean, projection = mean * n, projection * n
    dx = d - mean - x_hat * projection
    if mistake != "not_scaled_by_rstd":
        dx = dx * rstd
    summands = dz if mistake == "product_missing" else dz * x_hat
    m = dz.shape[0]
    picked = list(range(m))
    match mistake:
        case "last_row_only":
            picked = [max(range(p, m, PROGRAMS)) for p in range(min(PROGRAMS, m))]
        case "one_program_only":
            picked = list(range(0, m, PROGRAMS))
    return dx, summands[picked].sum(0), dz[picked].sum(0)


_NORM = (
    *("padding_in_variance", "sample_variance", "eps_forgotten", "eps_outside_root", "block_for_width", "sum_for_mean"),
    *("load_without_mask", "not_centred", "root_missing", "assumed_contiguous"),
)
_AFFINE = ("weight_ignored", "bias_ignored", "weight_plus_one")
_CASES = (
    rows(n=100, eps=1e-5),
    rows(m=4, n=70, layout="sliced", eps=1e-5),
    rows(m=2, n=50, scale=0.01, eps=1e-3),
    rows("bf16", n=100, eps=1e-5),
)

EXERCISES = (
    Exercise(
        name="layer_norm_forward",
        title="LayerNorm",
        notebook=OPTIMIZATION,
        level=2,
        call="layer_norm_forward(x, weight, bias, eps) -> y",
        task="(x - mean) / sqrt(variance + eps) * weight + bias, one row a program, in float32 inside.",
        hints=(
            (
                "Two reductions over a block that is already loaded: the mean, then the mean of the squared "
                "distances from it."
            ),
            "After the mean is subtracted the padding is not zero any more. The second sum must not see it.",
            "centred = tl.where(mask, x - mean, 0.0); variance = tl.sum(centred * centred, axis=0) / N.",
        ),
        outputs=("y",),
        inputs=_inputs,
        model=_layer_norm_forward,
        mistakes=(*_NORM, *_AFFINE),
        cases=_CASES,
        kernel="layer_norm_forward_kernel",
    ),
    Exercise(
        name="layer_norm_gelu_forward",
        title="LayerNorm and GELU in one kernel",
        notebook=OPTIMIZATION,
        level=3,
        call="layer_norm_gelu_forward(x, weight, bias, eps) -> y",
        task="The exact GELU of a LayerNorm, with one load of x and one store of y.",
        hints=(
            "What layer_norm_forward stores is what the GELU is of: it never has to leave the program.",
            "0.5 z (1 + erf(z / sqrt 2)) for z = x_hat * weight + bias.",
            "z in float32 all the way; y = 0.5 * z * (1 + tl.erf(z * 0.7071067811865476)); cast at the store.",
        ),
        outputs=("y",),
        inputs=_inputs,
        model=_layer_norm_gelu_forward,
        mistakes=(
            *("tanh_for_erf", "activation_ignored", "erf_argument", "half_missing", "bias_after"),
            *(*_NORM, *_AFFINE),
        ),
        cases=_CASES,
        kernel="layer_norm_gelu_forward_kernel",
    ),
    Exercise(
        name="layer_norm_gelu_backward",
        title="A whole fused backward",
        notebook=OPTIMIZATION,
        level=5,
        call="layer_norm_gelu_backward(dy, x, weight, bias, eps) -> (dx, dweight, dbias)",
        task=(
            "All three gradients of gelu(layer_norm(x)): statistics and GELU are computed again from x, dx is "
            "stored row by "
            "row, dweight and dbias are summed by 3 programs into rows of their own and added up at the end."
        ),
        hints=(
            "Backwards: dz = dy times the GELU's derivative at z; dweight and dbias are sums of dz * x_hat and of dz.",
            (
                "dx has three terms: d = dz * weight, less its mean, less x_hat times the mean of d * x_hat; all "
                "times rstd."
            ),
            (
                "gelu'(z) = 0.5 (1 + erf(z / sqrt 2)) + z exp(-z^2 / 2) / sqrt(2 pi). Padding: x_hat and dz must be"
                " 0 there."
            ),
        ),
        outputs=("dx", "dweight", "dbias"),
        inputs=_backward_inputs,
        model=_layer_norm_gelu_backward,
        mistakes=(
            *("activation_term_missing", "activation_ignored", "mean_term_missing", "projection_missing"),
            *("last_row_only", "one_program_only", "product_missing", "weight_ignored", "projection_not_averaged"),
            *("not_scaled_by_rstd", "padding_in_variance", "sample_variance", "eps_forgotten", "eps_outside_root"),
        ),
        cases=(
            rows(m=8, n=100, eps=1e-5),
            rows(m=4, n=70, layout="sliced", eps=1e-5),
            rows(m=5, n=50, scale=0.01, eps=1e-3),
            rows("bf16", m=4, n=100, eps=1e-5),
        ),
    ),
)
