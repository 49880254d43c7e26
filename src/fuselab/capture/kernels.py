"""From a compiled graph to its kernels: each one's source, provenance, launches, IR stages, resources and card."""

from __future__ import annotations

import json
import linecache
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from fuselab.capture import internals
from fuselab.capture.assembly import Libraries, Library
from fuselab.capture.assembly import disassemble as disassemble_library
from fuselab.capture.chain_builder import BuiltKernel, ChainBuilder
from fuselab.capture.files import Files
from fuselab.capture.graph_facts import graph_facts, present_target
from fuselab.capture.machine_code import ResourceUsage, disassemble, resource_usage
from fuselab.capture.output_code import GeneratedKernel, OutputCode, parse_output_code
from fuselab.capture.provenance import GraphNode, KernelProvenance, join, parse_graph
from fuselab.capture.trace import CompiledGraph
from fuselab.capture.triton_cache import TritonBinary, choose
from fuselab.card.builder import CardBuilder
from fuselab.card.graph import TimedConfiguration
from fuselab.records import Kernel, Stage
from fuselab.targets import Target

__all__ = ["KernelBuilder"]

_TRITON_STAGES = (Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.CUBIN, Stage.SASS)
_TOOLS_AT_ONCE = 8
_DECORATORS = 64
"""How many lines of decorators are looked through for a function's head."""

_ROCM_STAGES = (Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.AMDGCN)


@dataclass
class _Machine:
    """What a kernel's binary tells."""

    stages: list[Stage] = field(default_factory=list)
    usage: ResourceUsage | None = None
    binary: TritonBinary | None = None
    others: list[TritonBinary] = field(default_factory=list)
    choice: str = ""
    sass: Future[str] | None = None
    usages: Future[dict[str, ResourceUsage]] | None = None
    library: Library | None = None
    assembly: Future[str] | None = None

    @property
    def compiled_from(self) -> str:
        """The file that the compiler compiled."""
        if self.library is not None:
            return str(self.library.source)
        return self.binary.source_path if self.binary else ""


@dataclass
class KernelBuilder:
    """Builds the kernels of one capture."""

    files: Files
    binaries: Sequence[TritonBinary]
    """Everything that Triton's cache holds."""
    best: Collection[str]
    """Hashes that autotuning settled on."""
    library_roots: tuple[str, ...]
    libraries: Libraries | None = None
    """What the host's compiler made of C++ kernels."""
    chain: ChainBuilder | None = None
    """Where lines are joined; None where nobody asks for them."""
    kernels: list[Kernel] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _built: list[BuiltKernel] = field(default_factory=list)
    target: Target | None = None
    """The device that GPU kernels are for; None: whichever described device their sources name."""
    timings: Mapping[str, TimedConfiguration] = field(default_factory=dict)
    """What autotuning timed, by hash of the configuration."""
    _cards: CardBuilder | None = None

    def add(self, graph: CompiledGraph) -> None:
        """Write everything that is known of a graph's kernels."""
        code = self._parsed(graph)
        if code is None:
            return
        nodes = self._nodes(graph)
        self._cards = CardBuilder(graph_facts(graph, code, self.timings), self.target or present_target(graph))
        loaded = internals.loaded_kernels(graph.module_path)
        # A chooser among kernels (multi_kernel) is none itself: they are defined, and listed, on their own.
        generated = [kernel for kernel in code.kernels if kernel.backend != "multi_kernel"]
        with ThreadPoolExecutor(_TOOLS_AT_ONCE) as pool:
            machines = [self._machine(kernel, loaded.get(kernel.name), pool) for kernel in generated]
            for kernel, machine in zip(generated, machines, strict=True):
                provenance = self._provenance(graph, code, kernel.name, nodes)
                self._add_generated(graph, code, kernel, provenance, loaded.get(kernel.name), machine)
        externs = dict.fromkeys(launch.name for launch in code.launches if launch.extern)
        for name in externs:
            self._add_extern(graph, code, name, self._provenance(graph, code, name, nodes))
        if self.chain is not None:
            self.chain.add(graph, nodes, self._built)
        self._built = []

    def _parsed(self, graph: CompiledGraph) -> OutputCode | None:
        try:
            return parse_output_code(graph.output_path.read_text(encoding="utf-8"))
        except SyntaxError as error:  # a C++ wrapper (cpp_wrapper, AOTInductor) is not Python
            self.warnings.append(f"{graph.output_path.name} could not be read for kernels: {error}")
            return None

    def _nodes(self, graph: CompiledGraph) -> Sequence[GraphNode]:
        if graph.snapshot is not None:
            return graph.snapshot.nodes
        if graph.post_grad_path is None:
            return ()
        try:
            return parse_graph(graph.post_grad_path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            self.warnings.append(f"{graph.post_grad_path.name} could not be read for operators: {error}")
            return ()

    def _provenance(
        self, graph: CompiledGraph, code: OutputCode, name: str, nodes: Sequence[GraphNode]
    ) -> KernelProvenance:
        keys = [launch.key for launch in code.launches if launch.name == name]
        return join(keys, graph.nodes_of, nodes, graph.stack_traces_of, self.library_roots)

    def _add_generated(
        self,
        graph: CompiledGraph,
        code: OutputCode,
        generated: GeneratedKernel,
        provenance: KernelProvenance,
        loaded: internals.LoadedKernel | None,
        machine: _Machine,
    ) -> None:
        directory = self.files.kernel_directory(graph.direction, generated.name, graph.number)
        folder = f"kernels/{graph.direction.value}/{directory}"
        kernel_id = f"{self.files.variant}/{self.files.workload}/{graph.direction.value}/{directory}"
        is_cpp = generated.backend == "cpp"
        source = self.files.write(
            f"{folder}/kernel.{'cpp' if is_cpp else 'py'}",
            generated.source,
            graph.direction,
            Stage.CPP if is_cpp else Stage.TRITON,
            kernel_id,
        )
        machine.stages.append(Stage.CPP if is_cpp else Stage.TRITON)
        if generated.backend == "triton":
            self._save_stages(graph, folder, kernel_id, machine)
        elif is_cpp:
            for stage in _TRITON_STAGES:
                self.files.absent(graph.direction, stage, "CPU target: Inductor emits C++, not Triton", kernel_id)
            self._save_assembly(graph, folder, kernel_id, machine)
        metadata = machine.binary.metadata if machine.binary else {}
        config = loaded.config if loaded else {}
        usage = machine.usage
        kernel = Kernel(
            kernel_id=kernel_id,
            name=generated.name,
            backend=generated.backend,
            variant=self.files.variant,
            workload=self.files.workload,
            direction=graph.direction,
            file_path=source.relative_to(self.files.into).as_posix(),
            size_bytes=source.stat().st_size,
            created_at=_now(),
            operations=list(provenance.operations),
            nodes=list(provenance.nodes),
            source_lines=list(provenance.source_lines),
            launches=code.launches_of(generated.name),
            stages=[stage.value for stage in machine.stages],
            registers=usage.registers if usage else (loaded.registers if loaded else None),
            spills=_first(loaded.spills if loaded else None, usage.local_bytes if usage else None),
            shared_bytes=_first(_count(metadata.get("shared")), loaded.shared_bytes if loaded else None),
            num_warps=_first(_count(metadata.get("num_warps")), _count(config.get("num_warps"))),
            num_stages=_first(_count(metadata.get("num_stages")), _count(config.get("num_stages"))),
        )
        self._built.append(
            BuiltKernel(
                kernel_id=kernel_id,
                name=generated.name,
                backend=generated.backend,
                folder=source.parent,
                source=generated.source,
                compiled_from=machine.compiled_from,
                nodes=provenance.nodes,
                launched_at=tuple(launch.line for launch in code.launches if launch.name == generated.name),
                written_in=definition(generated.original, generated.source),
            )
        )
        self._finish(kernel, folder, graph, code, machine, config)

    def _add_extern(self, graph: CompiledGraph, code: OutputCode, name: str, provenance: KernelProvenance) -> None:
        directory = self.files.kernel_directory(graph.direction, name, graph.number)
        kernel = Kernel(
            kernel_id=f"{self.files.variant}/{self.files.workload}/{graph.direction.value}/{directory}",
            name=name,
            backend="extern",
            variant=self.files.variant,
            workload=self.files.workload,
            direction=graph.direction,
            file_path=graph.output_path.relative_to(self.files.into).as_posix(),
            size_bytes=graph.output_path.stat().st_size,
            created_at=_now(),
            operations=list(provenance.operations),
            nodes=list(provenance.nodes),
            source_lines=list(provenance.source_lines),
            launches=code.launches_of(name),
        )
        at = tuple(launch.line for launch in code.launches if launch.name == name)
        self._built.append(BuiltKernel(kernel.kernel_id, name, "extern", None, nodes=provenance.nodes, launched_at=at))
        self._finish(kernel, f"kernels/{graph.direction.value}/{directory}", graph, code, _Machine(), {})

    def _finish(
        self,
        kernel: Kernel,
        folder: str,
        graph: CompiledGraph,
        code: OutputCode,
        machine: _Machine,
        config: dict[str, Any],
    ) -> None:
        if not kernel.nodes:
            self.warnings.append(f"{kernel.kernel_id}: the compiler's provenance names no graph node for this kernel")
        card: dict[str, Any] = {
            **msgspec.to_builtins(kernel),
            "output_code": graph.output_path.relative_to(self.files.into).as_posix(),
            "launched_at": [launch.line for launch in code.launches if launch.name == kernel.name],
            "config": config,
            "configuration_chosen_by": machine.choice,
            "triton_hash": machine.binary.hash if machine.binary else None,
            "triton_metadata": machine.binary.metadata if machine.binary else {},
            "other_configurations": [
                {"triton_hash": b.hash, **{k: b.metadata.get(k) for k in ("num_warps", "num_stages", "shared")}}
                for b in machine.others
            ],
            "resource_usage": None if machine.usage is None else vars(machine.usage),
        }
        if self._cards is not None:
            card, repro = self._cards.fill(card, self.files.into / folder)
            if repro is not None:
                self.files.put(self.files.into / folder / "repro.py", repro)
        self.files.put(self.files.into / folder / "card.json", json.dumps(card, indent=1, default=str))
        self.kernels.append(kernel)

    def _machine(
        self, generated: GeneratedKernel, loaded: internals.LoadedKernel | None, pool: ThreadPoolExecutor
    ) -> _Machine:
        """Find the configuration in use and start to disassemble it: half a second a kernel, so many at once."""
        machine = _Machine()
        if generated.backend == "cpp" and self.libraries is not None:
            machine.library = self.libraries.find(generated.source)
            if machine.library is not None:
                lines = generated.source.count("\n") + 1
                machine.assembly = pool.submit(disassemble_library, machine.library, lines)
        if generated.backend != "triton":
            return machine
        launcher_hash = loaded.hashes[0] if loaded and len(loaded.hashes) == 1 else None
        machine.binary, machine.others, machine.choice = choose(
            self.binaries, generated.source_path, generated.name, launcher_hash, self.best
        )
        cubin = machine.binary.files.get(Stage.CUBIN) if machine.binary else None
        nvdisasm, cuobjdump = internals.nvidia_tool("nvdisasm"), internals.nvidia_tool("cuobjdump")
        if cubin is not None and nvdisasm is not None:
            machine.sass = pool.submit(disassemble, cubin, nvdisasm)
        if cubin is not None and cuobjdump is not None:
            machine.usages = pool.submit(resource_usage, cubin, cuobjdump)
        return machine

    def _save_stages(self, graph: CompiledGraph, folder: str, kernel_id: str, machine: _Machine) -> None:
        binary = machine.binary
        if binary is None:
            for stage in _TRITON_STAGES:
                self.files.absent(graph.direction, stage, machine.choice, kernel_id)
            return
        for stage, path in binary.files.items():
            self.files.write(f"{folder}/{stage.value}", path.read_bytes(), graph.direction, stage, kernel_id)
            machine.stages.append(stage)
        expected = _ROCM_STAGES if Stage.AMDGCN in binary.files else _TRITON_STAGES
        for stage in expected:
            if stage not in binary.files and stage is not Stage.SASS:
                self.files.absent(graph.direction, stage, "Triton left none in its cache", kernel_id)
        if Stage.SASS in expected:
            self._save_sass(graph, binary, folder, kernel_id, machine)

    def _save_assembly(self, graph: CompiledGraph, folder: str, kernel_id: str, machine: _Machine) -> None:
        reason = "no library in Inductor's cache was compiled from this kernel's source"
        try:
            if machine.assembly is not None:
                text = machine.assembly.result()
                self.files.write(f"{folder}/assembly", text, graph.direction, Stage.ASSEMBLY, kernel_id)
                machine.stages.append(Stage.ASSEMBLY)
                return
        except RuntimeError as error:
            reason = str(error)
        self.files.absent(graph.direction, Stage.ASSEMBLY, reason, kernel_id)

    def _save_sass(
        self, graph: CompiledGraph, binary: TritonBinary, folder: str, kernel_id: str, machine: _Machine
    ) -> None:
        try:
            if machine.usages is not None:
                machine.usage = machine.usages.result().get(binary.name)
            if machine.sass is not None:
                self.files.write(f"{folder}/sass", machine.sass.result(), graph.direction, Stage.SASS, kernel_id)
                machine.stages.append(Stage.SASS)
                return
            reason = "this Triton ships no nvdisasm" if Stage.CUBIN in binary.files else "there is no cubin"
        except RuntimeError as error:
            reason = str(error)
        self.files.absent(graph.direction, Stage.SASS, reason, kernel_id)


def definition(original: str, source: str) -> tuple[str, int] | None:
    """Where the user's own Triton kernel stands: its file, and how many more lines are above it there than here.

    Args:
        original: ``file:line`` of its first decorator, as Inductor's comment says; empty for a generated kernel.
        source: the text that Inductor made of it, its first function first.
    """
    file, _, line = original.rpartition(":")
    if not file or not line.isdecimal():
        return None
    here = next((n for n, text in enumerate(source.splitlines(), start=1) if text.startswith("def ")), 0)
    there = int(line)
    for at in range(there, there + _DECORATORS):
        if linecache.getline(file, at).lstrip().startswith("def "):
            return (file, at - here) if here else None
    return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
