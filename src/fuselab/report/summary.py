"""What stands at the end of a run: the table over all experiments, where everything is, what to try next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Group, RenderableType
from rich.text import Text

from fuselab.records import Environment, Kernel, Measurement, RunMetadata
from fuselab.report.table import results_table

__all__ = ["next_step", "summary_view"]


class Outcome(Protocol):
    """A finished run, as the runner hands it over."""

    @property
    def path(self) -> Path:
        """Directory of the run."""

    @property
    def metadata(self) -> RunMetadata:
        """Its metadata."""

    @property
    def environment(self) -> Environment:
        """Where it ran."""

    @property
    def measurements(self) -> Sequence[Measurement]:
        """Its cells, verdicts settled."""


def summary_view(outcomes: Sequence[Outcome]) -> RenderableType:
    """The table over all runs, then one line a run with what was kept."""
    measurements = [m for outcome in outcomes for m in outcome.measurements]
    lines = Text()
    for outcome in outcomes:
        kernels = outcome.metadata.kernels
        lines.append(f"{_shown(outcome.path)}", style="bold")
        captured = f"{_counted(len(kernels), 'kernel')}, {_counted(_files(outcome), 'file')} captured"
        lines.append(f"  {captured}\n", style="dim")
    return Group(results_table(measurements, outcomes[0].environment), Text(), lines)


def next_step(outcomes: Sequence[Outcome]) -> str:
    """The next command to try: the kernel of the last run that does the most, else the run itself."""
    for outcome in reversed(outcomes):
        kernels = [k for k in outcome.metadata.kernels if k.backend != "extern"]
        if kernels:
            kernel = max(kernels, key=_work)
            return f"next: fuselab show {_shown(outcome.path)} --kernel {kernel.name}"
    return f"next: fuselab show {_shown(outcomes[-1].path)}"


def _work(kernel: Kernel) -> int:
    return len(kernel.operations)


def _files(outcome: Outcome) -> int:
    return sum(artifact.path is not None for artifact in outcome.metadata.artifacts)


def _shown(path: Path) -> str:
    """The path as a person would type it: relative where the run is below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
