"""The start of a notebook: what is here, what is shown instead of what is not, and help for a cell run out of order.

``device`` is the switch: ``auto`` takes a GPU where there is one, ``cpu`` and ``cuda`` insist.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuselab.course import cells as source_cells
from fuselab.course.display import Rows, Shown, from_terminal, quietly
from fuselab.errors import FuselabError, UsageError

__all__ = ["Lesson", "cell_needed", "load", "results", "run", "start", "text"]

BUDGET_S = 0.4
"""Seconds of timing for a variant and cell: short, because a lesson shows how, and a run of one's own measures."""


@dataclass(frozen=True)
class Lesson:
    """A notebook that was started."""

    name: str
    """Of the notebook."""
    device: str
    """``cpu`` or ``cuda``: what the cells run on."""
    triton: bool
    """Whether triton can be imported."""
    here: Mapping[str, str]
    """What was found, by what was looked for."""

    def _repr_html_(self) -> str:
        return self._rows()._repr_html_()

    def __repr__(self) -> str:
        return repr(self._rows())

    def _rows(self) -> Shown:
        return Rows(("on this machine", ""), list(self.here.items()), title=f"{self.name}: cells run on {self.device}")

    @property
    def variants(self) -> list[str]:
        """What is compared with eager: compiled, and fuselab's Triton kernel where it runs natively."""
        return ["compile", "triton"] if self.device == "cuda" else ["compile"]

    def shape(self, gpu: str, cpu: str) -> str:
        """A size that suits the device: the GPU's own, or one that two cores take in a moment."""
        return gpu if self.device == "cuda" else cpu


def start(notebook: str, device: str = "auto") -> Lesson:
    """Look at the machine, and have a cell that is run too early say which cell it needs.

    Args:
        notebook: its name without ending.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: no notebook has that name, or that device does not exist.
        SetupError: a GPU was asked for and there is none.
    """
    if notebook not in source_cells.NAMES:
        raise UsageError(f"no notebook is called {notebook!r}", hint=f"there are {' and '.join(source_cells.NAMES)}")
    from fuselab.device import resolve

    found = resolve(device)
    triton = importlib.util.find_spec("triton") is not None
    _explain_names(notebook)
    return Lesson(notebook, found, triton, _here(found, triton))


def _here(device: str, triton: bool) -> dict[str, str]:
    import torch

    rows = {"torch": str(torch.__version__)}
    if triton:
        import triton as installed

        rows["triton"] = installed.__version__
    else:
        rows["triton"] = (
            "not installed: your kernels are not checked here; the graphs and the recorded results are shown"
        )
    if device == "cuda":
        rows["GPU"] = torch.cuda.get_device_name()
    else:
        rows["GPU"] = (
            "not used: times are the CPU's; GPU kernels are generated for described devices, GPU times are recorded"
        )
    rows["threads"] = str(torch.get_num_threads())
    return rows


def run(*what: Any, **settings: Any) -> Any:
    """``fuselab.run`` with a lesson's small budget, in silence: the one outcome is what the cell shows.

    The checks and timings run in this process (``isolate=False``), which saves a lesson the start of two processes a
    variant. A run of your own should keep them apart.
    """
    import fuselab

    settings = {"budget_s": BUDGET_S, "isolate": False, **settings}
    with quietly():
        (outcome,) = fuselab.run(*what, **settings)
    return outcome


def results(outcome: Any) -> Shown:
    """The table of an outcome, as ``fuselab run`` prints it."""
    from fuselab.report.table import results_table

    return from_terminal(results_table(outcome.measurements, outcome.environment))


def load(path: str, *names: str) -> Any:
    """Functions of a file of the course, imported afresh: an edit of the file is seen by the next call.

    Raises:
        UsageError: there is no such file here; says where the notebook has to be run.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{path} is not below this directory", hint="start Jupyter in the notebook's own directory")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    found = [getattr(module, name) for name in names]
    return found[0] if len(found) == 1 else found


def text(path: str) -> Shown:
    """A file of the course, to read."""
    from fuselab.course.display import Code

    return Code(Path(path).read_text(encoding="utf-8"), "python", path)


def _explain_names(notebook: str) -> None:
    """A NameError says which cell makes the name; an error of fuselab's is the sentence that it is."""
    shell = _shell()
    if shell is None:
        return

    def explain(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: int | None = None) -> None:
        words = str(error) if isinstance(error, FuselabError) else cell_needed(error.name, notebook)
        if words:
            print(words, file=sys.stderr)  # noqa: T201 - where a notebook shows errors
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset, exception_only=bool(words))

    shell.set_custom_exc((NameError, FuselabError), explain)


def cell_needed(name: str, notebook: str) -> str:
    """Which cell has to be run first; empty where no cell makes the name.

    Example:
        >>> print(cell_needed("fuselab", "pytorch-triton-basics").splitlines()[0])
        fuselab is not there yet. Run this cell first, under "Start":
    """
    cell = source_cells.made_by(name, notebook)
    if cell is None:
        return ""
    first = "\n".join(f"    {line}" for line in cell.text.strip().splitlines()[:3])
    return f'{name} is not there yet. Run this cell first, under "{cell.heading}":\n{first}'


def _shell() -> Any:
    try:
        from IPython import get_ipython  # type: ignore[attr-defined]
    except ImportError:
        return None
    return get_ipython()  # type: ignore[no-untyped-call]
