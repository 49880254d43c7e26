"""``check`` and ``hint``: what a reader calls after writing a kernel.

The kernel runs in a process of its own, with a deadline (``run``), so that one that never ends leaves the notebook
alive, and so that Triton's interpreter can be had on a CPU whatever this process has imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuselab.course.exercises import EXERCISES, exercise_named
from fuselab.course.run import DEADLINE_S, judge_apart
from fuselab.course.sources import source_of
from fuselab.course.verdict import Hint, Score, Verdict
from fuselab.errors import UsageError

__all__ = ["check", "check_all", "hint"]

_given: dict[str, int] = {}


def check(
    name: str,
    answer: Callable[..., Any] | str | Path | None = None,
    *,
    device: str = "auto",
    deadline_s: float = DEADLINE_S,
) -> Verdict:
    """Check an exercise: says what is wrong and which mistake it resembles, not how it is done.

    Args:
        name: the exercise, for example ``"rms_norm_forward"``.
        answer: the function that the exercise asks for, as it was defined in a cell or a file; a ``@triton.jit``
            kernel alone, which the exercise then launches; the source as text (what holds a line break); a path to a
            file. Without one, ``exercises/NAME.py`` of the working directory.
        device: ``auto``, ``cpu`` (Triton's interpreter) or ``cuda``.
        deadline_s: seconds that the kernel may take, all inputs together; starting the process comes on top.

    Returns:
        A verdict that is true when the exercise is solved and that displays itself.

    Raises:
        UnknownNameError: no such exercise.
        UsageError: the answer is neither of these, or its source cannot be found.
    """
    exercise = exercise_named(name)
    return judge_apart(exercise, source_of(exercise, answer), device=device, deadline_s=deadline_s)


def check_all(
    directory: Path,
    names: Sequence[str] = (),
    *,
    device: str = "auto",
    deadline_s: float = DEADLINE_S,
    say: Callable[[str], None] | None = None,
) -> Score:
    """Check the exercise files of a folder that ``fuselab course`` made.

    Args:
        directory: the folder, or its ``exercises``.
        names: the exercises to check; all unless given.
        device: ``auto``, ``cpu`` or ``cuda``.
        deadline_s: seconds that each kernel may take.
        say: is told each exercise's name before it is checked.

    Raises:
        UsageError: there are no exercises in this folder.
    """
    chosen = [exercise_named(name) for name in names] or list(EXERCISES.values())
    folder = directory if directory.name == "exercises" else directory / "exercises"
    files = [(exercise, folder / f"{exercise.name}.py") for exercise in chosen]
    missing = [path.name for _, path in files if not path.is_file()]
    if missing and (names or len(missing) == len(files)):
        raise UsageError(
            f"there is no {', '.join(missing[:3])} in {folder}",
            hint="`fuselab course DIR` copies the exercises; then give that DIR",
        )
    verdicts = []
    for exercise, path in files:
        if path.is_file():
            if say is not None:
                say(exercise.name)
            verdicts.append(judge_apart(exercise, source_of(exercise, path), device=device, deadline_s=deadline_s))
    return Score(verdicts=tuple(verdicts))


def hint(name: str, *, again: bool = False) -> Hint:
    """The next of an exercise's three hints; after the third, the third.

    Args:
        name: the exercise.
        again: repeat the last one.

    Raises:
        UnknownNameError: no such exercise.
    """
    exercise = exercise_named(name)
    given = _given.get(name, 0)
    number = max(given, 1) if again else min(given + 1, len(exercise.hints))
    _given[name] = number
    return Hint(exercise=name, number=number, of=len(exercise.hints), text=exercise.hints[number - 1])
