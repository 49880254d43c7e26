"""The inputs of a user's code: drawn from its ``--arg`` texts, or taken from what its ``get_inputs()`` returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuselab.errors import ArgumentSpecError, UsageError
from fuselab.experiment import Inputs
from fuselab.experiments.arguments import ArgumentSpec, TensorSpec
from fuselab.experiments.user_source import Parameter
from fuselab.records import DTYPES

if TYPE_CHECKING:
    import torch

__all__ = ["bind", "drawn", "inputs_from", "moved", "without_storage"]


def bind(
    function: Callable[..., Any], specs: Sequence[ArgumentSpec], make: Callable[[TensorSpec], Any], *, what: str
) -> Inputs:
    """Arguments in the order of the signature: by position where that is possible, else by name.

    Args:
        function: what they are for; its own signature decides, decorators and inheritance included.
        specs: what was asked for.
        make: turns a tensor's description into a tensor.
        what: name of the function in errors.

    Raises:
        ArgumentSpecError: an argument is missing, or there is no parameter for one.
    """
    values = {spec.name: make(spec.value) if isinstance(spec.value, TensorSpec) else spec.value for spec in specs}
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # Builtins have none that Python can see: by position, as the command line has them.
        return Inputs(tuple(values.values()), names=tuple(values))
    args: list[Any] = []
    names: list[str] = []
    kwargs: dict[str, Any] = {}
    by_position = True
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name not in values:
            if parameter.default is parameter.empty:
                annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
                example = Parameter(parameter.name, required=True, annotation=annotation).example
                raise ArgumentSpecError(
                    f"{what} needs {parameter.name!r}, and no --arg gives it", hint=f"add --arg '{example}'"
                )
            by_position = False
        elif by_position and parameter.kind is not parameter.KEYWORD_ONLY:
            args.append(values.pop(parameter.name))
            names.append(parameter.name)
        else:
            kwargs[parameter.name] = values.pop(parameter.name)
    kinds = {parameter.kind for parameter in parameters}
    if values and inspect.Parameter.VAR_KEYWORD in kinds:
        kwargs |= values
    elif values and inspect.Parameter.VAR_POSITIONAL in kinds and by_position:
        args += values.values()
        names += values
    elif values:
        raise ArgumentSpecError(
            f"{what} has no parameter {next(iter(values))!r}",
            hint=f"its parameters: {', '.join(p.name for p in parameters) or 'none'}",
        )
    return Inputs(tuple(args), kwargs, names=tuple(names))


def drawn(device_type: str, seed: int) -> Callable[[TensorSpec], torch.Tensor]:
    """Draws tensors from a seed: normal noise, integers of the range, coins. Never zeros, which hide wrong answers."""
    import torch

    generator = torch.Generator(device=device_type).manual_seed(seed)

    def draw(spec: TensorSpec) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, DTYPES[spec.dtype])
        if dtype == torch.bool:
            return torch.randint(0, 2, spec.shape, generator=generator, device=device_type).bool()
        if not dtype.is_floating_point:
            low, high = spec.bounds
            # In int64 first: the end of the range need not fit into a narrow dtype.
            return torch.randint(low, high, spec.shape, generator=generator, device=device_type).to(dtype)
        drawn_in = torch.float64 if dtype == torch.float64 else torch.float32
        values = torch.randn(spec.shape, generator=generator, device=device_type, dtype=drawn_in)
        return values.to(dtype).requires_grad_(spec.requires_grad)

    return draw


def without_storage(spec: TensorSpec) -> torch.Tensor:
    """A tensor of that description on torch's ``meta`` device."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[spec.dtype])
    return torch.empty(spec.shape, dtype=dtype, device="meta", requires_grad=spec.requires_grad)


def inputs_from(returned: Any, source: str) -> Inputs:
    """Arguments from what ``source`` returned: a list or tuple of them, a dict by name, or one tensor.

    Raises:
        UsageError: it returned something else.
    """
    if isinstance(returned, Mapping):
        return Inputs(kwargs=dict(returned))
    if isinstance(returned, (list, tuple)):
        return Inputs(tuple(returned))
    if hasattr(returned, "requires_grad"):
        return Inputs((returned,))
    raise UsageError(
        f"{source} returned a {type(returned).__name__}",
        hint="return the list of arguments, or a dict of them by name",
    )


def moved(tensor: torch.Tensor, device_type: str) -> torch.Tensor:
    """The tensor on a device, as a leaf that requires grad if the user's did."""
    import torch

    return tensor.detach().to(torch.device(device_type)).requires_grad_(tensor.requires_grad)
