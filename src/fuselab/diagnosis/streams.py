"""The stream of calls that a diagnosis makes: the same arguments with new random values, and what ``--vary`` says.

::

    vary      NAME.AXIS=8,16,32 | NAME.dtype=f32,bf16 | NAME.layout=contiguous,transposed
              | NAME.requires_grad=false,true | NAME=1,2,3 | @grad_mode=true,false | @training=true,false

Call ``i`` takes value ``i`` of every list, from the start again after the last. Parsing needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fuselab.errors import ArgumentSpecError
from fuselab.experiments.arguments import parse_argument, parse_dtype
from fuselab.records import DTYPES, Scalar

__all__ = ["CONDITIONS", "DEFAULT_CALLS", "MOST_CALLS", "Vary", "length_of", "parse_vary", "varied"]

DEFAULT_CALLS = 3
"""Calls without ``--vary`` and ``--calls``: what changes by itself (a counter) shows on the second and the third."""

MOST_CALLS = 10_000

CONDITIONS = ("@grad_mode", "@training")
"""What can differ between calls beside the arguments."""

LAYOUTS = ("contiguous", "transposed")

EXAMPLES = "x.0=8,16,32, x.dtype=f32,bf16, x.layout=contiguous,transposed, scale=0.1,0.2, @grad_mode=true,false"

_VARY = re.compile(r"(?P<name>@?[^\W\d]\w*)(?:\.(?P<what>-?\d+|[a-z_]+))?=(?P<values>.+)", re.DOTALL)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Vary:
    """One ``--vary``."""

    text: str
    """As it was written."""
    name: str
    """The argument, or a condition."""
    what: str
    """``value``, ``size``, ``dtype``, ``layout`` or ``requires_grad``."""
    values: tuple[Scalar | None, ...]
    """One after the other."""
    axis: int = 0
    """For sizes."""

    def value(self, call: int) -> Scalar | None:
        """The value of a call."""
        return self.values[call % len(self.values)]


def parse_vary(text: str) -> Vary:
    """Read one ``--vary``.

    Raises:
        ArgumentSpecError: it does not follow the grammar.

    Example:
        >>> vary = parse_vary("x.0=8,16")
        >>> vary.name, vary.what, vary.axis, vary.values
        ('x', 'size', 0, (8, 16))
        >>> parse_vary("scale=0.5,1").values
        (0.5, 1)
    """
    match = _VARY.fullmatch(text.strip())
    if match is None:
        raise ArgumentSpecError(f"--vary {text!r} cannot be read", hint=f"for example {EXAMPLES}")
    name, what = match["name"], match["what"]
    values = [value.strip() for value in match["values"].split(",")]
    if not all(values):
        raise ArgumentSpecError(f"--vary {text!r}: a value is empty", hint=f"for example {EXAMPLES}")
    if name.startswith("@"):
        if name not in CONDITIONS or what is not None:
            raise ArgumentSpecError(f"--vary {text!r}: there is no {name!r}", hint=f"there are {', '.join(CONDITIONS)}")
        return Vary(text, name, "value", tuple(_one_of(text, v, _BOOLEANS) for v in values))
    if what is None:
        return Vary(text, name, "value", tuple(_scalar(text, name, value) for value in values))
    if what.lstrip("-").isdigit():
        return Vary(text, name, "size", tuple(_size(text, value) for value in values), axis=int(what))
    if what == "dtype":
        return Vary(text, name, what, tuple(parse_dtype(value) for value in values))
    if what == "layout":
        return Vary(text, name, what, tuple(_one_of(text, v, {layout: layout for layout in LAYOUTS}) for v in values))
    if what == "requires_grad":
        return Vary(text, name, what, tuple(_one_of(text, v, _BOOLEANS) for v in values))
    raise ArgumentSpecError(
        f"--vary {text!r}: {what!r} cannot be varied",
        hint="an axis (x.0), x.dtype, x.layout or x.requires_grad; the value itself without a dot",
    )


def length_of(varies: Sequence[Vary], calls: int | None) -> int:
    """How many calls: as asked, else the longest list, else ``DEFAULT_CALLS``.

    Raises:
        ArgumentSpecError: fewer than one call, or more than ``MOST_CALLS``.
    """
    if calls is None:
        return max((len(vary.values) for vary in varies), default=DEFAULT_CALLS)
    if not 1 <= calls <= MOST_CALLS:
        raise ArgumentSpecError(f"--calls {calls} is not possible", hint=f"between 1 and {MOST_CALLS}")
    return calls


def varied(values: Mapping[str, Any], varies: Sequence[Vary], call: int) -> dict[str, Any]:
    """The arguments of one call, by name; tensors are copies, so that a call cannot change the next one's.

    Raises:
        ArgumentSpecError: there is no argument of that name, it is no tensor, or it has no such axis.
    """
    import torch

    result = {
        name: value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
    for vary in varies:
        if vary.name.startswith("@"):
            continue
        if vary.name not in result:
            raise ArgumentSpecError(
                f"--vary {vary.text}: there is no argument {vary.name!r}",
                hint=f"arguments: {', '.join(result) or 'none'}",
            )
        if vary.what == "value":
            result[vary.name] = vary.value(call)
            continue
        tensor = result[vary.name]
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentSpecError(
                f"--vary {vary.text}: {vary.name} is a {type(tensor).__name__} and no tensor",
                hint=f"vary its value: {vary.name}=...",
            )
        result[vary.name] = _changed(tensor, vary, call)
    return result


def _changed(tensor: Any, vary: Vary, call: int) -> Any:
    import torch

    value = vary.value(call)
    grad = bool(tensor.requires_grad)
    tensor = tensor.detach()
    if vary.what == "size":
        if not -tensor.dim() <= vary.axis < tensor.dim():
            raise ArgumentSpecError(
                f"--vary {vary.text}: {vary.name} has {tensor.dim()} axes", hint=f"its shape is {tuple(tensor.shape)}"
            )
        size = tensor.shape[vary.axis]
        if size == 0:
            raise ArgumentSpecError(f"--vary {vary.text}: that axis of {vary.name} is empty", hint="give it a size")
        # The rows that are there, from the start again: values stay as the user's inputs have them.
        index = torch.arange(int(value or 0), device=tensor.device) % size
        tensor = tensor.index_select(vary.axis, index)
    elif vary.what == "dtype":
        tensor = tensor.to(getattr(torch, DTYPES[str(value)]))
    elif vary.what == "layout" and value == "transposed":
        if tensor.dim() < 2:
            raise ArgumentSpecError(
                f"--vary {vary.text}: 'transposed' needs at least two axes", hint=f"its shape is {tuple(tensor.shape)}"
            )
        tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif vary.what == "requires_grad":
        grad = bool(value)
    return tensor.requires_grad_(grad and tensor.is_floating_point())


def _scalar(text: str, name: str, value: str) -> Scalar | None:
    parsed = parse_argument(f"{name}={value}").value
    if parsed is not None and not isinstance(parsed, bool | int | float | str):
        raise ArgumentSpecError(
            f"--vary {text!r}: {value!r} describes a tensor",
            hint=f"vary an axis, {name}.0=8,16, or {name}.dtype=f32,bf16",
        )
    return parsed


def _size(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) > 2**40:
        raise ArgumentSpecError(f"--vary {text!r}: {value!r} is no size", hint="sizes are whole numbers: x.0=8,16,32")
    return int(value)


def _one_of(text: str, value: str, allowed: Mapping[str, Scalar]) -> Scalar:
    if value not in allowed:
        raise ArgumentSpecError(f"--vary {text!r}: {value!r} is not possible", hint=f"allowed: {', '.join(allowed)}")
    return allowed[value]
