"""What a model answers, eager and in float64, and how far a packed start may be from it.

The bound is that of the correctness gate (``measure.tolerance``): twice eager's own error against float64, three times
where 16-bit numbers take part, above a floor. A random model is judged given the randomness that it drew, which its
experiment recovers from the output.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fuselab.errors import UsageError
from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.measure.calls import (
    differentiable_outputs,
    forward,
    gradient_targets,
    gradients,
    named_outputs,
    random_grad_outputs,
)
from fuselab.measure.exposure import same_bits
from fuselab.measure.tolerance import compare, scale_of, widen
from fuselab.records import TensorCheck, Workload

__all__ = ["Answers", "answer", "in_float64", "is_random", "judge", "truth", "varies"]


@dataclass
class Answers:
    """What one call returned."""

    raw: Any = None
    """The outputs as they were returned."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    grad_outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def answer(
    implementation: Implementation,
    inputs: Inputs,
    *,
    backward: bool,
    seed: int = 0,
    grad_outputs: Mapping[str, Tensor] | None = None,
    parameters_of: Implementation | None = None,
) -> Answers:
    """Call it once: inference without gradients, or a training step.

    Args:
        implementation: what is called.
        inputs: on what.
        backward: a training step.
        seed: of the gradients of the outputs, where they are not given.
        grad_outputs: where the backward starts, by name of the output.
        parameters_of: the module whose parameters are differentiated, where the implementation is not one itself.
    """
    if not backward:
        # What is served does not ask for gradients; a tensor that does would have another key in torch's caches.
        inputs = inputs.map(lambda t: t.detach())
        with torch.no_grad():
            raw = implementation(*inputs.args, **inputs.kwargs)
        return Answers(raw, dict(named_outputs(raw)))
    raw = forward(implementation, inputs)
    found = Answers(raw, dict(named_outputs(raw)))
    starts = differentiable_outputs(raw)
    if grad_outputs is None:
        drawn = random_grad_outputs([t for _, t in starts], seed)
        grad_outputs = {name: g for (name, _), g in zip(starts, drawn, strict=True)}
    found.grad_outputs = dict(grad_outputs)
    starts = [(name, t) for name, t in starts if name in grad_outputs]
    targets = gradient_targets(inputs, parameters_of or implementation)
    if starts and targets:
        given = [grad_outputs[name].to(t.dtype) for name, t in starts]
        taken = gradients([t for _, t in starts], [t for _, t in targets], given)
        found.gradients = {f"grad {name}": g for (name, _), g in zip(targets, taken, strict=True) if g is not None}
    found.outputs = {name: t.detach() for name, t in found.outputs.items()}
    return found


def is_random(model: Implementation, inputs: Inputs, *, backward: bool) -> bool:
    """Whether two calls on the same inputs differ in a bit, under different seeds."""
    return bool(varies(model, inputs, backward=backward))


def varies(model: Implementation, inputs: Inputs, *, backward: bool) -> str:
    """Why two calls on the same inputs differ, in words; empty where they do not."""
    with _rng_kept(inputs):
        torch.manual_seed(0)
        first = answer(model, inputs, backward=backward)
        torch.manual_seed(1)
        second = answer(model, inputs, backward=backward)
        if _same(first, second):
            return ""
        torch.manual_seed(1)
        third = answer(model, inputs, backward=backward)
    return "it draws random numbers" if _same(second, third) else "it changes its own state from call to call"


def _same(one: Answers, other: Answers) -> bool:
    pairs = [(t, other.outputs[name]) for name, t in one.outputs.items() if name in other.outputs]
    return all(same_bits(a, b) for a, b in pairs)


def truth(
    experiment: Experiment,
    workload: Workload,
    eager: Implementation,
    inputs: Inputs,
    answers: Answers,
    *,
    backward: bool,
) -> Answers | None:
    """The same call in float64, given the randomness of ``answers``; None where the model refuses float64.

    A user's module is its own reference, with its parameters widened.
    """
    witness: Mapping[str, Any] = {}
    if experiment.witness is not None:
        witness = experiment.witness(workload, inputs, answers.raw)
    if isinstance(eager, torch.nn.Module):
        return in_float64(eager, inputs, answers, backward=backward)
    return in_float64(experiment.reference(workload), inputs, answers, backward=backward, witness=witness)


def in_float64(
    reference: Implementation,
    inputs: Inputs,
    answers: Answers,
    *,
    backward: bool = False,
    witness: Mapping[str, Any] | None = None,
) -> Answers | None:
    """Answers of a reference on widened inputs, a module's parameters widened, too.

    None where it refuses float64, or is a module that cannot be copied (one that holds a lock).
    """
    wide = inputs.map(widen)
    wide = Inputs(wide.args, {**wide.kwargs, **(witness or {})}, names=wide.names)
    try:
        if isinstance(reference, torch.nn.Module):
            reference = copy.deepcopy(reference).double()
        return answer(reference, wide, backward=backward, grad_outputs=answers.grad_outputs)
    except (RuntimeError, TypeError, NotImplementedError, ValueError, UsageError):
        return None  # eager itself is the reference then, and the floor the bound


def judge(
    got: Answers, eager: Answers, truths: Answers | None, inputs: Inputs, *, eager_truths: Answers | None = None
) -> list[TensorCheck]:
    """Every output and gradient of a packed start against eager's and the truth."""
    scale = scale_of([*(t for _, t in inputs.tensors()), *eager.outputs.values()])
    checks = []
    for kind in ("outputs", "gradients"):
        expected: dict[str, Tensor] = getattr(eager, kind)
        found: dict[str, Tensor] = getattr(got, kind)
        for name, theirs in expected.items():
            if name not in found:
                checks.append(TensorCheck(name=name, correct=False, reason="it is not among what was returned"))
                continue
            true = None if truths is None else getattr(truths, kind).get(name)
            of_eager = None if eager_truths is None else getattr(eager_truths, kind).get(name)
            reference = widen(theirs) if true is None else true
            checks.append(compare(name, found[name], theirs, reference, scale, eager_reference=of_eager))
        extra = [name for name in found if name not in expected]
        checks += [TensorCheck(name=name, correct=False, reason="eager does not return it") for name in extra]
    return checks


@contextlib.contextmanager
def _rng_kept(inputs: Inputs) -> Iterator[None]:
    devices = sorted({t.device.index or 0 for _, t in inputs.tensors() if t.is_cuda})
    with torch.random.fork_rng(devices):
        yield
