"""A learner's kernel in a process of its own: with a deadline, its own caches, and Triton's interpreter on a CPU.

Two clocks: the process itself stops at the deadline and says on which line (``judge``); should it not even manage
that, it is killed from here, with what it started.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import msgspec

from fuselab import probe
from fuselab.course.exercises import Exercise
from fuselab.course.sources import Source
from fuselab.course.verdict import Finding, Outcome, Verdict
from fuselab.errors import WorkerError

__all__ = ["DEADLINE_S", "JudgeRequest", "judge_apart", "unfinished_verdict"]

DEADLINE_S = 60.0
"""A check takes a second in the interpreter; a native first launch compiles, for ten at the most."""

START_S = 240.0
"""Importing torch from a cold network disk takes up to a minute, on a machine that does other things longer."""


PRINTED = 2000
"""Characters of what the learner's code printed that are shown."""


class JudgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to judge."""

    exercise: str
    source: Source
    folder: str
    device: str = "auto"
    deadline_s: float = DEADLINE_S


def judge_apart(exercise: Exercise, source: Source, *, device: str = "auto", deadline_s: float = DEADLINE_S) -> Verdict:
    """Judge a source; whatever it does, there is a verdict.

    Raises:
        SetupError: ``cuda`` was asked for and there is none.
        WorkerError: the process died before it looked at the learner's code.
    """
    from fuselab.device import DEVICES
    from fuselab.errors import UnknownNameError, UsageError

    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if not deadline_s > 0:
        raise UsageError(f"a deadline of {deadline_s:g} s leaves no time", hint="a number of seconds above 0")
    if (unfinished := unfinished_verdict(exercise, source)) is not None:
        return unfinished
    with tempfile.TemporaryDirectory(prefix="fuselab-course-", ignore_cleanup_errors=True) as folder:
        question, answer = Path(folder, "request.json"), Path(folder, "verdict.json")
        request = JudgeRequest(
            exercise=exercise.name, source=source, folder=folder, device=device, deadline_s=deadline_s
        )
        question.write_bytes(msgspec.json.encode(request))
        package = str(Path(__file__).parents[2])
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH", "")) if p),
            "TRITON_CACHE_DIR": str(Path(folder, "triton")),
            "PYTHONUNBUFFERED": "1",  # what was printed before a crash or the deadline is what it is about
        }
        # Set by the process itself once it knows the device: an interpreter on a GPU machine would test nothing.
        variables.pop("TRITON_INTERPRET", None)
        finished = probe.run(
            [sys.executable, "-m", "fuselab.course.judge", str(question), str(answer)],
            deadline_s=START_S + deadline_s,
            environment=variables,
        )
        if answer.exists():
            verdict = msgspec.json.decode(answer.read_bytes(), type=Verdict)
        else:
            verdict = _death(exercise, source, finished, Path(folder), deadline_s)
        return msgspec.structs.replace(verdict, printed=_tail(finished.output))


def unfinished_verdict(exercise: Exercise, source: Source) -> Verdict | None:
    """The verdict of a source with a line still to be written; None when there is none."""
    gap = source.unwritten()
    if gap is None:
        return None
    where, line = source.place(gap)
    code = source.text.splitlines()[gap - 1].strip()
    return Verdict(
        exercise=exercise.name,
        title=exercise.title,
        outcome=Outcome.UNFINISHED,
        cases=len(exercise.cases),
        line=line,
        code=code,
        where=where,
    )


def _death(exercise: Exercise, source: Source, finished: probe.Finished, folder: Path, deadline_s: float) -> Verdict:
    trace = _read(folder / "trace.txt")
    refusal = _read(folder / "refused.txt")
    if refusal:
        from fuselab.errors import SetupError

        message, _, hint = refusal.partition("\n")
        raise SetupError(message, hint=hint or None)
    if not (folder / "started").exists():
        raise WorkerError(
            f"the process that was to check {exercise.name} died before it began: {finished.problem}\n"
            f"{finished.errors.strip()[-1000:]}",
            hint="`fuselab doctor` says which part does not work",
        )
    line, code, where = last_place(trace, folder / "answer.py", source)
    hung = "Timeout" in trace or "did not end within" in finished.problem
    if hung:
        says = f"no end within {deadline_s:g} s: a loop whose end never comes, or whose step is 0, does that"
    else:
        how = finished.problem.replace(sys.executable, "the process") or "the process ended without a word"
        says = f"{how}: reading or writing far outside of a tensor does that; look at the offsets and the masks"
        if finished.returncode is not None and finished.returncode >= 0:
            says = f"the process ended with exit code {finished.returncode} in the middle of it"
    return Verdict(
        exercise=exercise.name,
        title=exercise.title,
        outcome=Outcome.TIMED_OUT if hung else Outcome.CRASHED,
        cases=len(exercise.cases),
        findings=(Finding(case="", output="", says=says),),
        line=line,
        code=code,
        where=where,
    )


def last_place(trace: str, file: Path, source: Source) -> tuple[int | None, str, str]:
    """The innermost line of the learner's that a trace of ``faulthandler`` names, with its code and its place."""
    for text in trace.splitlines():
        # `File "answer.py", line 12 in kernel`: the most recent call comes first
        before, comma, after = text.partition('", line ')
        if comma and Path(before.partition('"')[2]).name == file.name:
            number = int(after.split()[0])
            lines = source.text.splitlines()
            code = lines[number - 1].strip() if 0 < number <= len(lines) else ""
            where, line = source.place(number)
            return line, code, where
    return None, "", ""


def _tail(output: str) -> str:
    """The last lines of what was printed, whole ones."""
    text = output.strip()
    return text if len(text) <= PRINTED else f"...\n{text[-PRINTED:].partition(chr(10))[2] or text[-PRINTED:]}"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
