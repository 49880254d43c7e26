"""Softmax of rows that fit into a block, and of rows that do not."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.exercise import OPTIMIZATION, Case, Exercise, Maker, next_power_of_2, rows

__all__ = ["EXERCISES", "softmax_model"]

BLOCK = 64
"""Of the starter file of ``online_softmax``."""


def _matrix(case: Case, make: Maker) -> dict[str, Any]:
    return {
        "x": make(
            *case.shape, scale=case.options.get("scale", 2.0), shift=case.options.get("shift", -1.0), layout=case.layout
        )
    }


def _in_float32(x: Any) -> Any:
    # An overflow in float64 happens elsewhere.
    return x.float().exp().double()


def softmax_model(g: Any, mistake: str) -> Any:  # noqa: PLR0911 - one a mistake
    """The softmax of x, or what a mistake makes of it."""
    x = g.x
    n = x.shape[1]
    block = next_power_of_2(n)
    match mistake:
        case "max_not_subtracted":
            e = _in_float32(x)
            # With -inf beyond the row nothing is added.
            return e / e.sum(1, keepdim=True)
        case "padding_counts":
            highest = x.amax(1, keepdim=True).clamp_min(0.0) if block > n else x.amax(1, keepdim=True)
            e = (x - highest).exp()
            return e / (e.sum(1, keepdim=True) + (block - n) * (-highest).exp())
        case "load_without_mask":
            wide = g.beyond("x", block)
            return wide.softmax(1)[:, :n]
        case "not_normalised":
            return (x - x.amax(1, keepdim=True)).exp()
        case "wrong_axis":
            return x.softmax(0)
        case "log_softmax":
            return x.log_softmax(1)
        case "assumed_contiguous":
            return g.packed("x").softmax(1)
    return x.softmax(1)


def _softmax_forward(g: Any, mistake: str) -> tuple[Any, ...]:
    return (softmax_model(g, mistake),)


def _online_softmax(g: Any, mistake: str) -> tuple[Any, ...]:
    # Rescaled, the sum is right relative to any maximum: only float32 tells, where it overflows.
    x = g.x.float() if mistake in ("maximum_of_last_block", "last_block_only") else g.x
    m, n = x.shape
    highest = x.new_full((m, 1), -float("inf"))
    total = x.new_zeros((m, 1))
    padded = -(-n // BLOCK) * BLOCK - n
    for start in range(0, n, BLOCK):
        part = x[:, start : start + BLOCK]
        higher = part.amax(1, keepdim=True)
        if mistake == "padding_counts" and part.shape[1] < BLOCK:
            higher = higher.clamp_min(0.0)
        if mistake != "maximum_of_last_block":
            higher = higher.maximum(highest)
        if mistake != "not_rescaled":
            total = total * (highest - higher).exp()
        total = total + (part - higher).exp().sum(1, keepdim=True)
        if mistake == "padding_counts" and part.shape[1] < BLOCK:
            total = total + padded * (-higher).exp()
        if mistake == "last_block_only":
            total = (part - higher).exp().sum(1, keepdim=True)
        highest = higher
    match mistake:
        case "" | "not_rescaled" | "maximum_of_last_block" | "padding_counts" | "last_block_only":
            return (((x - highest).exp() / total).double(),)
        case "first_block_only":
            first = x[:, :BLOCK]
            top = first.amax(1, keepdim=True)
            return ((x - top).exp() / (first - top).exp().sum(1, keepdim=True),)
    return (softmax_model(g, mistake),)


_COMMON = ("max_not_subtracted", "padding_counts", "not_normalised", "load_without_mask", "wrong_axis", "log_softmax")

EXERCISES = (
    Exercise(
        name="softmax_forward",
        title="Softmax, numerically stable",
        notebook=OPTIMIZATION,
        level=2,
        call="softmax_forward(x) -> y",
        task="One program computes the softmax of one row, which fits into its block. Large inputs must not overflow.",
        hints=(
            (
                "exp(1000) is Inf in float32. The softmax does not change when the same number is subtracted from a"
                " whole row."
            ),
            (
                "Three steps over one block: the maximum, the exponentials, their sum. What must the padding be for"
                " the maximum?"
            ),
            "tl.load(..., mask=mask, other=-float('inf')): it loses every maximum, and its exponential is 0.",
        ),
        outputs=("y",),
        inputs=_matrix,
        model=_softmax_forward,
        mistakes=(*_COMMON, "assumed_contiguous"),
        cases=(
            rows(n=100),
            rows(m=4, n=70, layout="sliced"),
            rows(m=2, n=50, scale=30.0, shift=200.0),
            rows("bf16", n=100),
        ),
        kernel="softmax_forward_kernel",
    ),
    Exercise(
        name="online_softmax",
        title="Softmax of rows wider than a block",
        notebook=OPTIMIZATION,
        level=4,
        call="online_softmax(x) -> y",
        task=(
            "The block has 64 columns. One pass over the row finds its maximum and the sum of its exponentials "
            "together "
            "(Milakov and Gimelshein, 2018), a second one stores the result."
        ),
        hints=(
            (
                "The sum so far is relative to the maximum so far. What has to happen to it when a later block "
                "holds a larger one?"
            ),
            (
                "New maximum first; then the old sum times exp(old maximum - new maximum), plus the block's own "
                "exponentials."
            ),
            "m_new = tl.maximum(m, tl.max(x, axis=0)); s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), axis=0).",
        ),
        outputs=("y",),
        inputs=_matrix,
        model=_online_softmax,
        mistakes=(
            "not_rescaled",
            "maximum_of_last_block",
            "first_block_only",
            "last_block_only",
            *_COMMON,
            "assumed_contiguous",
        ),
        cases=(
            rows(n=150),
            rows(m=4, n=200, layout="sliced"),
            rows(m=4, n=130, scale=60.0, shift=200.0),
            rows("bf16", n=150),
        ),
        kernel="online_softmax_kernel",
    ),
)
