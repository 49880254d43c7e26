"""Wrong elements in words: where they are and what they look like."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fuselab.course.guard import STRANGE

__all__ = ["looks", "places", "wrong_elements"]

RELATIVE = {torch.float32: 5e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2, torch.float64: 1e-12}
"""Of an element and of the result's typical size: one rounding of the dtype, a few of a float32 sum."""

ALIKE = 0.98


def wrong_elements(got: Tensor, expected: Tensor, dtype: torch.dtype, *, factor: float = 1.0) -> Tensor:
    """Which elements differ by more than roundings; NaN and Inf count as right where they are expected.

    Args:
        got: float64.
        expected: float64, of the same shape.
        dtype: the dtype that the result was rounded to.
        factor: of the tolerance.

    Example:
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> wrong_elements(torch.tensor([1.0, 1.00001, 1.1], dtype=torch.float64), one, torch.float32).tolist()
        [False, False, True]
    """
    finite = expected[expected.isfinite()]
    typical = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    near = (got - expected).abs() <= factor * RELATIVE[dtype] * (expected.abs() + typical)
    # What is beyond the dtype's range rounds to Inf.
    rounded = expected.to(dtype).double()
    return ~(near | (got == rounded) | (got.isnan() & rounded.isnan()))


def places(wrong: Tensor) -> str:
    """Where the wrong elements are.

    Example:
        >>> wrong = torch.zeros(4, 100, dtype=torch.bool)
        >>> wrong[:, 96:] = True
        >>> places(wrong)
        'columns 96..99 of every row'
    """
    total, count = wrong.numel(), int(wrong.sum())
    if count == total:
        return "the only element" if total == 1 else "every element"
    if wrong.dim() != 2:
        return _indices(wrong.reshape(-1), "element")
    by_row, by_column = wrong.any(1), wrong.any(0)
    share = count / (int(by_row.sum()) * int(by_column.sum()))
    if share < 0.85:
        row, column = (int(i) for i in wrong.nonzero()[0])
        return f"{count} of {total} elements, scattered, the first at [{row}, {column}]"
    about = "nearly all of " if share < ALIKE else ""
    if bool(by_column.all()):
        rows = "every row" if bool(by_row.all()) else _indices(by_row, "row")
        only = " only" if int(by_row.sum()) == 1 else ""
        return about + rows + only
    rows = "every row" if bool(by_row.all()) else _indices(by_row, "row")
    return f"{about}{_indices(by_column, 'column')} of {rows}"


def _indices(flags: Tensor, noun: str) -> str:
    where = [int(i) for i in flags.nonzero().reshape(-1)]
    if len(where) == 1:
        return f"{noun} {where[0]}"
    if len(where) == flags.numel():
        return f"every {noun}"
    step = where[1] - where[0]
    if all(b - a == step for a, b in pairwise(where)):
        if step == 1:
            return f"{noun}s {where[0]}..{where[-1]}"
        nth = {2: "second", 3: "third"}.get(step, f"{step}th")
        return f"every {nth} {noun} from {where[0]} on" if len(where) > 2 else f"{noun}s {where[0]} and {where[1]}"
    return f"{len(where)} of {flags.numel()} {noun}s, the first {where[0]}"


def looks(got: Tensor, expected: Tensor, wrong: Tensor, never_written: Tensor) -> str:
    """What the wrong elements look like, beside what was expected.

    Example:
        >>> x = torch.linspace(1, 2, 8, dtype=torch.float64)
        >>> everything = torch.ones(8, dtype=torch.bool)
        >>> looks(1.03 * x, x, everything, ~everything)
        '3% too large'
    """
    bad, right = got[wrong], expected[wrong]
    marks = never_written[wrong]
    if got.numel() == 1 and not bool(marks.any()):
        return f"{float(bad[0]):.6g}, not {float(right[0]):.6g}"
    for flags, word in ((marks, "never written"), (bad.isnan(), "NaN"), (bad.isinf(), "Inf"), (bad == 0, "zero")):
        if bool(flags.all()):
            return word if word == "never written" else f"all {word}"
        if bool(flags.any()) and word != "zero":
            return f"{int(flags.sum())} of them {word}, the others wrong"
    return _constant(bad / right, bad - right) or _by_line(got, expected, wrong) or _worst(got, expected, wrong)


def _by_line(got: Tensor, expected: Tensor, wrong: Tensor) -> str:
    """A factor or a shift that each row, or each column, has to itself."""
    if got.dim() != 2 or float(wrong.double().mean()) < 0.9:
        return ""
    for axis, noun in ((1, "row"), (0, "column")):
        if got.shape[axis] < 3 or got.shape[1 - axis] < 2:
            continue
        for values, says, form in (
            (got / expected, "has a factor of its own", ".4g"),
            (got - expected, "is shifted by a number of its own", "+.4g"),
        ):
            if _same_along(values, axis):
                middle = values.median(axis).values
                return f"each {noun} {says}, from {float(middle.min()):{form}} to {float(middle.max()):{form}}"
    return ""


def _worst(got: Tensor, expected: Tensor, wrong: Tensor) -> str:
    difference = torch.where(wrong, (got - expected).abs(), torch.zeros_like(got))
    index = tuple(int(i) for i in torch.unravel_index(difference.argmax(), got.shape))
    typical = float((got - expected)[wrong].abs().median() / expected.abs().mean().clamp_min(1e-300))
    size = f"{_percent(typical)} of" if typical < 2 else f"{typical:.0f} times"
    strange = int((got[wrong] == STRANGE).sum())
    around = f"; {strange} of them {STRANGE:g}, which this check puts around its inputs" if strange else ""
    place = f"[{', '.join(map(str, index))}]"
    values = f"{float(got[index]):.5g}, not {float(expected[index]):.5g}"
    return f"off by {size} the typical size; the worst is {place}: {values}{around}"


def _constant(ratio: Tensor, difference: Tensor) -> str:
    if ratio.numel() < 2:
        return ""
    middle = float(ratio.median())
    if _share_near(ratio, middle, 4e-3 * abs(middle)):
        if abs(middle + 1) < 4e-3:
            return "of the wrong sign"
        if 0.5 < middle < 2:
            return f"{_percent(abs(middle - 1))} too {'large' if middle > 1 else 'small'}"
        return f"{middle:.4g} times what they should be"
    middle = float(difference.median())
    if _share_near(difference, middle, 4e-3 * abs(middle)):
        return f"{abs(middle):.4g} too {'large' if middle > 0 else 'small'}, each of them"
    return ""


def _share_near(values: Tensor, middle: float, width: float) -> bool:
    return float(((values - middle).abs() <= width).double().mean()) >= ALIKE


def _same_along(values: Tensor, axis: int) -> bool:
    middle = values.median(axis, keepdim=True).values
    return float(((values - middle).abs() <= 4e-3 * middle.abs()).double().mean()) >= ALIKE


def _percent(share: float) -> str:
    """A share with two digits.

    Example:
        >>> _percent(0.0304), _percent(0.00512)
        ('3%', '0.51%')
    """
    percent = 100 * share
    return f"{percent:.0f}%" if percent >= 9.5 else f"{percent:.2g}%"
