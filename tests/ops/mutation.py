"""Mutants of the operators: their real sources, each with one thing wrong, against the checks of the suite.

    TRITON_INTERPRET=1 python tests/ops/mutation.py [--some] [--rest] [--json] [OPERATOR ...]

A mutant is one match of a pattern in a source file, replaced. It runs in a process of its own, forked where torch and
triton are loaded and nothing of ours is: the package is copied to a directory with the mutated file in it and imported
from there, so that the checks are those of ``operator_cases`` and of the tests, as they are. The first check that fails
has killed it; so has a crash, or a kernel that does not end. ``--some`` takes the first match of each pattern.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LONGEST_S = 120
"""A mutant whose checks take longer is killed: in its place a kernel would not end. (A check takes a second.)"""


@dataclass(frozen=True)
class Mutation:
    """One thing to do wrong, wherever a pattern matches."""

    title: str
    file: str
    """A name, or a glob of several."""
    pattern: str
    replacement: str
    within: str = ""
    """Pattern of the names of the functions that it may lie in; empty: anywhere."""
    unless: str = ""
    """Pattern of lines that are left alone; empty: none."""


@dataclass(frozen=True)
class Mutant:
    """One match of a mutation."""

    operator: str
    title: str
    file: str
    line: int
    before: str
    after: str
    source: str
    first: bool
    """Whether it is its mutation's first match."""


BROKEN = "(import)"
"""Stands for the check of a mutant that cannot be imported: no check has killed it."""


def unchanged(operator: str) -> Mutant:
    """The sources as they are: what every check has to pass."""
    source = (sources() / "__init__.py").read_text()
    return Mutant(operator, "unchanged", "__init__.py", 0, "", "", source, first=False)


def sources() -> Path:
    """The folder of ``fuselab.ops``, without importing it."""
    spec = importlib.util.find_spec("fuselab")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "ops"


def functions_of(source: str) -> list[tuple[int, str]]:
    """Where each top-level function or class of a source begins, with its name."""
    found = re.finditer(r"^(?:def|class) (\w+)", source, re.MULTILINE)
    return [(0, ""), *((match.start(), match[1]) for match in found)]


def mutants(operator: str) -> Iterator[Mutant]:
    """Every mutant of an operator; a pattern that matches nothing is an error: the source has changed."""
    for mutation in MUTATIONS[operator]:
        count = 0
        for path in sorted(sources().glob(mutation.file)):
            source = path.read_text()
            begins = functions_of(source)
            for match in re.finditer(mutation.pattern, source, re.MULTILINE):
                inside = next(name for at, name in reversed(begins) if at <= match.start())
                line = source.count("\n", 0, match.start()) + 1
                text = source.splitlines()[line - 1]
                if not re.search(mutation.within, inside) or text.lstrip().startswith("#"):
                    continue
                if mutation.unless and re.search(mutation.unless, text):
                    continue
                after = match.expand(mutation.replacement)
                changed = source[: match.start()] + after + source[match.end() :]
                yield Mutant(operator, mutation.title, path.name, line, match[0], after, changed, count == 0)
                count += 1
        if not count:
            raise AssertionError(f"{operator}: {mutation.title}: no {mutation.pattern!r} in {mutation.file}")


# What is done wrong.

_FIRST = r"next_\w+ = .*\+ row\b"
"""The loads ahead of a loop, which a GPU makes: of row 0, in the interpreter's one program."""
_RMS_NORM, _LAYER_NORM = "rms_norm*.py", "layer_norm_gelu*.py"


def _norm(file: str, unless: str = "") -> list[Mutation]:
    """What RMSNorm and LayerNorm + GELU have in common; ``unless`` is what a call without a residual leaves out."""
    return [
        Mutation("eps dropped", file, r" \+ eps\b", "", "forward"),
        Mutation("eps outside of the root", file, r"tl\.rsqrt\((.+) \+ eps\)", r"(tl.rsqrt(\1) + eps)", "forward"),
        Mutation("mean of N / 2", file, r"/ N\b", "/ (N / 2)", "_forward|_backward"),
        Mutation("last column masked", file, r"\bcolumn < N\b", "column < N - 1"),
        Mutation("last row masked", file, r"\brow < M\b", "row < M - 1"),
        Mutation("row of y one element short", file, r"\brow \* N\b", "row * (N - 1)", "", unless),
        Mutation("row of x one element short", file, r"\brow \* x_stride\b", "row * (x_stride - 1)", "", _FIRST),
        Mutation("row of dy one element short", file, r"\brow \* dy_stride\b", "row * (dy_stride - 1)", "", _FIRST),
        Mutation("stale rstd", file, r"tl\.load\(rstd_ptr \+ row\b", "tl.load(rstd_ptr + row * 0", "backward", _FIRST),
    ]


_RMS_NORM_MUTATIONS = [
    Mutation("rstd missing in dx", _RMS_NORM, r" \* rstd \* rstd\)", " * rstd)", "backward"),
    Mutation("the projection's sign", _RMS_NORM, r"upstream - x \*", "upstream + x *", "backward"),
    Mutation("projection missing in dx", _RMS_NORM, r"upstream - x \* .*$", "upstream", "backward"),
    Mutation("weight's gradient of the last row only", _RMS_NORM, r"\bpartial \+= ", "partial = ", "backward"),
    Mutation("last partial row of the weight's gradient", "column_sums.py", r"row < P\b", "row < P - 1"),
    Mutation("a column's sum left out", "column_sums.py", r"column < N\b", "column < N - 1"),
    Mutation("a tile of rows left out", _RMS_NORM, r"tl\.num_programs\(\d\)", r"(\g<0> + 2)", "backward"),
]

_LAYER_NORM_MUTATIONS = [
    Mutation("rstd missing in dx", _LAYER_NORM, r"\brstd \* (?=\((UNSCALE|1\.0) / N)", "", "backward"),
    Mutation("rstd missing in one term of dx", _LAYER_NORM, r"dx_hat \* rstd(?= -)", "dx_hat", "backward"),
    Mutation("rstd missing in one term of a wide row's dx", _LAYER_NORM, r"\(rstd \* UNSCALE\)", "UNSCALE", "backward"),
    Mutation("the projection's sign", _LAYER_NORM, r"- (?=\(x_hat \* \(?projected)", "+ ", "backward"),
    Mutation("projection missing in dx", _LAYER_NORM, r"x_hat \* (projected|\(projected .*?\)) \+ ", "", "backward"),
    Mutation("mean missing in dx", _LAYER_NORM, r" \+ average( \* scale)?(?=\))", "", "backward"),
    Mutation("weight's gradient of the last rows only", _LAYER_NORM, r"\bdweight \+= ", "dweight = ", "backward"),
    Mutation("bias's gradient of the last rows only", _LAYER_NORM, r"\bdbias \+= ", "dbias = ", "backward"),
    Mutation("last partial row of the gradients", _LAYER_NORM, r"program < programs\b", "program < programs - 1"),
    Mutation("a tile of rows left out", _LAYER_NORM, r"tl\.num_programs\(\d\)", r"(\g<0> + 2)", "backward"),
]

_INSIDE = "kernel|_scale|_gradients|_upstream|_weight_gradient"
"""What runs on the device."""

_GELU = "gelu.py"
_GELU_MUTATIONS = [
    Mutation("tanh for erf", _GELU, r'APPROXIMATE == "tanh"', 'APPROXIMATE != "tanh"', "^gelu$"),
    Mutation("tanh's derivative for erf's", _GELU, r'APPROXIMATE == "tanh"', 'APPROXIMATE != "tanh"', "derivative$"),
]

_SILU = "silu.py"
_FLAT = "flat.py"
_FLAT_MUTATIONS = [
    Mutation("last element masked", _FLAT, r"mask=index < count\b", "mask=index < count - 1"),
    Mutation("blocks overlap", _FLAT, r"return program \* BLOCK", "return program * (BLOCK - 1)"),
    Mutation("last block left out", _FLAT, r"triton\.cdiv\(count, BLOCK\)", "max(count // BLOCK, 1)"),
]
_SIGMOID = [Mutation("exp2 for exp", _FLAT, r"-1\.4426950408889634", "-1.0")]
_GATE = "gate.py"


def _gated(file: str, activated: str, wrong: str) -> list[Mutation]:
    """What SwiGLU and GEGLU have in common; ``activated`` is a pattern of the activation of a in the forward."""
    return [
        Mutation("one half read twice", file, r"\bb_ptr = a_ptr \+ N", "b_ptr = a_ptr", "glu_"),
        Mutation("gradients in one place", file, r"db_ptr = da_ptr \+ N", "db_ptr = da_ptr", "glu_"),
        Mutation("halves swapped", file, activated, wrong, "forward_kernel"),
        Mutation("b forgotten", file, rf"({activated}) \* b\b", r"\1", "forward_kernel"),
        Mutation("b missing in da", file, r"dy \* b \*", "dy *", "backward_kernel"),
        Mutation("dy missing in da", file, r"dy \* b \*", "b *", "backward_kernel"),
        Mutation("gradient packed as if it were not", file, r"gradient_offset = offset", "pass", "backward_kernel"),
        Mutation("gradients exchanged", file, r"store\(db_ptr, (\w+), dy", r"store(da_ptr, \1, dy", "backward_kernel"),
        Mutation("rows not apart", _FLAT, r"return (element .*)$", "return element", "in_rows"),
        Mutation("strided gradient read as it lies", _GATE, r"dy\.contiguous\(\)", "dy", "gate_backward"),
        Mutation("strided input read as it lies", _GATE, r"return a\.contiguous\(\), b\.contiguous\(\)", "return a, b"),
        *_FLAT_MUTATIONS,
    ]


_SOFTMAX, _PHILOX, _SCORES = "softmax_dropout_kernels.py", "philox.py", "score_mask.py"
_PACKED, _PACKED_ROWS = "softmax_dropout_packed.py", "packed_rows.py"
_PACKED_LAYER_NORM, _PACKED_BACKWARD = "layer_norm_gelu_packed.py", "layer_norm_gelu_packed_backward.py"
_PACKED_ROW_MUTATIONS = [
    Mutation("halves of a word exchanged", _PACKED_ROWS, r"tl\.join\(low, high\)", "tl.join(high, low)"),
    Mutation("last column of a packed row masked", _PACKED_ROWS, r"\bcolumn < N\b", "column < N - 1"),
    Mutation("a part in another's place", _PACKED_ROWS, r"part \* WIDTH \+", "0 * WIDTH +"),
]
MUTATIONS: dict[str, list[Mutation]] = {
    "silu": [
        Mutation("the sigmoid's sign", _SILU, r"x \* sigmoid\(x\)", "x * sigmoid(-x)", "_silu_forward_kernel"),
        Mutation("the sigmoid alone", _SILU, r"x \* sigmoid\(x\)", "sigmoid(x)", "_silu_forward_kernel"),
        Mutation("GELU's sigmoid", _SILU, r"x \* sigmoid\(x\)", "x * sigmoid(1.702 * x)", "_silu_forward_kernel"),
        Mutation("sign in dx", _SILU, r"1\.0 \+ x \*", "1.0 - x *", "_silu_backward_kernel"),
        Mutation("derivative of another", _SILU, r"\(1\.0 - s\)", "s", "_silu_backward_kernel"),
        Mutation("dy missing in dx", _SILU, r"dy \* s \*", "s *", "_silu_backward_kernel"),
        Mutation("sigmoid missing in dx", _SILU, r"dy \* s \*", "dy *", "_silu_backward_kernel"),
        Mutation("strided x read as it lies", _SILU, r"x\.contiguous\(\)", "x", "^_silu_(for|back)ward$"),
        Mutation("strided dy read as it lies", _SILU, r"dy\.contiguous\(\)", "dy", "^_silu_backward$"),
        *_SIGMOID,
        *_FLAT_MUTATIONS,
    ],
    "swiglu": [
        *_gated(_SILU, r"a \* sigmoid\(a\)(?= \* b)", "b * sigmoid(b) * a / b"),
        Mutation("the sigmoid's sign", _SILU, r"sigmoid\(a\)", "sigmoid(-a)", "_swiglu_"),
        Mutation("sign in da", _SILU, r"1\.0 \+ a \*", "1.0 - a *", "_swiglu_backward_kernel"),
        Mutation("a missing in db", _SILU, r"dy \* a \* s", "dy * s", "_swiglu_backward_kernel"),
        *_SIGMOID,
    ],
    "geglu": [
        *_gated("geglu.py", r"gelu\(a, APPROXIMATE\b[^)]*\)", r"gelu(b, APPROXIMATE) * a / b"),
        *_GELU_MUTATIONS,
        Mutation("GELU itself for its derivative", "geglu.py", r"gelu_derivative\(a", "gelu(a", "backward_kernel"),
        Mutation("the derivative for GELU", "geglu.py", r"dy \* gelu\(a", "dy * gelu_derivative(a", "backward_kernel"),
    ],
    "rms_norm": [
        *_norm(_RMS_NORM, unless="total"),
        *_RMS_NORM_MUTATIONS,
        Mutation("Llama's casting for Gemma's", _RMS_NORM, r'CASTING == "gemma"', 'CASTING == "other"', _INSIDE),
        Mutation("weight without one", _RMS_NORM, r"\(1\.0 \+ weight\)", "weight", _INSIDE),
        Mutation("weight missing in the gradient", _RMS_NORM, r"upstream \* weight\b", "upstream", _INSIDE),
    ],
    "add_rms_norm": [
        *_norm(_RMS_NORM),
        *_RMS_NORM_MUTATIONS,
        Mutation("residual of another row", _RMS_NORM, r"row \* residual_stride", "row * 0", "kernel"),
        Mutation("gradient of the sum forgotten", _RMS_NORM, r"dx \+= ", "0 * ", "backward"),
        Mutation("sum in the wrong place", _RMS_NORM, r"_store\(total_ptr", "_store(y_ptr", "forward"),
    ],
    "layer_norm_gelu": [
        *_norm(_LAYER_NORM),
        *_LAYER_NORM_MUTATIONS,
        *_GELU_MUTATIONS,
        Mutation("bias forgotten", _LAYER_NORM, r"\* weight \+ bias\b", "* weight", _INSIDE),
        Mutation("weight missing in the gradient", _LAYER_NORM, r"dz \* weight\b", "dz", _INSIDE),
        *_PACKED_ROW_MUTATIONS,
        Mutation("mean of N / 2 of a packed row", _PACKED_LAYER_NORM, r"1\.0 / N\b", "2.0 / N"),
        Mutation("sum of the last part only", _PACKED_LAYER_NORM, r"total \+= ", "total = "),
        Mutation("a thread's numbers not about its own", _PACKED_LAYER_NORM, r"DTYPE\) - about", "DTYPE)"),
        Mutation("a thread's mean not its own", _PACKED_LAYER_NORM, r"about \+ own", "about"),
        Mutation("squares not about the thread's mean", _PACKED_LAYER_NORM, r"squares - own \* total", "squares"),
        Mutation("threads' means not apart", _PACKED_LAYER_NORM, r" \+ apart \* apart \* count", ""),
        Mutation("a thread's count left out", _PACKED_LAYER_NORM, r"apart \* apart \* count", "apart * apart"),
        Mutation("squares of the last part only", _PACKED_LAYER_NORM, r"squares \+= ", "squares = "),
        Mutation("what is behind a packed row counted", _PACKED_LAYER_NORM, r"inside, 1\.0, 0\.0", "inside, 1.0, 1.0"),
        Mutation("what is behind a packed row summed", _PACKED_LAYER_NORM, r"apart, 0\.0\)", "apart, apart)"),
        Mutation("packed row not shifted", _PACKED_LAYER_NORM, r"rstd \+ shift", "rstd"),
        Mutation("eps of a packed row dropped", _PACKED_LAYER_NORM, r" \+ eps\b", ""),
        Mutation("a gradient in the other's place", _LAYER_NORM, r"store\(dbias_ptr", "store(dweight_ptr", "backward"),
        Mutation("x_hat not about the mean", _PACKED_BACKWARD, r"factor \+ shift", "factor"),
        Mutation("a part's bias in another's place", _PACKED_BACKWARD, r"biases\[part\]", "biases[0]"),
        Mutation("a part's weight in another's place", _PACKED_BACKWARD, r"\bweights\[part\]", "weights[0]"),
        Mutation("weight's gradient of the last rows", _PACKED_BACKWARD, r"dweights\[part\] \+ tl", "tl"),
        Mutation("bias's gradient of the last rows", _PACKED_BACKWARD, r"dbiases\[part\] \+ tl", "tl"),
        Mutation("sum of the last part only", _PACKED_BACKWARD, r"average \+= ", "average = "),
        Mutation("projection of the last part only", _PACKED_BACKWARD, r"projected \+= ", "projected = "),
        Mutation("rstd missing in packed dx", _PACKED_BACKWARD, r"outer = rstd \* HALF", "outer = HALF"),
        Mutation("projection missing in packed dx", _PACKED_BACKWARD, r"\(x_hats.* slope \+ offset\)", "offset"),
        Mutation("mean missing in packed dx", _PACKED_BACKWARD, r" \+ offset\)", ")"),
        Mutation("the projection's sign in packed dx", _PACKED_BACKWARD, r"outer - \(x_hats", "outer + (x_hats"),
        Mutation("scale forgotten in packed dx", _PACKED_BACKWARD, r"N \* SCALE \* SCALE", "N"),
        Mutation("twice the gradient", _PACKED_BACKWARD, r"0\.5 if SHORT", "1.0 if SHORT"),
        Mutation("twice a wide row's gradient", _LAYER_NORM, r"\(0\.5 if SHORT", "(1.0 if SHORT", "backward"),
        Mutation("scale forgotten in the weight's gradient", _PACKED_BACKWARD, r"HALF / SCALE", "HALF"),
    ],
    "softmax_dropout": [
        Mutation("last column masked", _SOFTMAX, r"\(column < N\)", "(column < N - 1)"),
        Mutation("last row masked", _SOFTMAX, r"\brow < M\b", "row < M - 1"),
        Mutation("row of y one element short", _SOFTMAX, r"\brow \* N\b", "row * (N - 1)"),
        Mutation("row of x one element short", _SOFTMAX, r"\brow \* x_stride\b", "row * (x_stride - 1)"),
        Mutation("row of dy one element short", _SOFTMAX, r"\brow \* dy_stride\b", "row * (dy_stride - 1)"),
        Mutation("not rescaled", _SOFTMAX, r"reciprocal \* rescale", "reciprocal", "forward"),
        Mutation("gradient not rescaled", _SOFTMAX, r"where\(keep, rescale,", "where(keep, 1.0,", "backward"),
        Mutation("dropped for kept", _SOFTMAX, r"where\(keep, rescale, 0\.0\)", "where(keep, 0., rescale)", "backward"),
        Mutation("another mask in the backward", _SOFTMAX, r"_keep\(seed,", "_keep(seed + 1,", "backward_kernel"),
        Mutation("no mask in the backward", _SOFTMAX, r"gradient \*= tl\.where\(keep.*$", "pass", "backward"),
        Mutation("scale forgotten in dx", _SOFTMAX, r"reciprocal \* dx_scale", "reciprocal", "backward"),
        Mutation("projection missing in dx", _SOFTMAX, r" - projected \* slope_of_dx", "", "backward"),
        Mutation("stale sum", _SOFTMAX, r"total \*= .*$", "pass", "forward"),
        Mutation("scale forgotten", _SOFTMAX, r"scale \* _LOG2_E", "_LOG2_E * (scale != 0)"),
        Mutation("exp for exp2", _PACKED, r"tl\.exp2\(\(scores", "tl.exp((scores"),
        Mutation("the mask's sense", _SOFTMAX, r"added != 0", "added == 0"),
        Mutation("gradient of what a mask drops", _SOFTMAX, r"dx = tl\.where\(kept, dx, 0\.0\)", "pass"),
        Mutation("mask not added", _SOFTMAX, r"(x|scores) \+ added(\.to\(tl\.float32\))?", r"\1"),
        Mutation("one mask for all rows", _PHILOX, r"row\.to\(tl\.uint32\), ", "row.to(tl.uint32) * 0, "),
        Mutation("mask repeated in a row", _PHILOX, r"(tl\.arange\(0, BLOCK_N // NEIGHBOURS\))", r"0 * \1"),
        Mutation("one decision for two", _PHILOX, r"tl\.join\(words, \(words << 16\).*$", "tl.join(words, words)"),
        Mutation("dropped for kept, both ways", _PHILOX, r">= (?=threshold|tl\.cast\(threshold)", "< "),
        Mutation("fewer rounds", _PHILOX, r"ROUNDS = tl\.constexpr\(\d+\)", "ROUNDS = tl.constexpr(1)"),
        Mutation("key of the host ignored", _PHILOX, r" \^ \(\(tl\.cast.*$", ""),
        Mutation("half of the host's key ignored", _PHILOX, r"tl\.cast\(key_high, tl\.int64\)", "0"),
        Mutation("seed of the device ignored", _PHILOX, r"tl\.load\(seed_ptr\) \^ ", ""),
        Mutation("block of a wide row forgotten", _PHILOX, r"start // NEIGHBOURS \+", "0 +"),
        Mutation("a part with another's decisions", _PACKED, r"part \* WIDTH, threshold", "0, threshold"),
        Mutation("sum of the last part only", _PACKED, r"total \+= ", "total = "),
        Mutation("largest of the last part only", _PACKED, r"(mum)\(largest, ", r"\1(LEAST, "),
        Mutation("packed gradient not rescaled", _PACKED, r"slope_of_dx \*= rescale", "pass"),
        *_PACKED_ROW_MUTATIONS,
        Mutation("a zero that is none", _PACKED_ROWS, r"natural >> 31", "natural"),
        Mutation("the mask's row", _SCORES, r"\* stride_1|\* mask_stride_1", "* 0"),
    ],
}  # fmt: skip


# What they are held against.

Check = tuple[str, Callable[[], None]]


def checks(operator: str) -> list[Check]:
    """Checks of the suite, the cheap ones that see most first. Imports ``fuselab.ops``, wherever that is found."""
    import torch
    from operator_cases import OPERATORS, check, compare, lay_out, make_inputs

    f32, bf16 = torch.float32, torch.bfloat16

    def case(shape: tuple[int, ...], dtype: Any, options: dict[str, Any] | None = None, **more: Any) -> Check:
        name = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')} {options or ''} {more or ''}".strip()
        return name, lambda: check(operator, shape, dtype, options, **more)

    def aligned(shape: tuple[int, ...], dtype: Any) -> Check:
        # In wide rows of random numbers the projection is less than a rounding, and all rows have one rstd: here x is
        # positive, every row of another size, and the gradient constant.
        def run_check() -> None:
            op, inputs = OPERATORS[operator], make_inputs(operator, shape, dtype)
            sizes = 1 + torch.arange(shape[0])[:, None] / 2
            inputs["x"] = (inputs["x"].abs() * sizes).to(dtype)
            compare("aligned", inputs, {}, op.ours, op.reference, op.eager, "expanded", terms=op.terms)

        return f"aligned {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}", run_check

    rows = {"layout": "rows", "grad_layout": "rows"}
    if operator in ("rms_norm", "add_rms_norm"):
        return [
            case((3, 7), f32), case((4, 16), bf16), case((5, 33), f32, {"casting": "gemma"}, **rows),
            case((4, 65), f32, magnitude=1e-4), case((7, 700), f32), case((5, 24), f32, {"casting": "none"}),
            case((31, 127), f32, {"casting": "gemma", "eps": 1e-3}, layout="transposed", grad_layout="expanded"),
            case((5, 48), bf16, {"casting": "gemma"}, other=f32), case((2, 8_200), f32, **rows), case((3, 20_011), f32),
            case((130, 24), f32), aligned((5, 20_000), bf16),
            case((5, 20_000), bf16), case((3, 20_011), f32, magnitude=1e-4),
        ]  # fmt: skip
    if operator == "layer_norm_gelu":
        return [
            case((3, 7), f32), case((4, 16), bf16), case((5, 33), f32, {"approximate": "tanh"}, **rows),
            case((4, 65), f32, magnitude=1e-4), case((7, 700), f32), case((5, 48), bf16, other=f32),
            case((31, 127), f32, {"eps": 1e-3}, layout="transposed", grad_layout="expanded"),
            case((130, 24), f32), case((3, 2_056), bf16, **rows), case((2, 2_200), bf16, magnitude=1e-4),
            case((2, 8_200), f32, **rows), case((3, 20_011), f32), case((3, 8_000), f32),
            case((5, 1_100), f32), aligned((3, 8_192), bf16), case((9, 8_200), f32), case((2, 4_096), bf16),
            aligned((3, 2_056), bf16), case((3, 1_024), f32), case((5, 264), bf16, **rows), aligned((7, 256), bf16),
            aligned((3, 8_200), bf16),
        ]  # fmt: skip
    if operator == "softmax_dropout":
        return softmax_checks()
    forms = {"silu": [{}], "swiglu": [{}], "geglu": [{}, {"approximate": "tanh"}]}[operator]
    found = [
        case(shape, dtype, options, **more)
        for options in forms
        for shape, dtype, more in (
            ((3, 7), f32, {}), ((4, 16), bf16, {}), ((3, 5, 33), f32, rows),
            ((3, 2, 24), f32, {"layout": "transposed", "grad_layout": "expanded"}), ((3, 1_500), f32, {}),
            ((2, 1_024), bf16, {}),
        )
    ]  # fmt: skip
    if operator == "silu":
        return found

    def unlike(layouts: tuple[str, str]) -> Check:
        op = OPERATORS[operator]
        inputs = make_inputs(operator, (3, 24), f32)
        inputs = {key: lay_out(value, how) for (key, value), how in zip(inputs.items(), layouts, strict=True)}
        name = f"a {layouts[0]}, b {layouts[1]}"
        return name, lambda: compare(name, inputs, {}, op.ours, op.reference, op.eager)

    def packed(shape: tuple[int, ...], dtype: Any, options: dict[str, Any], **more: Any) -> Check:
        name = f"packed {'x'.join(map(str, shape))} {options or ''} {more or ''}".strip()
        return name, lambda: check(f"{operator}_packed", shape, dtype, options, **more)

    halves = [packed(s, f32, o, **m) for o in forms for s, m in (((3, 14), {}), ((5, 48), rows))]
    return [*found, *halves, unlike(("contiguous", "rows")), unlike(("transposed", "contiguous"))]


def softmax_checks() -> list[Check]:
    """Values and gradients given what was dropped, then what is dropped."""
    import pytest
    import test_softmax_dropout_interpreted as tests
    import torch
    from operator_cases import check_softmax_dropout as check

    f32, bf16 = torch.float32, torch.bfloat16

    def case(shape: tuple[int, ...], dtype: Any, p: float, **more: Any) -> Check:
        shown = {key: value for key, value in more.items() if key != "mask"} | (
            {"mask": "given"} if "mask" in more else {}
        )
        name = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')} p={p} {shown or ''}".strip()
        return name, lambda: check(shape, dtype, p, **more)

    def a_key_of_the_host() -> None:
        with pytest.MonkeyPatch.context() as patch:
            tests.test_a_key_from_the_host((5, 6), patch)

    generator = torch.Generator().manual_seed(0)
    added, heads = torch.randn(2, 1, 5, 8, generator=generator), torch.randn(2, 3, 1, 8, generator=generator)
    kept = (added > 0) | (torch.arange(8) == 2)
    rows = {"layout": "rows", "grad_layout": "rows"}
    return [
        case((3, 7), f32, 0.3), case((4, 16), bf16, 0.1), case((5, 33), f32, 0.1, **rows),
        case((3, 20), f32, 0.3, scale=-2.0), case((2, 3, 5, 8), f32, 0.3, scale=0.5, mask=added),
        case((2, 3, 5, 8), f32, 0.3, mask=kept), case((2, 3, 5, 8), f32, 0.3, mask=heads),
        ("a key of the host", a_key_of_the_host),
        ("what a mask drops of 24", lambda: tests.test_a_score_that_a_mask_drops_has_no_gradient(24)),
        ("what a mask drops of 16400", lambda: tests.test_a_score_that_a_mask_drops_has_no_gradient(16_400)),
        ("what Philox says of 5x37", lambda: tests.test_dropped_as_philox_says((5, 37), 0.5)),
        ("what Philox says of 2x20001", lambda: tests.test_dropped_as_philox_says((2, 20_001), 0.1)),
        case((3, 9_000), bf16, 0.3, scale=0.5, **rows), case((2, 33_000), bf16, 0.3),
        case((2, 9_000), bf16, 0.1, magnitude=1e3), case((2, 9_000), bf16, 0.3, scale=-2.0, magnitude=1e3),
        case((3, 20_011), f32, 0.1, scale=0.5), case((9, 129), bf16, 0.1), case((40, 40), f32, 0.0),
    ]  # fmt: skip


# Running them.


@dataclass
class Outcome:
    """What became of a mutant."""

    killed_by: str
    """Name of the check; empty where it survived."""
    how: str
    """The last line of what it raised."""
    seconds: float


def judged(mutant: Mutant) -> Outcome:
    """Run a mutant's checks in this process, which must not have imported ``fuselab`` before."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "fuselab"
        shutil.copytree(sources(), package / "ops", ignore=shutil.ignore_patterns("__pycache__"))
        for other in sources().parent.iterdir():
            if other.name != "ops":
                (package / other.name).symlink_to(other)
        (package / "ops" / mutant.file).write_text(mutant.source)
        sys.path[:0] = [folder, str(HERE), str(HERE / "interpreted")]
        sys.dont_write_bytecode = True
        name = BROKEN
        try:
            todo = checks(mutant.operator)
            assert Path(sys.modules["fuselab.ops"].__file__ or "").is_relative_to(folder)
            for name, run_check in todo:  # noqa: B007 - the one at which it ended
                run_check()
        except BaseException as error:  # whatever it is, the mutant is dead
            lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
            return Outcome(name, lines[0][:200], time.monotonic() - started)
    return Outcome("", "", time.monotonic() - started)


def run(chosen: list[Mutant], processes: int = 2) -> list[Outcome]:
    """All outcomes, in order; every mutant in a fork of this process."""
    waiting = list(enumerate(chosen))
    running: dict[int, tuple[int, int, float]] = {}
    outcomes: dict[int, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            number, mutant = waiting.pop(0)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                _child(mutant, write)
            os.close(write)
            running[child] = number, read, time.monotonic()
        child, status = os.wait()
        number, read, started = running.pop(child)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        if data:
            outcomes[number] = pickle.loads(data)
        else:
            ended = -status if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
            timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            how = f"no end within {LONGEST_S} s" if timed_out else f"crash: {ended}"
            outcomes[number] = Outcome("crash", how, time.monotonic() - started)
    return [outcomes[number] for number in range(len(chosen))]


def _child(mutant: Mutant, write: int) -> None:
    try:
        signal.alarm(LONGEST_S)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcome = judged(mutant)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
    finally:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=", ".join(MUTATIONS))
    parser.add_argument("--some", action="store_true", help="the first match of each pattern")
    parser.add_argument("--rest", action="store_true", help="all but these")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Without the interpreter every mutant would die of having no GPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    chosen = [
        mutant
        for operator in arguments.operators or MUTATIONS
        for mutant in (unchanged(operator), *mutants(operator))
        if mutant.first or not arguments.some or mutant.title == "unchanged"
        if not (mutant.first and arguments.rest)
    ]
    # Loaded once, for all forks: what the operators and the tests import, but nothing of fuselab.
    import hypothesis.strategies  # noqa: F401
    import numpy
    import pytest  # noqa: F401
    import torch._dynamo
    import torch.testing
    import triton.language  # noqa: F401

    torch.set_num_threads(1)
    numpy.seterr(all="ignore")
    outcomes = run(chosen)
    found = [
        {
            "operator": m.operator, "title": m.title, "place": f"{m.file}:{m.line}", "before": m.before,
            "after": m.after, **vars(o),
        }
        for m, o in zip(chosen, outcomes, strict=True)
    ]  # fmt: skip
    if arguments.json:
        print(json.dumps(found))
        return
    for each in found:
        by = each["killed_by"] or "survived"
        print(f"{each['operator']:16} {each['seconds']:5.1f} s  {each['title']} ({each['place']}): {by}: {each['how']}")
    changed = [each for each in found if each["title"] != "unchanged"]
    killed = sum(each["killed_by"] not in ("", BROKEN) for each in changed)
    print(f"{killed} of {len(changed)} killed")


if __name__ == "__main__":
    main()
