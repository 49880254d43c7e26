"""A package and its proof as tables and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fuselab.report.text import one_line, printable

if TYPE_CHECKING:
    from fuselab.deploy.manifest import Machine
    from fuselab.deploy.packing import Packed
    from fuselab.deploy.proof import Proof, StartFigures

__all__ = ["packed_view", "proof_document", "proof_view", "size_text"]

WAYS = {
    "cold": "torch.compile with empty caches",
    "artifacts": "torch.compile with the package's caches and built kernels",
    "aoti": "the package's AOTInductor library, without Dynamo and Inductor",
}


def packed_view(packed: Packed) -> RenderableType:
    """What a package that was just written holds, and what it does not."""
    manifest = packed.manifest
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("call", "forward", "backward", "AOTInductor"):
        table.add_column(column, overflow="fold")
    for call in manifest.calls:
        table.add_row(
            Text(printable(call.label)),
            "golden" if call.forward else "-",
            Text("golden" if call.backward else printable(call.backward_reason) or "-"),
            Text("yes" if call.aoti.file else printable(one_line(call.aoti.reason, 200)) or "-"),
        )
    artifacts = ", ".join(f"{count} {kind}" for kind, count in manifest.artifact_counts.items()) or "none"
    facts = Text(f"{packed.path}: {size_text(packed.size)}\n", "bold")
    facts.append(f"sha256 {packed.sha256}\n", "dim")
    facts.append(f"for {machine_text(manifest.machine)}\n", "")
    facts.append(
        f"cache artifacts: {artifacts}; built C++ kernels: {len(manifest.libraries)}; "
        f"built by Triton: {len(manifest.triton_libraries)}",
        "",
    )
    warnings = [Text(f"! {printable(warning)}", "yellow") for warning in packed.warnings]
    return Group(facts, Text(), table, *warnings)


def proof_view(proof: Proof) -> RenderableType:
    """One line a way to start: times, what was compiled, whether the answers are eager's."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("way", no_wrap=True)
    table.add_column("direction", no_wrap=True)
    for column in ("start", "range", "faster"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("traced", "Inductor", "C++", "Triton"):
        table.add_column(column, justify="right")
    table.add_column("answers")
    for start in proof.starts:
        table.add_row(*_row(start))
    head = Text(f"{proof.package}: {size_text(sum(f.size for f in proof.manifest.files))}\n", "bold")
    head.append(f"sha256 {proof.sha256}\n", "dim").append(machine_text(proof.machine))
    ways = dict.fromkeys(start.way for start in proof.starts)
    note = Text("".join(f"{way}: {WAYS[way]}. " for way in ways), "dim")
    note.append(f"start: {proof.figure} ({_times(proof.starts)}).")
    note.append(" traced: graphs that Dynamo traced, which torch.compile cannot do without. The others: compiled.")
    if proof.without_compiler:
        note.append(" The warm starts had no compiler, nor any other program, on PATH.")
    lines = [Text(printable(n), "yellow") for start in proof.starts for n in start.notes]
    verdict = Text("proven: no compilation, equal answers", "bold green")
    if proof.failures:
        verdict = Text("not proven: ", "bold red").append("; ".join(map(printable, proof.failures)))
    return Group(head, Text(), table, Text(), note, *lines, verdict)


def proof_document(proof: Proof) -> dict[str, Any]:
    """The proof for ``--json``: the manifest without the golden tensors' specifications."""
    document: dict[str, Any] = msgspec.to_builtins(proof)
    manifest = document.pop("manifest")
    document["calls"] = [
        {"label": call["label"], "random": call["random"], "aoti": call["aoti"]["reason"] or bool(call["aoti"]["file"])}
        for call in manifest["calls"]
    ]
    document["packed"] = {key: manifest[key] for key in ("created_at", "machine", "model", "variant", "warnings")}
    document["holds"] = proof.holds
    for start, record in zip(proof.starts, document["starts"], strict=True):
        record["proven"] = start.proven
        record["median_start_s"] = statistics.median(start.start_s)
    return document


def machine_text(machine: Machine) -> str:
    """A machine in one line.

    Example:
        >>> from fuselab.deploy.manifest import Machine
        >>> machine_text(Machine(torch="2.13.0", triton="3.7.1", cuda=None, python="cpython-311", system="Linux",
        ...     architecture="x86_64", libc="glibc 2.36", device_type="cpu", device="EPYC", cpu_isa="AVX2",
        ...     cpu_threads=2))
        'CPU EPYC, AVX2, 2 threads; torch 2.13.0, triton 3.7.1, cpython-311, Linux x86_64, glibc 2.36'
    """
    if machine.device_type == "cpu":
        device = f"CPU {machine.device}, {machine.cpu_isa}, {machine.cpu_threads} threads"
    else:
        device = f"{machine.device}, compute capability {machine.capability}, CUDA {machine.cuda}"
    rest = (
        f"torch {machine.torch}",
        f"triton {machine.triton or 'none'}",
        machine.python,
        f"{machine.system} {machine.architecture}",
        machine.libc,
    )
    return printable(f"{device}; {', '.join(rest)}")


def size_text(size: int) -> str:
    """Bytes for people.

    Example:
        >>> size_text(2_933_083), size_text(900)
        ('2.8 MiB', '900 B')
    """
    value, units = float(size), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if value < 1024 or unit == units[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError  # the last unit always returns


def _row(start: StartFigures) -> list[RenderableType]:
    counts = start.counts
    warm = start.way != "cold"
    faster = "-" if start.speedup is None else f"{start.speedup:.1f}x"
    wrong = Text("equal" if start.equal else "differ", "green" if start.equal else "bold red")
    return [
        start.way,
        start.direction,
        _seconds(statistics.median(start.start_s)),
        f"{_seconds(min(start.start_s))} to {_seconds(max(start.start_s))}",
        faster,
        str(counts.dynamo_graphs),
        *(_count(n, warm=warm) for n in (counts.inductor_graphs, counts.cpp, counts.triton)),
        wrong,
    ]


def _count(count: int, *, warm: bool) -> Text:
    return Text(str(count), "" if not warm else "bold red" if count else "green")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


def _times(starts: Sequence[StartFigures]) -> str:
    count = max((len(s.start_s) for s in starts), default=0)
    return f"{count} fresh process{'es' if count > 1 else ''} of each way, in random order"
