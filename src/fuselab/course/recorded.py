"""Results that were recorded on a GPU, for readers without one: tables, and figures that prose takes by reference.

The files are those of ``benchmarks/results``; an installed package carries copies. Nothing in the course writes a
measured figure down: prose holds references such as ``{{speedup rms_norm 16384x4096 forward triton}}``, which
``build`` replaces, so a figure cannot differ from its record.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fuselab.course.display import Rows, Shown, Stack, from_terminal
from fuselab.errors import SetupError, UsageError
from fuselab.measure.verdicts import settle
from fuselab.records import Direction, Environment, Measurement, RunMetadata, Verdict
from fuselab.report import figures
from fuselab.runner import Outcome

__all__ = ["expectations", "figure", "fill", "label", "measurement", "outcome", "references", "table"]

MAIN = "h200-quick"
"""The recorded run that figures are from: the four experiments, preset quick."""

HERE = Path(__file__).parent
REFERENCE = re.compile(r"\{\{([a-z][^{}]*)\}\}")
COMPARED = ("eager", "compile", "triton")


def _directory() -> Path:
    for candidate in (HERE / "results", HERE.parents[2] / "benchmarks" / "results"):
        if (candidate / f"{MAIN}.json").is_file():
            return candidate
    raise SetupError("the recorded results are not installed", hint="pip install --force-reinstall fuselab")


@functools.cache
def document(name: str = MAIN) -> Any:
    """A file of recorded results, as it is."""
    return json.loads((_directory() / f"{name}.json").read_text(encoding="utf-8"))


@functools.cache
def outcome(experiment: str, name: str = MAIN) -> Outcome:
    """The recorded run of an experiment.

    Raises:
        UsageError: it was not recorded.
    """
    runs = {run["metadata"]["experiment"]: run for run in document(name)["runs"]}
    if experiment not in runs:
        raise UsageError(f"{experiment} was not recorded", hint=f"recorded: {', '.join(runs)}")
    run = runs[experiment]
    measurements = settle([msgspec.convert(m, Measurement) for m in run["measurements"]])
    return Outcome(
        path=Path(f"recorded/{experiment}"),
        metadata=msgspec.convert(run["metadata"], RunMetadata),
        environment=msgspec.convert(run["environment"], Environment),
        measurements=tuple(measurements),
    )


def label(name: str = MAIN) -> str:
    """Where and when: what stands above everything recorded.

    Example:
        >>> label()
        'recorded on NVIDIA H200, torch 2.11.0, triton 3.6.0, 2026-11-23'
    """
    run = document(name)["runs"][0]
    versions = run["environment"]["versions"]
    day = run["metadata"]["created_at"][:10]
    return f"recorded on {run['environment']['device']}, torch {versions['torch']}, triton {versions['triton']}, {day}"


def table(experiment: str, words: str = "", name: str = MAIN) -> Shown:
    """The recorded table of an experiment, or of the workloads and directions that have all of ``words``."""
    from fuselab.report.table import results_table

    found = outcome(experiment, name)
    wanted = [m for m in found.measurements if _has(m, words.split())]
    if not wanted:
        raise UsageError(
            f"nothing recorded of {experiment} is {words!r}", hint="shapes and directions, as in the table"
        )
    head = Shown(f"<p><b>{label(name)}</b></p>", label(name))
    return Stack(head, from_terminal(results_table(wanted, found.environment)))


def _has(cell: Measurement, words: Sequence[str]) -> bool:
    known = {*cell.workload.label.split(), cell.direction.value, cell.variant, cell.experiment}
    return all(word in known for word in words)


def measurement(words: str) -> Measurement:
    """The one recorded cell that has all of ``words``: experiment, shape or option, direction, variant.

    Raises:
        UsageError: there is none, or more than one.

    Example:
        >>> measurement("rms_norm 16384x4096 forward triton").variant
        'triton'
    """
    experiment, *rest = words.split()
    found = [m for m in outcome(experiment).measurements if _has(m, rest)]
    if len(found) != 1:
        raise UsageError(f"{words!r} names {len(found)} recorded cells, not one", hint="add the shape or the direction")
    return found[0]


def _time(words: str) -> str:
    median = measurement(words).median_ns
    if median is None:
        raise UsageError(f"{words!r} was not timed")
    return f"{median / 1000:.3g} us"


def _speedup(words: str) -> str:
    comparison = measurement(words).comparison
    if comparison is None or comparison.speedup is None or comparison.verdict is Verdict.WITHHELD:
        raise UsageError(f"{words!r} has no speedup that is shown")
    return f"{comparison.speedup:.3g}x"


def _slower(words: str) -> str:
    comparison = measurement(words).comparison
    if comparison is None or comparison.speedup is None or comparison.verdict is not Verdict.SLOWER:
        raise UsageError(f"{words!r} is not slower than its baseline")
    return f"{1 / comparison.speedup:.3g}x"


def _share(words: str) -> str:
    ceiling = measurement(words).ceiling
    if ceiling is None:
        raise UsageError(f"{words!r} has no ceiling")
    return f"{ceiling.share:.0%}"


def _kernels(words: str) -> str:
    return str(measurement(words).kernels_launched)


def _moved(words: str) -> str:
    traffic = measurement(words).traffic
    if traffic is None:
        raise UsageError(f"nobody counted the bytes of {words!r}")
    return f"{traffic.bytes_moved / 1e6:.0f} MB"


def _ceiling(words: str) -> str:
    ceiling = measurement(words).ceiling
    if ceiling is None:
        raise UsageError(f"{words!r} has no ceiling")
    return f"{ceiling.bytes_per_s / 1e12:.2f} TB/s"


def _saved(words: str) -> str:
    saved = measurement(words).saved_bytes
    if saved is None:
        raise UsageError(f"what {words!r} saves was not recorded")
    return f"{saved / 1e6:.0f} MB"


def _times(words: str) -> str:
    """How many times longer the first cell takes than the second: ``times rms_norm 16384x4096 forward : a : b``."""
    common, first, second = (part.strip() for part in words.split(":"))
    slow, fast = measurement(f"{common} {first}").median_ns, measurement(f"{common} {second}").median_ns
    if slow is None or fast is None:
        raise UsageError(f"{words!r} was not timed")
    return f"{slow / fast:.3g}x"


def _limiter(words: str) -> str:
    experiment, *rest = words.split()
    for kernel in document("h200-limiters")["kernels"]:
        place = {*kernel["workload"].split(), *kernel["card"]["kernel_id"].split("/"), kernel["card"]["name"]}
        if kernel["experiment"] == experiment and all(word in place for word in rest):
            return str(kernel["measured"]["judged"]["limiter"])
    raise UsageError(f"no limiter was recorded for {words!r}")


def _identical(_: str) -> str:
    found = document("h200-fidelity")
    return f"{found['identical']} of {found['kernels']}"


def _device(_: str) -> str:
    return str(document()["runs"][0]["environment"]["device"])


_KINDS: dict[str, Callable[[str], str]] = {
    "ceiling": _ceiling,
    "device": _device,
    "identical": _identical,
    "kernels": _kernels,
    "label": lambda _: label(),
    "limiter": _limiter,
    "moved": _moved,
    "saved": _saved,
    "share": _share,
    "slower": _slower,
    "speedup": _speedup,
    "time": _time,
    "times": _times,
}


def figure(reference: str) -> str:
    """A recorded figure by its reference: what prose holds between ``{{`` and ``}}``.

    Raises:
        UsageError: an unknown kind of figure, or nothing recorded has it.

    Example:
        >>> figure("kernels layer_norm_gelu 16384x4096 forward eager")
        '2'
    """
    kind, _, words = reference.strip().partition(" ")
    if kind not in _KINDS:
        raise UsageError(f"no kind of figure is {kind!r}", hint=f"kinds: {', '.join(sorted(_KINDS))}")
    return _KINDS[kind](words.strip())


def references(text: str) -> list[str]:
    """Every reference to a recorded figure in a text."""
    return REFERENCE.findall(text)


def fill(text: str) -> str:
    """The text with every reference replaced by its figure.

    Example:
        >>> fill("eager launches {{kernels layer_norm_gelu 16384x4096 forward eager}} kernels")
        'eager launches 2 kernels'
    """
    return REFERENCE.sub(lambda match: figure(match.group(1)), text)


def _cell_text(cell: Measurement | None) -> str:
    if cell is None or cell.median_ns is None:
        return "-"
    time = figures.duration(cell.median_ns, cell.low_ns, cell.high_ns)
    comparison = cell.comparison
    if comparison is None or comparison.verdict is Verdict.BASELINE:
        return time
    if comparison.verdict is Verdict.WITHHELD or comparison.speedup is None:
        return f"{time}, withheld"
    return f"{time}, {comparison.speedup:.2f}x {comparison.verdict.value}"


def expectation_rows() -> list[tuple[str, str, str, str, str, str]]:
    """What an H200 did: a row an experiment, workload and direction; eager, compiled, ours."""
    rows = []
    for run in document()["runs"]:
        found = outcome(run["metadata"]["experiment"])
        for workload in found.metadata.plan:
            for direction in Direction:
                cells = {m.variant: m for m in found.measurements if (m.workload, m.direction) == (workload, direction)}
                texts = [_cell_text(cells.get(name)) for name in COMPARED]
                rows.append((found.metadata.experiment, workload.label, direction.value, *texts))
    return rows  # type: ignore[return-value]


def expectations() -> Shown:
    """The table of expectations, as the README has it."""
    columns = ("experiment", "workload", "direction", "eager", "torch.compile", "our Triton")
    return Rows(columns, expectation_rows(), title=label())


def expectations_markdown() -> str:
    """The same as a Markdown table."""
    lines = ["| experiment | workload | direction | eager | torch.compile | our Triton |", "| --- " * 6 + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in expectation_rows()]
    return "\n".join([f"{label()[0].upper()}{label()[1:]}.", "", *lines])
