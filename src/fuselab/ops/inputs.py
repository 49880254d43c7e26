"""What the operators accept: checks of dtype, device and shape with errors that name the way out, and the row view.

Raises only built-in exceptions (``TypeError``, ``ValueError``, ``RuntimeError``): the operators can be used without the
rest of the package.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fuselab.ops.internals import called_while_tracing, is_transformed, transformed_error
from fuselab.ops.launch import INTERPRETED

__all__ = [
    "DTYPES",
    "NotFusedWarning",
    "check_choice",
    "check_tensors",
    "check_untransformed",
    "check_vector",
    "compute_dtype",
    "is_plain",
    "needs_grad",
    "on_cpu",
    "rows",
]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of tensors that the kernels read and write; they compute in float32 whatever these are."""

_PLAIN = (Tensor, torch.nn.Parameter)


def check_tensors(operator: str, **tensors: Tensor | None) -> None:
    """Refuse what the kernels of ``operator`` cannot read; ``None`` (an optional input left out) passes.

    Raises:
        TypeError: not a tensor, or not float32, float16 or bfloat16.
        ValueError: two tensors on different devices.
        RuntimeError: a device that the kernels cannot run on here.
    """
    first_name, first = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{operator}: {name} is a {type(tensor).__name__}; expected a torch.Tensor")
        if tensor.dtype not in DTYPES:
            supported = ", ".join(map(str, DTYPES))
            raise TypeError(f"{operator}: {name} is {tensor.dtype}; supported dtypes: {supported}")
        if first is None:
            first_name, first = name, tensor
        elif tensor.device != first.device:
            raise ValueError(
                f"{operator}: {name} is on {tensor.device} but {first_name} is on {first.device}; "
                f"move it with {name}.to({str(first.device)!r})"
            )
    if first is not None and not first.is_cuda:
        _check_device(operator, first_name, first.device)


class NotFusedWarning(UserWarning):
    """An operator computed with torch's own operators, because its kernels do not run where the tensors are.

    Said once a process. The answers are right; what they took says nothing of the kernels.
    """


_fallback_said = False


@called_while_tracing
def _say_that_it_is_not_fused(operator: str) -> bool:
    # While a caller is traced, too: a graph made for the CPU has torch's operators in it from then on.
    global _fallback_said  # noqa: PLW0603 - once a process
    if not _fallback_said:
        _fallback_said = True
        warnings.warn(
            f"fuselab.ops.{operator}: the tensors are on the CPU, where Triton kernels do not run; this operator, and "
            "fuselab's others from now on, compute with torch's own operators there, which is not the fused kernel",
            NotFusedWarning,
            stacklevel=4,
        )
    return True


def on_cpu(operator: str, x: Tensor) -> bool:
    """Whether ``operator`` has to compute with torch's own operators: x is on the CPU, and nothing is interpreted.

    Warns of it once a process, with ``NotFusedWarning``.
    """
    return _without_kernels(x.device) and _say_that_it_is_not_fused(operator)


def _without_kernels(device: torch.device) -> bool:
    return device.type == "cpu" and not INTERPRETED


def _check_device(operator: str, name: str, device: torch.device) -> None:
    if device.type != "cpu":
        raise RuntimeError(f"{operator}: {name} is on {device}; supported devices: cuda, and cpu by torch's operators")


def check_untransformed(operator: str, *tensors: Tensor | None) -> None:
    """Refuse tensors whose derivative, or whose batch, the kernels would not see and lose.

    Raises:
        RuntimeError: one is an argument of a transform of ``torch.func``, or has a tangent of forward-mode
            differentiation.
    """
    if not torch.compiler.is_compiling() and any(t is not None and is_transformed(t) for t in tensors):
        raise transformed_error(operator)


def check_vector(operator: str, name: str, vector: Tensor | None, width: int) -> None:
    """Refuse a weight or bias that is not one number a column.

    Raises:
        ValueError: its shape is not ``(width,)``.
    """
    if vector is not None and (vector.dim() != 1 or vector.shape[0] != width):
        raise ValueError(f"{operator}: {name} has shape {tuple(vector.shape)}; expected ({width},), the last axis of x")


def check_choice(operator: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is not in a list.

    Raises:
        ValueError: the message lists what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{operator}: {name}={value!r}; allowed: {', '.join(map(repr, allowed))}")


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether this is an eager call with ordinary tensors, which takes the direct way; ``None`` is one left out.

    Compilation, fake tensors and subclasses go through the dispatcher as one operator, which the direct way spares.
    One such tensor is enough: what a subclass holds need not be where its address says.
    """
    for tensor in tensors:  # not all(...): a generator costs half a microsecond
        if tensor is not None and type(tensor) not in _PLAIN:
            return False
    return not torch.compiler.is_compiling()


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd has to record a call with these inputs."""
    for tensor in tensors:  # not any(...): a generator costs half a microsecond
        if tensor is not None and tensor.requires_grad:
            return torch.is_grad_enabled()
    return False


def rows(x: Tensor) -> Tensor:
    """``x`` of shape (..., N) as (M, N) with adjacent columns; a view where the layout allows it, else a copy.

    Rows may be any distance apart (the kernels take the row stride), so a slice of columns is not copied, whereas an
    expanded gradient such as that of ``.sum()`` is.
    """
    width = x.shape[-1]
    if x.dim() != 2:
        x = x.reshape(x.numel() // width if width else 0, width)
    return x if width == 1 or x.stride(1) == 1 else x.contiguous()


def compute_dtype(x: Tensor) -> torch.dtype:
    """Dtype that a reference computes in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
