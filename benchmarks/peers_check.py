"""Whether an implementation is right, at full size: outputs and every gradient against float64, some rows at a time.

The bound is that of fuselab's own gate (``fuselab.measure.tolerance``), beside eager's error on the same inputs: root
mean square, largest error, NaN and Inf, and, in the first rows, the mean error. Inputs must be unchanged. What dropout
kept is read from the output (a probability is never 0), its rate is checked, and the gradients prove that the backward
drew the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peers_operators import EAGER, Operator, P
from torch import Tensor

from fuselab.measure.tolerance import Scale, compare, scale_of
from fuselab.records import TensorCheck

ELEMENTS = 1 << 24
"""Elements of a chunk of rows: 128 MB in float64, and a dozen such at a time."""
MEANS = 1 << 22
"""Elements of the first chunk, the one whose mean error is looked at: counting by sign and power of two costs as much
as all the rest, and a systematic error is everywhere."""


@dataclass
class Errors:
    """Of one tensor against its reference, gathered over chunks."""

    count: int = 0
    squares: float = 0.0
    largest: float = 0.0
    size_squares: float = 0.0
    size_largest: float = 0.0
    reason: str = ""
    """What is wrong in the first chunk that is, in words."""

    def add(self, checked: TensorCheck, wanted: Tensor) -> None:
        """One chunk, and its reference."""
        self.reason = self.reason or checked.reason
        self.count += wanted.numel()
        self.squares += (checked.rms_error or 0.0) ** 2 * wanted.numel()
        self.largest = max(self.largest, checked.max_error or 0.0)
        self.size_squares += float(wanted.square().sum())
        self.size_largest = max(self.size_largest, float(wanted.abs().max()))

    def relative(self) -> dict[str, float]:
        """Both errors, as shares of the reference's root mean square and largest magnitude."""
        rms, size = (math.sqrt(squares / max(self.count, 1)) for squares in (self.squares, self.size_squares))
        return {"rms": rms / max(size, 1e-300), "max": self.largest / max(self.size_largest, 1e-300)}


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


@dataclass
class _Called:
    """What a call came to, forward and backward, and what it kept where it drops."""

    outputs: list[Tensor]
    grads: list[Tensor]
    gradients: list[Tensor]
    keep: Tensor | None


def _call(function: Callable[..., Any], tensors: Sequence[Tensor], seed: int, *, drops: bool) -> _Called:
    outputs = as_list(function(*tensors))
    grads = gradients_of(outputs, seed)
    gradients = list(torch.autograd.grad(outputs, list(tensors), grads))
    outputs = [y.detach() for y in outputs]
    return _Called(outputs, grads, gradients, outputs[0] != 0 if drops else None)


def check(
    operator: Operator,
    variant: str,
    function: Callable[..., Any],
    tensors: Sequence[Tensor],
    *,
    drops: bool,
    seed: int = 1,
) -> tuple[dict[str, Errors], str]:
    """Call ``function`` once, forward and backward, and eager beside it.

    Args:
        operator: where eager and the reference come from.
        variant: its name; of what is PyTorch operator by operator no mean error is asked.
        function: the implementation; it must leave ``tensors`` as they are.
        tensors: its inputs, which require gradients.
        drops: whether it drops elements, where the operator is a random one.
        seed: of the gradients of the outputs.

    Returns:
        Errors by tensor, and what is wrong first, in words, or an empty string.
    """
    before = [t.detach().clone() for t in tensors]
    called = _call(function, tensors, seed, drops=operator.random and drops)
    for name, t, kept in zip(operator.tensors, tensors, before, strict=True):
        if not torch.equal(t, kept):
            return {}, f"{name} was written to"
    del before
    for y in called.outputs:
        if y.shape != tensors[0].shape or y.dtype != tensors[0].dtype:
            return {}, f"an output is {tuple(y.shape)} {y.dtype}"
    eager = _call(operator.build[EAGER](), tensors, seed, drops=operator.random)
    found = _compared(operator, tensors, called, eager, rounds_between=variant in operator.rounds_between)
    wrong = [f"{name}: {errors.reason}" for name, errors in found.items() if errors.reason]
    if called.keep is not None and (rate := _rate(called.keep)):
        wrong.insert(0, rate)
    return found, wrong[0] if wrong else ""


def _compared(
    operator: Operator, tensors: Sequence[Tensor], called: _Called, eager: _Called, *, rounds_between: bool
) -> dict[str, Errors]:
    """Errors by tensor; gradients of weights are added up over the chunks before they are compared."""
    results, expected = ([*each.outputs, *each.gradients] for each in (called, eager))
    outputs = [f"output {number}" for number in range(len(called.outputs))]
    names = [*outputs, *(f"gradient of {name}" for name in operator.tensors)]
    found = {name: Errors() for name in names}
    scale = scale_of([*tensors, *called.outputs])
    totals: dict[int, Tensor] = {}
    for part in _parts(*tensors[0].shape):
        truth = _reference(operator, tensors, called, part)
        other = _reference(operator, tensors, eager, part) if operator.random else None
        for number, (name, wanted) in enumerate(zip(names, truth, strict=True)):
            if results[number].dim() == 1:
                totals[number] = totals[number] + wanted if number in totals else wanted
                continue
            checked = compare(
                name,
                results[number][part],
                expected[number][part],
                wanted,
                _of_rows(scale, wanted),
                eager_reference=None if other is None else other[number],
                rounds_between=rounds_between or part.start > 0,
            )
            found[name].add(checked, wanted)
    for number, total in totals.items():
        one, beside = results[number], expected[number]
        found[names[number]].add(
            compare(names[number], one, beside, total, scale, rounds_between=rounds_between), total
        )
    return found


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Rows of one chunk after the other."""
    start, step = 0, max(1, min(MEANS, ELEMENTS) // width)
    while start < rows:
        yield slice(start, min(rows, start + step))
        start, step = start + step, max(1, ELEMENTS // width)


def _of_rows(scale: Scale, wanted: Tensor) -> Scale:
    """The scale of a chunk: nothing in it is added up over rows."""
    return dataclasses.replace(scale, elements=wanted.numel())


def _reference(operator: Operator, tensors: Sequence[Tensor], called: _Called, part: slice) -> list[Tensor]:
    """Outputs and gradients of some rows in float64, with what the call kept."""
    wide = [(t[part] if t.dim() == 2 else t).detach().double().requires_grad_() for t in tensors]
    results = as_list(operator.reference(*wide, keep=None if called.keep is None else called.keep[part]))
    gradients = torch.autograd.grad(results, wide, [g[part].double() for g in called.grads])
    return [*(result.detach() for result in results), *gradients]


def _rate(keep: Tensor) -> str:
    """What is wrong with the share that was kept, in words."""
    share, count = float(keep.double().mean()), keep.numel()
    if abs(share - (1 - P)) > 6 * math.sqrt(P * (1 - P) / count) + 2.0**-16:  # some draw with 16 bits
        return f"{share:.5f} of the elements were kept, expected {1 - P}"
    return ""
