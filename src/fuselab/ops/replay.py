"""Whole eager calls that are replayed: outputs allocated and kernels started, with nothing computed in between.

What an operator does on the host before its launches (checks, tiles, strides, dtypes) depends on the form of its inputs
only. The first call of a form goes the ordinary way and its launches are recorded; from then on the same launches are
made with the pointers of the new inputs and of outputs allocated like the first ones, and with the few numbers that are
other ones each time. A call is replayed only where that is certain to be the same: every tensor of its launches is an
input or an output of the call or was made by ``launch.scratch``, and all of them are contiguous.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from fuselab.ops import launch as launches
from fuselab.ops.bound import bind
from fuselab.ops.internals import in_forward_mode

__all__ = ["Replays", "form_of"]

Outputs = tuple[Tensor, ...]
Replay = Callable[..., Outputs | None]

_MOST_FORMS = 512

_MOST_LAUNCHES = 4

_TEMPLATE = """
def make(repeats, empty_like, programs, shapes, dtypes):
    {repeats}, = repeats
    {programs}, = programs
    def replay({inputs}):
        {allocations}
        if {launches}:
            return {outputs},
        return None
    return replay
"""


def form_of(*tensors: Tensor | None) -> tuple[Hashable, ...] | None:
    """All that a launch can depend on of tensors but their addresses; None where one is no ordinary tensor.

    Shape, dtype, device and whether it is contiguous, one after the other, for each; None for an input left out. In
    forward-mode differentiation any of them can have a tangent, and none is an ordinary one.
    """
    if in_forward_mode():
        return None
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
    """Replays of one function by the form of its inputs and its options; None for a form that has none.

    Args:
        numbers: names of the kernels' numbers that are other ones with each call, in the kernels' order.
    """

    def __init__(self, *numbers: str) -> None:
        super().__init__()
        self.numbers = numbers

    def run(
        self,
        function: Callable[[], Outputs],
        inputs: tuple[Tensor | None, ...],
        *options: Hashable,
        numbers: tuple[int, ...] = (),
    ) -> Outputs:
        """What ``function`` returns for these inputs, replayed where a call of their form was made before.

        Args:
            function: makes the outputs, and all the tensors that its launches write to are these or ``scratch``.
            inputs: all the tensors that the launches read, None for one that is left out.
            options: whatever else the function's launches or outputs depend on.
            numbers: what the numbers named at the beginning are in this call.

        A replay that is declined (see ``bound.Repeat``) is made anew as a whole, the ordinary way. A replay is found
        under ``(*form_of(*inputs), *options)``.
        """
        form = form_of(*inputs)
        if form is None:
            return function()
        form = (*form, *options)
        replay: Any = self.get(form, _unknown)
        if replay is None:
            return function()
        if replay is not _unknown:
            again: Outputs | None = replay(*inputs, *numbers)
            return function() if again is None else again
        with launches.recorded() as made:
            outputs = function()
        if len(self) >= _MOST_FORMS:
            self.clear()
        self[form] = _replay_of(made, inputs, outputs, self.numbers)
        return outputs


def _opened(launch: launches.Made, numbers: tuple[str, ...]) -> tuple[Any, ...]:
    # The launch's arguments, with those of these names left open.
    return tuple([a] if n in numbers else a for a, n in zip(launch.args, launch.kernel.arg_names, strict=False))


def _replay_of(
    made: launches.Recording, inputs: tuple[Tensor | None, ...], outputs: Outputs, numbers: tuple[str, ...]
) -> Replay | None:
    given = [t for t in inputs if t is not None]
    tensors = [[t for t in launch.args if isinstance(t, Tensor)] for launch in made.launches]
    between = [t for t in made.scratch if t.numel()]
    # One tensor may be several outputs: then it is that again.
    same = tuple(next(i for i, other in enumerate(outputs) if other is y) for y in outputs)
    written = [y for i, y in enumerate(outputs) if y.numel() and same[i] == i]
    addresses = [t.data_ptr() for t in (*given, *written, *between)]
    if (
        not 0 < len(made.launches) <= _MOST_LAUNCHES
        or any(size != 1 for launch in made.launches for size in launch.grid[1:])
        or not given
        or not all(t.is_contiguous() for t in (*given, *outputs, *between, *itertools.chain(*tensors)))
        or any(address == 0 for address in addresses)
        or len(set(addresses)) != len(addresses)  # which of two was meant?
    ):
        return None
    repeats = [bind(m.compiled, m.kernel, m.device, *_opened(m, numbers), **m.meta) for m in made.launches]
    if None in repeats:
        return None
    names = {t.data_ptr(): f"i{index}" for index, t in enumerate(inputs) if t is not None}
    names |= {t.data_ptr(): f"o{index}" for index, t in enumerate((*outputs, *between)) if t.numel()}
    # An output without elements has no address, and a kernel that is given one does not look there.
    pointers = tuple(tuple(names.get(t.data_ptr(), "0" if t.numel() == 0 else "") for t in group) for group in tensors)
    if not all(itertools.chain(*pointers)):
        return None
    made_anew = (*outputs, *between)
    likes = tuple(
        next((i for i, x in enumerate(inputs) if x is not None and x.shape == y.shape and x.dtype == y.dtype), None)
        for y in made_anew
    )
    first = next(i for i, x in enumerate(inputs) if x is not None)
    opened = [[f"n{numbers.index(n)}" for n in m.kernel.arg_names if n in numbers] for m in made.launches]
    arguments = tuple((*group, *more) for group, more in zip(pointers, opened, strict=True))
    same = (*same, *range(len(outputs), len(made_anew)))
    make = _maker(len(inputs), len(numbers), first, arguments, likes, same, len(outputs))
    shapes, dtypes = [tuple(y.shape) for y in made_anew], [y.dtype for y in made_anew]
    replay: Replay = make(repeats, torch.empty_like, [m.grid[0] for m in made.launches], shapes, dtypes)
    return replay


@functools.cache
def _maker(
    inputs: int,
    numbers: int,
    first: int,
    arguments: tuple[tuple[str, ...], ...],
    likes: tuple[int | None, ...],
    same: tuple[int, ...],
    outputs: int,
) -> Callable[..., Replay]:
    """A function that makes a replay; written as text for the reason that a bound launch is."""
    allocations = []
    for index, like in enumerate(likes):
        new = f"i{first}.new_empty(shapes[{index}], dtype=dtypes[{index}])"
        again = f"o{same[index]}" if same[index] != index else None
        allocations.append(f"o{index} = {again or (new if like is None else f'empty_like(i{like})')}")
    starts = []
    for number, names in enumerate(arguments):
        given = [f"{name}.data_ptr()" if name[0] in "io" else name for name in names]
        starts.append(f"r{number}(p{number}, {', '.join(given)})")
    text = _TEMPLATE.format(
        inputs=", ".join([*(f"i{index}" for index in range(inputs)), *(f"n{index}" for index in range(numbers))]),
        repeats=", ".join(f"r{number}" for number in range(len(arguments))),
        programs=", ".join(f"p{number}" for number in range(len(arguments))),
        allocations="; ".join(allocations),
        launches=" and ".join(starts),
        outputs=", ".join(f"o{index}" for index in range(outputs)),
    )
    scope: dict[str, Any] = {}
    exec(text, scope)  # noqa: S102 - of numbers and names that are made here
    maker: Callable[..., Replay] = scope["make"]
    return maker
