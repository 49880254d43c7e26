"""Every stage of the reader's own function, live: what torch.compile makes of it here, and for a GPU that is not here.

``stages`` compiles and captures in this process; ``gpu_stages`` asks ``fuselab.inspect``, which needs the function in a
file, and reads what it left. Both give one thing to index: ``made["forward_graph"]``, ``made["ptx"]``.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuselab.course.display import Code, Rows, Shown, quietly
from fuselab.errors import UnknownNameError
from fuselab.records import Stage

__all__ = ["Stages", "gpu_stages", "stages"]

LANGUAGES = {
    Stage.CPP: "cpp",
    Stage.PTX: "text",
    Stage.SASS: "text",
    Stage.ASSEMBLY: "text",
    Stage.AMDGCN: "text",
    Stage.TTIR: "text",
    Stage.TTGIR: "text",
    Stage.LLIR: "llvm",
    Stage.FUSION: "json",
    Stage.PROVENANCE: "json",
}
"""How a stage's text is coloured; the others are Python."""

WHAT = {
    Stage.DYNAMO_GRAPH: "your Python, as a graph of torch calls",
    Stage.JOINT_GRAPH: "forward and backward in one graph of ATen operators",
    Stage.FORWARD_GRAPH: "the forward's half, with what it saves",
    Stage.BACKWARD_GRAPH: "the backward's half",
    Stage.INFERENCE_GRAPH: "the graph of ATen operators, without a backward",
    Stage.POST_GRAD_GRAPH: "decomposed and rewritten, as Inductor lowers it",
    Stage.FUSION: "which nodes went into which kernel",
    Stage.OUTPUT_CODE: "the program that Inductor writes: kernels and their calls",
    Stage.TRITON: "one kernel's Triton source",
    Stage.CPP: "one kernel's C++ source",
    Stage.TTIR: "Triton's IR: blocks, no threads",
    Stage.TTGIR: "Triton's GPU IR: how blocks lie over threads",
    Stage.LLIR: "LLVM IR: one thread",
    Stage.PTX: "NVIDIA's virtual assembly",
    Stage.SASS: "the machine code",
    Stage.AMDGCN: "AMD's machine code",
    Stage.ASSEMBLY: "the machine code",
}
"""What each stage is, in the order of the way down."""


GRAPHS = frozenset(
    {
        Stage.DYNAMO_GRAPH,
        Stage.JOINT_GRAPH,
        Stage.FORWARD_GRAPH,
        Stage.BACKWARD_GRAPH,
        Stage.INFERENCE_GRAPH,
        Stage.POST_GRAD_GRAPH,
    }
)
"""Stages whose text is a graph, printed as Python."""

_LOCATION = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/")
_DEBUG = re.compile(r", !dbg !\d+")
_DELETED = re.compile(r";\s+(?:\w+ = )+None$")
_IGNORED = re.compile(r"\s+# (?:type: ignore|noqa)\b.*")
_NOISE = re.compile(r"^\s*(?://|\.loc\b|\.file\b|!|$)")


@dataclass(frozen=True)
class _File:
    stage: Stage
    direction: str
    kernel: str
    path: Path

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Stages:
    """Everything that was generated for a function."""

    title: str
    """What was compiled, for what."""
    files: Sequence[_File]
    """In the order of the way down."""
    kernels: Sequence[Any]
    """The kernels' records."""
    warnings: Sequence[str] = field(default_factory=list)
    """Graph breaks and what could not be captured."""
    chains: Mapping[str, Path] = field(default_factory=dict)
    """By direction, the file that joins lines to what they came from."""

    def __getitem__(self, stage: str) -> Shown:
        return self.text(stage)

    def text(self, stage: str, direction: str = "forward", kernel: int = 0, most: int = 60) -> Shown:
        """The text of a stage, the first lines of it.

        Raises:
            UnknownNameError: it is not among these; names those that are.
        """
        found = [f for f in self.files if f.stage.value == stage and f.direction == direction] or [
            f for f in self.files if f.stage.value == stage
        ]
        if not found:
            raise UnknownNameError("stage", stage, sorted({f.stage.value for f in self.files}))
        file = found[min(kernel, len(found) - 1)]
        head = f"{stage}, {file.direction}{': ' + file.kernel if file.kernel else ''}"
        return Code(without_preamble(file.text(), file.stage), LANGUAGES.get(file.stage, "python"), head, most)

    def fused(self) -> Shown:
        """Each kernel with the operators that went into it."""
        rows = [
            (k.name, k.direction.value, ", ".join(dict.fromkeys(o.split(".")[1] for o in k.operations if "." in o)))
            for k in self.kernels
        ]
        return Rows(("kernel", "direction", "operators fused into it"), rows, title=self.title)

    def line_by_line(self, direction: str = "forward", kernel: int = 0) -> Shown:
        """A kernel's source, each line with the ATen operator that it computes and what it became.

        Raises:
            UnknownNameError: nothing was generated for that direction.
        """
        from fuselab.capture.chain import read_chain

        if direction not in self.chains:
            raise UnknownNameError("direction", direction, self.chains)
        chain = read_chain(self.chains[direction])
        found = [(g, k) for g in chain.graphs for k in g.kernels if k.lines]
        if not found:
            raise UnknownNameError("kernel", str(kernel), [])
        graph, chosen = found[min(kernel, len(found) - 1)]
        operators = {n.name: n.operator or n.aten for n in graph.nodes}
        lines = self._source(chosen.name, direction).splitlines()
        shown = [entry for entry in chosen.lines if entry.nodes and entry.kind != "constant"]
        rows = [_explained(entry, lines, operators) for entry in shown]
        return Rows(("line", "source", "computes", "machine code"), rows, title=f"{chosen.name}, {direction}")

    def _source(self, name: str, direction: str) -> str:
        kinds = (Stage.TRITON, Stage.CPP)
        found = [f for f in self.files if f.stage in kinds and (f.kernel, f.direction) == (name, direction)]
        return found[0].text() if found else ""

    def _rows(self) -> Shown:
        rows = []
        for stage, what in WHAT.items():
            found = [f for f in self.files if f.stage is stage]
            if found:
                lines = sum(len(f.text().splitlines()) for f in found)
                rows.append((stage.value, what, str(len(found)), str(lines)))
        return Rows(("stage", "what it is", "files", "lines"), rows, "; ".join(self.warnings[:3]), self.title)

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()

    def __repr__(self) -> str:
        return repr(self._rows())


def _explained(entry: Any, lines: Sequence[str], operators: Mapping[str, str]) -> tuple[str, str, str, str]:
    text = lines[entry.line - 1].strip() if entry.line <= len(lines) else ""
    full = (operators.get(node, node) for node in entry.nodes)
    names = dict.fromkeys(name.removeprefix("aten.").removeprefix("prims.").split(".")[0] for name in full)
    became = {stage: len(numbers) for stage, numbers in entry.became.items() if stage in ("sass", "amdgcn", "assembly")}
    machine = ", ".join(f"{count} {stage}" for stage, count in became.items())
    return str(entry.line), text if len(text) <= 88 else text[:85] + "...", ", ".join(names), machine


def stages(function: Callable[..., Any], *args: Any, backward: bool = True) -> Stages:
    """Compile a function for this machine and keep what every stage made of it.

    Args:
        function: yours; it is compiled afresh.
        args: its arguments. Where a result requires grad its backward is compiled as well.
        backward: whether to.
    """
    import torch

    from fuselab.capture import capture

    into = Path(tempfile.mkdtemp(prefix="fuselab-course-"))
    torch.compiler.reset()
    with quietly(), capture(into, variant="compile", workload="own") as captured:
        result = torch.compile(function)(*args)
        if backward and isinstance(result, torch.Tensor) and result.requires_grad:
            result.sum().backward()
    by_id = {k.kernel_id: k.name for k in captured.kernels}
    files = [
        _File(a.stage, a.direction.value, by_id.get(a.kernel_id or "", ""), into / a.path)
        for a in captured.artifacts
        if a.path is not None
    ]
    name = getattr(function, "__name__", type(function).__name__)
    chains = {d: into / f"graphs/{d}/chain.json" for d in ("forward", "backward")}
    known = {d: path for d, path in chains.items() if path.is_file()}
    return Stages(f"{name}, compiled on this machine", files, captured.kernels, captured.warnings, known)


def gpu_stages(what: str, *arguments: str, target: str = "h200", **settings: Any) -> Stages:
    """The same for a GPU that need not be here: generated and compiled for it, and nothing measured.

    Args:
        what: ``FILE.py:NAME``, or an experiment.
        arguments: descriptions of its arguments, ``"x=bf16[4096,1024]:requires_grad"``.
        target: a described device: ``h200``, ``h100``, ``b200``, ``a100``, ``mi300x``, ...
        settings: more of ``fuselab.inspect``'s: ``variant``, ``direction``, ``shapes``, ``dtypes``.
    """
    import fuselab

    out = Path(tempfile.mkdtemp(prefix="fuselab-course-"))
    with quietly():
        found = fuselab.inspect(what, list(arguments), targets=[target], out=out, **settings)
    run = Path(found.targets[0].run)
    files = [*_graphs(run), *(f for k in found.targets[0].workloads[0].kernels for f in _kernel_files(run, k))]
    reasons = [w.reason for w in found.targets[0].workloads if not w.ok]
    return Stages(
        f"{what} for {found.targets[0].device}: generated for a described device, nothing was measured",
        files,
        found.targets[0].workloads[0].kernels,
        [*found.targets[0].workloads[0].warnings, *reasons],
        {path.parent.name: path for path in run.glob("graphs/*/*/*/chain.json")},
    )


def _graphs(run: Path) -> list[_File]:
    found = []
    for path in sorted(run.glob("graphs/*/*/*/*")):
        stage = next((s for s in WHAT if path.name.startswith(s.value)), None)
        if stage is not None:
            found.append(_File(stage, path.parent.name, "", path))
    return found


def _kernel_files(run: Path, kernel: Any) -> list[_File]:
    stages: Mapping[str, str] = kernel.stages
    order = [s for s in WHAT if s.value in stages]
    return [_File(s, kernel.direction.value, kernel.name, run / stages[s.value]) for s in order]


def without_preamble(text: str, stage: Stage) -> str:
    """A kernel from its signature on, without notes on places; a graph without the deletions of what it used.

    Example:
        >>> without_preamble("import triton\\n@triton.jit\\ndef k(x):\\n    pass", Stage.TRITON)
        'def k(x):\\n    pass'
    """
    if stage in (Stage.TTIR, Stage.TTGIR):
        return "\n".join(_LOCATION.sub("", line) for line in text.splitlines() if not line.startswith("#loc"))
    if stage in (Stage.PTX, Stage.LLIR):
        text = "\n".join(_DEBUG.sub("", line) for line in text.splitlines() if not _NOISE.match(line))
    if stage in GRAPHS:
        return "\n".join(_DELETED.sub("", line).replace("torch.ops.", "") for line in text.splitlines())
    if stage is Stage.SASS:
        text = "\n".join(line for line in text.splitlines() if _INSTRUCTION.match(line) or line.startswith("."))
    lines = text.splitlines()
    for mark in {Stage.TRITON: ("def triton_", "def "), Stage.CPP: ('extern "C"',), Stage.PTX: (".visible",)}.get(
        stage, ()
    ):
        for number, line in enumerate(lines):
            if line.lstrip().startswith(mark):
                return "\n".join(lines[number:])
    return text


def kernel(module: str, name: str) -> Shown:
    """The source of one of fuselab's own Triton kernels, or why it cannot be shown.

    Args:
        module: that has it.
        name: of the kernel.
    """
    if importlib.util.find_spec("triton") is None:
        return Shown("<p>triton is not installed here</p>", "triton is not installed here")
    made = getattr(importlib.import_module(module), name)
    source = inspect.getsource(getattr(made, "fn", made))
    shown = "\n".join(_IGNORED.sub("", line) for line in source.splitlines())
    return Code(shown, "python", f"{module}.{name}", most=120)
