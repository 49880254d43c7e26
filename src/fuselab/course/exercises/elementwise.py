"""Element by element: the first kernels, and the first fusion."""

from __future__ import annotations

import math
from typing import Any

from fuselab.course.exercises.exercise import BASICS, Case, Exercise, Maker, rows

__all__ = ["EXERCISES", "gelu", "gelu_gradient", "tanh_gelu"]


def gelu(x: Any) -> Any:
    """``x * P(X <= x)`` for a normal X (Hendrycks and Gimpel, 2016), exact."""
    return 0.5 * x * (1 + (x / math.sqrt(2)).erf())


def tanh_gelu(x: Any) -> Any:
    """The approximation of the same paper."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def gelu_gradient(x: Any) -> Any:
    """Derivative of the exact one: the distribution plus x times the density."""
    return 0.5 * (1 + (x / math.sqrt(2)).erf()) + x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)


def _vectors(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape), "y": make(*case.shape)}


def _vector_add(g: Any, mistake: str) -> tuple[Any, ...]:
    match mistake:
        case "same_operand_twice":
            return (g.x + g.x,)
        case "wrong_operation":
            return (g.x * g.y,)
    return (g.x + g.y,)


def _matrix(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape, layout=case.layout)}


def _strided_copy(g: Any, mistake: str) -> tuple[Any, ...]:
    m, n = g.x.shape
    match mistake:
        case "assumed_contiguous":
            return (g.packed("x"),)
        case "strides_swapped":
            stride = g.stride("x")
            return (g.read("x", (m, n), (1, stride)),)
    return (g.x,)


def _with_bias(case: Case, make: Maker) -> dict[str, Any]:
    return {"x": make(*case.shape, scale=1.5), "bias": make(case.shape[-1], shift=0.5)}


def _bias_gelu(g: Any, mistake: str) -> tuple[Any, ...]:  # noqa: PLR0911 - one a mistake
    x, bias = g.x, g.bias
    match mistake:
        case "tanh_for_erf":
            return (tanh_gelu(x + bias),)
        case "erf_argument":
            return (0.5 * (x + bias) * (1 + (x + bias).erf()),)
        case "half_missing":
            return (2 * gelu(x + bias),)
        case "bias_ignored":
            return (gelu(x),)
        case "bias_after":
            return (gelu(x) + bias,)
        case "sigmoid_alone":
            return (gelu(x + bias) / (x + bias),)
    return (gelu(x + bias),)


EXERCISES = (
    Exercise(
        name="vector_add",
        title="Add two vectors",
        notebook=BASICS,
        level=1,
        call="vector_add(x, y) -> z",
        task="Write the mask: the last program has more elements in its block than there are left.",
        hints=(
            "A program handles BLOCK elements, and 300 is no multiple of 128. Which of its elements exist?",
            "The mask is a block of booleans, one for each offset: compare the offsets with the number of elements.",
            "mask = offsets < ..., and both loads and the store have to be given it.",
        ),
        outputs=("z",),
        inputs=_vectors,
        model=_vector_add,
        mistakes=("same_operand_twice", "wrong_operation"),
        cases=(Case("f32", (300,)), Case("f32", (128,)), Case("f32", (1000,))),
        kernel="vector_add_kernel",
    ),
    Exercise(
        name="strided_copy",
        title="Copy a slice of a matrix",
        notebook=BASICS,
        level=1,
        call="strided_copy(x) -> y",
        task=(
            "Copy x, whose rows may lie further apart than they are wide, into a contiguous y, in two-dimensional "
            "tiles."
        ),
        hints=(
            "An element's address is its row times one stride plus its column times another.",
            "x and y have different row strides: x's comes in as an argument, y's is its width.",
            "rows[:, None] * x_stride + columns[None, :]; the mask needs rows and columns, both.",
        ),
        outputs=("y",),
        inputs=_matrix,
        model=_strided_copy,
        mistakes=("assumed_contiguous", "strides_swapped"),
        cases=(rows(m=5, n=100, layout="sliced"), rows(m=5, n=100), rows("bf16", m=3, n=70, layout="sliced")),
        kernel="strided_copy_kernel",
    ),
    Exercise(
        name="bias_gelu",
        title="Fuse a bias and an exact GELU",
        notebook=BASICS,
        level=2,
        call="bias_gelu(x, bias) -> y",
        task=(
            "Compute gelu(x + bias) in one kernel, with the exact GELU: 0.5 z (1 + erf(z / sqrt 2)). The bias is "
            "one row."
        ),
        hints=(
            "Everything happens between one load of x and one store of y; that is the point of fusing.",
            "The bias has as many elements as a row: its index is the column alone.",
            "z = x + bias in float32, then 0.5 * z * (1 + tl.erf(z * 0.70710678...)).",
        ),
        outputs=("y",),
        inputs=_with_bias,
        model=_bias_gelu,
        mistakes=("tanh_for_erf", "erf_argument", "half_missing", "bias_ignored", "bias_after", "sigmoid_alone"),
        cases=(rows(m=3, n=100), rows(m=4, n=128), rows("bf16", m=2, n=70)),
        kernel="bias_gelu_kernel",
    ),
)
