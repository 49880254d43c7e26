"""An inspection on a terminal: described devices side by side, what differs between them and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fuselab.offline.differences import differences
from fuselab.offline.results import Inspection, KernelResult, TargetResult, WorkloadResult
from fuselab.report import figures
from fuselab.report.text import one_line, printable

__all__ = ["inspection_view"]

_SENTENCE = 400
_LEGEND = (
    "registers a thread (+spilled)/shared bytes/warps, occupancy, what is expected to limit it, predicted time of a "
    "launch (~ predicted, >= from its bytes alone)"
)
_CALLS_SHOWN = 24


@dataclass(frozen=True)
class _Row:
    direction: str
    name: str
    cells: tuple[KernelResult | None, ...]


def inspection_view(found: Inspection) -> RenderableType:
    """A table a workload, the targets beside each other; below it what differs, what failed, and where all of it is."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    parts: list[RenderableType] = [
        Text.assemble(
            (printable(found.experiment), "bold"),
            f"  {found.variant}, {versions or 'no torch'}: ",
            (found.note, "yellow"),
        )
    ]
    for index in range(len(found.targets[0].workloads)):
        parts += [Text(), *_workload(found.targets, index)]
    parts.append(Text())
    parts += [Text(f"{t.target}: {printable(t.run)}", "dim", overflow="fold") for t in found.targets]
    parts.append(Text("a kernel in any stage: fuselab show RUN --kernel NAME --stage ttgir|ptx|sass|amdgcn", "dim"))
    return Group(*parts)


def _workload(targets: Sequence[TargetResult], index: int) -> Iterator[RenderableType]:
    results = [t.workloads[index] for t in targets]
    yield Text(printable(results[0].workload), "bold")
    rows = _rows(results)
    if rows:
        yield from _names(rows)
        yield _table(targets, rows)
        yield Text(_LEGEND, "dim")
        yield from _predicted(targets, results)
    yield from _calls(results)
    for target, result in zip(targets, results, strict=True):
        if not result.ok:
            yield Text(f"{target.target}: {printable(result.reason, chr(10))}", "red", overflow="fold")
        for failure in result.failures:
            text = (
                f"{target.target}: {printable(failure.kernel)} does not compile: {one_line(failure.error, _SENTENCE)}"
            )
            yield Text(text, "red", overflow="fold")
    yield from _templates(results)
    yield from _interpreted(targets, results)
    yield from _said("what differs", differences(targets, index))
    for text, names in _by_target(targets, [r.warnings for r in results]):
        yield Text(f"{names}: {one_line(text, _SENTENCE)}", "yellow", overflow="fold")


def _rows(results: Sequence[WorkloadResult]) -> list[_Row]:
    """Kernels by direction and name, each as often as the target that has it most often."""
    order: dict[tuple[str, str, int], list[KernelResult | None]] = {}
    for column, result in enumerate(results):
        seen: dict[tuple[str, str], int] = {}
        for kernel in result.kernels:
            key = (kernel.direction.value, kernel.name)
            count = seen[key] = seen.get(key, 0) + 1
            order.setdefault((*key, count), [None] * len(results))[column] = kernel
    return [_Row(direction, name, tuple(cells)) for (direction, name, _), cells in order.items()]


def _table(targets: Sequence[TargetResult], rows: Sequence[_Row]) -> Table:
    """A kernel's name over its figures, so that six targets fit beside each other."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for target in targets:
        table.add_column(f"{target.target} {target.arch}", overflow="fold")
    for number, row in enumerate(sorted(rows, key=lambda r: r.direction != "forward"), 1):
        table.add_row(Text(f"{number}", "bold"), *[_cell(kernel) for kernel in row.cells])
    return table


def _names(rows: Sequence[_Row]) -> Iterator[Text]:
    """Kernels by number, with how often a call launches them."""
    for number, row in enumerate(sorted(rows, key=lambda r: r.direction != "forward"), 1):
        first = next(kernel for kernel in row.cells if kernel is not None)
        times = f" x{first.launches}" if first.launches and first.launches > 1 else ""
        yield Text.assemble(
            (f"{number:3} ", "bold"),
            (f"{row.direction:9}", "dim"),
            printable(row.name),
            (times, "dim"),
            overflow="fold",
        )


def _cell(kernel: KernelResult | None) -> Text:
    if kernel is None:
        return Text("not generated", "dim")
    if kernel.backend == "extern":
        return Text("library", "dim")
    if kernel.registers is None:
        return Text("not compiled", "yellow")
    spilled = f"+{kernel.spills}" if kernel.spills else ""
    words = f"{kernel.registers}{spilled}/{kernel.shared_bytes or 0}/{kernel.num_warps}"
    if kernel.occupancy is not None:
        words += f" {kernel.occupancy:.0%}"
    if kernel.limiter:
        words += f" {kernel.limiter}"
    if kernel.recorded is not None and kernel.recorded.time_us is not None:
        words += f" {kernel.recorded.time_us:.3g}us measured"
    if kernel.predicted is not None:
        words += f" {'>=' if kernel.predicted.only_memory else '~'}{kernel.predicted.time_us:.3g}us"
    return Text(words, "yellow" if kernel.spills else "")


def _predicted(targets: Sequence[TargetResult], results: Sequence[WorkloadResult]) -> Iterator[Text]:
    """By target: the kernels' predicted times together, with their error bar, and what they rest on."""
    for target, result in zip(targets, results, strict=True):
        found = [(k.predicted, k.launches or 1) for k in result.kernels if k.predicted is not None]
        if not found:
            continue
        time, low, high = (sum(getattr(p, name) * n for p, n in found) for name in ("time_us", "low_us", "high_us"))
        left = sum(k.predicted is None for k in result.kernels)
        without = f", without {left} library calls or kernels that are not predicted" if left else ""
        least = "at least " if any(p.only_memory for p, _ in found) else ""
        yield Text(
            f"{target.target}: {least}{time:.4g} us ({low:.4g} to {high:.4g}) for {len(found)} kernels{without}; "
            f"{found[0][0].basis}",
            "dim",
            overflow="fold",
        )


def _templates(results: Sequence[WorkloadResult]) -> Iterator[Text]:
    """What Inductor would time of library calls and templates; the same choice once, with how often it comes."""
    counts: dict[tuple[str, int, str, str], int] = {}
    for choice in results[0].templates:
        last = choice.candidates[-1] if choice.candidates else ""
        key = (choice.operator, len(choice.candidates), choice.shown, last)
        counts[key] = counts.get(key, 0) + 1
    for (operator, candidates, shown, last), times in counts.items():
        again = f" x{times}" if times > 1 else ""
        yield Text(
            printable(
                f"{operator}{again}: {candidates} candidates would be timed on the device, shown as {shown}; the last "
                f"is {one_line(last, _SENTENCE)} (all of them with --json)"
            ),
            "dim",
            overflow="fold",
        )


def _interpreted(targets: Sequence[TargetResult], results: Sequence[WorkloadResult]) -> Iterator[Text]:
    """By target: whether the interpreted kernels gave eager's results, on what, and what was not checked."""
    for target, result in zip(targets, results, strict=True):
        run = result.interpreted
        if run is None:
            continue
        ran = sum(kernel.launches > 0 for kernel in run.kernels)
        on = " ".join(f"{name}={shape}" for name, shape in run.inputs.items())
        words = {
            "agrees": f"{ran} of {len(run.kernels)} kernels interpreted on {on}: "
            f"{len(run.tensors)} results agree with eager",
            "differs": f"interpreted, the results are not eager's: {one_line(run.reason, _SENTENCE)}",
            "not run": f"not interpreted: {one_line(run.reason, _SENTENCE)}",
        }[run.status]
        style = {"agrees": "green", "differs": "red"}.get(run.status, "yellow")
        yield Text(f"{target.target}: {printable(words)}", style, overflow="fold")
        limits: dict[str, int] = {}
        for kernel in run.kernels:
            for limit in kernel.cannot:
                limits[limit] = limits.get(limit, 0) + 1
        said = [f"{limit} ({count} kernels)" if count > 1 else limit for limit, count in limits.items()]
        said += [f"run by the CPU: {', '.join(run.libraries)}"] if run.libraries else []
        for text in (*said, *run.notes):
            yield Text(f"  {printable(text)}", "dim", overflow="fold")


def _calls(results: Sequence[WorkloadResult]) -> Iterator[RenderableType]:
    """What libraries run; the same for all targets unless it is listed among the differences."""
    calls = results[0].calls
    if not calls:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("library call", "direction", "reads", "writes"):
        table.add_column(column, overflow="fold")
    table.add_column("GFLOP", justify="right")
    for call in calls[:_CALLS_SHOWN]:
        flops = figures.NOTHING if call.flops is None else f"{call.flops / 1e9:.4g}"
        table.add_row(
            printable(call.operator), call.direction.value, " ".join(call.inputs), " ".join(call.outputs), flops
        )
    yield table
    if len(calls) > _CALLS_SHOWN:
        yield Text(f"and {len(calls) - _CALLS_SHOWN} more; all of them with --json", "dim")


def _said(title: str, sentences: Sequence[str]) -> Iterator[RenderableType]:
    if sentences:
        yield Text(title, "bold")
        for sentence in sentences:
            yield Text(f"  {printable(sentence)}", overflow="fold")


def _by_target(targets: Sequence[TargetResult], texts: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Each text once, with the targets that it is about."""
    names: dict[str, list[str]] = {}
    for target, said in zip(targets, texts, strict=True):
        for text in said:
            names.setdefault(text, []).append(target.target)
    return [(text, "all" if len(about) == len(targets) > 1 else ", ".join(about)) for text, about in names.items()]
