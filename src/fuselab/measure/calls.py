"""One call of an implementation, as the gate and the clocks make it: its outputs, what is differentiated, its
gradients.

A backward is ``torch.autograd.grad`` on a fresh graph with random ``grad_outputs``: nothing is accumulated into
``.grad``, and the graph is never retained, so that a compiled backward may reuse the buffers that the forward saved
(donated buffers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Implementation, Inputs

__all__ = [
    "differentiable_outputs",
    "forward",
    "gradient_targets",
    "gradients",
    "named_outputs",
    "parameters",
    "random_grad_outputs",
]

_COMPILED_PREFIX = "_orig_mod."
"""What ``torch.compile`` puts before the names of a module's parameters."""


def forward(implementation: Implementation, inputs: Inputs) -> Any:
    """Call ``implementation`` with gradients enabled, as in training."""
    with torch.enable_grad():
        return implementation(*inputs.args, **inputs.kwargs)


def named_outputs(outputs: Any, name: str = "output") -> list[tuple[str, Tensor]]:
    """Every tensor that a call returned, with a name for messages: ``output``, ``output[1]``, ``output['loss']``.

    Lists, tuples and mappings are entered; anything else that is no tensor is left out.

    Example:
        >>> [name for name, _ in named_outputs((torch.ones(2), {"loss": torch.ones(())}, None))]
        ['output[0]', "output[1]['loss']"]
    """
    if isinstance(outputs, Tensor):
        return [(name, outputs)]
    if isinstance(outputs, dict):
        entries: list[tuple[Any, Any]] = list(outputs.items())
    elif isinstance(outputs, list | tuple):
        entries = list(enumerate(outputs))
    else:
        return []
    return [found for key, value in entries for found in named_outputs(value, f"{name}[{key!r}]")]


def parameters(implementation: Implementation) -> dict[str, Tensor]:
    """Parameters that require a gradient, by name, of a module or of what ``torch.compile`` made of one; else none."""
    if not isinstance(implementation, torch.nn.Module):
        return {}
    named = implementation.named_parameters()
    return {name.removeprefix(_COMPILED_PREFIX): p for name, p in named if p.requires_grad}


def gradient_targets(inputs: Inputs, implementation: Implementation) -> list[tuple[str, Tensor]]:
    """What a backward differentiates with respect to: inputs that require a gradient, then parameters."""
    return [*inputs.differentiable(), *parameters(implementation).items()]


def differentiable_outputs(outputs: Any) -> list[tuple[str, Tensor]]:
    """The outputs through which a backward can start."""
    return [(name, t) for name, t in named_outputs(outputs) if t.requires_grad]


def random_grad_outputs(outputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Standard normal gradients of ``outputs``, same shapes, dtypes and device; a function of the seed alone.

    They are drawn in float32 (float64 and complex: as they are) and rounded, so that the bf16 and the float32 output
    of one workload get the same gradient up to rounding.
    """
    drawn = []
    for i, output in enumerate(outputs):
        generator = torch.Generator(device=output.device).manual_seed((seed + 7919 * (i + 1)) % 2**63)
        wide = output.dtype if output.dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
        drawn.append(torch.randn(output.shape, dtype=wide, device=output.device, generator=generator).to(output.dtype))
    return drawn


def gradients(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], grad_outputs: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of ``outputs`` with respect to ``targets``; None for a target that no output depends on."""
    return list(torch.autograd.grad(list(outputs), list(targets), list(grad_outputs), allow_unused=True))
