"""The usual mistakes: their names, and what they look like without the way out.

``recognise`` finds which one a wrong answer is by making it: the exercise's model computes in float64, on the same
inputs, what a kernel with this mistake returns, and that is compared with what the learner's returned. Nothing here
reads code. What no model of an exercise can make, because it is about memory rather than numbers, shows by its traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fuselab.course.catalogue import MISTAKES
from fuselab.course.describe import wrong_elements
from fuselab.course.exercises import Exercise
from fuselab.course.verdict import Resemblance

__all__ = ["Trial", "raised_by_dtype", "recognise"]

MATCH = 2.0
"""Times the tolerance of a right answer: a wrong one is rounded in places where a right one is not."""

SHOWN = 2


@dataclass
class Trial:
    """One input, what was expected and what came back, all on the CPU."""

    given: Any
    dtype: torch.dtype
    expected: tuple[Tensor, ...]
    """float64."""
    got: tuple[Tensor, ...]
    """float64."""
    dtypes: tuple[torch.dtype, ...]
    """What each result was rounded to."""
    wrong: tuple[Tensor, ...]
    untouched: tuple[Tensor, ...]
    spilled: tuple[tuple[str, int, int], ...] = ()
    """Tensors whose surroundings were written to: name, elements before, elements after."""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.spilled and not any(bool(w.any()) for w in self.wrong)


def recognise(exercise: Exercise, trials: Sequence[Trial]) -> tuple[Resemblance, ...]:
    """The mistakes that give what came back, the likeliest first.

    Args:
        exercise: what was asked for.
        trials: all inputs that gave results of the right shapes.
    """
    found: dict[str, tuple[str, ...]] = dict.fromkeys(_by_traces(trials), ())
    wrong = [o for o in range(len(exercise.outputs)) if any(bool(t.wrong[o].any()) for t in trials)]
    right = [o for o in range(len(exercise.outputs)) if o not in wrong]
    explained: dict[str, list[int]] = {}
    predicted: dict[str, list[Predicted]] = {}
    for name, predictions in _simulations(exercise, trials):
        predicted[name] = predictions
        outputs = [o for o in wrong if _explains(trials, predictions, o)]
        if outputs:
            explained[name] = outputs
    whole = [name for name, outputs in explained.items() if outputs == wrong]
    # A mistake that would have spoilt a result that is right is less likely than one that would not.
    exact = [name for name in whole if all(_agrees(trials, predicted[name], o) for o in right)]
    if whole:
        found.update(dict.fromkeys((exact or whole)[:SHOWN], ()))
    else:
        left = list(wrong)
        for name, outputs in explained.items():
            new = [o for o in outputs if o in left]
            if new:
                found[name] = tuple(exercise.outputs[o] for o in new)
                left = [o for o in left if o not in new]
    resemblances: dict[str, Resemblance] = {}
    for variant, about in found.items():
        name = variant.partition(":")[0]
        mistake = MISTAKES[name]
        resemblances.setdefault(name, Resemblance(name=name, title=mistake.title, says=mistake.says, outputs=about))
    return tuple(resemblances.values())


def raised_by_dtype(trials: Sequence[Trial], dtype: torch.dtype) -> tuple[Resemblance, ...]:
    """The mistake of a kernel that raised on a 16-bit input, after all the others had come out right."""
    if dtype == torch.float32 or not trials or not all(trial.right for trial in trials):
        return ()
    mistake = MISTAKES["sixteen_bits"]
    return (Resemblance(name="sixteen_bits", title=mistake.title, says=mistake.says),)


def _by_traces(trials: Sequence[Trial]) -> Iterator[str]:
    """Mistakes that show in memory, or in which inputs go wrong."""
    if any(trial.spilled for trial in trials):
        yield "store_without_mask"
    endings, elsewhere = False, False
    for trial in trials:
        for flags in trial.untouched:
            if bool(flags.any()) and not bool(flags.all()):
                ends = _only_at_the_end(flags)
                endings, elsewhere = endings or ends, elsewhere or not ends
    if any(bool(flags.all()) for trial in trials for flags in trial.untouched if flags.numel()):
        yield "never_stored"
    elif elsewhere:
        yield "places_left_out"
    elif endings:
        yield "ends_too_early"
    narrow = [trial for trial in trials if trial.dtype in (torch.float16, torch.bfloat16)]
    wide = [trial for trial in trials if trial.dtype == torch.float32]
    if narrow and wide and all(t.right for t in wide) and not all(t.right for t in narrow):
        yield "sixteen_bits"


def _only_at_the_end(flags: Tensor) -> bool:
    """Whether the flags are a tail of the whole, or a tail of every row, or all rows from one on."""
    flat = flags.reshape(-1)
    if bool(flat[-int(flat.sum()) :].all()):
        return True
    if flags.dim() != 2:
        return False
    columns = flags.all(0)
    count = int(columns.sum())
    return count > 0 and bool(columns[-count:].all()) and int(flags.sum()) == count * flags.shape[0]


Predicted = list[tuple[Tensor, Tensor | None] | None]
"""For one input: each result as a mistake would give it, and which elements it says something about (None: all)."""


def _simulations(exercise: Exercise, trials: Sequence[Trial]) -> Iterator[tuple[str, list[Predicted]]]:
    for name in exercise.mistakes:
        simulated: list[Predicted] = [[(p, None) for p in exercise.model(trial.given, name)] for trial in trials]
        yield name, simulated
    for name, make in _GENERAL.items():
        yield name, [make(trial) for trial in trials]


def _explains(trials: Sequence[Trial], predictions: list[Predicted], output: int) -> bool:
    """Whether a mistake gives this result, on every input, and not the right one on all of them."""
    differs = False
    for trial, predicted in zip(trials, predictions, strict=True):
        entry = predicted[output]
        if entry is None:
            return False
        value, about = entry
        if value.shape != trial.got[output].shape:
            return False
        off = wrong_elements(trial.got[output], value, trial.dtypes[output], factor=MATCH)
        apart = wrong_elements(value, trial.expected[output], trial.dtypes[output])
        if about is not None:
            off, apart = off & about, apart & about
        if bool(off.any()):
            return False
        differs = differs or bool((apart & trial.wrong[output]).any())
    return differs


def _agrees(trials: Sequence[Trial], predictions: list[Predicted], output: int) -> bool:
    """Whether a mistake leaves this result, which is right, as it is."""
    for trial, predicted in zip(trials, predictions, strict=True):
        entry = predicted[output]
        if entry is None or entry[0].shape != trial.got[output].shape:
            return False
        if bool(wrong_elements(trial.got[output], entry[0], trial.dtypes[output], factor=MATCH).any()):
            return False
    return True


def _negated(trial: Trial) -> Predicted:
    return [(-e, None) for e in trial.expected]


def _zeros(trial: Trial) -> Predicted:
    return [(torch.zeros_like(e), None) for e in trial.expected]


def _first_row(trial: Trial) -> Predicted:
    return [(e[:1].expand_as(e), None) if e.dim() == 2 and e.shape[0] > 1 else None for e in trial.expected]


def _swapped(trial: Trial) -> Predicted:
    first, *others = trial.expected
    if len(others) != 1 or others[0].shape != first.shape:
        return [None] * len(trial.expected)
    return [(others[0], None), (first, None)]


def _unchanged(trial: Trial) -> Predicted:
    arguments = trial.given.tensors()
    return [
        next(((a, None) for a in arguments if a.shape == e.shape and a.dim() > 0), None) if e.numel() > 1 else None
        for e in trial.expected
    ]


def _shifted(trial: Trial, by: int) -> Predicted:
    predicted: Predicted = []
    for e in trial.expected:
        if e.shape[-1:] == torch.Size([]) or e.shape[-1] < 4:
            predicted.append(None)
            continue
        about = torch.ones(e.shape, dtype=torch.bool)
        about[..., -1 if by > 0 else 0] = False
        predicted.append((e.roll(-by, -1), about))
    return predicted


_GENERAL: dict[str, Callable[[Trial], Predicted]] = {
    "wrong_sign": _negated,
    "unchanged_input": _unchanged,
    "zeros": _zeros,
    "first_row_everywhere": _first_row,
    "results_swapped": _swapped,
    "off_by_one": lambda trial: _shifted(trial, 1),
    "off_by_minus_one": lambda trial: _shifted(trial, -1),
}
"""Mistakes that can be made in any exercise, made from its right results."""
