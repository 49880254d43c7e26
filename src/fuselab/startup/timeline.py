"""From the marks that a process left on its clock to phases that partition the time. Pure.

Compiler events nest: ``GraphLowering.run`` lies within ``inductor_compile``, which lies within ``backend_compile``.
Each instant belongs to the innermost event around it whose phase is known; an event without a phase of its own belongs
to the one around it. So the phases do not overlap, and with what lies in no event they add up to the whole: what is
left is a measured remainder, never a difference that was given a phase's name.

Threads: an instant is the main thread's where that one is within an event of a known phase; else another's (autograd
compiles a backward graph in a thread of its own while the main thread waits).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fuselab.startup.records import Interval, Phase, PhaseTime

__all__ = ["PAUSE", "Mark", "Partition", "partition", "phase_of"]

PAUSE = "fuselab.pause"
"""Name of the events in which the clock stands still: work that only the measurement asked for."""

PREFIX = "phase:"
"""Prefix of our own events, followed by the phase's name."""

_EVENTS: dict[Phase, tuple[str, ...]] = {
    Phase.IMPORT: ("import", "inductor_import"),
    Phase.DYNAMO: (
        "dynamo",
        "_compile.compile_inner",
        "entire_frame_compile",
        "bytecode_tracing",
        "build_guards",
        "compiler_collective",
        "insert_deferred_runtime_asserts",
        "fullgraph_capture",
        "gc",
        "additional_fake_tensor_prop",
    ),
    Phase.AOT_AUTOGRAD: (
        "backend_compile",
        "OutputGraph.call_user_compiler",
        "create_aot_dispatcher_function",
        "aot_collect_metadata",
        "aot_trace_joint_graph",
        "min_cut_rematerialization_partition",
        "entire_backward_compile",
        "backward._backward_impl",
        "convert_conv_weights_to_channels_last",
    ),
    Phase.CACHE_KEYS: (
        "CacheBase.get_system.triton_key",
        "inductor_codecache_torch_key",
        "compiled_fx_graph_hash",
        "autograd_cache_key",
    ),
    Phase.LOWERING: (
        "compile_fx_inner",
        "inductor_compile",
        "fx_codegen_and_compile",
        "GraphLowering.run",
        "_recursive_pre_grad_passes",
        "_recursive_joint_graph_passes",
        "_recursive_post_grad_passes",
        "compile_fx.<locals>.fw_compiler_base",
        "compile_fx.<locals>.bw_compiler",
        "compile_fx_aot",
    ),
    Phase.CODEGEN: (
        "GraphLowering.compile_to_fn",
        "GraphLowering.compile_to_module",
        "GraphLowering.codegen",
        "GraphLowering.codegen_subgraph",
        "code_gen",
        "generate_kernel_code_from_nodes",
        "PythonWrapperCodegen.generate",
        "CppWrapperCpu.generate",
        "CppWrapperGpu.generate",
        "TritonBundler.collect",
    ),
    Phase.COMPILATION: (
        "compile_file",
        "async_compile.wait",
        "async_compile.precompile",
        "reload_kernel_in_parent",
        "AotCodeCompiler.compile",
        "aoti_compile_fatbin",
        "aoti_precompile_header",
        "cpp_wrapper_compile",
        "StaticAutotunerFuture.warm_precompile",
        "CachingAutotuner.slow_precompile_config",
    ),
    Phase.AUTOTUNING: ("benchmark_codegened_module", "benchmark_fused_nodes", "collective_compute_do_bench"),
    Phase.LOAD: (
        "AOTAutogradCache.inductor_load",
        "PyCodeCache.load_by_key_path",
        "after_deserialization",
        "GraphPickler.loads",
        "CompiledArtifact.load",
        "FxGraphCache.load_with_key",
        "TritonBundler.read_and_emit",
        "TritonBundler.load_cached_static_autotuners",
        "precompile_load_guards",
    ),
    Phase.CUDA_GRAPH: ("cudagraphify", "CUDAGraph.record"),
    Phase.FIRST_LAUNCH: ("CompiledFxGraph.__call__",),
}

_BY_NAME = {name: phase for phase, names in _EVENTS.items() for name in names}

_BY_PREFIX: tuple[tuple[str, Phase], ...] = (
    ("compile_attempt_", Phase.DYNAMO),
    ("bytecode_hooks_", Phase.DYNAMO),
    ("pgo.", Phase.DYNAMO),
    ("CachingAutotuner.benchmark", Phase.AUTOTUNING),
    ("CachingAutotuner.coordinate", Phase.AUTOTUNING),
    ("CachingAutotuner.combo", Phase.AUTOTUNING),
    ("Scheduler.", Phase.CODEGEN),
    ("CUDAGraph", Phase.CUDA_GRAPH),
    ("cudagraph", Phase.CUDA_GRAPH),
)

_BY_SUFFIX: tuple[tuple[str, Phase], ...] = (
    ("_template_autotuning", Phase.AUTOTUNING),
    ("_template_precompiling", Phase.COMPILATION),
)

_JOINED_NS = 1_000_000
"""Stretches shorter than this are joined with their neighbours in the waterfall; the phases' times keep them."""


@dataclass(frozen=True)
class Mark:
    """The beginning or the end of an event."""

    thread: int
    """The thread it happened in."""
    at_ns: int
    """When."""
    name: str
    """The event."""
    begin: bool
    """Whether it begins."""


@dataclass
class Partition:
    """A span of time, parted."""

    total_ns: int = 0
    """All of it, without what stood still."""
    paused_ns: int = 0
    """What stood still."""
    phases: list[PhaseTime] = field(default_factory=list)
    """Exclusive times, in the order of ``Phase``."""
    unattributed_ns: int = 0
    """What lies in no event of a known phase."""
    intervals: list[Interval] = field(default_factory=list)
    """The same on the clock."""


Segment = tuple[int, int, Phase | None]


def phase_of(name: str) -> Phase | None:
    """The phase that an event counts for; None where only the events around it can say.

    Example:
        >>> phase_of("GraphLowering.run"), phase_of("mm_template_autotuning"), phase_of("pass.remove_noop")
        (<Phase.LOWERING: 'lowering'>, <Phase.AUTOTUNING: 'autotuning'>, None)
    """
    if name.startswith(PREFIX):
        return Phase(name.removeprefix(PREFIX))
    if name in _BY_NAME:
        return _BY_NAME[name]
    for prefix, phase in _BY_PREFIX:
        if name.startswith(prefix):
            return phase
    for suffix, phase in _BY_SUFFIX:
        if name.endswith(suffix):
            return phase
    return None


def partition(marks: Sequence[Mark], begin_ns: int, end_ns: int, main: int) -> Partition:
    """Part a span of time by phases.

    Args:
        marks: beginnings and ends of events, any order between threads, in order within one.
        begin_ns, end_ns: the span.
        main: the thread whose events come first.

    Example:
        >>> marks = [Mark(1, 10, "dynamo", True), Mark(1, 20, "GraphLowering.run", True),
        ...          Mark(1, 50, "GraphLowering.run", False), Mark(1, 60, "dynamo", False)]
        >>> parted = partition(marks, 0, 100, main=1)
        >>> [(p.phase.value, p.duration_ns) for p in parted.phases], parted.unattributed_ns
        ([('dynamo', 20), ('lowering', 30)], 50)
    """
    by_thread: dict[int, list[Mark]] = {}
    for mark in marks:
        by_thread.setdefault(mark.thread, []).append(mark)
    pauses = _pauses(marks, begin_ns, end_ns)
    tracks = {thread: _segments(own, begin_ns, end_ns) for thread, own in by_thread.items()}
    segments = tracks.pop(main, [(begin_ns, end_ns, None)])
    for track in tracks.values():
        segments = _filled(segments, track)
    result = Partition(paused_ns=sum(end - begin for begin, end in pauses))
    result.total_ns = end_ns - begin_ns - result.paused_ns
    times: dict[Phase, int] = {}
    intervals: list[Interval] = []
    for begin, end, phase in _cut(segments, pauses):
        if phase is None:
            result.unattributed_ns += end - begin
            continue
        times[phase] = times.get(phase, 0) + end - begin
        shift = begin_ns + sum(min(until, begin) - since for since, until in pauses if since < begin)
        intervals.append(Interval(phase=phase, begin_ns=begin - shift, end_ns=end - shift))
    result.phases = [PhaseTime(phase=phase, duration_ns=times[phase]) for phase in Phase if phase in times]
    result.intervals = _joined(intervals)
    return result


def _segments(marks: Iterable[Mark], begin_ns: int, end_ns: int) -> list[Segment]:
    """The phases of one thread from the beginning to the end, innermost first."""
    stack: list[tuple[str, Phase | None]] = []
    segments: list[Segment] = []
    last = begin_ns
    for mark in marks:
        at = min(max(mark.at_ns, begin_ns), end_ns)
        if at > last:
            segments.append((last, at, stack[-1][1] if stack else None))
            last = at
        if mark.begin:
            around = stack[-1][1] if stack else None
            stack.append((mark.name, phase_of(mark.name) or around))
        elif any(name == mark.name for name, _ in stack):
            # An exception can skip the ends of inner events: closing an outer one closes them too.
            while stack.pop()[0] != mark.name:
                pass
    if end_ns > last:
        segments.append((last, end_ns, stack[-1][1] if stack else None))
    return segments


def _filled(segments: list[Segment], others: list[Segment]) -> list[Segment]:
    """The first thread's segments, with the second's phases where the first has none."""
    known = [segment for segment in others if segment[2] is not None]
    filled: list[Segment] = []
    for begin, end, phase in segments:
        if phase is not None:
            filled.append((begin, end, phase))
            continue
        at = begin
        for first, last, other in known:
            since, until = max(first, at), min(last, end)
            if until <= since:
                continue
            if since > at:
                filled.append((at, since, None))
            filled.append((since, until, other))
            at = until
        if end > at:
            filled.append((at, end, None))
    return filled


def _pauses(marks: Iterable[Mark], begin_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """Stretches in which the clock stood still: the union over all threads."""
    opened: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for mark in marks:
        if mark.name != PAUSE:
            continue
        if mark.begin:
            opened.setdefault(mark.thread, mark.at_ns)
        elif mark.thread in opened:
            found.append((max(opened.pop(mark.thread), begin_ns), min(mark.at_ns, end_ns)))
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if end <= begin:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _cut(segments: Iterable[Segment], pauses: Sequence[tuple[int, int]]) -> Iterable[Segment]:
    """The segments without what stood still."""
    for begin, end, phase in segments:
        at = begin
        for since, until in pauses:
            if until <= at or since >= end:
                continue
            if since > at:
                yield at, since, phase
            at = min(max(until, at), end)
        if end > at:
            yield at, end, phase


def _joined(intervals: Sequence[Interval]) -> list[Interval]:
    """Neighbours of one phase as one; what is too short to be seen goes into the stretch before it."""
    joined: list[Interval] = []
    for interval in intervals:
        last = joined[-1] if joined else None
        if last is not None and interval.begin_ns - last.end_ns < _JOINED_NS:
            if interval.phase is last.phase or interval.end_ns - interval.begin_ns < _JOINED_NS:
                joined[-1] = Interval(phase=last.phase, begin_ns=last.begin_ns, end_ns=interval.end_ns)
                continue
            if last.end_ns - last.begin_ns < _JOINED_NS:
                joined[-1] = Interval(phase=interval.phase, begin_ns=last.begin_ns, end_ns=interval.end_ns)
                continue
        joined.append(interval)
    return joined
