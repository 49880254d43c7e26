"""The exercises by name, in the order in which the course sets them."""

from __future__ import annotations

from fuselab.course.exercises import dropout, elementwise, gates, launching, layer_norm, reductions, rms_norm, softmax
from fuselab.course.exercises.exercise import Exercise
from fuselab.errors import UnknownNameError

__all__ = ["EXERCISES", "Exercise", "exercise_named"]

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for module in (elementwise, launching, reductions, layer_norm, softmax, dropout, rms_norm, gates)
    for exercise in module.EXERCISES
}


def exercise_named(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        UnknownNameError: there is none; carries the nearest match.
    """
    if name not in EXERCISES:
        raise UnknownNameError("exercise", name, EXERCISES)
    return EXERCISES[name]
