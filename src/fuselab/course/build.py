"""Builds the course's notebooks from their text sources, executes them, and finds what went stale.

::

    python -m fuselab.course.build                      # what differs from the sources, what is stale: exit 1
    python -m fuselab.course.build --execute    # the same, and every cell is run in a copy of the folder
    python -m fuselab.course.build --write --execute  # and the notebooks are replaced

The sources are MyST Markdown, read by jupytext; cells are run by nbclient, as Jupyter runs them. Outputs are
cleaned of what only this machine knows; a path or a user name that is left in one is an error.
"""

from __future__ import annotations

import argparse
import getpass
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fuselab.course import recorded
from fuselab.course.cells import NAMES, directory

__all__ = ["build", "executed", "main", "problems"]

CELL_DEADLINE_S = 900
WIDGET = "application/vnd.jupyter.widget-view+json"
SHORT_WORDS = 4
"""A user name shorter than this is part of too many words to be looked for."""

_PATH = re.compile(r"(?<![\w:/.<])/(?:home|root|tmp|work|Users|usr|opt|var|mnt|private)/[\w.@+~/-]+")


def build(name: str) -> Any:
    """A notebook from its source, figures filled in, without outputs.

    Args:
        name: of the notebook, without ending.
    """
    import jupytext  # type: ignore[import-untyped]

    notebook = jupytext.read(directory() / f"{name}.md", fmt="md:myst")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        cell["metadata"] = {}
        if cell.cell_type == "markdown":
            cell["source"] = recorded.fill(cell["source"])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def executed(notebook: Any, say: Any = lambda _: None) -> Any:
    """Run every cell in a copy of the course's folder; raises what a cell raises.

    Args:
        notebook: as ``build`` makes it.
        say: is told how far it came.
    """
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory(prefix="fuselab-course-") as folder:
        place = Path(folder) / "course"
        shutil.copytree(directory(), place, ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints", "*.ipynb"))
        client = NotebookClient(
            notebook,
            timeout=CELL_DEADLINE_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(place)}},
            on_cell_executed=lambda cell, cell_index, execute_reply: say(_progress(notebook, cell_index)),
        )
        client.execute()
    return _cleaned(notebook)


def _progress(notebook: Any, index: int) -> str:
    first = notebook.cells[index].source.strip().splitlines()[0]
    return f"{index + 1}/{len(notebook.cells)} {first[:70]}"


def _cleaned(notebook: Any) -> Any:
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell["metadata"] = {}
        if cell.cell_type == "code":
            cell["outputs"] = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def written(name: str, directory_of: Path | None = None) -> Any:
    """The notebook as it lies beside its source, or None."""
    import nbformat

    path = (directory_of or directory()) / f"{name}.ipynb"
    return nbformat.read(path, as_version=4) if path.is_file() else None  # type: ignore[no-untyped-call]


def problems(name: str) -> list[str]:
    """What is wrong with a notebook that lies beside its source: drift, stale figures, missing outputs, paths."""
    wanted, found = build(name), written(name)
    if found is None:
        return [f"{name}.ipynb is not there"]
    said = []
    if len(wanted.cells) != len(found.cells):
        said.append(f"{name}: the source has {len(wanted.cells)} cells, the notebook {len(found.cells)}")
    for number, (new, old) in enumerate(zip(wanted.cells, found.cells, strict=False), 1):
        if (new.cell_type, new.source) != (old.cell_type, old.source):
            first = next((a for a, b in zip(_lines(new), _lines(old), strict=False) if a != b), new.source[:60])
            said.append(f"{name}: cell {number} is not that of the source, or a figure in it is stale: {first!r}")
        if old.cell_type == "code" and old.execution_count is None:
            said.append(f"{name}: cell {number} was not executed")
    return said + list(leaks(found, name))


def _lines(cell: Any) -> list[str]:
    return str(cell.source).splitlines()


def leaks(notebook: Any, name: str) -> Iterator[str]:
    """Paths of a machine, and the user's name, that outputs show."""
    user = getpass.getuser()
    names = re.compile(rf"\b{re.escape(user)}\b") if len(user) >= SHORT_WORDS and user != "root" else None
    for number, cell in enumerate(notebook.cells, 1):
        for text in _texts(cell):
            found = _PATH.search(text) or (names.search(text) if names else None)
            if found:
                yield f"{name}: cell {number} shows {found.group()!r}"
                break


def _texts(cell: Any) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield "".join(output.get("text", ""))
        for value in output.get("data", {}).values():
            yield value if isinstance(value, str) else "".join(value) if isinstance(value, list) else ""


def errors(notebook: Any, name: str) -> list[str]:
    """Cells that raised."""
    return [
        f"{name}: cell {number} raised {output.ename}: {output.evalue}"
        for number, cell in enumerate(notebook.cells, 1)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def write(name: str, notebook: Any) -> None:
    """Put a notebook beside its source; cells that were not run keep the outputs they had there."""
    import nbformat

    before = written(name)
    kept = {cell.source: cell for cell in before.cells if cell.cell_type == "code"} if before else {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count is None and cell.source in kept:
            cell["outputs"], cell["execution_count"] = kept[cell.source].outputs, kept[cell.source].execution_count
    nbformat.write(notebook, directory() / f"{name}.ipynb")  # type: ignore[no-untyped-call]


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuselab.course.build", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="notebooks; both unless given")
    parser.add_argument("--execute", action="store_true", help="run every cell, in a copy of the folder")
    parser.add_argument("--write", action="store_true", help="replace the notebooks by what was built")
    asked = parser.parse_args(arguments)
    said: list[str] = []
    for name in asked.names or NAMES:
        notebook = build(name)
        if asked.execute:
            start = time.monotonic()
            notebook = executed(notebook, lambda line: _say(f"  {line}"))
            _say(f"{name}: every cell ran, {time.monotonic() - start:.0f} s")
            said += [*errors(notebook, name), *leaks(notebook, name)]
        if asked.write:
            write(name, notebook)
        said += problems(name)
    for line in said:
        _say(line)
    return 1 if said else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
