"""What the charts are drawn with: a picture that grows by text, lines and marks; scales with round ticks.

Every text is escaped here. Colours are classes of ``static/page.css`` (``v0`` to ``v9`` for variants), so that light
and dark are the style sheet's matter. A mark has a title, which a browser shows on hover without any script, and ours
at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from markupsafe import Markup

from fuselab.report.text import printable

__all__ = ["NARROW", "WIDE", "Chart", "Drawing", "Scale", "beside", "cut", "number"]

WIDE = 1120
"""Width of a picture on a screen, in CSS pixels."""
NARROW = 358
"""Width of a picture on a phone of 390 pixels."""

CHARACTER = 6.7
"""Width of an average character at 12 px, upwards: fonts differ, and a text must not run into another."""

Shape = Literal["circle", "square", "triangle", "diamond", "down", "cross", "bar", "star"]
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond", "down", "cross", "bar", "star")


@dataclass(frozen=True)
class Chart:
    """One picture in the two widths that the style sheet chooses between."""

    wide: Markup
    narrow: Markup


def cut(text: str, width: float, character: float = CHARACTER) -> str:
    """The text cut to a width in pixels, with an ellipsis.

    Example:
        >>> cut("4096x14336 bf16 form=swiglu", 100)
        '4096x14336 bf…'
    """
    text = printable(text)
    most = max(int(width / character + 1e-9), 1)
    return text if len(text) <= most else text[: max(most - 1, 1)].rstrip() + "…"


def number(value: float) -> str:
    """A coordinate: two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


class Drawing:
    """A picture of a fixed width whose height is known when it is finished.

    Args:
        width: in CSS pixels.
        label: what a screen reader calls it.
    """

    def __init__(self, width: int, label: str) -> None:
        self.width = width
        self.narrow = width < WIDE / 2
        self._label = label
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", room: float | None = None
    ) -> None:
        """A piece of text, cut to ``room`` pixels; what was cut is in its title."""
        shown = cut(text, room) if room is not None else printable(text)
        attributes = f' class="{kind}"' if kind else ""
        attributes += "" if anchor == "start" else f' text-anchor="{anchor}"'
        title = "" if shown == printable(text) else f"<title>{escape(printable(text))}</title>"
        self._parts.append(f'<text x="{number(x)}" y="{number(y)}"{attributes}>{escape(shown)}{title}</text>')

    def heading(self, x: float, y: float, head: str, rest: str, room: float) -> None:
        """A name and what it is about, one after the other however wide the font is."""
        head = cut(head, room)
        rest = cut(rest, max(room - len(head) * CHARACTER - 10, 4 * CHARACTER))
        said = f'<tspan class="head">{escape(head)}</tspan><tspan class="quiet" dx="8">{escape(rest)}</tspan>'
        self._parts.append(f'<text x="{number(x)}" y="{number(y)}">{said}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._parts.append(
            f'<line class="{kind}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        if len(points) > 1:
            shown = "L".join(f"{number(x)},{number(y)}" for x, y in points)
            self._parts.append(f'<path class="{kind}" d="M{shown}"/>')

    def strokes(self, places: Sequence[tuple[float, float, float]], kind: str) -> None:
        """Upright strokes, each from ``y1`` to ``y2`` at ``x``, as one element however many there are."""
        if places:
            shown = "".join(f"M{number(x)},{number(y1)}V{number(y2)}" for x, y1, y2 in places)
            self._parts.append(f'<path class="{kind}" d="{shown}"/>')

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, title: str = "", radius: float = 0
    ) -> None:
        """A rectangle; with a title it answers to hovering."""
        corner = f' rx="{number(radius)}"' if radius else ""
        inner = f"<title>{escape(printable(title, keep=chr(10)))}</title>" if title else ""
        close = f">{inner}</rect>" if inner else "/>"
        self._parts.append(
            f'<rect class="{kind}" x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" '
            f'height="{number(max(height, 0))}"{corner}{close}'
        )

    def mark(
        self, x: float, y: float, place: int, title: str, href: str = "", kind: str = "", size: float = 4.5
    ) -> None:
        """The mark of a variant; with a place to go to it is a link.

        Args:
            x, y: its middle.
            place: number of the variant, for colour and shape.
            title: what is said on hover and by a screen reader.
            href: fragment of the page, with its ``#``.
            kind: further classes.
            size: half its width.
        """
        shape = outline(SHAPES[place % len(SHAPES)], x, y, size)
        drawn = f'<path class="mark v{place} {kind}" d="{shape}"/>'
        said = f"<title>{escape(printable(title, keep=chr(10)))}</title>"
        # A finger needs more room than a mark takes.
        target = f'<circle class="target" cx="{number(x)}" cy="{number(y)}" r="{number(size + 6)}"/>'
        if href:
            self._parts.append(f'<a href={quoteattr(href)} class="tip">{said}{target}{drawn}</a>')
        else:
            self._parts.append(f'<g class="tip">{said}{target}{drawn}</g>')

    def raw(self, markup: str) -> None:
        """Markup of ours that is escaped already."""
        self._parts.append(markup)

    def markup(self, height: float, kind: str = "") -> Markup:
        """The picture, as an element of the page and as a file of its own alike."""
        # role group, not img: what is in an img is hidden from those who cannot see, and its links with it.
        return Markup(  # noqa: S704 - every text was escaped on its way in
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart {kind}" width="{self.width}" '
            f'height="{number(height)}" '
            f'viewBox="0 0 {self.width} {number(height)}" role="group" aria-label={quoteattr(printable(self._label))}>'
            + "".join(self._parts)
            + "</svg>"
        )


def beside(number_of: int, of: int, step: float = 5.0) -> float:
    """How far to the side a mark is drawn that shares its place with others, in pixels; the middle one stays.

    Example:
        >>> [beside(n, 3) for n in range(3)]
        [-5.0, 0.0, 5.0]
    """
    return (number_of - (of - 1) / 2) * step


def outline(shape: Shape, x: float, y: float, r: float) -> str:
    """The path of a shape around a place."""
    n = number
    if shape == "circle":
        return f"M{n(x - r)},{n(y)}a{n(r)},{n(r)} 0 1 0 {n(2 * r)},0a{n(r)},{n(r)} 0 1 0 {n(-2 * r)},0Z"
    corners: dict[str, Sequence[tuple[float, float]]] = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "cross": tuple(
            (a, b)
            for a, b in (
                *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
                *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
            )
        ),
        "bar": ((-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)),
        "star": tuple(
            (
                (1.3 if i % 2 == 0 else 0.6) * math.sin(i * math.pi / 5),
                -(1.3 if i % 2 == 0 else 0.6) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ),
    }
    return "M" + "L".join(f"{n(x + a * r)},{n(y + b * r)}" for a, b in corners[shape]) + "Z"


class Scale:
    """From values to places, linear or logarithmic.

    Args:
        low, high: values at the ends; equal ends are set apart.
        start, end: places of the ends.
        log: whether ratios, not differences, are equally long.

    Example:
        >>> Scale(1, 100, 0, 200, log=True)(10)
        100.0
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        if log:
            low, high = max(low, 1e-300), max(high, 1e-300)
            if high <= low * (1 + 1e-9):
                low, high = low / 2, high * 2
        elif high - low <= 1e-12 * max(abs(low), abs(high), 1e-9):
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.log = low, high, log
        self.start, self.end = start, end
        self._a = math.log(low) if log else low
        self._b = math.log(high) if log else high

    def __call__(self, value: float) -> float:
        """The place of a value; beyond the ends it stays at them."""
        value = min(max(value, self.low), self.high)
        at = math.log(value) if self.log else value
        return self.start + (at - self._a) / (self._b - self._a) * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values between the ends, no more than asked for."""
        return self._log_ticks(most) if self.log else self._linear_ticks(most)

    def _linear_ticks(self, most: int) -> list[float]:
        raw = (self.high - self.low) / max(most, 1)
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * f for f in (1, 2, 2.5, 5, 10) if unit * f >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        if self.high / self.low < 3:
            found = [t for t in self._linear_ticks(most) if t > 0]
            return found or [self.low]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [
                d * 10.0**e for e in range(first, last + 1) for d in digits if self.low <= d * 10.0**e * (1 + 1e-9)
            ]
            found = [t for t in found if t <= self.high * (1 + 1e-9)]
            if len(found) <= most:
                return found
        step = math.ceil(len(found) / max(most, 1))
        return found[::step]
