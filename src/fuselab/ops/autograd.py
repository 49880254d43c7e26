"""The end of differentiation: gradients that refuse, by name, to be differentiated again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuselab.ops.inputs import check_untransformed

__all__ = ["refuse_second_derivative"]


class _NoSecondDerivative(torch.autograd.Function):
    """Identity on gradients, with a backward that names the operator and raises.

    ``torch.autograd.function.once_differentiable`` does the same with an error that names nothing.
    """

    @staticmethod
    def forward(ctx: Any, operator: str, count: int, *tensors: Tensor | None) -> Any:
        ctx.operator = operator
        gradients = tensors[:count]
        return tuple(None if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"fuselab.ops.{ctx.operator} has no second derivative: its backward is a Triton kernel. Differentiate "
            f"twice through fuselab.ops.{ctx.operator}_reference, which is made of torch's own operators"
        )


def refuse_second_derivative(
    operator: str, gradients: tuple[Tensor | None, ...], sources: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients, which raise when somebody differentiates them; as they are where nobody can.

    For a backward under which gradients are recorded, or that runs in a level of forward-mode differentiation.

    Args:
        operator: name of the public function, for the message.
        gradients: what the backward returns, tensors or None.
        sources: the tensors that the gradients depend on: incoming gradients and saved inputs.

    Raises:
        RuntimeError: one of the sources has a tangent, of which the gradients would have none.
    """
    check_untransformed(operator, *sources)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return gradients
    refused: tuple[Tensor | None, ...] = _NoSecondDerivative.apply(operator, len(gradients), *gradients, *sources)  # type: ignore[no-untyped-call]
    return refused
