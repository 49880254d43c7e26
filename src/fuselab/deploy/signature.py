"""What makes two calls the same to a compiler: shapes, strides, dtypes, devices and the values of everything else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fuselab.errors import UsageError
from fuselab.experiment import Inputs

__all__ = ["Binder", "Declared", "declared_inputs", "describe", "signature"]

Signature = tuple[Any, ...]

Declared = Inputs | Sequence[str] | Sequence[Any] | Mapping[str, Any]
"""A declared call: example arguments (a tuple by position, a dict by name), or texts as for ``--arg``."""


class Binder:
    """Puts the arguments of a call into one form, so that ``f(x, w)`` and ``f(x, w=w)`` are one call."""

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._signature: inspect.Signature | None = None
        if function is not None:
            target = function.forward if isinstance(function, torch.nn.Module) else function
            try:
                self._signature = inspect.signature(target)
            except (TypeError, ValueError):
                self._signature = None  # builtins have none: arguments stay as they come

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """The call's arguments; a call that does not fit the signature raises TypeError as Python would."""
        if self._signature is None:
            return Inputs(args, dict(kwargs))
        bound = self._signature.bind(*args, **kwargs)
        return Inputs(bound.args, bound.kwargs)


def signature(inputs: Inputs, *, training: bool) -> Signature:
    """A hashable key of a call.

    Example:
        >>> one = signature(Inputs((torch.ones(2, 3), 4)), training=False)
        >>> one == signature(Inputs((torch.zeros(2, 3), 4)), training=False)
        True
        >>> one == signature(Inputs((torch.zeros(3, 2).t(), 4)), training=False)
        False
    """
    return (_key(inputs.args, training), _key(dict(inputs.kwargs), training))


def _key(value: Any, training: bool) -> Any:
    if isinstance(value, Tensor):
        return (
            *("tensor", value.dtype, tuple(value.shape), value.stride(), value.device),
            value.requires_grad if training else False,
        )
    if isinstance(value, dict):
        return ("dict", *((k, _key(v, training)) for k, v in sorted(value.items(), key=lambda item: str(item[0]))))
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(_key(v, training) for v in value))
    if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
        return (type(value).__name__, repr(value))
    return (type(value).__qualname__, id(value))


def describe(inputs: Inputs) -> str:
    """A call in a few words, for messages.

    Example:
        >>> describe(Inputs((torch.ones(2, 3), 4), {"mask": None}))
        'float32[2,3], 4, mask=None'
    """
    parts = [_word(value) for value in inputs.args]
    parts += [f"{name}={_word(value)}" for name, value in inputs.kwargs.items()]
    return ", ".join(parts)


def _word(value: Any) -> str:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        layout = "" if value.is_contiguous() else f" strides {list(value.stride())}"
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{dtype}[{','.join(map(str, value.shape))}]{layout}{device}"
    if isinstance(value, list | tuple):
        return f"({', '.join(_word(v) for v in value)})"
    return repr(value)[:40]


def declared_inputs(declared: Declared, function: Callable[..., Any] | None, device: str) -> Inputs:
    """The example arguments of a declared call; texts are read as ``--arg`` reads them and drawn from seed 0.

    Raises:
        ArgumentSpecError: a malformed text, or one that the function has no parameter for.
        UsageError: it is nothing that declares a call.
    """
    if isinstance(declared, Inputs):
        return declared
    if isinstance(declared, Mapping):
        return Inputs((), dict(declared))
    if isinstance(declared, str | Tensor):
        declared = (declared,)
    if not isinstance(declared, Sequence):
        raise UsageError(
            f"a {type(declared).__name__} declares no call", hint="a tuple of arguments, a dict, or --arg texts"
        )
    if declared and all(isinstance(text, str) for text in declared):
        from fuselab.experiments.arguments import parse_argument
        from fuselab.experiments.user_arguments import bind, drawn

        target = function.forward if isinstance(function, torch.nn.Module) else function
        specs = [parse_argument(text) for text in declared]
        return bind(target or (lambda *args: args), specs, drawn(device, 0), what=type(function).__name__)
    return Inputs(tuple(declared))
