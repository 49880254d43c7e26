"""Whole eager calls that are replayed: outputs allocated and one kernel started, with nothing computed in between.

What an operator does on the host before its launch (checks, tiles, strides, dtypes) depends on the form of its inputs
only. The first call of a form goes the ordinary way and its launch is recorded; from then on the same launch is made
with the pointers of the new inputs and of outputs allocated like the first ones. A call is replayed only where that is
certain to be the same: one launch, every tensor of it an input or an output of the call, all of them contiguous.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fuselab.ops import launch as launches
from fuselab.ops.bound import bind

__all__ = ["Replays", "form_of"]

Outputs = tuple[Tensor, ...]
Replay = Callable[..., Outputs | None]

_MOST_FORMS = 512

_TEMPLATE = """
def make(repeat, empty_like, programs, shapes, dtypes):
    def replay({inputs}):
        {allocations}
        if repeat(programs, {pointers}):
            return {outputs},
        return None
    return replay
"""


def form_of(*tensors: Tensor | None) -> tuple[Hashable, ...] | None:
    """All that a launch can depend on of tensors but their addresses; None where one is no ordinary tensor.

    Shape, dtype, device and whether it is contiguous, one after the other, for each; None for an input left out.
    """
    form: list[Hashable] = []
    for tensor in tensors:
        kind = type(tensor)
        if kind is Tensor or kind is Parameter:
            form += (tensor.shape, tensor.dtype, tensor.get_device(), tensor.is_contiguous())  # type: ignore[union-attr]
        elif tensor is None:
            form.append(None)
        else:
            return None
    return tuple(form)


_unknown = object()


class Replays(dict[Hashable, Replay | None]):
    """Replays of one function by the form of its inputs and its options; None for a form that has none."""

    def run(self, form: Hashable, function: Callable[[], Outputs], *inputs: Tensor | None) -> Outputs:
        """What ``function`` returns for these inputs, replayed where it was called before.

        Args:
            form: ``form_of`` the inputs and every option that the function's launch or outputs depend on.
            function: makes the outputs, all the tensors that its launch writes to, and launches one kernel.
            inputs: all the tensors that the launch reads, None for one that is left out.
        """
        replay: Any = self.get(form, _unknown)
        if replay is None:
            return function()
        if replay is not _unknown:
            again: Outputs | None = replay(*inputs)
            return function() if again is None else again
        with launches.recorded() as made:
            outputs = function()
        if len(self) >= _MOST_FORMS:
            self.clear()
        self[form] = _replay_of(made[0], inputs, outputs) if len(made) == 1 else None
        return outputs


def _replay_of(made: launches.Made, inputs: tuple[Tensor | None, ...], outputs: Outputs) -> Replay | None:
    tensors = [t for t in made.args if isinstance(t, Tensor)]
    given = [t for t in inputs if t is not None]
    # One tensor may be several outputs: then it is that again.
    same = tuple(next(i for i, other in enumerate(outputs) if other is y) for y in outputs)
    addresses = [t.data_ptr() for t in (*given, *(y for i, y in enumerate(outputs) if y.numel() and same[i] == i))]
    if (
        any(size != 1 for size in made.grid[1:])
        or not given
        or not all(t.is_contiguous() for t in (*given, *outputs, *tensors))
        or any(address == 0 for address in addresses)
        or len(set(addresses)) != len(addresses)  # which of two was meant?
    ):
        return None
    repeat = bind(made.compiled, made.kernel, made.device, *made.args, **made.meta)
    if repeat is None:
        return None
    names = {t.data_ptr(): f"i{index}" for index, t in enumerate(inputs) if t is not None}
    names |= {t.data_ptr(): f"o{index}" for index, t in enumerate(outputs) if t.numel()}
    # An output without elements has no address, and a kernel that is given one does not look there.
    pointers = [names.get(t.data_ptr(), "0" if t.numel() == 0 else "") for t in tensors]
    if not all(pointers):
        return None
    likes = tuple(
        next((i for i, x in enumerate(inputs) if x is not None and x.shape == y.shape and x.dtype == y.dtype), None)
        for y in outputs
    )
    first = next(i for i, x in enumerate(inputs) if x is not None)
    make = _maker(len(inputs), first, tuple(pointers), likes, same)
    shapes, dtypes = [tuple(y.shape) for y in outputs], [y.dtype for y in outputs]
    replay: Replay = make(repeat, torch.empty_like, made.grid[0], shapes, dtypes)
    return replay


@functools.cache
def _maker(
    inputs: int, first: int, pointers: tuple[str, ...], likes: tuple[int | None, ...], same: tuple[int, ...]
) -> Callable[..., Replay]:
    """A function that makes a replay; written as text for the reason that a bound launch is."""
    allocations = []
    for index, like in enumerate(likes):
        new = f"i{first}.new_empty(shapes[{index}], dtype=dtypes[{index}])"
        again = f"o{same[index]}" if same[index] != index else None
        allocations.append(f"o{index} = {again or (new if like is None else f'empty_like(i{like})')}")
    arguments = [f"{name}.data_ptr()" if name != "0" else name for name in pointers]
    text = _TEMPLATE.format(
        inputs=", ".join(f"i{index}" for index in range(inputs)),
        allocations="; ".join(allocations),
        pointers=", ".join(arguments),
        outputs=", ".join(f"o{index}" for index in range(len(likes))),
    )
    scope: dict[str, Any] = {}
    exec(text, scope)  # noqa: S102 - of numbers and names that are made here
    maker: Callable[..., Replay] = scope["make"]
    return maker
