"""The correctness gate: outputs and every gradient against a float64 reference, before anything is timed.

An implementation is called four times, each time under the conditions of ``exposure``: on the inputs; on the same
inputs again; on other values at other addresses, the first row of them small, where a lost ``eps`` shows, the last
element of them large, where a lost element shows; and on those values at the first addresses. What is cached,
replayed, left unwritten or random shows in one of these. Every result is held to the bound of ``tolerance``. Eager,
which is a user's own function as written, is called in the same way: where it changes its inputs, returns nothing or
gives back what it kept, that is the verdict on every variant.

A result that was kept and is handed out as a copy, to inputs that require no gradient, is not told from one that does
not depend on its inputs' values, as a table of positions does not: both pass.

A declared random experiment names its randomness: ``Experiment.witness`` recovers what a call drew from its output,
the reference repeats the call with it, and the gradients prove that the backward used the same. Statistics of what
was drawn are the experiment's own (``check_witness``); that two calls draw differently is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.measure.calls import forward, gradient_targets, named_outputs
from fuselab.measure.exposure import CACHED, Exposed, call_exposed, same_bits, stream_of_its_own
from fuselab.measure.layout import copied, writable
from fuselab.measure.oracle import Oracle, Truth
from fuselab.measure.tolerance import compare, not_repeated, scale_of
from fuselab.records import Correctness, Direction, TensorCheck, Workload

__all__ = ["check", "other_inputs"]

NO_BACKWARD = (
    "there is no backward: no input and no parameter requires a gradient; give one :requires_grad, or take"
    " --direction forward"
)

_SMALL = 2.0**-10
"""What the first row is scaled by: its variance falls to about 1e-6, where an ``eps`` of 1e-5 or 1e-6 decides."""

_LARGEST_16_BIT = 16.0
"""How many times the mean the last element is at most in float16, whose squares overflow above 255."""

_STATE = "keep no state between calls, and take what is random as an argument"

_DRAWS = 64
"""Fewest drawn elements of which two calls must not agree in all."""


def check(
    experiment: Experiment,
    workload: Workload,
    implementation: Implementation,
    eager: Implementation,
    device_type: str,
    directions: Sequence[Direction],
    *,
    inputs: Inputs | None = None,
    rounds_between: bool = False,
) -> dict[Direction, Correctness]:
    """Check ``implementation`` in each of ``directions``.

    Args:
        experiment: where inputs, the reference and the witness come from.
        workload: what to build them for.
        implementation: what is checked. It may be ``eager`` itself, which is then held to the reference, to being
            deterministic, and to everything else that does not compare it with itself.
        eager: the implementation whose own error sets the bound.
        device_type: ``cpu`` or ``cuda``.
        directions: which halves to report.
        inputs: to be used in place of ``experiment.make_inputs``, for example with fewer rows.
        rounds_between: it is PyTorch operator by operator; see ``tolerance.compare``.

    Returns:
        The verdict of each direction. Whatever the implementation raises is raised here.
    """
    first = experiment.make_inputs(workload, device_type) if inputs is None else inputs
    shapes = [tuple(t.shape) for _, t in first.tensors()]
    elsewhere = bool(shapes and workload.shape and workload.shape not in shapes)
    backward = Direction.BACKWARD in directions
    gate = _Gate(experiment, workload, implementation, eager, backward=backward, rounds_between=rounds_between)
    with stream_of_its_own(device_type):
        gate.run(first, other_inputs(experiment, workload, device_type, first, given=inputs is not None))
    return {
        direction: msgspec.structs.replace(gate.verdict(direction), checked_shape=shapes[0] if elsewhere else None)
        for direction in directions
    }


def other_inputs(
    experiment: Experiment, workload: Workload, device_type: str, first: Inputs, *, given: bool = False
) -> Inputs:
    """Inputs like ``first``, strides included, with other values at other addresses.

    The first row of each is made small, and in 16 bits the last element large: about the root of the row's length,
    which makes it half of the row's mean square, so that what leaves it out is seen above the rounding. With 32 bits
    and more it is seen anyway, and a softmax whose row is nearly one element would be judged by one cancellation.

    They come from the next seed; where that makes the same values (a user's own inputs do), or ``given`` inputs have no
    seed, floating-point tensors are turned around, which keeps what values they may have.
    """
    if given:
        fresh = first
    else:
        fresh = experiment.make_inputs(msgspec.structs.replace(workload, seed=workload.seed + 1), device_type)
    pairs = zip(first.tensors(), fresh.tensors(), strict=True)
    turn = all(same_bits(a, b) for (_, a), (_, b) in pairs if a.dtype.is_floating_point)

    def change(tensor: Tensor) -> Tensor:
        changed = copied(tensor).detach()
        if tensor.dtype.is_floating_point and tensor.dim() and tensor.numel() and writable(tensor):
            if turn:
                changed.copy_(tensor.detach().flip(tuple(range(tensor.dim()))))
            if tensor.dim() > 1:
                changed[(0,) * (tensor.dim() - 1)] *= _SMALL
                if tensor.itemsize == 2 and tensor.numel() > tensor.shape[-1]:  # another row than the small one
                    changed[(-1,) * tensor.dim()] = _large(tensor)
        return changed.requires_grad_(tensor.requires_grad)

    return fresh.map(change)


def _large(tensor: Tensor) -> Tensor:
    """A last element that is about half of its row's sum of squares, with the sign of the one that is there."""
    factor = 2.0 ** math.ceil(math.log2(max(tensor.shape[-1], 1)) / 2)
    factor = min(factor, _LARGEST_16_BIT) if tensor.dtype is torch.float16 else factor
    plain = tensor.detach()
    return torch.copysign(factor * plain.abs().mean(), plain[(-1,) * plain.dim()])


class _Gate:
    """Collects what is wrong, by direction, over the calls of one check."""

    def __init__(
        self,
        experiment: Experiment,
        workload: Workload,
        implementation: Implementation,
        eager: Implementation,
        *,
        backward: bool,
        rounds_between: bool,
    ) -> None:
        self.experiment = experiment
        self.workload = workload
        self.implementation = implementation
        self.eager = eager
        self.backward = backward
        self.rounds_between = rounds_between
        self.random = experiment.witness is not None
        self.oracle = Oracle(experiment, workload, eager)
        self.tensors: dict[Direction, list[TensorCheck]] = {direction: [] for direction in Direction}
        self.reasons: dict[Direction, list[str]] = {direction: [] for direction in Direction}
        self.differentiable = False
        self.output_bytes: list[int] = []

    def run(self, first: Inputs, second: Inputs) -> None:
        """Make the calls; stop at the first one that leaves nothing to compare."""
        self.differentiable = bool(gradient_targets(first, self.eager))
        measure = self._eager(first)
        before = measure[0].outputs if measure else []
        once = measure and self._compared("", first, *measure)
        if not once or once.faults:
            return
        self._check_repetition(once, self._call(self.implementation, first), first)
        measure = self._eager(second)
        if measure and not self.random and _same(before, measure[0].outputs) and self._keeps(first, second):
            self._blame(Direction.FORWARD, CACHED, first=True)
            return
        fresh = measure and self._compared("other inputs: ", second, *measure)
        if not measure or not fresh:
            return
        # A random result that is cached is found by the reference: its own mask shows what it kept.
        if not self.random and _same(once.outputs, fresh.outputs) and not _same(before, measure[0].outputs):
            self._blame(Direction.FORWARD, CACHED, first=True)
        buffers = [(old, new) for (_, old), (_, new) in zip(first.tensors(), second.tensors(), strict=True)]
        if all(writable(old) for old, _ in buffers):
            kept = [old.detach().clone() for old, _ in buffers]
            for old, new in buffers:
                old.detach().copy_(new.detach())
            self._compared("other values at the same addresses: ", first, *measure)
            for (old, _), values in zip(buffers, kept, strict=True):
                old.detach().copy_(values)

    def verdict(self, direction: Direction) -> Correctness:
        """What was found in one direction."""
        tensors, reasons = self.tensors[direction], list(self.reasons[direction])
        if direction is Direction.BACKWARD and not self.differentiable:
            reasons.insert(0, NO_BACKWARD)
        elif direction is Direction.BACKWARD and not tensors and not reasons:
            reasons.append(self.verdict(Direction.FORWARD).reason or "no output requires a gradient")
        wrong = [f"{t.name}: {t.reason}" for t in tensors if not t.correct]
        reasons = [*reasons, *wrong] if not any("NaN" in r for r in wrong) else [*wrong, *reasons]
        return Correctness(correct=not reasons, tensors=tensors, reason=reasons[0] if reasons else "")

    def _blame(self, direction: Direction, reason: str, *, first: bool = False) -> None:
        self.reasons[direction].insert(0 if first else len(self.reasons[direction]), reason)

    def _call(self, implementation: Implementation, inputs: Inputs) -> Exposed:
        called = call_exposed(
            implementation, inputs, backward=self.backward, seed=self.workload.seed, poisoned_bytes=self.output_bytes
        )
        self.output_bytes = self.output_bytes or [t.untyped_storage().nbytes() for _, t in called.outputs]
        return called

    def _witness(self, inputs: Inputs, called: Exposed) -> Mapping[str, Any]:
        if self.experiment.witness is None:
            return {}
        return self.experiment.witness(self.workload, inputs, called.structure)

    def _eager(self, inputs: Inputs) -> tuple[Exposed, Truth] | None:
        """Eager's own results and their reference; None, and the reason kept, where eager is no measure for
        anything."""
        called = self._call(self.eager, inputs)
        if not called.outputs:
            self._blame(Direction.FORWARD, _nothing(called))
            return None
        if called.faults:
            for fault in called.faults:
                self._blame(Direction.FORWARD, fault.text)
            return None
        truth = self.oracle(inputs, called, self._witness(inputs, called))
        if not self.random:
            again = self._call(self.eager, inputs)
            scale = scale_of([*(t for _, t in inputs.tensors()), *(t for _, t in called.outputs)])
            for (name, a), (_, b) in zip(called.outputs, again.outputs, strict=True):
                if drift := not_repeated(a, b, scale):
                    advice = "take what is random as an argument, or register an experiment with a witness of it"
                    self._blame(Direction.FORWARD, f"{name}: not deterministic: {drift}; {advice}")
                    return None
        return called, truth

    def _keeps(self, first: Inputs, second: Inputs) -> bool:
        """Whether eager, which gave the same results for other values, has kept them: it hands out the same memory
        again, or what should depend on its inputs does not."""
        # The first results stay alive, so that their memory is not given out again.
        before, after = ([t for _, t in named_outputs(forward(self.eager, i)) if t.numel()] for i in (first, second))
        numbers = any(t.dtype.is_floating_point for t in after)  # an index may be the same by chance
        if self.differentiable and numbers and not any(t.requires_grad for t in after):
            return True
        kept = {t.untyped_storage().data_ptr() for t in before}
        return any(t.untyped_storage().data_ptr() in kept for t in after)

    def _compared(self, label: str, inputs: Inputs, eager: Exposed, eager_truth: Truth) -> Exposed | None:
        """Call, and compare with eager and the reference; None where there is nothing to compare."""
        called = self._call(self.implementation, inputs)
        for fault in called.faults:
            self._blame(Direction.BACKWARD if fault.backward else Direction.FORWARD, label + fault.text)
        if fault_in_form := _wrong_form(called, eager):
            self._blame(Direction.FORWARD, label + fault_in_form)
            return None
        truth = eager_truth
        if self.random:
            witness = self._witness(inputs, called)
            if self.experiment.check_witness and (doubt := self.experiment.check_witness(self.workload, witness)):
                self._blame(Direction.FORWARD, label + doubt)
            truth = self.oracle(inputs, called, witness)
        scale = scale_of([*(t for _, t in inputs.tensors()), *(t for _, t in eager.outputs)])
        for direction, name, got, expected in self._pairs(label, called, eager):
            shown = name if direction is Direction.FORWARD else f"grad {name}"
            mine, theirs = truth[direction].get(name), eager_truth[direction].get(name)
            if mine is None or theirs is None:
                self._blame(direction, f"{label}{shown}: the reference has none")
                continue
            other = theirs if self.random else None
            checked = compare(
                label + shown,
                got,
                expected,
                mine,
                scale,
                eager_reference=other,
                rounds_between=self.rounds_between,
            )
            if not label or not checked.correct:
                self.tensors[direction].append(checked)
        return called

    def _pairs(self, label: str, called: Exposed, eager: Exposed) -> Iterator[tuple[Direction, str, Tensor, Tensor]]:
        """Outputs, then gradients, of the call and of eager."""
        for (name, got), (_, expected) in zip(called.outputs, eager.outputs, strict=True):
            yield Direction.FORWARD, name, got, expected
        if not eager.gradients or (called.faults and not called.gradients):
            return
        if called.differentiable != eager.differentiable:
            have, should = (", ".join(c.differentiable) or "no output" for c in (called, eager))
            self._blame(Direction.BACKWARD, f"{label}a gradient is required by {have}, with eager by {should}")
            return
        found = dict(called.gradients)
        for name, expected_or_none in eager.gradients:
            got_or_none = found.get(name)
            if name not in found:
                self._blame(Direction.BACKWARD, f"{label}there is no gradient of {name}, which eager has")
            elif got_or_none is not None or expected_or_none is not None:
                like = expected_or_none if got_or_none is None else got_or_none
                none = torch.zeros_like(like) if like is not None else torch.zeros(())
                yield (
                    Direction.BACKWARD,
                    name,
                    none if got_or_none is None else got_or_none,
                    none if expected_or_none is None else expected_or_none,
                )

    def _check_repetition(self, once: Exposed, again: Exposed, inputs: Inputs) -> None:
        """Two calls on the same inputs: equal up to rounding or, for a random experiment, not equal in what they
        drew."""
        if self.random:
            before, after = self._witness(inputs, once), self._witness(inputs, again)
            drawn = {name: t for name, t in before.items() if isinstance(t, Tensor) and t.numel() >= _DRAWS}
            varying = {name: t for name, t in drawn.items() if bool((t != t.reshape(-1)[0]).any())}
            if varying and all(same_bits(t, after[name]) for name, t in varying.items()):
                self._blame(Direction.FORWARD, "two calls drew the same randomness")
            return
        allowed = {t.name: t.allowed_max_error for half in self.tensors.values() for t in half}
        scale = scale_of([*(t for _, t in inputs.tensors()), *(t for _, t in once.outputs)])
        halves = (
            (Direction.FORWARD, "", once.outputs, again.outputs),
            (Direction.BACKWARD, "grad ", once.gradients, again.gradients),
        )
        for direction, prefix, first, second in halves:
            for (name, a), (_, b) in zip(first, second, strict=True):
                if a is None or b is None:
                    continue
                if fault := not_repeated(a, b, scale, allowed.get(prefix + name)):
                    # Memory that was never written differs, too; where it is NaN the comparison has said it better.
                    text = f"{prefix}{name}: not deterministic: {fault}; {_STATE}"
                    self._blame(direction, text, first="NaN" not in fault)


def _same(first: Sequence[tuple[str, Tensor]], second: Sequence[tuple[str, Tensor]]) -> bool:
    return all(same_bits(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def _nothing(called: Exposed) -> str:
    what = called.structure
    named = "nothing" if what is None else f"a {type(what).__name__} without a tensor in it"
    return f"returns {named}: return the tensors that are to be compared and timed"


def _wrong_form(called: Exposed, eager: Exposed) -> str:
    """What makes the outputs incomparable with eager's, in words."""
    if not called.outputs:
        return _nothing(called)
    names, expected = ([name for name, _ in c.outputs] for c in (called, eager))
    if names != expected:
        return f"returns {', '.join(names)}; eager returns {', '.join(expected)}"
    for (name, got), (_, theirs) in zip(called.outputs, eager.outputs, strict=True):
        for what, mine, should in (
            ("shape", tuple(got.shape), tuple(theirs.shape)),
            ("dtype", got.dtype, theirs.dtype),
            ("device", got.device, theirs.device),
        ):
            if mine != should:
                return f"{name} has the {what} {mine}, eager's has {should}"
        if name in called.aliases and name not in eager.aliases:
            return f"{name} is a view of its input {called.aliases[name]}, eager's is not: return memory of its own"
    if all(name in called.aliases for name in names):
        return (
            f"returns views of its inputs alone ({called.aliases[names[0]]}): there is nothing to measure; return"
            " something that is computed"
        )
    return ""
