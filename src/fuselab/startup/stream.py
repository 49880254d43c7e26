"""A function called through a stream of shapes under one strategy, in the process that does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from fuselab.errors import UsageError
from fuselab.experiment import Experiment, Inputs
from fuselab.startup.messages import Streamed, StreamRequest
from fuselab.startup.records import Phase
from fuselab.startup.shape_records import CallRecord, Shapes, Strategy
from fuselab.startup.shapes import bucket, shapes_text, varying
from fuselab.startup.start import recompilation
from fuselab.startup.timeline import partition

if TYPE_CHECKING:
    import torch

    from fuselab.startup.internals import Observer
    from fuselab.startup.subject import Built

__all__ = ["call_through"]

RELATIVE_ERROR = {"torch.float64": 1e-9, "torch.float32": 1e-4, "torch.float16": 1e-2, "torch.bfloat16": 4e-2}
"""Root-mean-square difference from eager, over eager's own root mean square, that is still rounding; zeros have 1."""

Say = Callable[[str], None]


def call_through(request: StreamRequest, observer: Observer, say: Say) -> Streamed:
    """Call the function once for every element of the stream, in order.

    Inputs and eager's results are made before the first call; every distinct shape is compared when it first comes.

    Raises:
        UsageError: a shape does not fit the function.
        Exception: whatever the function or the compiler raises.
    """
    from fuselab.startup.internals import take_compilations
    from fuselab.startup.subject import build, experiment_of

    say("importing")
    if request.strategy is not Strategy.EAGER:
        observer.watch_compiler()
        observer.unwatch_launches()
    experiment = experiment_of(request.subject)
    built = build(request.subject, experiment)
    say("building inputs")
    distinct = {shapes_text(shapes): _inputs(built, experiment, shapes) for shapes in request.stream}
    axes = varying([{name: tuple(tensor.shape) for name, tensor in inputs.tensors()} for inputs in distinct.values()])
    wanted = {text: _reference(built, inputs) for text, inputs in distinct.items()}
    function = _strategy(request, built, axes, distinct)
    take_compilations()
    started = time.monotonic()
    calls: list[CallRecord] = []
    compared: set[str] = set()
    stopped = ""
    for number, shapes in enumerate(request.stream):
        if time.monotonic() - started > request.budget_s:
            stopped = f"after {number} of {len(request.stream)} calls: the budget of {request.budget_s:.0f} s was spent"
            break
        text = shapes_text(shapes)
        say(f"call {number + 1} of {len(request.stream)}: {text}")
        observer.marks.clear()
        call = built.call_of(_padded_call(request, function, distinct[text], axes, wanted[text]), distinct[text])
        begin = time.monotonic_ns()
        result = call()
        end = time.monotonic_ns()
        compiled = take_compilations()
        parted = partition(observer.marks, begin, end, threading.get_ident())
        calls.append(
            CallRecord(
                duration_ns=parted.total_ns,
                compilations=sum(metrics.get("graph_op_count") != 0 for metrics in compiled),
                compile_ns=sum(p.duration_ns for p in parted.phases if p.phase is not Phase.FIRST_LAUNCH),
                reasons=[recompilation(metrics) for metrics in compiled if metrics.get("recompile_reason")],
                correct=None if text in compared else _agrees(result, wanted[text]),
            )
        )
        compared.add(text)
        del result
    notes = list(dict.fromkeys(observer.gave_up))
    if any(reference is None for reference in wanted.values()):
        notes.append("eager does not give the same result twice, so results were not compared")
    return Streamed(calls=calls, stopped=stopped, notes=notes)


def _inputs(built: Built, experiment: Experiment, shapes: Shapes) -> Inputs:
    """The inputs with these shapes: an experiment's own, or the user's with tensors cut or repeated to size."""
    subject = built.subject
    if not subject.target and set(shapes) == {""}:
        workload = experiment.workload(
            shapes[""], subject.workload.dtype, subject.workload.seed, subject.workload.options
        )
        return experiment.make_inputs(
            msgspec.structs.replace(workload, layout=subject.workload.layout), subject.device_type
        )
    names = [name for name, _ in built.inputs.tensors()]
    if not names:
        raise UsageError("the function has no tensor argument whose shape could vary", hint="leave --shapes out")
    resized = {name or names[0]: shape for name, shape in shapes.items()}
    for name in resized:
        if name not in names:
            raise UsageError(f"there is no tensor argument {name!r}", hint=f"tensor arguments: {', '.join(names)}")
    by_id = {id(tensor): resized[name] for name, tensor in built.inputs.tensors() if name in resized}
    return built.inputs.map(lambda tensor: _resized(tensor, by_id[id(tensor)]) if id(tensor) in by_id else tensor)


def _resized(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of another shape with the same values over and over, so that indices stay in their range."""
    import math

    flat = tensor.detach().reshape(-1)
    count = math.prod(shape)
    repeated = flat.repeat(-(-count // max(flat.numel(), 1)))[:count].reshape(shape).clone()
    return repeated.requires_grad_(tensor.requires_grad)


def _strategy(
    request: StreamRequest,
    built: Built,
    axes: Mapping[str, Mapping[int, tuple[int, int]]],
    distinct: Mapping[str, Inputs],
) -> Any:
    """The function as the strategy compiles it; marks the inputs where the strategy is to mark them."""
    import torch

    from fuselab.startup.internals import bounds_of_axis

    mode = None if request.mode == "default" else request.mode
    if request.strategy is Strategy.EAGER:
        return built.function
    if request.strategy is Strategy.MARKED:
        for inputs in distinct.values():
            for name, tensor in inputs.tensors():
                for axis, (low, high) in axes.get(name, {}).items():
                    bounds_of_axis(tensor, axis, low, high)
    dynamic = {Strategy.STATIC: False, Strategy.PADDED: False, Strategy.DYNAMIC: True}.get(request.strategy)
    return torch.compile(built.function, mode=mode, dynamic=dynamic)


def _padded_call(
    request: StreamRequest,
    function: Any,
    given: Inputs,
    axes: Mapping[str, Mapping[int, tuple[int, int]]],
    wanted: list[torch.Tensor] | None,
) -> Any:
    """The function behind padding and before cutting, for the strategy that pads; else as it is."""
    if request.strategy is not Strategy.PADDED:
        return function
    import torch
    from torch.utils._pytree import tree_map

    by_id = {id(tensor): axes[name] for name, tensor in given.tensors() if name in axes}
    shapes = [tuple(tensor.shape) for tensor in wanted or []]

    def pad(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in by_id:
            return tensor
        padding: list[int] = []
        for axis in reversed(range(tensor.dim())):
            size = tensor.shape[axis]
            padding += [0, bucket(size, request.buckets) - size if axis in by_id[id(tensor)] else 0]
        return torch.nn.functional.pad(tensor, padding)

    def call(*args: Any, **kwargs: Any) -> Any:
        padded = Inputs(args, kwargs).map(pad)
        result = function(*padded.args, **padded.kwargs)
        left = iter(shapes)

        def cut(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            shape = next(left, None)
            if shape is None or len(shape) != leaf.dim():
                return leaf
            return leaf[tuple(slice(0, size) for size in shape)]

        return tree_map(cut, result)

    return call


def _reference(built: Built, inputs: Inputs) -> list[torch.Tensor] | None:
    """Eager's results; None where it does not give the same twice."""
    import torch
    from torch.utils._pytree import tree_leaves

    def once() -> list[torch.Tensor]:
        with torch.no_grad():
            result = built.function(*inputs.args, **inputs.kwargs)
        return [leaf.detach().clone() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    first, second = once(), once()
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return first if same else None


def _agrees(result: Any, wanted: list[torch.Tensor] | None) -> bool | None:
    """Whether every tensor of a result is eager's but for rounding."""
    import torch
    from torch.utils._pytree import tree_leaves

    if wanted is None:
        return None
    found = [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        return False
    for mine, theirs in zip(found, wanted, strict=True):
        bound = RELATIVE_ERROR.get(str(theirs.dtype))
        if bound is None:
            if not torch.equal(mine, theirs):
                return False
            continue
        size = theirs.double().square().mean().sqrt().item()
        error = (mine.double() - theirs.double()).square().mean().sqrt().item()
        if not error <= bound * size:
            return False
    return True
