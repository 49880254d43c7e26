"""Wrong elements in words: where they are and what they look like."""

from __future__ import annotations

import torch
from torch import Tensor

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
    if all(b - a == step for a, b in zip(where, where[1:], strict=False)):
        if step == 1:
            return f"{noun}s {where[0]}..{where[-1]}"
        return f"every {step}th {noun} from {where[0]} on" if len(where) > 2 else f"{noun}s {where[0]} and {where[1]}"
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
    if bool(never_written[wrong].all()):
        return "never written"
    if bool(never_written[wrong].any()):
        return f"{int(never_written[wrong].sum())} of them never written, the others wrong"
    for flags, word in ((bad.isnan(), "NaN"), (bad.isinf(), "Inf")):
        if bool(flags.all()):
            return f"all {word}"
        if bool(flags.any()):
            return f"{int(flags.sum())} of {flags.numel()} {word}"
    if bool((bad == 0).all()):
        return "all zero"
    if (said := _constant(bad / right, bad - right)) != "":
        return said
    if got.dim() == 2 and bool(wrong.all()):
        ratio, difference = got / expected, got - expected
        for axis, noun in ((1, "row"), (0, "column")):
            if got.shape[axis] > 2 and got.shape[1 - axis] > 1:
                if _same_along(ratio, axis):
                    factors = ratio.median(axis).values
                    return f"each {noun} has a factor of its own, from {float(factors.min()):.4g} to {float(factors.max()):.4g}"
                if _same_along(difference, axis):
                    shifts = difference.median(axis).values
                    return f"each {noun} is shifted by a number of its own, from {float(shifts.min()):+.4g} to {float(shifts.max()):+.4g}"
    worst = int((bad - right).abs().argmax())
    index = [int(i) for i in wrong.nonzero()[worst]]
    typical = float((bad - right).abs().median() / expected.abs().mean().clamp_min(1e-300))
    return f"off by {_percent(typical)} of the typical size; the worst is [{', '.join(map(str, index))}]: {float(bad[worst]):.5g}, not {float(right[worst]):.5g}"


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
