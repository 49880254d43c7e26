"""RMSNorm (Zhang and Sennrich, 2019), forward, backward and after a residual addition."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.exercise import OPTIMIZATION, Case, Exercise, Maker, next_power_of_2, rows

__all__ = ["EXERCISES"]

PROGRAMS = 3
"""Of the starter file of ``rms_norm_backward``."""


def _inputs(case: Case, make: Maker) -> dict[str, Any]:
    scale = case.options.get("scale", 1.0)
    x = make(*case.shape, scale=scale, shift=1.5 * scale, layout=case.layout)
    return {"x": x, "weight": make(case.shape[-1], scale=0.3, shift=1.2), "eps": case.options["eps"]}


def _normalised(g: Any, x: Any, mistake: str, *, name: str = "x") -> tuple[Any, Any]:
    n = x.shape[1]
    block = next_power_of_2(n)
    if mistake == "assumed_contiguous":
        x = g.packed(name)
    squares = x.square().mean(1, keepdim=True)
    top = x
    match mistake:
        case "sum_for_mean":
            squares = squares * n
        case "not_squared":
            squares = x.mean(1, keepdim=True)
        case "centred":
            top = x - x.mean(1, keepdim=True)
            squares = top.square().mean(1, keepdim=True)
        case "block_for_width":
            squares = squares * n / block
        case "sample_variance":
            squares = squares * n / (n - 1)
        case "load_without_mask":
            squares = g.beyond(name, block).square().sum(1, keepdim=True) / n
    rstd = 1 / (squares + g.eps).sqrt()
    match mistake:
        case "eps_forgotten":
            rstd = 1 / squares.sqrt()
        case "eps_outside_root":
            rstd = 1 / (squares.sqrt() + g.eps)
        case "root_missing":
            rstd = 1 / (squares + g.eps)
    return top * rstd, rstd


def _weighted(g: Any, x_hat: Any, mistake: str) -> Any:
    match mistake:
        case "weight_ignored":
            return x_hat
        case "weight_plus_one":
            return x_hat * (1 + g.weight)
    return x_hat * g.weight


def _rms_norm_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    return (_weighted(g, _normalised(g, g.x, mistake)[0], mistake),)


def _backward_inputs(case: Case, make: Maker) -> dict[str, Any]:
    return {"dy": make(*case.shape, shift=0.4), **_inputs(case, make)}


def _rms_norm_backward(g: Any, mistake: str) -> tuple[Any, ...]:
    x_hat, rstd = _normalised(g, g.x, mistake)
    dy = g.dy
    d = dy if mistake == "weight_ignored" else dy * g.weight
    projection = (d * x_hat).mean(1, keepdim=True)
    match mistake:
        case "projection_missing":
            projection = 0
        case "projection_not_averaged":
            projection = projection * d.shape[1]
    dx = d - x_hat * projection
    if mistake != "not_scaled_by_rstd":
        dx = dx * rstd
    summands = dy if mistake == "product_missing" else dy * x_hat
    m = dy.shape[0]
    match mistake:
        case "last_row_only":
            summands = summands[[max(range(p, m, PROGRAMS)) for p in range(min(PROGRAMS, m))]]
        case "one_program_only":
            summands = summands[0::PROGRAMS]
    return dx, summands.sum(0)


def _residual_inputs(case: Case, make: Maker) -> dict[str, Any]:
    inputs = _inputs(case, make)
    scale = case.options.get("scale", 1.0)
    return {"x": inputs.pop("x"), "residual": make(*case.shape, scale=scale, shift=0.3 * scale), **inputs}


def _add_rms_norm_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    total = g.x + g.residual
    match mistake:
        case "residual_ignored":
            return _weighted(g, _normalised(g, g.x, "")[0], ""), g.x
        case "residual_not_normalised":
            return _weighted(g, _normalised(g, g.x, "")[0], ""), total
        case "residual_not_stored":
            return _weighted(g, _normalised(g, total, "")[0], ""), g.residual
        case "assumed_contiguous":
            total = g.packed("x") + g.residual
            return _weighted(g, _normalised(g, total, "")[0], ""), total
        case "load_without_mask":
            block = next_power_of_2(total.shape[1])
            wide = g.beyond("x", block) + g.beyond("residual", block)
            rstd = 1 / (wide.square().sum(1, keepdim=True) / total.shape[1] + g.eps).sqrt()
            return total * rstd * g.weight, total
    return _weighted(g, _normalised(g, total, mistake)[0], mistake), total


_NORM = (
    *("eps_forgotten", "eps_outside_root", "sum_for_mean", "not_squared", "centred", "block_for_width"),
    *("load_without_mask", "root_missing", "sample_variance"),
)
_WEIGHT = ("weight_ignored", "weight_plus_one")
_CASES = (
    rows(n=100, eps=1e-6),
    rows(m=4, n=70, layout="sliced", eps=1e-6),
    rows(m=2, n=50, scale=0.01, eps=1e-3),
    rows("bf16", n=100, eps=1e-6),
    rows("f16", m=2, n=130, scale=200.0, eps=1e-6),
)

EXERCISES = (
    Exercise(
        name="rms_norm_forward",
        title="RMSNorm",
        notebook=OPTIMIZATION,
        level=2,
        call="rms_norm_forward(x, weight, eps) -> y",
        task="x / sqrt(mean(x^2) + eps) * weight, one row a program, in float32 inside.",
        hints=(
            "One reduction: the mean of the squares over the row, not over the block.",
            "300 squared is more than float16 can hold: cast before you square.",
            "x = tl.load(..., mask=mask, other=0.0).to(tl.float32); rstd = tl.rsqrt(tl.sum(x * x, axis=0) / N + eps).",
        ),
        outputs=("y",),
        inputs=_inputs,
        model=_rms_norm_forward,
        mistakes=(*_NORM, "assumed_contiguous", *_WEIGHT),
        cases=_CASES,
        kernel="rms_norm_forward_kernel",
    ),
    Exercise(
        name="rms_norm_backward",
        title="Backward of RMSNorm",
        notebook=OPTIMIZATION,
        level=4,
        call="rms_norm_backward(dy, x, weight, eps) -> (dx, dweight)",
        task=(
            "Both gradients in one kernel: 3 programs go over their rows, store dx and keep a float32 sum of dy * "
            "x_hat; torch "
            "adds up the three sums."
        ),
        hints=(
            "rstd depends on every element of the row, and so dx has two terms.",
            "With d = dy * weight: the second term is x_hat times the mean over the row of d * x_hat.",
            (
                "dx = (d - x_hat * tl.sum(d * x_hat, axis=0) / N) * rstd; partial += dy * x_hat, stored once after "
                "the loop."
            ),
        ),
        outputs=("dx", "dweight"),
        inputs=_backward_inputs,
        model=_rms_norm_backward,
        mistakes=(
            *("projection_missing", "last_row_only", "one_program_only", "product_missing", "weight_ignored"),
            *("not_scaled_by_rstd", "projection_not_averaged", *_NORM),
        ),
        cases=(
            rows(m=8, n=100, eps=1e-6),
            rows(m=4, n=70, layout="sliced", eps=1e-6),
            rows(m=5, n=50, scale=0.01, eps=1e-3),
            rows("bf16", m=4, n=100, eps=1e-6),
        ),
    ),
    Exercise(
        name="add_rms_norm_forward",
        title="Residual addition and RMSNorm",
        notebook=OPTIMIZATION,
        level=3,
        call="add_rms_norm_forward(x, residual, weight, eps) -> (y, total)",
        task="total = x + residual is stored for the next layer, y is its RMSNorm: two loads, two stores, one kernel.",
        hints=(
            "Without fusing, total is written, read again and read once more. Here it stays in the program.",
            "Both results are of x's dtype; the arithmetic between is float32.",
            "total = x + residual in float32; store it; normalise the same block; store y.",
        ),
        outputs=("y", "total"),
        inputs=_residual_inputs,
        model=_add_rms_norm_forward,
        mistakes=(
            "residual_ignored",
            "residual_not_normalised",
            "residual_not_stored",
            *_NORM,
            "assumed_contiguous",
            *_WEIGHT,
        ),
        cases=_CASES[:4],
        kernel="add_rms_norm_forward_kernel",
    ),
)
