"""An AOTInductor package made of a function or module: exported, compiled, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuselab.startup.messages import Prepared, PrepareRequest

__all__ = ["make_package"]


def make_package(request: PrepareRequest) -> Prepared:
    """Export and compile; the package lies at ``request.package`` afterwards.

    Raises:
        Exception: whatever exporting or compiling raises; its message quotes the user's line.
    """
    import torch

    from fuselab.startup.internals import build_package, mode_options
    from fuselab.startup.subject import build

    built = build(request.subject)
    module = built.function if isinstance(built.function, torch.nn.Module) else _as_module(built.function)
    dynamic = None
    if request.configuration.dynamic:
        dynamic = torch.utils._pytree.tree_map(_automatic, (built.inputs.args, dict(built.inputs.kwargs)))
    with torch.no_grad():
        exported = torch.export.export(
            module,
            built.inputs.args,
            dict(built.inputs.kwargs),
            dynamic_shapes=_by_name(module, dynamic) if dynamic is not None else None,
            strict=False,
        )
        build_package(exported, request.package, mode_options(request.configuration.mode))
    return Prepared(size_bytes=Path(request.package).stat().st_size)


def _as_module(function: Any) -> Any:
    """A module around a function: ``torch.export`` takes nothing else."""
    import inspect

    import torch

    class Function(torch.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    module = Function()
    module.forward.__func__.__signature__ = inspect.signature(Function.forward)  # type: ignore[attr-defined]
    return module


def _automatic(value: Any) -> Any:
    """Every axis of a tensor is dynamic where the program allows it."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)


def _by_name(module: Any, dynamic: Any) -> Any:
    """The dynamic axes in the form that ``torch.export`` wants: by parameter, variable ones as a tuple."""
    import inspect

    args, kwargs = dynamic
    parameters = list(inspect.signature(module.forward).parameters.values())
    shapes: dict[str, Any] = {}
    rest = list(args)
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            shapes[parameter.name] = tuple(rest)
            rest = []
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if kwargs:
                shapes[parameter.name] = dict(kwargs)
        elif parameter.name in kwargs:
            shapes[parameter.name] = kwargs.pop(parameter.name)
        elif rest:
            shapes[parameter.name] = rest.pop(0)
    return shapes
