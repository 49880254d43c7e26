"""SwiGLU (Shazeer, 2020): a gate of SiLU, forward and backward."""

from __future__ import annotations

from typing import Any

from fuselab.course.exercises.elementwise import gelu
from fuselab.course.exercises.exercise import OPTIMIZATION, Case, Exercise, Maker, rows

__all__ = ["EXERCISES"]


def _halves(case: Case, make: Maker) -> dict[str, Any]:
    return {
        "a": make(*case.shape, scale=1.5, layout=case.layout),
        "b": make(*case.shape, shift=0.3, layout=case.layout),
    }


def _swiglu_forward(g: Any, mistake: str) -> tuple[Any, ...]:  # noqa: PLR0911 - one a mistake
    a, b = g.a, g.b
    match mistake:
        case "sigmoid_alone":
            return (a.sigmoid() * b,)
        case "gates_swapped":
            return (a * b * b.sigmoid(),)
        case "gate_ignored":
            return (a * a.sigmoid(),)
        case "activation_ignored":
            return (a * b,)
        case "gelu_for_silu":
            return (gelu(a) * b,)
        case "relu_for_silu":
            return (a.relu() * b,)
        case "assumed_contiguous":
            a, b = g.packed("a"), g.packed("b")
        case "assumed_contiguous:a":
            a = g.packed("a")
        case "assumed_contiguous:b":
            b = g.packed("b")
        case "wrong_operation":
            return (a * a.sigmoid() + b,)
    return (a * a.sigmoid() * b,)


def _backward_inputs(case: Case, make: Maker) -> dict[str, Any]:
    return {"dy": make(*case.shape, shift=0.4), **_halves(case, make)}


def _swiglu_backward(g: Any, mistake: str) -> tuple[Any, ...]:
    dy, a, b = g.dy, g.a, g.b
    s = a.sigmoid()
    slope, db = s * (1 + a * (1 - s)), dy * a * s
    match mistake:
        case "activation_term_missing":
            slope = s
        case "sigmoid_slope":
            slope = s * (1 - s)
        case "wrong_sign":
            slope = s * (1 - a * (1 - s))
        case "activation_ignored":
            slope, db = slope * 0 + 1, dy * a
        case "sigmoid_alone":
            db = dy * s
    da = dy * b * slope
    match mistake:
        case "gate_ignored":
            da = dy * slope
        case "incoming_ignored":
            da, db = b * slope, a * s
        case "assumed_contiguous" | "assumed_contiguous:a" | "assumed_contiguous:b":
            a = a if mistake.endswith(":b") else g.packed("a")
            b = b if mistake.endswith(":a") else g.packed("b")
            s = a.sigmoid()
            return dy * b * s * (1 + a * (1 - s)), dy * a * s
    return da, db


_CASES = (rows(n=100), rows(m=4, n=70, layout="sliced"), rows("bf16", n=100), rows("f16", m=2, n=130))

EXERCISES = (
    Exercise(
        name="swiglu_forward",
        title="SwiGLU",
        notebook=OPTIMIZATION,
        level=2,
        call="swiglu_forward(a, b) -> y",
        task="silu(a) * b with silu(a) = a * sigmoid(a); a and b may be the two halves of one matrix.",
        hints=(
            "Halves of one matrix are not contiguous: their rows are as far apart as the whole matrix is wide.",
            "tl.sigmoid wants float32; compute there and cast at the store.",
            "a = tl.load(a_ptr + row * a_stride + columns, ...).to(tl.float32); y = a * tl.sigmoid(a) * b.",
        ),
        outputs=("y",),
        inputs=_halves,
        model=_swiglu_forward,
        mistakes=(
            *("sigmoid_alone", "gates_swapped", "gate_ignored", "activation_ignored", "gelu_for_silu", "relu_for_silu"),
            *("assumed_contiguous", "assumed_contiguous:a", "assumed_contiguous:b", "wrong_operation"),
        ),
        cases=_CASES,
        kernel="swiglu_forward_kernel",
    ),
    Exercise(
        name="swiglu_backward",
        title="Backward of SwiGLU",
        notebook=OPTIMIZATION,
        level=3,
        call="swiglu_backward(dy, a, b) -> (da, db)",
        task="Both gradients in one kernel, with the sigmoid computed once more instead of stored.",
        hints=(
            "db is the easy one: dy times what multiplied b. da needs the derivative of a * sigmoid(a), a product.",
            "The sigmoid's derivative is s (1 - s).",
            "silu'(a) = s + a s (1 - s) = s (1 + a (1 - s)); da = dy * b * silu'(a); db = dy * a * s.",
        ),
        outputs=("da", "db"),
        inputs=_backward_inputs,
        model=_swiglu_backward,
        mistakes=(
            *("activation_term_missing", "sigmoid_slope", "wrong_sign", "sigmoid_alone", "activation_ignored"),
            *("gate_ignored", "incoming_ignored", "assumed_contiguous", "assumed_contiguous:a", "assumed_contiguous:b"),
        ),
        cases=_CASES[:3],
        kernel="swiglu_backward_kernel",
    ),
)
