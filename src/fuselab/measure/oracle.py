"""The float64 reference of one call: its outputs and gradients, given what the call drew."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.measure.calls import forward, gradient_targets, gradients, named_outputs, parameters
from fuselab.measure.exposure import Exposed
from fuselab.measure.tolerance import widen
from fuselab.records import Direction, Workload

__all__ = ["Oracle", "Truth"]

Truth = dict[Direction, dict[str, Tensor]]
"""Outputs by name (forward) and gradients by the name of what they belong to (backward)."""


class Oracle:
    """Evaluates an experiment's reference."""

    def __init__(self, experiment: Experiment, workload: Workload, eager: Implementation) -> None:
        self.experiment = experiment
        self.workload = workload
        self.eager = eager

    def __call__(self, inputs: Inputs, called: Exposed, witness: Mapping[str, Any]) -> Truth:
        """The truth for ``inputs`` in float64, with the randomness ``witness``, differentiated from where ``called``
        was.

        A gradient that the reference does not have (an output that does not depend on an input) is zero.
        """
        reference = self.experiment.reference(self.workload)
        if isinstance(reference, torch.nn.Module):
            reference = _widened(reference, self.eager)
        wide = inputs.map(widen)
        raw = forward(reference, Inputs(wide.args, {**wide.kwargs, **witness}, names=wide.names))
        outputs = dict(named_outputs(raw))
        truth: Truth = {Direction.FORWARD: {name: t.detach() for name, t in outputs.items()}, Direction.BACKWARD: {}}
        targets = gradient_targets(wide, reference)
        starts = [
            (outputs[name], g)
            for name, g in zip(called.differentiable, called.grad_outputs, strict=True)
            if name in outputs and outputs[name].requires_grad and outputs[name].shape == g.shape
        ]
        if starts and targets:
            found = gradients([o for o, _ in starts], [t for _, t in targets], [g.to(o.dtype) for o, g in starts])
            truth[Direction.BACKWARD] = {
                name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(targets, found, strict=True)
            }
        return truth


def _widened(module: torch.nn.Module, eager: Implementation) -> torch.nn.Module:
    """A copy of a reference module in float64, with eager's parameters: the two were built apart."""
    wide = copy.deepcopy(module).to(torch.float64)
    own = parameters(wide)
    with torch.no_grad():
        for name, parameter in parameters(eager).items():
            if name in own:
                own[name].copy_(parameter)
    return wide
