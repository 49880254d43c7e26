"""The answers of a stream of calls, kept and compared: outputs, gradients, changed arguments, printed lines.

For the observing process, which has torch. Equal means: the same structure, dtypes, shapes, NaN and infinities in the
same places, and every element within a few roundings of its dtype, taken at the tensor's own scale. A tensor of zeros
in place of one that is not is never equal: its distance is the tensor's own size.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuselab.diagnosis.records import Equality

if TYPE_CHECKING:
    import torch

__all__ = ["ROUNDINGS", "Answers", "collect", "compare"]

ROUNDINGS = 16.0
"""Distance allowed, in units of the dtype's epsilon times the larger of the element and the tensor's root mean square.

Moving a Python float's arithmetic into a tensor rounds each operation to the tensor's dtype: a handful of roundings."""

LONGEST_TEXT = 4000

Answers = list[dict[str, Any]]
"""One entry a call: ``tensors`` and ``others`` by the place where they were found, and the ``lines`` that were said."""


def collect(
    function: Callable[..., Any],
    outputs: Any,
    arguments: Mapping[str, Any],
    said: list[str],
    seed: int,
    *,
    gradients: bool,
) -> dict[str, Any]:
    """What one call did.

    Args:
        function: what was called; a module's parameters get gradients.
        outputs: what it returned.
        arguments: what it was called on, by name: it may have written to them.
        said: lines that it printed, warned or logged, sorted.
        seed: of the gradients that are sent in.
        gradients: whether to take gradients.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, str] = {}
    for place, value in _leaves(outputs, "output"):
        if isinstance(value, torch.Tensor):
            tensors[place] = value.detach().clone()
        else:
            others[place] = _said(value)
    for name, value in arguments.items():
        for place, leaf in _leaves(value, f"argument {name}"):
            if isinstance(leaf, torch.Tensor):
                tensors[place] = leaf.detach().clone()
    if gradients:
        for place, value in _gradients(function, outputs, arguments, seed):
            if isinstance(value, str):
                others[place] = value
            else:
                tensors[place] = value
    return {"tensors": tensors, "others": others, "lines": said}


def compare(answers: Answers, kept: Path) -> Equality:
    """Answers against those that were kept in a file of ours."""
    import torch

    expected: Answers = torch.load(kept, weights_only=True)
    if len(answers) != len(expected):
        return Equality(equal=False, reason=f"{len(answers)} calls came to an end, not {len(expected)}")
    compared, bitwise, worst = 0, True, 0.0
    for call, (got, wanted) in enumerate(zip(answers, expected, strict=True)):
        reason = _said_otherwise(got, wanted)
        compared += len(wanted["others"])
        for place, value in wanted["tensors"].items() if not reason else ():
            compared += 1
            what, same, distance = _difference(got["tensors"][place], value)
            worst = max(worst, distance)
            bitwise &= same
            if what:
                reason = f"{place} {what}"
                break
        if reason:
            return Equality(equal=False, compared=compared, worst=worst, reason=f"call {call}: {reason}")
    return Equality(equal=True, bitwise=bitwise, compared=compared, worst=worst)


def _said_otherwise(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two calls beside the tensors' values; empty where nothing does."""
    for what in ("tensors", "others"):
        if got[what].keys() != wanted[what].keys():
            return f"{min(got[what].keys() ^ wanted[what].keys())} is not in both"
    for place, value in wanted["others"].items():
        if got["others"][place] != value:
            return f"{place} is {got['others'][place]}, not {value}"
    printed, expected = Counter(got["lines"]), Counter(wanted["lines"])
    new, gone = sorted(printed - expected), sorted(expected - printed)
    if new:
        return f"it says {new[0]!r}"
    return f"it does not say {gone[0]!r}" if gone else ""


def _difference(got: torch.Tensor, wanted: torch.Tensor) -> tuple[str, bool, float]:
    """What is wrong in words, whether every bit is the same, the distance in units of rounding."""
    import torch

    if got.dtype != wanted.dtype or got.shape != wanted.shape:
        return f"is {got.dtype} {tuple(got.shape)}, not {wanted.dtype} {tuple(wanted.shape)}", False, math.inf
    got = got.to(wanted.device)
    if not (wanted.is_floating_point() or wanted.is_complex()):
        same = bool(torch.equal(got, wanted))
        return ("", True, 0.0) if same else ("differs", False, math.inf)
    if wanted.is_complex():
        got, wanted = torch.view_as_real(got), torch.view_as_real(wanted)
    epsilon = torch.finfo(wanted.dtype).eps
    got, wanted = got.double(), wanted.double()
    special = ~wanted.isfinite()
    same_special = torch.where(special, (got == wanted) | (got.isnan() & wanted.isnan()), got.isfinite())
    if not bool(same_special.all()):
        return "has NaN or infinities in other places", False, math.inf
    difference = torch.where(special, 0.0, (got - wanted).abs())
    size = torch.where(special, 0.0, wanted.abs())
    scale = torch.maximum(size, size.square().mean().sqrt())
    distance = float((difference / scale.clamp_min(torch.finfo(torch.float64).tiny)).max()) / epsilon
    reason = "" if distance <= ROUNDINGS else f"is {distance:.3g} roundings away, more than {ROUNDINGS:g}"
    return reason, distance == 0.0, distance


def _gradients(
    function: Callable[..., Any], outputs: Any, arguments: Mapping[str, Any], seed: int
) -> Iterator[tuple[str, torch.Tensor | str]]:
    """Gradients of floating outputs with respect to the arguments and parameters, from random ones sent in."""
    import torch

    out = [v for _, v in _leaves(outputs, "") if isinstance(v, torch.Tensor) and v.grad_fn is not None]
    into = [
        (f"gradient of {place}", leaf)
        for name, value in arguments.items()
        for place, leaf in _leaves(value, name)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad and leaf.is_leaf
    ]
    if isinstance(function, torch.nn.Module):
        into += [(f"gradient of {name}", p) for name, p in function.named_parameters() if p.requires_grad]
    if not out or not into:
        return
    generator = torch.Generator().manual_seed(seed)
    sent = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.device, o.dtype) for o in out]
    try:
        taken = torch.autograd.grad(out, [tensor for _, tensor in into], sent, allow_unused=True)
    except RuntimeError as error:  # a graph that the function itself has used up; both sides say the same then
        yield "gradients", f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return
    for (name, _), gradient in zip(into, taken, strict=True):
        yield name, "none" if gradient is None else gradient.detach().clone()


def _leaves(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values in lists, tuples, mappings and dataclasses, each with where it was found."""
    if depth > 20:
        yield place, type(value).__name__
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}[{index}]", depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from _leaves(getattr(value, item.name), f"{place}.{item.name}", depth + 1)
    else:
        yield place, value


def _said(value: Any) -> str:
    """A value as text; of an object without one of its own only the type, since the default has its address."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)[:LONGEST_TEXT]
    return type(value).__name__
