"""Whether an implementation is right, at full size: outputs and every gradient against float64, some rows at a time.

The bound is that of the operators' own tests: root-mean-square and largest error at most three times eager's, plus one
rounding to bfloat16; NaN and Inf nowhere, since the inputs have none; inputs unchanged. What dropout kept is read from
the output (a probability is never 0), its rate is checked, and the gradients prove that the backward drew the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peers_operators import Operator, P
from torch import Tensor

FACTOR = 3.0
ROUNDING = torch.finfo(torch.bfloat16).eps / 2
ELEMENTS = 1 << 24
"""Elements of a chunk of rows: 128 MB in float64."""


@dataclass
class Errors:
    """Of one tensor against its reference, gathered over chunks."""

    count: int = 0
    squares: float = 0.0
    largest: float = 0.0
    size_squares: float = 0.0
    size_largest: float = 0.0
    finite: bool = True

    def add(self, got: Tensor, wanted: Tensor) -> None:
        """One chunk."""
        error = (got.double() - wanted).abs()
        self.finite = self.finite and bool(torch.isfinite(error).all())
        self.count += error.numel()
        self.squares += float(error.square().sum())
        self.largest = max(self.largest, float(error.max()))
        self.size_squares += float(wanted.square().sum())
        self.size_largest = max(self.size_largest, float(wanted.abs().max()))

    @property
    def rms(self) -> float:
        """Root-mean-square error."""
        return math.sqrt(self.squares / max(self.count, 1))

    @property
    def size(self) -> float:
        """Root mean square of the reference."""
        return math.sqrt(self.size_squares / max(self.count, 1))

    def relative(self) -> dict[str, float]:
        """Both errors, as shares of the reference's size."""
        return {"rms": self.rms / max(self.size, 1e-300), "max": self.largest / max(self.size_largest, 1e-300)}

    def wrong(self, eager: Errors) -> str:
        """What is wrong beside eager, in words, or an empty string."""
        if not self.finite:
            return "not finite"
        for what, found, allowed, size in (
            ("rms", self.rms, eager.rms, self.size),
            ("largest", self.largest, eager.largest, self.size_largest),
        ):
            if not found <= FACTOR * allowed + ROUNDING * size:
                return f"{what} error {found:.3g}, allowed {FACTOR * allowed + ROUNDING * size:.3g}"
        return ""


def as_list(result: Any) -> list[Tensor]:
    """The outputs of a call."""
    return list(result) if isinstance(result, tuple | list) else [result]


def gradients_of(outputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Random gradients of the outputs."""
    drawn = []
    for number, output in enumerate(outputs):
        generator = torch.Generator(device=output.device).manual_seed(seed + number)
        drawn.append(torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype))
    return drawn


def check(
    operator: Operator, function: Callable[..., Any], tensors: Sequence[Tensor], *, drops: bool, seed: int = 1
) -> tuple[dict[str, Errors], str]:
    """Call ``function`` once, forward and backward.

    Args:
        operator: where the reference comes from.
        function: the implementation; it must leave ``tensors`` as they are.
        tensors: its inputs, which require gradients.
        drops: whether it drops elements, where the operator is a random one.
        seed: of the gradients of the outputs.

    Returns:
        Errors by tensor, and what is wrong apart from them (inputs written to, rate of dropout, shape or dtype), in
        words.
    """
    before = [t.detach().clone() for t in tensors]
    outputs = as_list(function(*tensors))
    grads = gradients_of(outputs, seed)
    gradients = list(torch.autograd.grad(outputs, list(tensors), grads))
    outputs = [y.detach() for y in outputs]
    for name, t, kept in zip(operator.tensors, tensors, before, strict=True):
        if not torch.equal(t, kept):
            return {}, f"{name} was written to"
    del before
    rows, width = tensors[0].shape
    for y in outputs:
        if tuple(y.shape) != (rows, width) or y.dtype != tensors[0].dtype:
            return {}, f"an output is {tuple(y.shape)} {y.dtype}"
    keep = outputs[0] != 0 if operator.random and drops else None
    reason = "" if keep is None else _rate(keep)
    found = {f"output {number}": Errors() for number in range(len(outputs))}
    found |= {f"gradient of {name}": Errors() for name in operator.tensors}
    vectors: dict[int, Tensor] = {}
    step = max(1, ELEMENTS // width)
    for start in range(0, rows, step):
        part = slice(start, min(rows, start + step))
        wide = [(t[part] if t.dim() == 2 else t).detach().double().requires_grad_() for t in tensors]
        results = as_list(operator.reference(*wide, keep=None if keep is None else keep[part]))
        wanted = torch.autograd.grad(results, wide, [g[part].double() for g in grads])
        for number, (y, result) in enumerate(zip(outputs, results, strict=True)):
            found[f"output {number}"].add(y[part], result.detach())
        for number, (name, gradient) in enumerate(zip(operator.tensors, gradients, strict=True)):
            if gradient.dim() == 2:
                found[f"gradient of {name}"].add(gradient[part], wanted[number])
            else:
                vectors[number] = vectors[number] + wanted[number] if number in vectors else wanted[number]
    for number, total in vectors.items():
        found[f"gradient of {operator.tensors[number]}"].add(gradients[number], total)
    return found, reason


def _rate(keep: Tensor) -> str:
    """What is wrong with the share that was kept, in words."""
    share, count = float(keep.double().mean()), keep.numel()
    if abs(share - (1 - P)) > 6 * math.sqrt(P * (1 - P) / count) + 2.0**-16:  # some draw with 16 bits
        return f"{share:.5f} of the elements were kept, expected {1 - P}"
    return ""


def verdict(found: dict[str, Errors], eager: dict[str, Errors]) -> str:
    """What is wrong beside eager, in words, or an empty string."""
    for name, errors in found.items():
        if wrong := errors.wrong(eager[name]):
            return f"{name}: {wrong}"
    return ""
