"""One start, measured in the process that does it: from being spawned to the steady state."""

from __future__ import annotations

import contextlib
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuselab.records import Status
from fuselab.startup.caches import components_of, libraries, mapped_libraries, triton_groups, uses
from fuselab.startup.messages import Components, Started, StartRequest
from fuselab.startup.records import CacheName, Lookup, Memory, Phase, Start, StartRecord
from fuselab.startup.timeline import partition

if TYPE_CHECKING:
    from fuselab.startup.internals import Observer

__all__ = ["measure_start", "recompilation"]

EARLY_CALLS = 4
"""Calls after the first that are timed one by one: the second and third still warm up CUDA graphs."""

BATCH_NS = 2_000_000
"""Least duration of a timed batch of calls."""

LEAST_BATCHES = 5

RECOMPILING_CALLS = 20
"""Calls in a row that compiled again after which a function is said not to stop."""

NOTHING_COMPILED = "nothing was compiled: Dynamo skipped the function or broke the graph before its first operation"

COMPILED = frozenset({Start.COLD, Start.WARM, Start.ARTIFACTS})

Say = Callable[[str], None]


def measure_start(request: StartRequest, observer: Observer, begun_ns: int, caches: Path, say: Say) -> Started:
    """Carry out one start.

    Args:
        request: what to start and how.
        observer: watches this process; its import watch is in place.
        begun_ns: the monotonic clock at this process's first line.
        caches: directory of this process's compiler caches.
        say: called with a few words before each step.
    """
    main = threading.get_ident()
    before = (libraries(caches), triton_groups(caches))
    say("importing")
    with observer.event(f"phase:{Phase.IMPORT}"):
        import torch

        from fuselab.startup.subject import build, compiled

        if request.start in COMPILED:
            observer.watch_compiler()
        elif request.start is Start.AOTI:
            import torch._inductor

            from fuselab.startup.internals import load_package

            observer.watch_events()  # loading a package may compile probes of the processor

    say("building")
    with observer.event(f"phase:{Phase.CONSTRUCTION}"):
        built = build(request.subject)
        function = built.function
        if request.subject.device_type == "cuda":
            torch.cuda.synchronize()
    if request.start is Start.ARTIFACTS:
        with observer.event(f"phase:{Phase.LOAD}"):
            torch.compiler.load_cache_artifacts(Path(request.package).read_bytes())
    loaded = (libraries(caches), triton_groups(caches)) if request.start is Start.ARTIFACTS else before
    if request.configuration is not None and request.start in COMPILED:
        with observer.event(f"phase:{Phase.DYNAMO}"):
            function = compiled(function, request.configuration)
    elif request.start is Start.AOTI:
        with observer.event(f"phase:{Phase.LOAD}"):
            function = load_package(request.package)
    call = built.call_of(function)

    say("first call")
    called_ns = time.monotonic_ns()
    if request.start in COMPILED:
        call()
    else:
        with observer.event(f"phase:{Phase.FIRST_LAUNCH}"):
            call()
    ended_ns = time.monotonic_ns()

    parted = partition(_with_interpreter(observer, request, begun_ns, main), request.spawned_ns, ended_ns, main)
    first_paused = partition(observer.marks, called_ns, ended_ns, main).paused_ns
    lookups, components = _lookups(observer, caches, loaded)
    # A frame without operations (around a graph break) has metrics too, and no graph.
    compilations = sum(metrics.get("graph_op_count") != 0 for metrics in _compilations())
    observer.unwatch_launches()
    say("steady state")
    early, samples, recompilations, status, reason = _steady(call, request, observer)
    if request.start in COMPILED and not compilations and status is Status.OK:
        status, reason, samples = Status.ERROR, NOTHING_COMPILED, []
    saved = _save_artifacts(request, say)
    return Started(
        record=StartRecord(
            start=request.start,
            configuration=request.configuration,
            round=-1,
            status=status,
            reason=reason,
            first_result_ns=parted.total_ns,
            first_call_ns=ended_ns - called_ns - first_paused,
            phases=parted.phases,
            unattributed_ns=parted.unattributed_ns,
            intervals=parted.intervals,
            instrumentation_ns=parted.paused_ns,
            early_ns=early,
            steady_ns=statistics.median(samples) if samples else None,
            steady_samples_ns=samples,
            compilations=compilations,
            recompilations=recompilations,
            caches=uses(lookups),
            lookups=lookups,
            memory=_memory(_cuda(request)),
            notes=_notes(request, observer),
        ),
        components=components,
        artifacts_bytes=saved[0],
        artifacts_ns=saved[1],
    )


def _notes(request: StartRequest, observer: Observer) -> list[str]:
    notes = [f"this torch has no {name}, its time is not attributed" for name in observer.missing]
    if request.configuration and request.configuration.mode == "reduce-overhead" and not _cuda(request):
        notes.append("reduce-overhead records CUDA graphs, and there are none on a CPU: this is the default mode")
    return notes


def _cuda(request: StartRequest) -> bool:
    return request.subject.device_type == "cuda"


def _with_interpreter(observer: Observer, request: StartRequest, begun_ns: int, main: int) -> list[Any]:
    """The marks, with the time before the first of them as an event of its own."""
    from fuselab.startup.timeline import Mark

    name = f"phase:{Phase.INTERPRETER}"
    return [Mark(main, request.spawned_ns, name, True), Mark(main, begun_ns, name, False), *observer.marks]


def _lookups(
    observer: Observer, caches: Path, before: tuple[frozenset[str], frozenset[str]]
) -> tuple[list[Lookup], list[Components]]:
    """Questions to the caches in Python, then the libraries and kernels, by their files."""
    from fuselab.startup.internals import launched_kernels

    found = [(Lookup(cache=o.cache, state=o.state, key=o.key, reason=o.reason), o.components) for o in observer.lookups]
    libraries_before, groups_before = before
    mapped = mapped_libraries(caches)
    for library in sorted(mapped | (libraries(caches) - libraries_before)):
        state = "hit" if library in libraries_before else "miss"
        loaded = "" if library in mapped else "built and not loaded: a probe of the compiler"
        found.append((Lookup(cache=CacheName.CPP, state=state, key=library, reason=loaded), []))
    # Inductor's bundle of an FX graph brings its kernels along: where every graph was found, nothing was compiled.
    graphs_found = not any(o.cache is CacheName.FX_GRAPH and o.state != "hit" for o in observer.lookups)
    for group in sorted(launched_kernels() | (triton_groups(caches) - groups_before)):
        state = "hit" if graphs_found or group in groups_before else "miss"
        found.append((Lookup(cache=CacheName.TRITON, state=state, key=group), []))
    return [lookup for lookup, _ in found], [components_of(lines) for _, lines in found]


def _compilations() -> list[Any]:
    from fuselab.startup.internals import take_compilations

    return take_compilations()


def recompilation(metrics: Any) -> str:
    """One line for a graph that was compiled: which function, and the guard that failed."""
    from fuselab.capture.interruptions import failure, recompile

    where = f"{metrics.get('co_name')} at {metrics.get('co_filename')}:{metrics.get('co_firstlineno')}"
    return recompile(metrics) or failure(metrics) or f"compiled {where} ({metrics.get('compile_id')})"


def _steady(
    call: Callable[[], Any], request: StartRequest, observer: Observer
) -> tuple[list[int], list[float], list[str], Status, str]:
    """Early calls, batches of the steady state, what was compiled again, and whether it ever became steady."""
    early: list[int] = []
    recompilations: list[str] = []
    deadline = time.monotonic() + request.budget_s
    in_a_row = 0
    while len(early) < EARLY_CALLS or in_a_row:
        begin = time.monotonic_ns()
        call()
        early.append(time.monotonic_ns() - begin)
        again = [recompilation(metrics) for metrics in _compilations()]
        recompilations += again
        in_a_row = in_a_row + 1 if again else 0
        spent = time.monotonic() > deadline
        if in_a_row and (in_a_row >= RECOMPILING_CALLS or spent):
            why = f"within {request.budget_s:.0f} s" if spent else f"in {in_a_row} calls in a row"
            reason = f"it is compiled again at every call ({len(recompilations)} times {why}): {recompilations[-1]}"
            return early, [], recompilations, Status.TIMED_OUT, reason
    if observer.gave_up:
        reason = f"it is compiled again at every call, and Dynamo gave up: {observer.gave_up[-1]}"
        return early, [], recompilations, Status.ERROR, reason
    size = max(1, min(1000, BATCH_NS // max(min(early[-2:]), 1)))
    samples: list[float] = []
    end = time.monotonic() + request.steady_s
    while len(samples) < LEAST_BATCHES or time.monotonic() < end:
        begin = time.monotonic_ns()
        for _ in range(size):
            call()
        samples.append((time.monotonic_ns() - begin) / size)
        again = [recompilation(metrics) for metrics in _compilations()]
        recompilations += again
        if again:
            samples.clear()  # what was timed before belongs to other code
        if time.monotonic() > deadline:
            break
    reason = "" if samples else f"it was still being compiled after {request.budget_s:.0f} s: {recompilations[-1]}"
    return early, samples, recompilations, Status.OK if samples else Status.TIMED_OUT, reason


def _memory(cuda: bool) -> Memory:
    process = None
    with contextlib.suppress(OSError, StopIteration):
        # Not ru_maxrss: it is handed down through exec, so that a small child shows its parent's peak.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        process = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    if process is None:
        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = None
    if cuda:
        import torch

        device = int(torch.cuda.max_memory_allocated())
    return Memory(process_bytes=process, device_bytes=device)


def _save_artifacts(request: StartRequest, say: Say) -> tuple[int | None, int | None]:
    """Save this process's cache artifacts, if that was asked for: their size and the time it took."""
    if not request.artifacts_out:
        return None, None
    import torch

    say("saving the cache artifacts")
    begin = time.monotonic_ns()
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        return None, None
    Path(request.artifacts_out).write_bytes(saved[0])
    return len(saved[0]), time.monotonic_ns() - begin
