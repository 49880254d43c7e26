"""Runs a learner's source on an exercise's inputs and says what came of it: ``python -m fuselab.course.judge``.

This is the process that ``run`` starts. It resolves the device, sets TRITON_INTERPRET before triton is imported, and
has ``faulthandler`` end it at the deadline, which works in the middle of a C call, too, and names the line.
"""

from __future__ import annotations

import ast
import faulthandler
import importlib.util
import linecache
import os
import sys
import traceback
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from fuselab.course.describe import looks, places, wrong_elements
from fuselab.course.exercises import Exercise, exercise_named
from fuselab.course.exercises.exercise import Case
from fuselab.course.given import DTYPES, CaseMaker, GivenTensors
from fuselab.course.guard import Memory, untouched
from fuselab.course.internals import NO_DRIVER, count_launches, failed_line
from fuselab.course.mistakes import Trial, raised_by_dtype, recognise
from fuselab.course.run import JudgeRequest, unfinished_verdict
from fuselab.course.sources import Source
from fuselab.course.verdict import Finding, Outcome, Verdict

__all__ = ["judge", "main"]

FINDINGS = 3
"""How many wrong results are described: the first says most."""


class _StoppedError(Exception):
    """The learner's code raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def judge(exercise: Exercise, source: Source, folder: Path, device: str) -> Verdict:
    """Run a source on every input of an exercise, in this process.

    Args:
        exercise: what was asked for.
        source: the learner's code.
        folder: where it is written to, since triton reads kernels from their file.
        device: ``cpu`` or ``cuda``.
    """
    file = folder / "answer.py"
    file.write_text(source.text, encoding="utf-8")
    linecache.checkcache(str(file))
    verdict = Verdict(exercise=exercise.name, title=exercise.title, outcome=Outcome.RIGHT, cases=len(exercise.cases))
    try:
        if (unfinished := unfinished_verdict(exercise, source)) is not None:
            return unfinished
        has_triton = importlib.util.find_spec("triton") is not None
        if not has_triton and _imports_triton(source):
            return _without_triton(verdict)
        launches: list[int] = []
        namespace = _executed(source, file)
        function = _function(exercise, source, namespace, folder)
        count_launches(namespace, lambda: launches.append(1))
        trials: list[Trial] = []
        findings: list[Finding] = []
        for number, case in enumerate(exercise.cases):
            try:
                answer = _try(exercise, case, function, device, seed=number)
            except _StoppedError as stopped:
                raised = _raised(verdict, stopped.error, source, file)
                return _with(
                    raised, mistakes=raised_by_dtype(trials, DTYPES[case.dtype]), right=sum(t.right for t in trials)
                )
            if isinstance(answer, Finding):
                findings.append(answer)
            else:
                trials.append(answer)
    except SyntaxError as error:
        return _raised(verdict, error, source, file, line=error.lineno if error.filename == str(file) else None)
    except _StoppedError as stopped:
        return _raised(verdict, stopped.error, source, file)
    return _weighed(verdict, exercise, trials, findings, launched=bool(launches), has_triton=has_triton, device=device)


def _weighed(
    verdict: Verdict,
    exercise: Exercise,
    trials: Sequence[Trial],
    findings: list[Finding],
    *,
    launched: bool,
    has_triton: bool,
    device: str,
) -> Verdict:
    wrong = [trial for trial in trials if not trial.right]
    right = len(trials) - len(wrong)
    note = "run in Triton's interpreter" if device == "cpu" else f"run natively on {torch.cuda.get_device_name()}"
    if not exercise.needs_triton:
        note = ""
    if wrong or findings:
        # What cannot even be compared is the same for every input: once is enough.
        findings = findings[:1] + [f for trial in wrong for f in _said(exercise, trial)]
        mistakes = recognise(exercise, trials) if wrong else ()
        shown = tuple(findings[:FINDINGS])
        return _with(verdict, outcome=Outcome.WRONG, right=right, findings=shown, mistakes=mistakes, note=note)
    if exercise.needs_triton and not launched:
        if has_triton:
            return _with(
                verdict,
                outcome=Outcome.NO_KERNEL,
                right=right,
                findings=(Finding(case="", output="", says="torch computed them: launch a @triton.jit kernel"),),
            )
        return _with(verdict, right=right, note="checked as torch code: triton is not installed here")
    return _with(verdict, right=right, note=note)


def _said(exercise: Exercise, trial: Trial) -> list[Finding]:
    label = trial.given.label
    said = []
    for name, got, expected, wrong, marks in zip(
        exercise.outputs, trial.got, trial.expected, trial.wrong, trial.untouched, strict=True
    ):
        if bool(wrong.any()):
            count = int(wrong.sum())
            where = places(wrong)
            share = f" ({count} of {wrong.numel()})" if 1 < count < wrong.numel() and " of " not in where[:12] else ""
            words = looks(got, expected, wrong, marks & wrong)
            words = words if wrong.numel() == 1 else f"{where}{share}: {words}"
            said.append(Finding(case=label, output=name, says=words))
    for name, before, after in trial.spilled:
        parts = [
            f"{n} elements {side} its {end}"
            for n, side, end in ((before, "before", "start"), (after, "after", "end"))
            if n
        ]
        said.append(
            Finding(case=label, output=name, says=f"something was written outside of it: {' and '.join(parts)}")
        )
    return said


def _try(exercise: Exercise, case: Case, function: Any, device: str, *, seed: int) -> Trial | Finding:
    """One input: the results, or what keeps them from being compared."""
    memory = Memory(device, seed)
    arguments = exercise.inputs(case, CaseMaker(memory, case))
    for name, value in arguments.items():
        memory.name(value, name)
    given = GivenTensors(memory, arguments, case.label)
    torch.manual_seed(seed)
    with warnings.catch_warnings(), memory.watched():
        warnings.simplefilter("ignore")  # numpy's, of the NaN and Inf that a GPU computes without a word
        try:
            returned = function(*arguments.values())
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            raise _StoppedError(error) from error
    expected = exercise.model(given, "")
    results = returned if isinstance(returned, tuple | list) else (returned,)
    if (refusal := _shape_trouble(exercise, case, results, expected)) is not None:
        return refusal
    values = [r if isinstance(r, Tensor) else torch.tensor(r, dtype=torch.float64) for r in results]
    changed = [
        name
        for name, value in arguments.items()
        if isinstance(value, Tensor) and not torch.equal(value.detach().cpu().double(), getattr(given, name))
    ]
    if changed:
        return Finding(
            case=case.label, output=changed[0], says="this input was written to; results go into new tensors"
        )
    for name, value in zip(exercise.outputs, values, strict=True):
        memory.name(value, name)
    spilled = tuple((zone.name or "a tensor of yours", *zone.spilled()) for zone in memory.zones if any(zone.spilled()))
    got = tuple(v.detach().cpu().double() for v in values)
    return Trial(
        given=given,
        dtype=DTYPES[case.dtype],
        expected=expected,
        got=got,
        dtypes=tuple(v.dtype if v.dtype in DTYPES.values() else torch.float64 for v in values),
        wrong=tuple(
            wrong_elements(g, e, v.dtype if v.dtype in DTYPES.values() else torch.float64)
            for g, e, v in zip(got, expected, values, strict=True)
        ),
        untouched=tuple(untouched(v) for v in values),
        spilled=spilled,
    )


def _shape_trouble(
    exercise: Exercise, case: Case, results: Sequence[Any], expected: Sequence[Tensor]
) -> Finding | None:
    """What keeps the results from being compared at all."""

    def refuse(says: str, output: str = "") -> Finding:
        return Finding(case=case.label, output=output, says=f"{says}; asked for is {exercise.call}")

    if len(results) != len(exercise.outputs):
        return refuse(f"it returned {len(results)} results")
    for name, got, wanted in zip(exercise.outputs, results, expected, strict=True):
        if not isinstance(got, Tensor):
            if exercise.needs_triton:
                return refuse(f"it returned {type(got).__name__ if got is not None else 'nothing'}, not a tensor", name)
            if not isinstance(got, int | float):
                return refuse(f"it returned {type(got).__name__ if got is not None else 'nothing'}, not a number", name)
            continue
        if got.shape != wanted.shape:
            return refuse(f"its shape is {list(got.shape)}, not {list(wanted.shape)}", name)
        dtype = torch.float32 if name in exercise.in_f32 else DTYPES[case.dtype]
        if got.dtype != dtype:
            return refuse(f"its dtype is {got.dtype}, not {dtype}".replace("torch.", ""), name)
    return None


def _executed(source: Source, file: Path) -> dict[str, Any]:
    """The learner's file as a module's names."""
    module = types.ModuleType("answer")
    module.__file__ = str(file)
    sys.modules["answer"] = module
    code = compile(source.text, str(file), "exec")
    try:
        exec(code, module.__dict__)  # noqa: S102 - running the learner's code is what this process is for
    except Exception as error:
        raise _StoppedError(error) from error
    return module.__dict__


def _function(exercise: Exercise, source: Source, namespace: dict[str, Any], folder: Path) -> Any:
    found = namespace.get(source.entry)
    if found is None or (not callable(found) and not source.bare_kernel):
        raise _StoppedError(NameError(f"there is no function {source.entry} in it; asked for is {exercise.call}"))
    if not source.bare_kernel:
        return found
    if not exercise.kernel:
        raise _StoppedError(
            TypeError(
                f"{source.entry} is a kernel; this exercise asks for a function that launches it: {exercise.call}"
            )
        )
    # The starter file launches the learner's kernel: its signature is part of the exercise.
    from fuselab.course.files import material

    text = (material() / "exercises" / f"{exercise.name}.py").read_text(encoding="utf-8")
    starter = folder / "starter.py"
    starter.write_text(text, encoding="utf-8")
    module = types.ModuleType("starter")
    module.__file__ = str(starter)
    exec(compile(text, str(starter), "exec"), module.__dict__)  # noqa: S102 - a file of ours
    module.__dict__[exercise.kernel] = found
    return module.__dict__[exercise.name]


def _imports_triton(source: Source) -> bool:
    for node in ast.walk(ast.parse(source.text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        if any(name.split(".")[0] == "triton" for name in names):
            return True
    return False


def _without_triton(verdict: Verdict) -> Verdict:
    says = (
        "triton is not installed: it runs on Linux, where pip installs it (on Windows: in WSL; on macOS: in a Linux "
        "container). Here the hints and the solutions can be read, exercises without kernels checked, and a function "
        "in torch alone is checked for its numbers"
    )
    return _with(verdict, outcome=Outcome.UNAVAILABLE, findings=(Finding(case="", output="", says=says),))


def _raised(verdict: Verdict, error: BaseException, source: Source, file: Path, line: int | None = None) -> Verdict:
    """An exception of the learner's, at the innermost line of theirs."""
    code = ""
    shown, step = error, error
    innermost: traceback.FrameSummary | None = None
    seen: set[int] = set()
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        frames = [f for f in traceback.extract_tb(step.__traceback__) if f.filename == str(file)]
        if frames:
            innermost = frames[-1]
        shown = step
        if failed := failed_line(step):
            code = failed
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)  # type: ignore[assignment]
    lines = source.text.splitlines()
    if code:
        line = next((i for i, text in enumerate(lines, 1) if text.strip() == code), line)
    elif line is None and innermost is not None:
        line = innermost.lineno
    where = ""
    if line is not None:
        code = lines[line - 1].strip() if 0 < line <= len(lines) else code
        where, line = source.place(line)
    # Interpreter and compiler repeat the cause's words around it: the innermost says it shortest.
    says = str(shown) if not isinstance(shown, SyntaxError) else shown.msg
    words = f"{type(shown).__name__}: {says.strip()[-600:]}".replace(str(file), file.name)
    if NO_DRIVER in words:
        words = "autotuning times its configurations, which takes a GPU; the interpreter runs a single one"
    return _with(
        verdict,
        outcome=Outcome.RAISED,
        findings=(Finding(case="", output="", says=words),),
        line=line,
        code=code,
        where=where,
    )


def _with(verdict: Verdict, **changes: Any) -> Verdict:
    return msgspec.structs.replace(verdict, **changes)


def main(arguments: Sequence[str]) -> None:
    """Judge one request; the verdict is a file, and so is the trace of whatever ends this process early."""
    question, answer = (Path(a) for a in arguments)
    request = msgspec.json.decode(question.read_bytes(), type=JudgeRequest)
    folder = Path(request.folder)
    device = request.device
    available = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not available:
        (folder / "refused.txt").write_text("device cuda: torch sees no GPU here\nuse --device cpu, or auto")
        return
    device = "cuda" if available else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton") is not None:
        import triton.language  # noqa: F401 - its import is no part of the learner's time
    torch.set_num_threads(1)
    trace = (folder / "trace.txt").open("w")
    faulthandler.enable(trace)
    (folder / "started").touch()
    faulthandler.dump_traceback_later(request.deadline_s, exit=True, file=trace)
    verdict = judge(exercise_named(request.exercise), request.source, folder, device)
    faulthandler.cancel_dump_traceback_later()
    partial = answer.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(verdict))
    partial.replace(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
