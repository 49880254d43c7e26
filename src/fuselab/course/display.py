"""What a cell shows: code, tables, pictures and the terminal's views, each as HTML with a plain text beside it.

A notebook that is read as text (a terminal, a diff) has the plain form; nothing here prints.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Code", "Rows", "Shown", "Stack", "bars", "card", "from_terminal", "plain_paths", "quietly", "show"]

VIEWS = {
    "Check": ("checks", "checks_table"),
    "CompileCost": ("compile_cost", "compile_cost_view"),
    "Diagnosis": ("diagnosis", "diagnosis_view"),
    "Inspection": ("inspect", "inspection_view"),
    "LineView": ("chain", "render_line"),
    "Outcome": ("table", "results_table"),
    "Proof": ("pack", "proof_view"),
    "Report": ("env", "report_view"),
}
"""By the name of a record, what the command line shows it with: report's modules, imported when needed."""

OWN_HTML = ("CompileCost",)
"""Records that draw themselves better than a terminal does."""

_STYLE = "text-align:left;padding:2px 14px 2px 0;vertical-align:top"
_FILE = re.compile(r"(?<![\w:/.<])(?:(?:/[\w.@+~-]+){2,}|/(?:home|root|tmp|work|opt|usr|var|mnt|Users))/(?=[\w.@+-]+)")
_OWNER = re.compile(r"\btorchinductor_\w+")


def plain_paths(text: str) -> str:
    """The text with directories of this machine cut from paths: no cell shows where somebody works.

    Example:
        >>> plain_paths("# File: /home/me/work/first.py:7 in block")
        '# File: first.py:7 in block'
    """
    return _OWNER.sub("torchinductor_you", _FILE.sub("", text))


@dataclass(frozen=True)
class Shown:
    """Anything with an HTML form and a plain one."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


class Code(Shown):
    """A piece of generated code with its language's colours.

    Example:
        >>> Code("x = 1", "python")
        x = 1
    """

    def __init__(self, text: str, language: str, title: str = "", most: int = 400) -> None:
        from pygments import highlight  # type: ignore[import-untyped]
        from pygments.formatters.html import HtmlFormatter  # type: ignore[import-untyped]
        from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]

        lines = plain_paths(text).rstrip().splitlines()
        kept = "\n".join(lines[:most])
        left = f"\n... {len(lines) - most} more lines" if len(lines) > most else ""
        # Lines of generated code are long: they are scrolled, since wrapped ones hide where a line begins.
        formatter = HtmlFormatter(noclasses=True, nobackground=True, prestyles="white-space:pre;overflow-x:auto")
        body = highlight(kept, get_lexer_by_name(language), formatter)
        head = f"<b>{escape(title)}</b>" if title else ""
        plain = (f"{title}\n" if title else "") + kept + left
        super().__init__(f"{head}{body}{escape(left)}", plain)


class Rows(Shown):
    """A table: column names, rows of anything, a line below it.

    Example:
        >>> Rows(("a", "b"), [(1, "x")])
        a  b
        1  x
    """

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "", title: str = ""
    ) -> None:
        cells = [[plain_paths(str(value)) for value in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
        lines = ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in [columns, *cells]]
        super().__init__(_table(columns, cells, title, note), "\n".join(part for part in (title, *lines, note) if part))


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str, note: str) -> str:
    head = "".join(f'<th style="{_STYLE}">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_STYLE}">{escape(value)}</td>' for value in row) + "</tr>" for row in cells
    )
    above = f"<p><b>{escape(title)}</b></p>" if title else ""
    below = f"<p><small>{escape(note)}</small></p>" if note else ""
    return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


class Stack(Shown):
    """Several things below each other."""

    def __init__(self, *parts: Any) -> None:
        html = "".join(
            part._repr_html_() if hasattr(part, "_repr_html_") else f"<p>{escape(str(part))}</p>" for part in parts
        )
        super().__init__(html, "\n\n".join(str(part) for part in parts))


def show(record: Any) -> Shown:
    """What the command line prints for a record: a diagnosis, an inspection, a package's proof, checks, measurements.

    Raises:
        TypeError: there is no view of it.
    """
    if isinstance(record, Shown):
        return record
    plain = from_terminal(_view(record))
    return Shown(plain_paths(record._repr_html_()), plain.text) if type(record).__name__ in OWN_HTML else plain


def _view(record: Any) -> Any:
    kind = type(record).__name__
    if isinstance(record, Sequence) and record and type(record[0]).__name__ == "Check":
        kind = "Check"
    if kind not in VIEWS:
        raise TypeError(f"there is no view of {kind}; give it to the cell as it is")
    module, name = VIEWS[kind]
    view = getattr(importlib.import_module(f"fuselab.report.{module}"), name)
    return view(record.measurements, record.environment) if kind == "Outcome" else view(record)


def from_terminal(renderable: Any, width: int = 110) -> Shown:
    """A view of the command line as HTML with its colours, and as text."""
    from rich.console import Console

    console = Console(record=True, width=width, file=io.StringIO(), force_jupyter=False, force_terminal=True)
    console.print(renderable)
    code = console.export_html(inline_styles=True, code_format="{code}", clear=False)
    text = console.export_text()
    style = "font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:13px;line-height:1.25;overflow-x:auto"
    return Shown(f'<pre style="{style}">{plain_paths(code)}</pre>', plain_paths(text).rstrip())


def _no_displays() -> AbstractContextManager[object]:
    """In a notebook rich shows what it prints as a cell's output; that is turned away as well."""
    if "IPython" not in sys.modules:
        return nullcontext()
    from IPython.utils.capture import capture_output

    return capture_output()  # type: ignore[no-any-return]


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what a command says while it works, libraries' own lines included: the record it returns is shown.

    Libraries write to the file descriptors, which a notebook's kernel shows too, so those are turned away as well.
    """
    stdout, stderr = sys.stdout, sys.stderr
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with _no_displays():
            yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for number, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        os.close(nowhere)


def card(found: Mapping[str, Any]) -> Rows:
    """A kernel's card, a line a section."""
    from fuselab.report.card import card_lines

    pairs = [line.partition(": ") for line in card_lines(found)]
    return Rows(("section", "says"), [(head, rest) for head, _, rest in pairs])


def bars(values: Mapping[str, float], width: int = 40) -> str:
    """Bars of text.

    Example:
        >>> print(bars({"eager": 2.0, "ours": 1.0}, width=4))
        eager  ████  2
        ours   ██    1
    """
    most = max(values.values(), default=0.0) or 1.0
    room = max(map(len, values), default=0)
    return "\n".join(
        f"{name.ljust(room)}  {('█' * max(1, round(width * value / most))).ljust(width)}  {value:.3g}"
        for name, value in values.items()
    )
