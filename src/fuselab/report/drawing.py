"""What the drawn pictures share: one look, light and dark, and text that is safe in an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from fuselab.report.text import printable

__all__ = ["WIDTH", "document", "label"]

WIDTH = 880
"""Width of a picture."""

_CSS = """
.fuselab-cost{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.fuselab-cost .ground{fill:#ffffff}.fuselab-cost text{fill:#1f2328}.fuselab-cost .quiet{fill:#656d76}
.fuselab-cost .title{font-size:16px;font-weight:600}.fuselab-cost .head{font-weight:600}
.fuselab-cost .figures{font-variant-numeric:tabular-nums}.fuselab-cost .grid{stroke:#d8dee4}
.fuselab-cost .line{fill:none;stroke-width:2}.fuselab-cost .band{stroke:none;opacity:.16}
@media (prefers-color-scheme:dark){
.fuselab-cost .ground{fill:#0d1117}.fuselab-cost text{fill:#e6edf3}.fuselab-cost .quiet{fill:#8d96a0}
.fuselab-cost .grid{stroke:#30363d}
}
"""


def document(title: str, body: Sequence[str], height: int) -> str:
    """A self-contained SVG of ``WIDTH`` by ``height``.

    Args:
        title: what a screen reader says; any text.
        body: elements, escaped already.
        height: of the picture.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fuselab-cost" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img"><title>{escape(printable(title))}</title><style>{_CSS}</style>'
        f'<rect class="ground" width="100%" height="100%" rx="8"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """A piece of text.

    Args:
        x, y: where.
        text: any text.
        kind: its class.
        anchor: ``start``, ``middle`` or ``end``.

    Example:
        >>> label(10, 20, "a < b", "quiet")
        '<text x="10" y="20" class="quiet">a &lt; b</text>'
    """
    attributes = f' class="{kind}"' if kind else ""
    if anchor != "start":
        attributes += f' text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}"{attributes}>{escape(printable(text))}</text>'
