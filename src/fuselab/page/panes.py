"""The way down: every stage of every kernel side by side, a line lit in all of them, as one part of the page.

The part is HTML without data, a script, a style and compressed documents (``panes_data``): the page puts each document
into ``<script type="application/octet-stream" id="data-NAME">`` as base64, and the script inflates what is opened. Text
from a run reaches the document by ``textContent`` alone. Lines are drawn only where they can be seen, so that a stage
may be long. There is no library: tokens of seven languages are a regular expression each, and a virtual list is short.

Addresses: ``#kernel/RUN/KERNEL`` and ``#line/RUN/KERNEL/STAGE/LINE``, each piece percent-encoded.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from urllib.parse import quote

import jinja2
import msgspec
from markupsafe import Markup

from fuselab.page.panes_data import build
from fuselab.page.panes_texts import Limits, Texts
from fuselab.store import Run

__all__ = ["Limits", "Panes", "kernel_anchor", "line_anchor", "panes"]


class Panes(msgspec.Struct, frozen=True, kw_only=True):
    """What the page puts together."""

    html: Markup
    """One ``<section>``."""
    script: str
    """To be placed after the section and the data."""
    style: str
    """Uses the page's ``--bg``, ``--fg``, ``--muted``, ``--line``, ``--accent``, ``--panel``, ``--code-bg``."""
    data: dict[str, bytes]
    """Gzip-compressed JSON by name, for ``<script type="application/octet-stream" id="data-NAME">`` in base64."""


def panes(runs: Sequence[Run], *, redact: Callable[[str], str], limits: Limits | None = None) -> Panes:
    """The part of a page that shows the code of all runs, from the user's line to the machine code.

    Args:
        runs: in the order of the page; their places are the first piece of the addresses.
        redact: applied to every text that comes from a run; it has to keep the lines apart.
        limits: how much of the runs goes into the page.

    Raises:
        StoreError: the metadata of a run cannot be read. Any other file that cannot is absent, with the reason.
    """
    index, data = build(runs, Texts(redact=redact, limits=limits or Limits()))
    listed = index["kernels"]
    html = _template().render(
        kernels=[(kernel, kernel_anchor(kernel["run"], kernel["id"])) for kernel in listed[:_WITHOUT_SCRIPT]],
        more=max(len(listed) - _WITHOUT_SCRIPT, 0) + index["left_out"],
        breaks=index["breaks"],
        breaks_title=_counted(index["breaks"]),
        count=len(listed),
    )
    return Panes(html=Markup(html), script=_script(), style=_static("panes.css"), data=data)  # noqa: S704 - autoescaped


def kernel_anchor(run: int, kernel_id: str) -> str:
    """Address of a kernel within the page, of its redacted id if the page is redacted.

    Example:
        >>> kernel_anchor(0, "compile/8x8 f32/forward/triton_0")
        '#kernel/0/compile%2F8x8%20f32%2Fforward%2Ftriton_0'
    """
    return f"#kernel/{run}/{_piece(kernel_id)}"


def line_anchor(run: int, kernel_id: str, stage: str, line: int) -> str:
    """Address of a line: ``stage`` as in ``fuselab.records.Stage``, or ``user`` for a line of the user's first file.

    Example:
        >>> line_anchor(1, "compile/a/forward/k", "ptx", 40)
        '#line/1/compile%2Fa%2Fforward%2Fk/ptx/40'
    """
    return f"#line/{run}/{_piece(kernel_id)}/{_piece(stage)}/{line}"


_WITHOUT_SCRIPT = 200
"""Kernels that are named where no script runs."""


def _counted(breaks: Sequence[dict[str, object]]) -> str:
    counts = {kind: sum(one["kind"] == kind for one in breaks) for kind in ("graph break", "recompile")}
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count)


def _piece(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _script() -> str:
    parts = [_static(f"panes.{part}.js") for part in ("texts", "relations", "pane", "view")]
    return f'(() => {{\n"use strict";\n{"".join(parts)}}})();\n'


def _static(name: str) -> str:
    return importlib.resources.files("fuselab.page").joinpath("static", name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    text = importlib.resources.files("fuselab.page").joinpath("templates/panes.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
