"""The capture context manager: what torch.compile generates while it is open is saved and recorded."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fuselab.capture import internals
from fuselab.capture.assembly import Libraries
from fuselab.capture.autotuning import mix_order_provenance
from fuselab.capture.caches import inductor_cache, own_caches, triton_cache
from fuselab.capture.chain import Chain, read_chain
from fuselab.capture.chain_builder import ChainBuilder
from fuselab.capture.completeness import list_absences
from fuselab.capture.files import Files
from fuselab.capture.hand_written import HandWritten
from fuselab.capture.internals_calls import compiled_graph_calls
from fuselab.capture.internals_lines import record_line_origins
from fuselab.capture.internals_triton import JitKernel, jit_launches
from fuselab.capture.kernels import KernelBuilder
from fuselab.capture.snapshots import recall, remember
from fuselab.capture.timings import recorded_timings
from fuselab.capture.trace import CompiledGraph, FusionHandler, Recorder, TraceHandler
from fuselab.capture.triton_cache import chosen_hashes, read_cache
from fuselab.card.graph import TimedConfiguration
from fuselab.records import Artifact, Direction, Kernel, Stage

__all__ = ["Capture", "capture"]


@dataclass
class Capture:
    """What was captured; complete once the context has been left."""

    into: Path
    """Directory that every path below is relative to."""
    artifacts: list[Artifact] = field(default_factory=list)
    """Every stage, per direction and per kernel: present with its path and size, or absent with the reason."""
    kernels: list[Kernel] = field(default_factory=list)
    """Every kernel that was generated or called, by graph in order of compilation."""
    warnings: list[str] = field(default_factory=list)
    """Graph breaks, recompilations and failures with the user's line and the reason, and what could not be captured."""
    records: dict[str, int] = field(default_factory=dict)
    """How often each kind of trace record came, unknown kinds included."""

    def chain(self, direction: Direction = Direction.FORWARD) -> Chain:
        """From the user's lines to the lines of the machine code and back; empty where nothing was compiled."""
        path = self.into / f"graphs/{direction.value}/chain.json"
        return read_chain(path) if path.is_file() else Chain(direction=direction.value)


@contextlib.contextmanager
def capture(into: Path, *, variant: str, workload: str, caches: Path | None = None) -> Iterator[Capture]:
    """Save everything that ``torch.compile`` generates in this process while the context is open.

    Forward and backward, any number of graphs, also long after torch was imported. Every setting, variable, logger and
    cache is put back on exit, also when the block raises; what was captured until then is kept.

    Args:
        into: directory to write ``graphs/`` and ``kernels/`` to; made if missing.
        variant: name of the variant, for the records.
        workload: ``Workload.key``, for the records.
        caches: directory for the compiler's caches, kept: a process started with ``cache_environment(caches)`` starts
            warm from it. Without one a temporary directory is used and removed.

    Example::

        with capture(Path("out"), variant="compile", workload="mine") as captured:
            torch.compile(function)(x).sum().backward()
        print([kernel.operations for kernel in captured.kernels])
    """
    into.mkdir(parents=True, exist_ok=True)
    captured = Capture(into)
    files = Files(into, variant, workload)
    recorder = Recorder(files, internals.library_roots())
    timings: dict[str, TimedConfiguration] = {}
    launched: dict[tuple[str, bool], JitKernel] = {}
    called: dict[str, str] = {}
    with own_caches(caches) as directory:
        try:
            with (
                internals.provenance_globals_restored(),
                internals.capture_settings() as missing,
                mix_order_provenance(),
                recorded_timings(timings),
                record_line_origins() as untraced,
                jit_launches(launched, recorder.library_roots),
                compiled_graph_calls(called, recorder.library_roots),
                _listening(internals.trace_logger(), TraceHandler(recorder)),
                _listening(internals.fusion_logger(), FusionHandler(recorder)),
            ):
                for reason in (*missing, *untraced):
                    recorder.warn(reason)
                yield captured
        finally:
            # Before the caches go: the launchers in memory and the files in Triton's cache are read here.
            _collect(captured, files, recorder, directory, timings, list(launched.values()))
            for warning in _compiled_before(recorder, called, captured):
                recorder.warn(warning)
            captured.warnings = recorder.warnings


@contextlib.contextmanager
def _listening(logger: logging.Logger | None, handler: logging.Handler) -> Iterator[None]:
    """Add a handler to a logger, first in line; put the logger's handlers, level and flags back on exit.

    First in line because torch's own trace handler removes itself while the first record is being handed out, which
    would make ``logging`` skip the handler after it. A logger that nobody listened to must not start to print.
    """
    if logger is None:
        yield
        return
    handlers, level, propagate, disabled = list(logger.handlers), logger.level, logger.propagate, logger.disabled
    was_enabled = logger.isEnabledFor(logging.DEBUG)
    logger.handlers.insert(0, handler)
    logger.disabled = False
    if not was_enabled:
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield
    finally:
        others = [h for h in logger.handlers if h is not handler and h not in handlers]  # of whoever came meanwhile
        logger.handlers[:] = [*handlers, *others]
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        handler.close()


def _collect(
    captured: Capture,
    files: Files,
    recorder: Recorder,
    caches: Path,
    timings: dict[str, TimedConfiguration],
    launched: list[JitKernel],
) -> None:
    recorder.flush()
    for graph in recorder.graphs:
        if not recall(caches, graph):
            remember(caches, graph, files)
        _write_tables(files, graph)
    binaries = read_cache([triton_cache(caches), inductor_cache(caches) / "triton"]) if recorder.graphs else []
    best = chosen_hashes(inductor_cache(caches)) if binaries else set()
    chain = ChainBuilder(files, recorder.library_roots)
    chain.prepare(recorder.graphs)
    libraries = Libraries(inductor_cache(caches))
    builder = KernelBuilder(files, binaries, best, recorder.library_roots, libraries, chain, timings=timings)
    for graph in recorder.graphs:
        builder.add(graph)
    hand_written = HandWritten(files, chain)
    hand_written.add(launched)
    chain.close()
    for warning in builder.warnings:
        recorder.warn(warning)
    list_absences(files, recorder)
    captured.artifacts = files.artifacts
    captured.kernels = builder.kernels + hand_written.kernels
    captured.records = dict(recorder.records)


def _compiled_before(recorder: Recorder, called: dict[str, str], captured: Capture) -> Iterator[str]:
    """What ran while the capture was open and was compiled before: nothing of that is here."""
    before = [place for digest, place in called.items() if digest not in recorder.output_digests]
    for place in dict.fromkeys(before):
        yield (
            f"already compiled: {place} ran code from before the capture opened, and nothing of that is captured; "
            "call torch.compiler.reset() first to compile it again"
        )
    if not recorder.graphs and not before and not captured.kernels:
        yield (
            "nothing was generated while the capture was open: no compiled function ran, or it failed before Inductor, "
            "or it was already compiled; call torch.compiler.reset() first to compile it again"
        )


def _write_tables(files: Files, graph: CompiledGraph) -> None:
    provenance = {
        "nodes_of_launch": graph.nodes_of,
        "stack_traces_of_launch": graph.stack_traces_of,
        "operator_of_node": {n.name: n.operator for n in graph.snapshot.nodes} if graph.snapshot else {},
        "mapping": graph.mapping,
    }
    if graph.nodes_of or graph.stack_traces_of or graph.mapping:
        text = json.dumps(provenance, indent=1)
        files.graph_stage(graph.direction, Stage.PROVENANCE, graph.number, text)
    if graph.snapshot is not None and graph.snapshot.schedule:
        fusion = {
            "groups": [
                {"name": group.name, "kind": group.kind, "members": [{"name": n, "nodes": o} for n, o in group.members]}
                for group in graph.snapshot.schedule
            ],
            "refused": [{"reason": reason, "times": times} for reason, times in graph.refusals.items()],
        }
        files.graph_stage(graph.direction, Stage.FUSION, graph.number, json.dumps(fusion, indent=1))
