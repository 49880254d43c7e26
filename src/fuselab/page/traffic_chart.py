"""The memory traffic of one group to scale: a bar of everything that is moved, one by one and fused, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from fuselab.page.drawing import CHARACTER, NARROW, WIDE, Chart, Drawing, Scale
from fuselab.page.traffic import Movement, Picture, TensorRow
from fuselab.records import Direction, Stage
from fuselab.report import figures

__all__ = ["saved", "traffic_chart", "ways"]

_BAR = 44
_MOST_PIECES = 80
_KINDS = {"input": "read", "output": "result", "between": "between"}


@dataclass(frozen=True)
class _Piece:
    bytes: int
    kind: str
    name: str
    title: str


def ways(picture: Picture) -> tuple[str, str]:
    """What the two bars are called."""
    many = picture.eager.kernels
    operators = f"{many} operator{'s' if many != 1 else ''}"
    first = f"eager, {operators}" if _is_eager(picture) else f"one by one, {operators}"
    kernels = picture.fused.kernels
    return first, f"{picture.variant}, {kernels} kernel{'s' if kernels != 1 else ''}"


def _is_eager(picture: Picture) -> bool:
    """A backward graph is made of finer operators than eager's own formulas: its bar is not what eager does."""
    return picture.group.direction is Direction.FORWARD and picture.stage is Stage.DYNAMO_GRAPH


def saved(picture: Picture) -> str:
    """What fusion saves, in words."""
    before, after = picture.eager.moved, picture.fused.moved
    if before <= 0:
        return ""
    if after >= before:
        return "Nothing is saved: there is no tensor that is written only to be read back."
    between = picture.eager.between - picture.fused.between
    against = "Fusion saves" if _is_eager(picture) else "Against a kernel for each operator, fusion saves"
    words = f"{against} {figures.size(before - after)} of {figures.size(before)}, {(before - after) / before:.0%}"
    return f"{words}; {figures.size(between)} of it written only to be read back." if between > 0 else f"{words}."


def traffic_chart(picture: Picture) -> Chart:
    """The picture in both widths."""
    return Chart(*(_draw(picture, width) for width in (WIDE, NARROW)))


def _draw(picture: Picture, width: int) -> Markup:
    group = picture.group
    drawing = Drawing(width, f"Memory traffic of {group.label}, {group.direction.value}: bytes moved, to scale")
    left, right = (232.0, width - 92.0) if not drawing.narrow else (0.0, float(width))
    longest = max(picture.eager.moved, picture.fused.moved, picture.fewest or 0, 1)
    scale = Scale(0, longest, left, right)
    y = 2.0
    for name, movement in zip(ways(picture), (picture.eager, picture.fused), strict=True):
        total = figures.size(movement.moved)
        if drawing.narrow:
            y += 14
            drawing.text(0, y, name, "name", room=width - 90)
            drawing.text(width, y, total, "figures", "end")
            y += 6
        else:
            drawing.text(0, y + _BAR / 2 + 4, name, "name", room=left - 12)
            drawing.text(scale(movement.moved) + 8, y + _BAR / 2 + 4, total, "figures")
        _bar(drawing, movement, scale, y)
        if picture.fewest:
            drawing.line(scale(picture.fewest), y - 2, scale(picture.fewest), y + _BAR + 6, "fewest")
        y += _BAR + (8 if not drawing.narrow else 6)
    if picture.fewest:
        x = scale(picture.fewest)
        y += 12
        near_end = x > (left + right) / 2
        drawing.text(
            x + (-5 if near_end else 5),
            y,
            f"fewest possible: {figures.size(picture.fewest)}",
            "axis",
            "end" if near_end else "start",
        )
        y += 4
    return drawing.markup(y + 4, "traffic")


def _bar(drawing: Drawing, movement: Movement, scale: Scale, y: float) -> None:
    pieces = list(_pieces(movement))
    kept = sorted(pieces, key=lambda p: -p.bytes)[:_MOST_PIECES]
    shown = [p for p in pieces if p in kept]
    rest = sum(p.bytes for p in pieces) - sum(p.bytes for p in shown)
    if rest > 0:
        shown.append(_Piece(rest, "rest", "", f"{len(pieces) - len(shown)} smaller pieces: {figures.size(rest)}"))
    at = 0
    for piece in shown:
        x = scale(at)
        at += piece.bytes
        wide = scale(at) - x
        if wide < 0.2:
            continue
        drawing.rect(x, y, max(wide - 1.2, 0.6), _BAR, f"piece {piece.kind}", piece.title, radius=2)
        if piece.name and wide > len(piece.name) * CHARACTER * 0.92 + 8:
            drawing.text(x + wide / 2, y + _BAR / 2 + 4, piece.name, f"in {piece.kind}", "middle")


def _pieces(movement: Movement) -> Iterator[_Piece]:
    """A piece for each write and each read: reads of inputs, then each tensor as it is made and read back."""
    for row in movement.rows:
        kind = _KINDS[row.kind]
        if row.written_bytes:
            yield _Piece(row.written_bytes, kind, _name(row), _title(row, "written by", row.written_by))
        for reader in row.read_by:
            each = row.read_bytes // len(row.read_by)
            again = "between" if row.kind == "between" else "read"
            yield _Piece(each, f"{again} back" if row.written_by else again, _name(row), _title(row, "read by", reader))


def _name(row: TensorRow) -> str:
    """The tensor's name; Dynamo writes an argument ``x`` as ``L_x_``."""
    name = row.tensor.name
    return name[2:-1] if name.startswith("L_") and name.endswith("_") else name


def _title(row: TensorRow, verb: str, who: str) -> str:
    note = {
        "input": "an input",
        "output": "a result, or kept for the backward",
        "between": "written only to be read back: what fusion saves",
    }[row.kind]
    return f"{row.tensor.name}, {row.tensor.label}, {figures.size(row.tensor.bytes)}\n{verb} {who}\n{note}"
