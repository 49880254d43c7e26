"""What a clock times: one implementation in one direction on rotating inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fuselab.experiment import Implementation, Inputs
from fuselab.measure.calls import differentiable_outputs, forward, gradient_targets, named_outputs, random_grad_outputs
from fuselab.measure.rotation import DRAWN_SETS, Rotation
from fuselab.records import Clock, Direction

__all__ = ["Cell", "Pending", "Work"]


class Cell(Protocol):
    """Something that can be timed again and again."""

    clock: Clock
    cold: bool

    def sample(self) -> tuple[float, int]:
        """Time one sample: nanoseconds of one call, and the number of calls it held."""

    def timed_output(self) -> tuple[Inputs, list[Tensor]] | None:
        """Set 0 and the results of a timed call on it, if one was timed."""

    def renew(self) -> None:
        """Take other addresses, where that is cheap."""

    def close(self) -> None:
        """Give memory back."""


@dataclass
class Pending:
    """A forward that was made and waits to be differentiated."""

    outputs: list[Tensor]
    targets: list[Tensor]
    grad_outputs: list[Tensor]

    def differentiate(self) -> tuple[Tensor | None, ...]:
        """The backward that is timed."""
        return torch.autograd.grad(self.outputs, self.targets, self.grad_outputs, allow_unused=True)


@dataclass
class Work:
    """One implementation in one direction, with what a call needs beside its inputs."""

    implementation: Implementation
    rotation: Rotation
    direction: Direction
    seed: int = 0

    def call(self, inputs: Inputs) -> Any:
        """A training forward. Gradients must be enabled."""
        return self.implementation(*inputs.args, **inputs.kwargs)

    def pending(self, index: int, inputs: Inputs) -> Pending:
        """A fresh graph for set ``index``, with gradients of its outputs that are drawn once and stay.

        Raises:
            ValueError: nothing in it can be differentiated.
        """
        outputs = [t for _, t in differentiable_outputs(forward(self.implementation, inputs))]
        targets = [t for _, t in gradient_targets(inputs, self.implementation)]
        if not outputs or not targets:
            raise ValueError("there is no backward to time: no output, or nothing it depends on, requires a gradient")
        return Pending(outputs, targets, self._grad_outputs(index, outputs))

    def _grad_outputs(self, index: int, outputs: list[Tensor]) -> list[Tensor]:
        """All variants that share the rotation share these; one whose outputs have another form gets its own."""
        drawn = self.rotation.grad_outputs.setdefault((self.seed, *((t.shape, t.dtype) for t in outputs)), {})
        if index not in drawn:
            like = drawn.get(index % DRAWN_SETS)
            drawn[index] = (
                random_grad_outputs(outputs, self.seed + index) if like is None else [g.clone() for g in like]
            )
        return drawn[index]

    def draw_grad_outputs(self) -> None:
        """Draw the gradients of the outputs of all sets, from the form of one call's."""
        outputs = [t for _, t in differentiable_outputs(forward(self.implementation, self.rotation.sets[0]))]
        for index in range(len(self.rotation)):
            self._grad_outputs(index, outputs)

    def once(self, index: int = 0) -> list[Tensor]:
        """The results of one call on set ``index``, detached: outputs, or gradients that are there."""
        inputs = self.rotation.sets[index]
        if self.direction is Direction.FORWARD:
            return [t.detach() for _, t in named_outputs(forward(self.implementation, inputs))]
        return [g for g in self.pending(index, inputs).differentiate() if g is not None]
