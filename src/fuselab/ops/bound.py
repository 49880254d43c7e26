"""Launches that are bound: a kernel, compiled and looked up once, started again with nothing but new pointers.

A launch through ``kernel[grid]`` costs tens of microseconds on the host: Triton reads the type, the alignment and the
divisibility of every argument, makes a key of them and of the options, and looks up the compiled kernel. An operator
that knows the form of its inputs (dtypes, width, device, options) knows all of that beforehand. So it keeps, by form,
a function that calls the kernel's C launcher directly and checks at each call the little that a form leaves open.

``start`` does the same for a caller that knows nothing: it makes the key of the arguments that it is given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from triton.runtime.jit import JITFunction

from fuselab.ops import internals

__all__ = ["BoundLaunches", "Repeat", "bind", "start_again"]

Repeat = Callable[..., bool]
"""``repeat(programs, *pointers, *open_numbers)``: launch again; False, and nothing was done, where that has to go the
ordinary way: a pointer that is not on a 16-byte boundary, a number of another class than when the kernel was compiled,
another current device, or somebody who watches launches."""

_MOST_FORMS = 512
_LARGEST_INT32 = 2**31 - 1

_TEMPLATE = """
def bind(launch, stream, device, index, head, tail, watched, before):
    jit, run, knobs, enter, leave, enter_calls, leave_calls = watched
    {unpack}
    def repeat({grid}{comma}{parameters}):
        if (
            {checks}
            or enter_calls
            or leave_calls
            or before
            or jit.run is not run
            or knobs.launch_enter_hook is not enter
            or knobs.launch_exit_hook is not leave
        ):
            return False
        launch({whole_grid}, stream(index), {arguments})
        return True
    return repeat
"""


class BoundLaunches(dict[Hashable, Repeat]):
    """Bound launches of one kernel by the form of the inputs; forgets everything when it has grown too long."""

    def bind(self, form: Hashable, compiled: Any, kernel: Any, device: torch.device, *args: Any, **meta: Any) -> None:
        """Keep the launch that was just made for this form; nothing where it cannot be bound (see ``bind``)."""
        repeat = bind(compiled, kernel, device, *args, **meta)
        if repeat is not None:
            if len(self) >= _MOST_FORMS:
                self.clear()
            self[form] = repeat


def start_again(kernel: JITFunction[Any], grid: tuple[int, ...], device: torch.device, args: Any, meta: Any) -> Any:
    """Launch ``kernel`` as it was launched before with arguments of the same kinds.

    Returns:
        True; or, where nothing was launched, a function that keeps an ordinary launch for the next time, to be called
        with what that returned; or False, where these arguments are never bound.
    """
    key: list[Any] = [id(kernel), device.index, len(grid)]
    values: list[Any] = []
    for argument in args:
        kind = type(argument)
        if kind is int:
            if not 0 <= argument <= _LARGEST_INT32:
                return False
            key.append(argument == 1 or 2 + (argument % 16 == 0))
            values.append(argument)
        elif kind is Tensor or kind is Parameter:
            key.append(argument.dtype)
            values.append(argument.data_ptr())
        elif kind is float:
            key.append(float)
            values.append(argument)
        else:
            return False
    key += meta.items()
    form = tuple(key)
    repeat = _STARTED.get(form)
    if repeat is not None and repeat(*grid, *values):
        return True

    def keep(compiled: Any) -> None:
        opened = [a if isinstance(a, Tensor) else [a] for a in args]
        _STARTED.bind(form, compiled, kernel, device, *opened, _axes=len(grid), **meta)

    return keep


def bind(compiled: Any, kernel: Any, device: torch.device, *args: Any, _axes: int = 0, **meta: Any) -> Repeat | None:
    """A function that repeats a launch with other pointers, or None where launches cannot be bound.

    Args:
        compiled: what ``launch`` returned: the compiled kernel, or None.
        kernel: the jitted function.
        device: where its tensors are.
        args: the arguments that it was launched with: tensors first, all of them with elements and on a 16-byte
            boundary, then numbers. A number in a list of one, ``[count]``, is open: given anew at each call, which
            checks that it is of the class that the kernel was compiled for.
        _axes: of a caller that knows the classes: so many sizes of the grid come first, and no number is checked.
        meta: the arguments by name, constants of the kernel among them, without options such as ``num_warps``.
    """
    watched = internals.watched()
    stream, current = internals.current_raw_stream, internals.current_device
    if (
        compiled is None
        or not isinstance(kernel, JITFunction)
        or watched is None
        or stream is None
        or current is None
        or torch.version.cuda is None
    ):
        return None
    pointers = [a for a in args if isinstance(a, Tensor)]
    numbers = args[len(pointers) :]
    named = dict(zip(kernel.arg_names, args, strict=False)) | meta
    rest = [named[name] for name in kernel.arg_names[len(pointers) :] if name in named]
    opened = {name for name, value in named.items() if isinstance(value, list)}
    if (
        any(isinstance(a, Tensor) for a in numbers)
        or any(p.data_ptr() % 16 for p in pointers)
        or len(pointers) + len(rest) != len(kernel.arg_names)
        or any(parameter.is_constexpr and parameter.name in opened for parameter in kernel.params)
    ):
        return None
    launcher = internals.c_launcher(compiled, len(kernel.arg_names))
    if launcher is None:
        return None
    free = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    classes = tuple(
        (_class_of(named[name][0], name in free) if not _axes else "known") if name in opened else None
        for name in kernel.arg_names[len(pointers) :]
        if name in named
    )
    if any(c == "wide" for c in classes):
        return None
    several = torch.cuda.device_count() > 1
    make = _maker(len(pointers), classes, len(launcher.head), launcher.packed, several, _axes)
    tail = tuple(a for a in rest if not isinstance(a, list))
    hooks = getattr(kernel, "pre_run_hooks", ())
    repeat: Repeat = make(launcher.launch, stream, current, device.index, launcher.head, tail, watched, hooks)
    # Both have to live: forms know the kernel by its address, and newer Tritons unload what nobody holds any more.
    repeat.alive = kernel, compiled  # type: ignore[attr-defined]
    return repeat


_STARTED = BoundLaunches()
"""Launches by everything that Triton would compile another kernel for, of kernels that live as long as their module."""


def _class_of(number: int, free: bool) -> str:
    """What Triton compiles into a kernel about an integer argument, and what has to hold when it is launched again.

    ``free``: of a parameter that the kernel asks Triton not to specialise on.
    """
    if number > _LARGEST_INT32 or number < 0:
        return "wide"
    if free:
        return "any"
    return "one" if number == 1 else "sixteens" if number % 16 == 0 else "any"


@functools.cache
def _maker(
    pointers: int, classes: tuple[str | None, ...], heads: int, packed: bool, several_devices: bool, axes: int
) -> Callable[..., Repeat]:
    """A function that makes a bound launch of so many pointers and numbers.

    Written as text, as Triton writes the one that reads its arguments: unpacking tuples and looping over them at every
    call costs half as much again.
    """
    names = [f"p{i}" for i in range(pointers)]
    numbers: list[str] = []
    opened: list[str] = []
    constants: list[str] = []
    aligned, checks = list(names), list[str]()
    for i, kind in enumerate(classes):
        numbers.append(f"n{i}")
        (constants if kind is None else opened).append(f"n{i}")
        if kind == "sixteens":
            aligned.append(f"n{i}")
        if kind == "one":
            checks.append(f"n{i} != 1")
        elif kind in ("any", "sixteens"):
            checks.append(f"n{i} > {_LARGEST_INT32}")
    checks.insert(0, f"({' | '.join(aligned)}) & 15" if aligned else "False")
    if several_devices:
        checks.append("device() != index")
    head = [f"h{i}" for i in range(heads)]
    unpack = [f"{', '.join(group)}, = {name}" for name, group in (("head", head), ("tail", constants)) if group]
    own = [*names, *numbers]
    arguments = [*head, f"({', '.join(own)},)"] if packed else [*head, *own]
    parameters = [*names, *opened]
    grid = [f"g{i}" for i in range(axes)] or ["programs"]
    text = _TEMPLATE.format(
        grid=", ".join(grid),
        whole_grid=", ".join([*grid, "1", "1"][:3]),
        unpack="; ".join(unpack) or "pass",
        comma=", " if parameters else "",
        parameters=", ".join(parameters),
        checks="\n            or ".join(checks),
        arguments=", ".join(arguments),
    )
    scope: dict[str, Any] = {}
    exec(text, scope)  # noqa: S102 - of numbers and names that are made here
    maker: Callable[..., Repeat] = scope["bind"]
    return maker
