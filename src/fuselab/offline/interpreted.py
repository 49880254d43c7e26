"""The parent's half of an interpreted run: small inputs of the same kind, the two processes, what came of them.

The code that is interpreted is generated anew for inputs with few rows, at full width: a kernel's logic depends on the
width, and the interpreter takes a millisecond an operation. Where a program has no rows to leave out (or that is not
known of its ``--arg``), it is interpreted as it is, if it is small.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from fuselab.experiment import VariantKind
from fuselab.experiments.arguments import TensorSpec, parse_argument
from fuselab.experiments.user import experiment_from
from fuselab.offline.children import run_process
from fuselab.offline.interpreter import ANSWER, NOW, Interpretation
from fuselab.offline.messages import Answer, Request
from fuselab.offline.replay import FILE, FOLDER, Replay
from fuselab.offline.results import InterpretedRun, WorkloadResult
from fuselab.offline.selection import Chosen
from fuselab.records import Workload
from fuselab.versions import installed

__all__ = ["TemporaryFolder", "fewer_rows", "interpret_request", "interpreted", "smaller"]

TemporaryFolder = tempfile.TemporaryDirectory[str]
ROWS = 8
"""Rows that are left; the worker's hand-written kernels are checked on as many."""
MOST_ELEMENTS = 1 << 20
"""Of an input that is interpreted."""
BY_HAND = "these kernels are written by hand: `fuselab run` without a GPU interprets and checks them"
NO_NUMPY = "Triton's interpreter needs numpy, which is not installed"

Traced = Callable[[Workload, Sequence[str]], tuple[Request, Answer, TemporaryFolder]]


def fewer_rows(workload: Workload) -> Workload:
    """The same workload with few rows and full width.

    Example:
        >>> fewer_rows(Workload(shape=(4, 4096, 1024))).shape
        (1, 8, 1024)
    """
    shape = list(workload.shape)
    for axis in range(len(shape) - 1):
        shape[axis] = min(shape[axis], ROWS if axis == len(shape) - 2 else 1)
    return msgspec.structs.replace(workload, shape=tuple(shape))


def smaller(arguments: Sequence[str]) -> tuple[str, ...]:
    """Argument descriptions with few rows: every size but the last, the same size made the same everywhere.

    A size that is some tensor's last stays, since what multiplies a row has to fit it. What this gives is a guess; the
    program is traced on it, and where that fails its own sizes are taken.

    Example:
        >>> smaller(["x=bf16[32,1024,768]:requires_grad", "w=bf16[768]"])
        ('x=bf16[2,8,768]:requires_grad', 'w=bf16[768]')
    """
    specs = [parse_argument(text) for text in arguments]
    tensors = [s.value for s in specs if isinstance(s.value, TensorSpec)]
    kept = {t.shape[-1] for t in tensors if t.shape} | {n for t in tensors for n in t.shape if n <= 1}
    images = any(len(t.shape) >= 4 for t in tensors)
    places = [(n, axis) for t in tensors for axis, n in enumerate(t.shape[:-1]) if len(t.shape) > 1]
    made: dict[int, int] = {}
    for n, axis in places:
        if n not in kept and (not images or axis == 0):
            outer = axis == 0 and any(len(t.shape) > 2 for t in tensors)
            made[n] = min(made.get(n, n), 2 if outer else ROWS, n)
    found = []
    for text, spec in zip(arguments, specs, strict=True):
        value = spec.value
        if isinstance(value, TensorSpec) and len(value.shape) > 1:
            old = ",".join(str(n) for n in value.shape)
            new = ",".join(str(made.get(n, n)) for n in value.shape[:-1]) + f",{value.shape[-1]}"
            found.append(text.replace(" ", "").replace(f"[{old}]", f"[{new}]", 1))
        else:
            found.append(text)
    return tuple(found)


def interpreted(
    trace: Traced, chosen: Chosen, workload: Workload, found: WorkloadResult, deadline_s: float
) -> InterpretedRun:
    """Trace again on small inputs, and interpret what was generated.

    Args:
        trace: traces the program on a workload and argument descriptions, keeping what the graphs are called with.
        chosen: what is inspected.
        workload: which of its workloads.
        found: what was found for it.
        deadline_s: of each process.
    """
    if not found.ok:
        return InterpretedRun(status="not run", reason=f"the program was not traced: {found.reason}")
    if chosen.experiment.variant(chosen.variant).kind is not VariantKind.COMPILED:
        return InterpretedRun(status="not run", reason=BY_HAND)
    if installed("numpy") is None:
        return InterpretedRun(status="not run", reason=NO_NUMPY)
    reason = "nothing is known of its inputs that could be made smaller, and they are too large to interpret"
    for small, arguments in _attempts(chosen, workload):
        request, answer, folder = trace(small, arguments)
        with folder:
            if not answer.ok:
                reason = f"on smaller inputs the program was not traced: {answer.reason}"
                continue
            return interpret_request(request, deadline_s)
    return InterpretedRun(status="not run", reason=reason)


def _attempts(chosen: Chosen, workload: Workload) -> Iterator[tuple[Workload, Sequence[str]]]:
    """Inputs to interpret on, the smallest first."""
    experiment = chosen.experiment
    if experiment.target is None:
        yield fewer_rows(workload), chosen.arguments
        return
    small = smaller(chosen.arguments)
    if small != chosen.arguments:
        made = experiment_from(experiment.target, small, seed=workload.seed)
        yield made.workloads("quick", "cuda")[0], small
    if _elements(workload, chosen.arguments) <= MOST_ELEMENTS:
        yield workload, chosen.arguments


def interpret_request(
    request: Request, deadline_s: float, edits: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> InterpretedRun:
    """Interpret what a request with ``replay`` has generated, in a process of its own."""
    into = Path(request.into)
    path = into / FOLDER / FILE
    if not path.is_file():
        return InterpretedRun(status="not run", reason="what the graphs were called with was not kept")
    replay = msgspec.json.decode(path.read_bytes(), type=Replay)
    asked = Interpretation(
        request=request, replay=replay, edits={name: list(changes) for name, changes in (edits or {}).items()}
    )
    with tempfile.TemporaryFile() as log:
        variables = {"TRITON_INTERPRET": "1"}
        problem = run_process("fuselab.offline.interpreter", msgspec.json.encode(asked), log, deadline_s, variables)
        answer = into / ANSWER
        if not problem and answer.is_file():
            return msgspec.json.decode(answer.read_bytes(), type=InterpretedRun)
        log.seek(0)
        words = log.read()[-2000:].decode(errors="replace").strip().splitlines()
    now = into / NOW
    running = now.read_text() if now.is_file() else ""
    said = ": ".join([problem or "the process gave no answer", *words[-1:]])
    where = f"{running}: " if running else ""
    # A kernel that reads or writes where nothing is ends the process, as it would fault on a device.
    crashed = "died by SIGSEGV" in said or "died by SIGBUS" in said or "died by SIGABRT" in said
    return InterpretedRun(status="differs" if crashed and running else "not run", reason=f"{where}{said}")


def _elements(workload: Workload, arguments: Sequence[str]) -> int:
    sizes = [math.prod(workload.shape)] if workload.shape else []
    specs = [parse_argument(text).value for text in arguments]
    return max([*sizes, *(math.prod(s.shape) for s in specs if isinstance(s, TensorSpec))], default=0)
