"""Private names of Triton and torch that a bound launch needs, feature-detected in this one place.

Nothing here is needed for right answers: where a name is missing, or does not behave as it did in the versions that
these were read in (Triton 3.6 to 3.9, torch 2.11 to 2.15), there is no bound launch and kernels start the ordinary way.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import triton
from torch import Tensor
from torch.autograd import forward_ad
from triton.runtime.jit import JITFunction

__all__ = [
    "CLauncher",
    "Watched",
    "applied",
    "c_launcher",
    "called_while_tracing",
    "captured",
    "current_device",
    "current_raw_stream",
    "host_generator",
    "in_forward_mode",
    "is_transformed",
    "transformed_error",
    "untransformed",
    "watched",
]

current_raw_stream: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
"""Handle of the stream that is current on a device, the one that Triton itself launches on."""

current_device: Callable[[], int] | None = getattr(torch._C, "_cuda_getDevice", None)
"""Index of the current CUDA device, without asking first whether CUDA was initialised."""

_MARKS = 4
"""Arguments of a launcher before the kernel's own that change from call to call: the grid's three sizes, the stream."""


F = TypeVar("F", bound=Callable[..., Any])


def called_while_tracing(function: F) -> F:
    """Have Dynamo call ``function`` while it traces, and take what it returns for a constant.

    ``torch.compiler.assume_constant_result`` says the same and imports Dynamo for it, a second and more for everybody
    who imports the operators (from torch 2.13 on ``triton_op`` imports it anyway). Where a version does not know the
    mark, the graph breaks there.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


_transforms_active: Callable[[], bool] | None = getattr(torch._C, "_are_functorch_transforms_active", None)


def transformed_error(operator: str) -> RuntimeError:
    """What to raise where ``is_transformed`` holds of an input, or autograd would record a call inside a transform."""
    return RuntimeError(
        f"fuselab.ops.{operator} knows no torch.func transforms and no forward-mode differentiation: its kernels are "
        f"Triton's. Use fuselab.ops.{operator}_reference, which is made of torch's own operators"
    )


_WRAPPERS = ("is_batchedtensor", "is_gradtrackingtensor")
_wrappers = [getattr(getattr(torch._C, "_functorch", None), name, None) for name in _WRAPPERS]


_levels_are_known = hasattr(forward_ad, "_current_level")


def in_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open, so that tensors can have tangents.

    True where it cannot be known: calls then go the longer way, on which each tensor is looked at.
    """
    return not _levels_are_known or forward_ad._current_level >= 0


def is_transformed(tensor: Tensor) -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation has more of a tensor than its numbers."""
    if any(is_wrapped is not None and is_wrapped(tensor) for is_wrapped in _wrappers):
        return True
    return in_forward_mode() and forward_ad.unpack_dual(tensor).tangent is not None


def applied(operator: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without most of the Python around it, which serves transforms of functions (``torch.func``).

    With a transform active it raises ``RuntimeError`` in the name of ``operator``, as ``function.apply`` would without
    a name. Where none can be asked for, it is ``function.apply`` itself.
    """
    active = _transforms_active
    if active is None:
        ordinary: Callable[..., Any] = function.apply
        return ordinary
    direct: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def apply(*args: Any) -> Any:
        if active():
            raise transformed_error(operator)
        return direct(*args)

    return apply


_generators_have_offsets = all(hasattr(torch.Generator, name) for name in ("get_offset", "set_offset", "initial_seed"))


def untransformed() -> bool:
    """Whether nothing is transformed by ``torch.func``; False where that cannot be known."""
    return _transforms_active is not None and not _transforms_active()


def captured() -> bool:
    """Whether the current stream is captured in a CUDA graph, and nothing is transformed by ``torch.func``."""
    return untransformed() and torch.cuda.is_current_stream_capturing()


def host_generator(index: int) -> torch.Generator | None:
    """The generator of a CUDA device if its seed and offset can be read and set on the host now; else None.

    They cannot while the current stream is captured in a graph (torch refuses, and asks the current device only), and
    must not be where a transform of ``torch.func`` has to see what is drawn.
    """
    if (
        not _generators_have_offsets
        or current_device is None
        or current_device() != index
        or not untransformed()
        or torch.cuda.is_current_stream_capturing()
    ):
        return None
    # Looked up each time: torch fills the tuple when CUDA is initialised.
    generators: tuple[torch.Generator, ...] = getattr(torch.cuda, "default_generators", ())
    return generators[index] if index < len(generators) else None


class CLauncher(NamedTuple):
    """How the C function that starts a compiled kernel is called: ``launch(*grid, stream, *head, *arguments)``."""

    launch: Callable[..., None]
    head: tuple[Any, ...]
    """The function's handle, its metadata, no scratch memory, no hooks."""
    packed: bool
    """Whether the kernel's arguments are one tuple, the last argument."""


class Watched(NamedTuple):
    """Where somebody who wants to see launches puts himself; a bound launch steps aside while anybody has."""

    jit: type
    """The class whose ``run`` profilers and our own capture replace."""
    run: Callable[..., Any]
    """Its own ``run``."""
    knobs: Any
    """``triton.knobs.runtime``, which has the two hooks."""
    enter: Any
    leave: Any
    enter_calls: Sequence[Any]
    leave_calls: Sequence[Any]


@functools.cache
def watched() -> Watched | None:
    """The hooks of this Triton; None where it has others, or none that can be looked at."""
    run = vars(JITFunction).get("run")
    knobs = getattr(getattr(triton, "knobs", None), "runtime", None)
    enter, leave = (getattr(knobs, f"launch_{side}_hook", _absent) for side in ("enter", "exit"))
    if not callable(run) or _absent in (enter, leave):
        return None
    chains = []
    for hook in (enter, leave):
        calls = () if hook is None else getattr(hook, "calls", _absent)
        if not isinstance(calls, list | tuple):  # a function that somebody put there before we looked
            return None
        chains.append(calls)
    return Watched(JITFunction, inspect.unwrap(run), knobs, enter, leave, *chains)


_absent = object()


class _Recorder:
    """In the place of a launcher's C function: keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)


def c_launcher(compiled: Any, arguments: int) -> CLauncher | None:
    """How to start a compiled kernel with so many arguments past Triton's Python; None where that cannot be told.

    Triton's launcher for a kernel is an object with the C function as its ``launch``, and what it passes to that has
    changed from version to version. So a copy of it is called once with marks for arguments and a recorder for the C
    function: nothing is launched, and what comes out says which places the grid, the stream and the arguments have.
    """
    metadata = getattr(compiled, "metadata", None)
    if any(getattr(metadata, f"{kind}_scratch_size", 0) for kind in ("global", "profile")):
        return None  # memory that Triton allocates anew for every launch
    marks = tuple(range(1_000_003, 1_000_003 + _MARKS))
    given = tuple(range(2_000_003, 2_000_003 + arguments))
    recorder = _Recorder()
    try:
        launcher = compiled.run
        launch = launcher.launch
        stand_in = copy.copy(launcher)
        stand_in.launch = recorder
        stand_in(*marks, compiled.function, compiled.packed_metadata, None, None, None, *given)
        (call,) = recorder.calls
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None
    if call[:_MARKS] != marks or not callable(launch):
        return None
    packed = bool(call) and isinstance(call[-1], tuple | list) and tuple(call[-1]) == given
    spliced = not packed and call[len(call) - arguments :] == given
    if not packed and not spliced:
        return None
    head = call[_MARKS:-1] if packed else call[_MARKS : len(call) - arguments]
    if any(isinstance(value, int) and value in marks + given for value in head):
        return None
    return CLauncher(launch, tuple(head), packed)
