"""What the interpreted kernels gave, against eager and a float64 reference: the bounds of ``measure.tolerance``.

Imported in the interpreting process only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.measure.calls import (
    differentiable_outputs,
    forward,
    gradient_targets,
    gradients,
    named_outputs,
    random_grad_outputs,
)
from fuselab.measure.exposure import Exposed
from fuselab.measure.oracle import Oracle, Truth
from fuselab.measure.tolerance import compare, scale_of
from fuselab.offline.counterparts import same_draws
from fuselab.records import Direction, TensorCheck, Workload

__all__ = ["Comparison"]


class Comparison:
    """Compares results with eager's and with the reference's."""

    def __init__(
        self,
        experiment: Experiment,
        workload: Workload,
        inputs: Inputs,
        eager: Implementation,
        *,
        seeds: Sequence[int],
        restore: Callable[[], None],
    ) -> None:
        """Take note of what to compare with.

        Args:
            experiment: has the reference.
            workload: what the inputs are of.
            inputs: what the program was called on.
            eager: the program.
            seeds: of the random numbers that the generated code drew, in order.
            restore: puts the program's running statistics back.
        """
        self._experiment, self._workload, self._inputs, self._eager = experiment, workload, inputs, eager
        self._seeds, self._restore = seeds, restore
        self.notes: list[str] = []

    def checks(
        self, outputs: Mapping[str, Tensor], back: Mapping[str, Tensor | None], structure: Any
    ) -> list[TensorCheck]:
        """Every output, then every gradient.

        Args:
            outputs: by name; the names are those of ``measure.calls.named_outputs``.
            back: gradients by what they belong to.
            structure: the outputs in the form in which the program returns them.
        """
        eager, eager_gradients = self._call()
        oracle = Oracle(self._experiment, self._workload, self._eager)
        random = self._experiment.witness is not None
        truth = self._truth(oracle, eager, structure)
        beside = self._truth(oracle, eager, eager.structure) if random else truth
        scale = scale_of([*(t for _, t in self._inputs.tensors()), *(t for _, t in eager.outputs)])
        found = []
        for name, expected in eager.outputs:
            got = outputs.get(name)
            if got is not None:
                found.append(self._one(name, got, expected, truth, beside, Direction.FORWARD, scale, random=random))
        for name, gradient in back.items():
            expected_gradient = eager_gradients.get(name)
            if gradient is None and expected_gradient is None:
                continue
            like = expected_gradient if gradient is None else gradient
            zero = torch.zeros_like(like) if like is not None else torch.zeros(())
            mine = zero if gradient is None else gradient
            theirs = zero if expected_gradient is None else expected_gradient
            found.append(self._one(name, mine, theirs, truth, beside, Direction.BACKWARD, scale, random=random))
        return found

    def _one(
        self,
        name: str,
        got: Tensor,
        expected: Tensor,
        truth: Truth,
        beside: Truth,
        direction: Direction,
        scale: Any,
        *,
        random: bool,
    ) -> TensorCheck:
        shown = name if direction is Direction.FORWARD else f"grad {name}"
        reference, other = truth[direction].get(name), beside[direction].get(name)
        if reference is None or other is None:
            return TensorCheck(name=shown, correct=False, reason="the reference has none")
        return compare(shown, got, expected, reference, scale, eager_reference=other if random else None)

    def _call(self) -> tuple[Exposed, dict[str, Tensor | None]]:
        """Eager, which draws what the generated code drew unless the experiment knows how to tell what was drawn."""
        with self._draws():
            raw = forward(self._eager, self._inputs)
            starts = differentiable_outputs(raw)
            exposed = Exposed(structure=raw, outputs=[(n, t.detach().clone()) for n, t in named_outputs(raw)])
            targets = gradient_targets(self._inputs, self._eager)
            found: dict[str, Tensor | None] = {}
            if starts and targets:
                exposed.differentiable = [name for name, _ in starts]
                exposed.grad_outputs = random_grad_outputs([t for _, t in starts], self._workload.seed)
                back = gradients([t for _, t in starts], [t for _, t in targets], exposed.grad_outputs)
                found = dict(zip([n for n, _ in targets], back, strict=True))
        self._restore()
        return exposed, found

    def _truth(self, oracle: Oracle, eager: Exposed, structure: Any) -> Truth:
        experiment = self._experiment
        if experiment.witness is not None:
            detached = torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, structure)
            witness = experiment.witness(self._workload, self._inputs, detached)
            doubt = experiment.check_witness(self._workload, witness) if experiment.check_witness else ""
            if doubt:
                self.notes.append(doubt)
            return oracle(self._inputs, eager, witness)
        with self._draws():
            return oracle(self._inputs, eager, {})

    @contextlib.contextmanager
    def _draws(self) -> Any:
        if self._experiment.witness is not None or not self._seeds:
            yield
            return
        with same_draws(self._seeds) as mode:
            yield
        if mode.left_out and mode.left_out not in self.notes:
            self.notes.append(mode.left_out)
