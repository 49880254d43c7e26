"""One stream of calls, uncompiled and compiled, with everything that the compiler says: for the observing process.

This executes the user's file. Whatever it prints is caught, whatever it raises is an event.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from fuselab.capture.internals import trace_logger
from fuselab.diagnosis import internals
from fuselab.diagnosis.answers import Answers, collect, compare
from fuselab.diagnosis.events import AnyEvent, FailedEvent, ObserveRequest, StageEvent, SummaryEvent
from fuselab.diagnosis.heard import heard
from fuselab.diagnosis.listener import Listener, frame_from
from fuselab.diagnosis.overlay import overlaid
from fuselab.diagnosis.records import CallChange, Frame
from fuselab.diagnosis.streams import Vary, parse_vary, varied
from fuselab.errors import SetupError, UsageError
from fuselab.experiment import Experiment, Inputs
from fuselab.experiments.user import experiment_from
from fuselab.records import Status, Workload

__all__ = ["observe"]

PASSES_BUDGET_S = 20.0
"""Longest time for the timed passes together."""

LONGEST_REASON = 1000

Say = Callable[[AnyEvent], None]


def observe(request: ObserveRequest, say: Say) -> None:
    """Carry out a request; all that is found or goes wrong is said, nothing is raised but exits and interrupts."""
    stage = "loading"

    def enter(name: str) -> None:
        nonlocal stage
        stage = name
        say(StageEvent(stage=name))

    enter(stage)
    try:
        with overlaid(request.overlay):
            _observe(request, say, enter)
    except (UsageError, SetupError) as error:
        say(FailedEvent(status=Status.ERROR, reason=error.message, usage=True, hint=error.hint or ""))
    except MemoryError as error:
        say(FailedEvent(status=Status.OUT_OF_MEMORY, reason=str(error) or "MemoryError"))
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises is what was found
        text = f"{type(error).__name__}: {error}".strip()
        status = Status.OUT_OF_MEMORY if "out of memory" in text else Status.ERROR
        say(FailedEvent(status=status, reason=text[:LONGEST_REASON], place=_place_of(error)))


def _observe(request: ObserveRequest, say: Say, enter: Callable[[str], None]) -> None:
    import torch

    from fuselab.device import resolve

    device_type = resolve(request.device)
    varies = [parse_vary(text) for text in request.vary]
    kept = Path(request.answers) if request.answers else None
    if request.keep:
        eager = _Stream(request, varies, device_type, compiled=False)
        answers: Answers = []
        for call in range(request.calls):
            enter(f"eager call {call}")
            answers.append(eager.make(call, gradients=call in (0, request.calls - 1)))
        if kept is not None:
            torch.save(answers, kept)
        del eager
    enter("compiling")
    torch.compiler.reset()
    stream = _Stream(request, varies, device_type, compiled=True)
    listener = Listener(say, own=request.target.rpartition(":")[0])
    answers = []
    comparing = kept is not None and not request.keep
    first_pass = 0.0
    with _listening(listener), internals.graph_break_records():
        for call in range(request.calls):
            enter(f"compiled call {call}")
            listener.call = call
            answers.append(stream.make(call, gradients=comparing and call in (0, request.calls - 1)))
            first_pass += stream.seconds
    later: list[float] = []
    deadline = time.monotonic() + PASSES_BUDGET_S
    while len(later) < request.passes and time.monotonic() < deadline:
        enter(f"timed pass {len(later)}")
        seconds = 0.0
        for call in range(request.calls):
            stream.make(call, gradients=False)
            seconds += stream.seconds
        later.append(seconds)
    say(
        SummaryEvent(
            device_type=device_type,
            torch=str(torch.__version__),
            arguments=stream.names,
            varying=stream.varying(),
            first_pass_s=first_pass,
            pass_s=statistics.median(later) if later else None,
            equality=compare(answers, kept) if comparing and kept is not None else None,
        )
    )


class _Stream:
    """The user's code, newly loaded, and its arguments call by call."""

    def __init__(self, request: ObserveRequest, varies: Sequence[Vary], device_type: str, *, compiled: bool) -> None:
        import torch

        experiment = experiment_from(request.target, request.arguments, seed=request.seed)
        (workload,) = experiment.workloads("quick", device_type)
        # The inputs first: a module built after them is put where they are.
        inputs = experiment.make_inputs(workload, device_type)
        self._function: Callable[..., Any] = internals.uncompiled(experiment.variant("eager").build(workload))
        self._draw = partial(_draw, experiment, workload, device_type)
        self._varies = varies
        self._seed = request.seed
        self._changes = request.call_changes if compiled else []
        self._device_type = device_type
        self._bound = _bound(self._function, inputs.args, inputs.kwargs)
        _check_names(varies, self._bound)
        self._shapes: list[dict[str, tuple[int, ...]]] = []
        self._called: Callable[..., Any] = self._function
        if compiled:
            dynamic = True if any(c.kind == "compile_dynamic" for c in self._changes) else None
            self._called = torch.compile(self._function, backend=request.backend, dynamic=dynamic)
        self.seconds = 0.0
        """Wall time of the last call."""

    @property
    def names(self) -> list[str]:
        """Names of the arguments."""
        return list(self._bound.arguments)

    def make(self, call: int, *, gradients: bool) -> dict[str, Any]:
        """Make one call and return what it did."""
        import torch

        values = varied(self._values(call), self._varies, call)
        for change in self._changes:
            _apply(change, values)
        self._shapes.append({n: tuple(v.shape) for n, v in values.items() if isinstance(v, torch.Tensor)})
        conditions = {vary.name: bool(vary.value(call)) for vary in self._varies if vary.name.startswith("@")}
        if "@training" in conditions and isinstance(self._function, torch.nn.Module):
            self._function.train(conditions["@training"])
        args, kwargs = _unflat(self._bound, values)
        torch.manual_seed(self._seed + call)
        with torch.set_grad_enabled(conditions.get("@grad_mode", True)), heard() as said:
            self._synchronize()
            started = time.perf_counter()
            outputs = self._called(*args, **kwargs)
            self._synchronize()
            self.seconds = time.perf_counter() - started
        given = {name: v for name, v in values.items() if not _made_here(name, self._changes)}
        return collect(self._function, outputs, given, said, self._seed + call, gradients=gradients)

    def _values(self, call: int) -> dict[str, Any]:
        """The arguments of a call before they are varied: tensors with values of its own, all else the same objects.

        Values differ since real ones do: a number taken out of a tensor is another one in each call.
        """
        import torch

        values = _flat(self._bound)
        if call:
            inputs = self._draw(call)
            drawn = _flat(_bound(self._function, inputs.args, inputs.kwargs))
            values |= {name: value for name, value in drawn.items() if isinstance(value, torch.Tensor)}
        return values

    def varying(self) -> list[tuple[str, int]]:
        """Arguments and axes whose sizes differed between calls."""
        found = []
        for name, first in (self._shapes[0] if self._shapes else {}).items():
            others = [shapes[name] for shapes in self._shapes if len(shapes.get(name, ())) == len(first)]
            found += [(name, axis) for axis, size in enumerate(first) if any(o[axis] != size for o in others)]
        return found

    def _synchronize(self) -> None:
        if self._device_type == "cuda":
            import torch

            torch.cuda.synchronize()


def _draw(experiment: Experiment, workload: Workload, device_type: str, call: int) -> Inputs:
    """Inputs of a call of their own: the same description, another seed."""
    return experiment.make_inputs(msgspec.structs.replace(workload, seed=workload.seed + call), device_type)


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    import torch

    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return inspect.signature(called).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the arguments do not fit the function: {error}", hint="look at get_inputs(), or give each with --arg"
        ) from error
    except ValueError:  # a builtin has no signature that Python can see
        names = [inspect.Parameter(f"arg{i}", inspect.Parameter.POSITIONAL_ONLY) for i in range(len(args))]
        return inspect.Signature(names).bind(*args)


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Arguments by name; those of a ``**kwargs`` by their own."""
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = value
    return values


def _unflat(bound: inspect.BoundArguments, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    arguments = dict(bound.arguments)
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments[name] = {key: values[key] for key in value}
        else:
            arguments[name] = values[name]
    # ``bind`` leaves out what has its default; ``--vary`` of such an argument gives it by name.
    extra = {name: value for name, value in values.items() if name not in _flat(bound)}
    complete = inspect.BoundArguments(bound.signature, arguments)  # type: ignore[arg-type]
    return complete.args, {**complete.kwargs, **extra}


def _check_names(varies: Sequence[Vary], bound: inspect.BoundArguments) -> None:
    """Give arguments that are varied and stand at their default that default, so that they are there to vary."""
    parameters = bound.signature.parameters
    for vary in varies:
        parameter = parameters.get(vary.name)
        if vary.name not in bound.arguments and parameter is not None and parameter.default is not parameter.empty:
            bound.apply_defaults()


def _apply(change: CallChange, values: dict[str, Any]) -> None:
    import torch

    value = values.get(change.argument)
    if change.kind == "mark_dynamic" and isinstance(value, torch.Tensor) and change.axis is not None:
        torch._dynamo.mark_dynamic(value, change.axis)
    elif change.kind == "tensor_argument" and isinstance(value, int | float) and not isinstance(value, bool):
        # float64 holds the Python float to the bit, and a tensor without axes does not widen what it meets.
        values[change.argument] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def _made_here(name: str, changes: Sequence[CallChange]) -> bool:
    """Whether an argument is a tensor only since a change made it one: then it is no answer to compare."""
    return any(change.kind == "tensor_argument" and change.argument == name for change in changes)


@contextlib.contextmanager
def _listening(listener: Listener) -> Iterator[None]:
    """Hang the listener on the structured trace, first in line; torch's own handler may remove itself meanwhile."""
    logger = trace_logger()
    level, propagate, disabled = logger.level, logger.propagate, logger.disabled
    logger.handlers.insert(0, listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate, logger.disabled = False, False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


def _place_of(error: BaseException) -> Frame | None:
    """The user's innermost line in an exception's traceback."""
    folders = internals.library_folders()
    frames = [frame_from(f.filename, f.lineno or 0, f.name, folders) for f in traceback.extract_tb(error.__traceback__)]
    return next((frame for frame in reversed(frames) if not frame.library), None)
