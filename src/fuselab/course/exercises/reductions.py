"""Sums: over a row, over a row that is wider than a block, over all rows."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.exercise import (
    BASICS,
    OPTIMIZATION,
    Case,
    Exercise,
    Maker,
    next_power_of_2,
    rows,
)

__all__ = ["EXERCISES"]

BLOCK = 64
"""Of the starter file of ``wide_row_sum``."""

PROGRAMS = 3
"""Of the starter file of ``weight_gradient``."""


def _matrix(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape, shift=case.options.get("shift", 0.7), layout=case.layout)}


def _row_sum(g: Any, mistake: str) -> tuple[Any, ...]:  # noqa: PLR0911 - one a mistake
    n = g.x.shape[1]
    match mistake:
        case "load_without_mask":
            return (g.beyond("x", next_power_of_2(n)).sum(1),)
        case "mean_for_sum":
            return (g.x.mean(1),)
        case "max_for_sum":
            return (g.x.amax(1),)
        case "squares_for_sum":
            return (g.x.square().sum(1),)
        case "assumed_contiguous":
            return (g.packed("x").sum(1),)
        case "first_row_everywhere":
            return (g.x.sum(1)[:1].expand(g.x.shape[0]),)
    return (g.x.sum(1),)


def _wide_row_sum(g: Any, mistake: str) -> tuple[Any, ...]:
    n = g.x.shape[1]
    blocks = -(-n // BLOCK)
    match mistake:
        case "load_without_mask":
            return (g.beyond("x", blocks * BLOCK).sum(1),)
        case "first_block_only":
            return (g.x[:, :BLOCK].sum(1),)
        case "last_block_only":
            return (g.x[:, (blocks - 1) * BLOCK :].sum(1),)
        case "tail_dropped":
            return (g.x[:, : n // BLOCK * BLOCK].sum(1),)
    return _row_sum(g, mistake)


def _gradients(case: Case, make: Maker) -> dict[str, Any]:
    return {"dy": make(*case.shape, shift=0.3), "x_hat": make(*case.shape, shift=0.5)}


def _weight_gradient(g: Any, mistake: str) -> tuple[Any, ...]:
    products = g.dy * g.x_hat
    m = products.shape[0]
    match mistake:
        case "product_missing":
            return (g.dy.sum(0),)
        case "one_program_only":
            return (products[0::PROGRAMS].sum(0),)
        case "last_row_only":
            last = [max(r for r in range(p, m, PROGRAMS)) for p in range(min(PROGRAMS, m))]
            return (products[last].sum(0),)
        case "mean_for_sum":
            return (products.sum(0) / PROGRAMS,)
        case "incoming_ignored":
            return (g.x_hat.sum(0),)
    return (products.sum(0),)


_SUMS = ("load_without_mask", "mean_for_sum", "max_for_sum", "squares_for_sum", "assumed_contiguous")

EXERCISES = (
    Exercise(
        name="row_sum",
        title="Sum each row",
        notebook=BASICS,
        level=1,
        call="row_sum(x) -> s  (float32)",
        task="One program sums one row, which fits into its block. Sum in float32, whatever x is.",
        hints=(
            "The block is wider than the row. What may the elements beyond it be, so that a sum does not notice them?",
            "tl.load has an argument for the value of masked elements, and a tensor can be cast with .to().",
            "x = tl.load(..., mask=columns < N, other=0.0).to(tl.float32), then tl.sum(x, axis=0).",
        ),
        outputs=("s",),
        in_f32=("s",),
        inputs=_matrix,
        model=_row_sum,
        mistakes=(*_SUMS, "first_row_everywhere"),
        cases=(rows(n=100), rows(m=4, n=70, layout="sliced"), rows("bf16", n=100), rows("f16", m=2, n=130)),
        kernel="row_sum_kernel",
    ),
    Exercise(
        name="wide_row_sum",
        title="Sum rows that are wider than a block",
        notebook=BASICS,
        level=2,
        call="wide_row_sum(x) -> s  (float32)",
        task=(
            "The block has 64 columns, the row more: loop over it, keep a block of partial sums in float32, sum "
            "that once."
        ),
        hints=(
            "The loop's variable is the first column of a block; the last block may reach beyond the row.",
            "Add blocks to blocks in the loop, and reduce after it: one reduction instead of one a round.",
            (
                "for start in range(0, N, BLOCK): mask = start + columns < N; total += tl.load(..., "
                "other=0.0).to(tl.float32)."
            ),
        ),
        outputs=("s",),
        in_f32=("s",),
        inputs=_matrix,
        model=_wide_row_sum,
        mistakes=("first_block_only", "last_block_only", "tail_dropped", *_SUMS, "first_row_everywhere"),
        cases=(rows(n=150), rows(m=4, n=200, layout="sliced"), rows("bf16", n=150), rows("f16", m=2, n=128)),
        kernel="wide_row_sum_kernel",
    ),
    Exercise(
        name="weight_gradient",
        title="A weight gradient in two stages",
        notebook=OPTIMIZATION,
        level=4,
        call="weight_gradient(dy, x_hat) -> dweight",
        task=(
            "Sum dy * x_hat over all rows without atomics: each of 3 programs sums its share of the rows into a row"
            " of its "
            "own of a float32 matrix, a second kernel adds up those rows."
        ),
        hints=(
            "First kernel: program p takes the rows p, p + 3, p + 6 ... and stores one row of partial sums at the end.",
            "Keep the partial sums in a block, in float32, and add to it in the loop; store it once, after the loop.",
            "Second kernel: for p in range(PROGRAMS): total += tl.load(partial_ptr + p * N + columns, ...).",
        ),
        outputs=("dweight",),
        inputs=_gradients,
        model=_weight_gradient,
        mistakes=("product_missing", "one_program_only", "last_row_only", "mean_for_sum", "incoming_ignored"),
        cases=(rows(m=8, n=100), rows(m=2, n=64), rows("bf16", m=7, n=70)),
    ),
)
