"""Dropout with random numbers that nobody stores, alone and after a softmax."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.exercise import OPTIMIZATION, Case, Exercise, Maker, rows
from fuselab.course.exercises.softmax import softmax_model

__all__ = ["EXERCISES"]

BLOCK = 128
"""Of the starter file of ``dropout``."""


def _keep(g: Any, m: int, n: int, mistake: str, seed: int | None = None) -> Any:
    seed = int(g.seed) if seed is None else seed
    match mistake:
        case "mask_repeats" | "other_mask":
            kept = g.uniform(seed, m, n, 0) >= g.p
        case "seed_ignored":
            kept = g.uniform(0, m, n, n) >= g.p
        case "mask_inverted":
            kept = g.uniform(seed, m, n, n) < g.p
        case "no_dropout" | "mask_not_replayed":
            kept = g.uniform(seed, m, n, n) >= 0
        case _:
            kept = g.uniform(seed, m, n, n) >= g.p
    return kept.double()


def _rescale(g: Any, mistake: str) -> float:
    if mistake in ("not_scaled", "no_dropout"):
        return 1.0
    return float(1 / g.p) if mistake == "scaled_by_p" else float(1 / (1 - g.p))


def _vector(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape, shift=0.5), "p": case.options["p"], "seed": int(case.options["seed"])}


def _dropout(g: Any, mistake: str) -> tuple[Any, ...]:
    n = g.x.numel()
    if mistake == "mask_repeats":  # the offset within the block
        blocks = -(-n // BLOCK)
        kept = (g.uniform(int(g.seed), blocks, BLOCK, 0) >= g.p).double().reshape(-1)[:n]
    else:
        kept = _keep(g, 1, n, mistake)[0]
    return (g.x * kept * _rescale(g, mistake),)


def _scores(case: Case, make: Maker) -> dict[str, Any]:
    x = make(*case.shape, scale=2.0, shift=case.options.get("shift", -1.0), layout=case.layout)
    return {"x": x, "p": case.options["p"], "seed": int(case.options["seed"])}


def _softmax_dropout_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    m, n = g.x.shape
    probabilities = softmax_model(g, mistake)
    kept = _keep(g, m, n, mistake)
    y = probabilities * kept * _rescale(g, mistake)
    if mistake == "dropped_before_sum":
        y = probabilities * kept
        y = y / y.sum(1, keepdim=True)
    return y, probabilities


def _backward_inputs(case: Case, make: Maker) -> dict[str, Any]:
    probabilities = make(*case.shape, scale=2.0)
    probabilities.copy_(probabilities.double().softmax(-1))
    dy = make(*case.shape, shift=0.5)
    return {"dy": dy, "probabilities": probabilities, "p": case.options["p"], "seed": int(case.options["seed"])}


def _softmax_dropout_backward(g: Any, mistake: str) -> tuple[Any, ...]:
    dy, y = g.dy, g.probabilities
    m, n = dy.shape
    factor = _keep(g, m, n, mistake) * _rescale(g, mistake)
    d = dy * factor
    match mistake:
        case "sum_missing":
            return (y * d,)
        case "masked_at_the_end":
            return (y * (dy - (y * dy).sum(1, keepdim=True)) * factor,)
        case "probabilities_missing":
            return (d - (y * d).sum(1, keepdim=True),)
        case "projection_not_averaged":
            return (y * (d - d.sum(1, keepdim=True)),)
    return (y * (d - (y * d).sum(1, keepdim=True)),)


_MASKS = ("not_scaled", "mask_inverted", "scaled_by_p", "mask_repeats", "seed_ignored", "no_dropout")

EXERCISES = (
    Exercise(
        name="dropout",
        title="Dropout from a seed",
        notebook=OPTIMIZATION,
        level=2,
        call="dropout(x, p, seed) -> y",
        task=(
            "Drop element i where tl.rand(seed, i) < p, and scale the others so that the mean stays. x is a vector;"
            " nothing "
            "but the seed has to be stored for the backward."
        ),
        hints=(
            (
                "tl.rand gives one uniform number for each offset, the same one each time. Which offset tells all "
                "elements apart?"
            ),
            "Kept are the elements whose number is at least p; a share of 1 - p of them, so each has to weigh more.",
            "tl.where(tl.rand(seed, offsets) >= p, x / (1 - p), 0.0), with the offsets that x is loaded with.",
        ),
        outputs=("y",),
        inputs=_vector,
        model=_dropout,
        mistakes=_MASKS,
        cases=(
            Case("f32", (300,), "contiguous", {"p": 0.25, "seed": 7}),
            Case("f32", (256,), "contiguous", {"p": 0.5, "seed": 123}),
            Case("bf16", (200,), "contiguous", {"p": 0.1, "seed": 99}),
        ),
        kernel="dropout_kernel",
    ),
    Exercise(
        name="softmax_dropout_forward",
        title="Softmax and dropout in one kernel",
        notebook=OPTIMIZATION,
        level=3,
        call="softmax_dropout_forward(x, p, seed) -> (y, probabilities)",
        task=(
            "The softmax of each row, then dropout with tl.rand(seed, row * N + column). The softmax before dropout"
            " is the "
            "second result: the backward needs it, and not the mask."
        ),
        hints=(
            "First the softmax is finished, its sum included; dropout comes after that.",
            "An element's random number depends on its row and its column, so that no two elements share one.",
            (
                "keep = tl.rand(seed, row * N + columns) >= p; y = tl.where(keep, probabilities / (1 - p), 0.0); "
                "two stores."
            ),
        ),
        outputs=("y", "probabilities"),
        inputs=_scores,
        model=_softmax_dropout_forward,
        mistakes=(
            *_MASKS,
            "dropped_before_sum",
            "max_not_subtracted",
            "padding_counts",
            "not_normalised",
            "load_without_mask",
            "assumed_contiguous",
        ),
        cases=(
            rows(n=100, p=0.25, seed=7),
            rows(m=4, n=70, layout="sliced", p=0.5, seed=123),
            rows(m=2, n=50, shift=200.0, p=0.1, seed=3),
            rows("bf16", n=100, p=0.25, seed=99),
        ),
        kernel="softmax_dropout_forward_kernel",
    ),
    Exercise(
        name="softmax_dropout_backward",
        title="Backward of softmax and dropout",
        notebook=OPTIMIZATION,
        level=4,
        call="softmax_dropout_backward(dy, probabilities, p, seed) -> dx",
        task=(
            "The gradient of the input from dy and the softmax before dropout. The mask is drawn again from the "
            "seed, with "
            "the forward's offsets row * N + column."
        ),
        hints=(
            "Two steps backwards: through dropout (the gradient of the probabilities), then through the softmax.",
            "The softmax's gradient needs one number a row: the sum of probability times its gradient.",
            "d = tl.where(keep, dy / (1 - p), 0.0); dx = probabilities * (d - tl.sum(probabilities * d, axis=0)).",
        ),
        outputs=("dx",),
        inputs=_backward_inputs,
        model=_softmax_dropout_backward,
        mistakes=(
            *(
                "mask_not_replayed",
                "no_dropout",
                "sum_missing",
                "not_scaled",
                "other_mask",
                "mask_inverted",
                "masked_at_the_end",
            ),
            *("probabilities_missing", "scaled_by_p", "seed_ignored", "projection_not_averaged"),
        ),
        cases=(rows(n=100, p=0.25, seed=7), rows(m=4, n=64, p=0.5, seed=123), rows("bf16", n=70, p=0.1, seed=99)),
        kernel="softmax_dropout_backward_kernel",
    ),
)
