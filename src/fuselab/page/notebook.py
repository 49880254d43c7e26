"""The page in the output of a notebook's cell: the report in a frame, and a static picture beside it.

The frame is sandboxed and has no origin, so that what it shows can reach neither the notebook nor what the notebook
has stored. A viewer that drops frames and scripts (a repository's page, a mail) is left with the picture, which is an
image.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from fuselab.page.build import build
from fuselab.page.model import load
from fuselab.report.picture import svg
from fuselab.store import Run

__all__ = ["mimebundle"]

_HEIGHT = 760


def mimebundle(runs: Sequence[Run]) -> dict[str, str]:
    """What a notebook shows of some runs: ``text/html`` and ``image/svg+xml``.

    Raises:
        StoreError: a run cannot be read.
    """
    data = [load(run, index) for index, run in enumerate(runs)]
    picture = svg([cell for run in data for cell in run.cells], data[0].environment)
    encoded = base64.b64encode(picture.encode()).decode("ascii")
    names = escape(", ".join(run.metadata.experiment for run in data), quote=True)
    html = (
        f'<div><img alt="Speedup with intervals: {names}" src="data:image/svg+xml;base64,{encoded}" '
        f'style="max-width:100%">'
        f'<iframe title="Report: {names}" sandbox="allow-scripts" srcdoc="{escape(build(runs), quote=True)}" '
        f'width="100%" height="{_HEIGHT}" style="border:1px solid #8884;border-radius:8px;width:100%"></iframe></div>'
    )
    return {"text/html": html, "image/svg+xml": picture}
