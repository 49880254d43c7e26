"""``compile_cost``: from words to what is measured, and the machine looked at before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from fuselab.errors import UnknownNameError, UsageError, WorkerError
from fuselab.experiment import Experiment, load_registry
from fuselab.records import Environment, Scalar, Workload
from fuselab.startup.journal import Journal
from fuselab.startup.measurement import Limits, Measurement, Plan, Progress, failure
from fuselab.startup.messages import Described, DescribeRequest, Subject
from fuselab.startup.process import ask
from fuselab.startup.records import Calls, CompileCost, Configuration, Scope, Start
from fuselab.startup.shape_records import Shapes, Strategy
from fuselab.startup.shapes import parse_buckets, read_stream

__all__ = ["MODES", "Limits", "compile_cost"]

MODES = ("default", "reduce-overhead", "max-autotune")

DESCRIBE_DEADLINE_S = 180.0

Named = TypeVar("Named", Start, Scope, Calls, Strategy)


def compile_cost(
    what: str,
    *,
    args: Sequence[str] = (),
    shape: str | None = None,
    dtype: str | None = None,
    options: Mapping[str, Scalar] | None = None,
    modes: Sequence[str] = ("default",),
    dynamic: Sequence[bool] = (False,),
    scopes: Sequence[str] = ("whole",),
    starts: Sequence[str] | None = None,
    calls: str = "inference",
    repeats: int = 3,
    shapes: str | None = None,
    buckets: str = "",
    strategies: Sequence[str] = (),
    device: str = "auto",
    out: str | Path = "runs",
    caches: str | Path | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Progress = lambda _what, _done, _planned: None,
) -> CompileCost:
    """Measure what compiling costs: every way of starting by phase, break-even counts, a stream of shapes.

    Args:
        what: name of an experiment, or ``FILE.py:NAME`` of your own code.
        args: descriptions of your function's arguments, ``"x=bf16[4096,1024]"``.
        shape, dtype, options: of an experiment's workload; without them the first of its preset quick.
        modes: modes of ``torch.compile``: ``default``, ``reduce-overhead``, ``max-autotune``.
        dynamic: static shapes, dynamic ones, or both.
        scopes: ``whole``, ``regional`` (every repeated block by itself), or both.
        starts: ``eager``, ``cold``, ``warm``, ``artifacts``, ``aoti``; None for all, or for none if there are
            ``shapes``.
        calls: ``inference`` (a forward without gradients) or ``training`` (forward and backward).
        repeats: rounds; each way of starting has one process in each.
        shapes: a stream of shapes, ``8x512,16x512``, or a file that holds one.
        buckets: sizes that varying axes are padded to, ``128,256``; empty for powers of two.
        strategies: strategies for the stream; empty for all.
        device: ``auto``, ``cpu`` or ``cuda``.
        out: directory that holds the runs; this one goes to ``compile-cost/`` below it.
        caches: directory for the compilers' caches while it is measured; below the run's own by default.
        seed: of inputs and of the order of processes.
        limits: times that processes are given.
        progress: called with a few words, the processes that ended and those planned.

    Raises:
        UsageError: what was asked for does not exist or cannot be read.
        SetupError: no compiler, no such device, or a directory for caches that cannot be written to.
        StoreError: the measurements cannot be written.
        WorkerError: looking at this machine failed.

    Example:
        >>> cost = fuselab.compile_cost("rms_norm", device="cpu")  # doctest: +SKIP
        >>> cost.break_even[0].count, cost.break_even[0].low, cost.break_even[0].high  # doctest: +SKIP
    """
    if repeats < 1:
        raise UsageError(f"{repeats} repeats measure nothing", hint="--repeats 3")
    stream = read_stream(shapes) if shapes is not None else []
    plan = Plan(
        configurations=tuple(
            Configuration(mode=mode, dynamic=bool(d), scope=scope)
            for mode in _modes(modes)
            for d in dict.fromkeys(dynamic)
            for scope in _chosen("scope", Scope, scopes)
        ),
        starts=tuple(_chosen("way of starting", Start, _starts(starts, stream))),
        strategies=tuple(_chosen("strategy", Strategy, strategies or list(Strategy))) if stream else (),
        stream=tuple(stream),
        buckets=tuple(parse_buckets(buckets)),
    )
    kind = _chosen("kind of call", Calls, [calls])[0]
    from fuselab.checks import require_compiler

    experiment = _experiment(what, args, seed)
    environment = _environment(device)
    workload = _workload(experiment, environment.device_type, shape, dtype, options or {}, seed)
    require_compiler(environment.device_type, Path(caches or out), instead="")
    header = CompileCost(
        experiment=experiment.name,
        workload=workload,
        calls=kind,
        environment=environment,
        seed=seed,
        repeats=repeats,
    )
    subject = Subject(
        workload=workload,
        device_type=environment.device_type,
        calls=kind,
        name="" if experiment.target else experiment.name,
        target=experiment.target or "",
        arguments=list(args),
    )
    journal = Journal.create(Path(out), header, Path(caches).absolute() if caches is not None else None)
    try:
        return Measurement(header, subject, plan, journal, limits or Limits(), progress).carry_out()
    finally:
        journal.remove_caches()


# --- from words to what is measured ---------------------------------------------------------------------------------


def _starts(names: Sequence[str] | None, stream: Sequence[Shapes]) -> Sequence[str]:
    if names is not None:
        return names
    return [] if stream else [start.value for start in Start]


def _modes(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in MODES:
            raise UnknownNameError("mode", name, MODES)
    return list(dict.fromkeys(names))


def _chosen(noun: str, kind: type[Named], names: Sequence[str]) -> list[Named]:
    allowed = [member.value for member in kind]
    plural = {"way of starting": "ways of starting", "strategy": "strategies", "kind of call": "kinds of call"}
    for name in names:
        if name not in allowed:
            raise UnknownNameError(noun, name, allowed, plural=plural.get(noun))
    return [member for member in kind if member.value in names]


def _experiment(what: str, args: Sequence[str], seed: int) -> Experiment:
    if ":" in what or what.endswith(".py"):
        from fuselab.experiments.user import experiment_from

        return experiment_from(what, args, seed=seed)
    registry = load_registry()
    if what not in registry:
        error = UnknownNameError("experiment", what, registry)
        raise UsageError(error.message, hint=f"{error.hint}; your own code: fuselab compile-cost FILE.py:NAME")
    if args:
        raise UsageError(
            f"--arg describes the arguments of your own function, and {what} is an experiment",
            hint="use --shape and --dtype",
        )
    return registry[what]


def _workload(
    experiment: Experiment,
    device_type: str,
    shape: str | None,
    dtype: str | None,
    options: Mapping[str, Scalar],
    seed: int,
) -> Workload:
    first = experiment.workloads("quick", device_type)[0]
    if experiment.target is not None:
        if shape or dtype or options:
            raise UsageError(
                f"--shape, --dtype and --option are for experiments, and {experiment.name} is your own code",
                hint="write shape and dtype into --arg 'x=bf16[4096,1024]'",
            )
        return first
    if not (shape or dtype or options):
        return msgspec.structs.replace(first, seed=seed)
    from fuselab.experiments.arguments import parse_dtype, parse_shape

    return experiment.workload(
        parse_shape(shape) if shape else first.shape,
        parse_dtype(dtype) if dtype else first.dtype,
        seed,
        {**first.options, **options},
    )


def _environment(device: str) -> Environment:
    """What this machine is, asked in a process of its own: a driver that hangs or crashes says so."""
    from fuselab.checks import require_device

    answer = ask(DescribeRequest(device=device), deadline_s=DESCRIBE_DEADLINE_S)
    if isinstance(answer, Described):
        return answer.environment
    failed = failure(answer)
    reason = f"{failed.reason}\n{failed.traceback}".strip()
    require_device(device, reason)
    raise WorkerError(
        f"looking at this machine failed: {reason}", hint="`fuselab doctor` says which part does not work"
    )
