"""Every private name of torch and Triton that capturing uses, looked up here and nowhere else.

Each name is feature-detected: what this version does not have is answered with ``None`` or an empty value, and the
caller reports the stage as absent with a reason. Written against torch 2.11 to 2.15 and Triton 3.6 to 3.9.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fuselab.capture.provenance import GraphNode
from fuselab.card.fusion import FusedGroup

__all__ = [
    "KERNEL_LINES",
    "MADE",
    "GraphSnapshot",
    "LoadedKernel",
    "NodeFacts",
    "WrittenLine",
    "autotuner",
    "capture_settings",
    "clear_memory_caches",
    "compiling_backward",
    "current_graph",
    "fusion_logger",
    "kernel_records",
    "library_roots",
    "line_tables_by_default",
    "loaded_kernels",
    "nvidia_tool",
    "provenance_globals_restored",
    "record_origins",
    "trace_logger",
    "triton_scheduling",
]

TRACE_LOGGER = "torch.__trace"

SETTINGS: tuple[tuple[tuple[str, ...], Any], ...] = (
    # Level 1 carries nodes through every pass; the older name is a switch.
    (("trace.provenance_tracking_level", "trace.provenance_tracking"), 1),
    # A precompiled header costs 8 s for every fresh cache and saves less than 1 s a kernel.
    (("cpp_cache_precompile_headers",), False),
)
"""Inductor settings while capturing: names (newest first, the first that exists is used) and value."""

_NEEDS_VARIABLE = {"cpp_cache_precompile_headers": "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"}
"""Settings that are changed only where torch reads this variable (not 2.11). They are part of Inductor's cache key: a
process that is started with ``cache_environment`` could not match a setting that has no variable, and would miss."""

_PROVENANCE_GLOBALS = (
    "_pre_grad_graph_id",
    "_inductor_post_to_pre_grad_nodes",
    "_inductor_triton_kernel_to_post_grad_node_info",
    "_inductor_pre_grad_node_stack_trace",
    "_inductor_kernel_stack_trace",
    "_inductor_kernel_provenance_debug_handle",
)


class WrittenLine(NamedTuple):
    """One line of a kernel with the nodes it was written for."""

    line: int
    """Line of the kernel's text, from 1."""
    text: str
    """What stands there, without the blanks around it."""
    nodes: tuple[str, ...]
    """Names of graph nodes."""


KERNEL_LINES = "_fuselab_lines"
"""Attribute of the graph in lowering that ``internals_lines`` leaves the lines of its kernels under, by kernel."""

MADE = "_fuselab_made"
"""Attribute of the graph in lowering: names of the nodes whose lowering made a loop nest."""


@dataclass(frozen=True)
class NodeFacts:
    """What the compiler knows of one node of a post-grad graph besides its operator and stack trace."""

    computes: bool
    """Whether lowering it made a loop nest or a call; a view, a constant that was folded and an input make neither."""
    fx: tuple[str, ...] = ()
    """Nodes of Dynamo's graph that it descends from."""
    sequence: int | None = None
    """Autograd's sequence number, which a backward node shares with the forward node that it is the gradient of."""
    aten: str = ""
    """The ATen operator that it was decomposed from."""
    inputs: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphSnapshot:
    """The graph that Inductor is generating code for, read while its output code is recorded."""

    backward: bool
    inference: bool
    nodes: tuple[GraphNode, ...]
    schedule: tuple[FusedGroup, ...]
    devices: tuple[str, ...]
    facts: dict[str, NodeFacts] = field(default_factory=dict)
    """By name of the node."""
    lines: dict[str, list[WrittenLine]] = field(default_factory=dict)
    """By name of the kernel: which nodes its lines were written for."""
    buffers: dict[str, str] = field(default_factory=dict)
    """Buffer of the output code to the node whose value it holds, where Inductor says it."""


@dataclass(frozen=True)
class LoadedKernel:
    """The launcher of a Triton kernel, as this process holds it."""

    hashes: tuple[str, ...]
    """Hashes of the configurations that can be launched: one, once autotuning has chosen."""
    registers: int | None
    spills: int | None
    shared_bytes: int | None
    config: dict[str, Any]
    """The chosen configuration: block sizes, ``num_warps``, ``num_stages``."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def trace_logger() -> logging.Logger:
    """The logger that the structured trace goes through; it emits whenever it has a handler."""
    import torch._logging  # noqa: F401 - sets the logger up

    return logging.getLogger(TRACE_LOGGER)


def fusion_logger() -> logging.Logger | None:
    """The logger on which Inductor's scheduler says why it refused to fuse two nodes."""
    scheduler = _module("torch._inductor.scheduler")
    logger = getattr(scheduler, "fusion_log", None)
    return logger if isinstance(logger, logging.Logger) else None


def library_roots() -> tuple[str, ...]:
    """Directories whose stack frames are not the user's."""
    import torch

    return (str(Path(torch.__file__).parent) + "/",)


def compiling_backward() -> bool | None:
    """Whether AOTAutograd is compiling a backward graph right now; None where it does not say."""
    module = _module("torch._functorch._aot_autograd.logging_utils")
    compiling = getattr(module, "graph_being_compiled", None)
    if not compiling:
        return None
    return any(str(name).endswith("backward") for name in compiling)


def current_graph() -> GraphSnapshot | None:
    """The graph that Inductor is lowering in this thread; None outside of lowering (a cache hit, for one)."""
    virtualized = _module("torch._inductor.virtualized")
    graph = getattr(getattr(virtualized, "V", None), "graph", None)
    module = getattr(graph, "module", None)
    fx_graph = getattr(module, "graph", None)
    if fx_graph is None:  # V.graph is a NullHandler outside of lowering
        return None
    return GraphSnapshot(
        backward=bool(getattr(graph, "is_backward", False)),
        inference=bool(getattr(graph, "is_inference", False)),
        nodes=tuple(_graph_node(node) for node in fx_graph.nodes),
        schedule=tuple(_fused_group(node) for node in getattr(getattr(graph, "scheduler", None), "nodes", ())),
        devices=tuple(sorted(str(device) for device in getattr(graph, "device_types", ()))),
        facts=_facts(graph, fx_graph),
        lines={name: list(lines) for name, lines in getattr(graph, KERNEL_LINES, {}).items()},
        buffers=_buffer_nodes(graph),
    )


def _facts(graph: Any, fx_graph: Any) -> dict[str, NodeFacts]:
    import torch

    made = getattr(graph, MADE, None)
    called = {name for operation in getattr(graph, "operations", ()) for name in _called(operation)}
    facts = {}
    for node in fx_graph.nodes:
        is_operator = isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
        computes = is_operator and (made is None or node.name in made or node.name in called)
        sequence = node.meta.get("seq_nr")
        facts[str(node.name)] = NodeFacts(
            computes=computes,
            fx=tuple(dict.fromkeys(_descent(node.meta.get("from_node") or ()))),
            sequence=sequence if isinstance(sequence, int) else None,
            aten=str(node.meta.get("original_aten") or ""),
            inputs=tuple(str(n.name) for n in node.all_input_nodes),
            users=tuple(str(n.name) for n in node.users),
        )
    return facts


def _called(operation: Any) -> Iterator[str]:
    """Nodes that an operation of Inductor's IR calls an operator for; a fused loop nest calls none."""
    origin = getattr(operation, "origin_node", None)
    overload = getattr(operation, "op_overload", None)
    if origin is not None:
        yield str(origin.name)
    elif overload is not None:  # several results: the call itself has no single origin
        yield from (str(o.name) for o in getattr(operation, "origins", ()) if getattr(o, "target", None) is overload)


def _descent(sources: Any) -> Iterator[str]:
    """Names at the far end of a node's history: those of the graph that was there first."""
    for source in sources:
        older = getattr(source, "from_node", None)
        if older:
            yield from _descent(older)
        elif getattr(source, "name", ""):
            yield str(source.name)


def _graph_node(node: Any) -> GraphNode:
    import torch

    is_operator = isinstance(node.target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
    return GraphNode(
        name=str(node.name),
        operator=str(node.target) if is_operator else "",
        stack_trace=str(node.meta.get("stack_trace") or ""),
    )


def _fused_group(node: Any) -> FusedGroup:
    members = []
    for member in node.get_nodes():
        origins = getattr(getattr(member, "node", None), "origins", None) or ()
        members.append((str(member.get_name()), tuple(sorted(str(origin.name) for origin in origins))))
    return FusedGroup(str(node.get_name()), type(node).__name__, tuple(members))


def kernel_records() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Inductor's running records: launch key to post-grad nodes, and launch key to stack traces.

    Read in the process because the trace record leaves the first out for a backward graph that is compiled lazily.
    """
    debug = _module("torch._inductor.debug")
    nodes = getattr(debug, "_inductor_triton_kernel_to_post_grad_node_info", None) or {}
    traces = getattr(debug, "_inductor_kernel_stack_trace", None) or {}
    return {k: list(v) for k, v in nodes.items()}, {k: list(v) for k, v in traces.items()}


def autotuner() -> Any:
    """The class that launches, and before that tunes, Inductor's Triton kernels; None where there is no Triton."""
    return getattr(_module("torch._inductor.runtime.triton_heuristics"), "CachingAutotuner", None)


def triton_scheduling() -> Any:
    """The class that defines Triton kernels from scheduler nodes; None where this torch has none."""
    return getattr(_module("torch._inductor.codegen.triton"), "TritonScheduling", None)


def record_origins(kernel: str, node_schedule: Any) -> None:
    """Enter a kernel that Inductor leaves out into its provenance table, as it enters the others.

    Args:
        kernel: the kernel's name; its launch carries no handle.
        node_schedule: the scheduler nodes it was generated from, with markers between them.
    """
    debug = _module("torch._inductor.debug")
    nodes = getattr(debug, "_inductor_triton_kernel_to_post_grad_node_info", None)
    traces = getattr(debug, "_inductor_kernel_stack_trace", None)
    if nodes is None or traces is None:
        return
    for scheduled in node_schedule:
        computed = getattr(scheduled, "node", None)
        for origin in getattr(computed, "origins", None) or ():
            if origin.name not in nodes.setdefault(kernel, []):
                nodes[kernel].append(origin.name)
        stack_traces = getattr(computed, "get_stack_traces", None)
        if stack_traces is not None:
            found = traces.setdefault(kernel, [])
            found.extend(trace for trace in stack_traces() if trace not in found)


@contextlib.contextmanager
def provenance_globals_restored() -> Iterator[None]:
    """Put Inductor's provenance records back as they were: outside of a compilation it lets them pile up."""
    debug = _module("torch._inductor.debug")
    before = {name: copy.copy(getattr(debug, name)) for name in _PROVENANCE_GLOBALS if hasattr(debug, name)}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(debug, name, value)


@contextlib.contextmanager
def capture_settings() -> Iterator[list[str]]:
    """Inductor's settings while capturing, put back on exit; yields the reasons for those that do not exist.

    Since torch 2.12 a setting is per thread, and a backward graph on a GPU is compiled in autograd's own thread: the
    process-wide default is changed along.
    """
    from torch._inductor import config

    entries = getattr(config, "_config", {})
    patch: dict[str, Any] = {}
    missing: list[str] = []
    for names, value in SETTINGS:
        name = next((n for n in names if n in entries), None)
        if name is None:
            missing.append(f"this torch has no setting {names[0]!r}")
        elif name not in _NEEDS_VARIABLE or _reads_variable(_NEEDS_VARIABLE[name]):
            patch[name] = value
    before = {name: (_override(entries[name]), entries[name].default) for name in patch}
    patcher: Any = config.patch(patch)
    try:
        with patcher:
            for name, value in patch.items():
                entries[name].default = value
            yield missing
    finally:
        # ``patch`` leaves the old value behind as an override; whoever had set none gets none back.
        for name, (override, default) in before.items():
            entries[name].default = default
            _set_override(entries[name], override)


@functools.cache
def _reads_variable(variable: str) -> bool:
    """Whether this torch's Inductor settings are read from an environment variable of that name."""
    from torch._inductor import config

    return config.__file__ is not None and variable in Path(config.__file__).read_text(encoding="utf-8")


def _override(entry: Any) -> Any:
    """What the user set a setting to, torch's own marker for nothing included; a context variable since torch 2.12."""
    return entry.user_override.get() if isinstance(entry.user_override, ContextVar) else entry.user_override


def _set_override(entry: Any, value: Any) -> None:
    if isinstance(entry.user_override, ContextVar):
        entry.user_override.set(value)
    else:
        entry.user_override = value


@functools.cache
def line_tables_by_default() -> bool:
    """Whether this torch compiles C++ kernels with a line table unasked; looked up without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    config = Path(spec.origin).parent / "_inductor" / "config.py"
    return not config.is_file() or "enable_line_tables" in config.read_text(encoding="utf-8")


def clear_memory_caches() -> None:
    """Forget compiled code that Inductor holds in memory, so that the directory in use decides what is a hit."""
    utils = _module("torch._inductor.utils")
    for name in ("clear_caches", "clear_inductor_caches"):  # the newer name first
        clear: Callable[[], None] | None = getattr(utils, name, None)
        if clear is not None:
            clear()
            return


def loaded_kernels(output_code_path: str) -> dict[str, LoadedKernel]:
    """Launchers of the Triton kernels of a loaded output module, by kernel name; empty where it is not loaded."""
    cache = getattr(_module("torch._inductor.codecache"), "PyCodeCache", None)
    modules = [*getattr(cache, "modules", ()), *getattr(cache, "modules_no_attr", {}).values()]
    found: dict[str, LoadedKernel] = {}
    for module in modules:
        if getattr(module, "__file__", None) != output_code_path:
            continue
        for name, value in list(vars(module).items()):
            launchers = getattr(value, "launchers", None)
            if isinstance(launchers, list):
                found[name] = _loaded_kernel(launchers)
    return found


def _loaded_kernel(launchers: list[Any]) -> LoadedKernel:
    one = launchers[0] if len(launchers) == 1 else None
    config = getattr(one, "config", None)
    settings = dict(getattr(config, "kwargs", None) or {})
    for name in ("num_warps", "num_stages"):
        if (value := getattr(config, name, None)) is not None:
            settings[name] = value
    hashes = [getattr(launcher, "cache_hash", None) for launcher in launchers]
    return LoadedKernel(
        hashes=tuple(str(h) for h in hashes if h),
        registers=_whole(getattr(one, "n_regs", None)),
        spills=_whole(getattr(one, "n_spills", None)),
        shared_bytes=_whole(getattr(one, "shared", None)),
        config=settings,
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def nvidia_tool(name: str) -> Path | None:
    """A tool of NVIDIA's that Triton ships (``nvdisasm``, ``cuobjdump``); None where it does not."""
    triton = _module("triton") if "triton" in sys.modules or importlib.util.find_spec("triton") else None
    if triton is None or triton.__file__ is None:
        return None
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return path if path.is_file() else None


def _buffer_nodes(graph: Any) -> dict[str, str]:
    """Buffer of the output code to the name of the node whose value it holds."""
    found = {}
    for name, buffer in (getattr(graph, "name_to_buffer", None) or {}).items():
        node = getattr(buffer, "origin_node", None)
        if node is not None:
            found[str(name)] = str(node.name)
    return found
