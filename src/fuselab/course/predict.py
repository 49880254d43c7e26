"""Predict, measure, explain: a guess before each measurement, set beside the bound and what came out, with a score.

The point is the order. A figure that was guessed first is remembered, and a guess that was far off shows which idea was
wrong. A guess is a number in the cell; where ipywidgets is there, the cell has a form for it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from fuselab.course.display import Rows, Shown, Stack
from fuselab.course.pictures import log_bars
from fuselab.errors import UsageError

__all__ = ["Prediction", "predict", "score"]

CLOSE = 1.25
"""A guess within this factor of what came out has all its points; at ``FAR`` times it has none."""
FAR = 8.0
POINTS = 10

_asked: dict[str, Prediction] = {}


@dataclass
class Prediction:
    """A question, a guess, and later what came out."""

    question: str
    """What is to be predicted."""
    unit: str
    """Of the guess: ``us``, ``x``, ``ms``, ``MB``."""
    guess: float
    """The reader's."""
    bound: float | None = None
    """What the roofline says at best, where it says something."""
    measured: float | None = None
    """What came out."""
    source: str = ""
    """Where the measurement is from."""

    def answer(
        self, measured: float | None, bound: float | None = None, source: str = "measured here", bound_is: str = "bound"
    ) -> Shown:
        """Set the guess beside the bound and the measurement; the score is kept.

        Args:
            measured: in the question's unit; None where nothing could be measured.
            bound: what the roofline allows at best, in the same unit.
            source: where the measurement is from.
            bound_is: what the bound is called, where the roofline is not meant.
        """
        if measured is None or not measured > 0:
            return Shown(f"<p>{self.question} Nothing was measured.</p>", f"{self.question} Nothing was measured.")
        self.measured, self.source = float(measured), source
        self.bound = float(bound) if bound is not None else None
        values = {"your guess": self.guess, bound_is: self.bound, source: self.measured}
        known = {name: value for name, value in values.items() if value is not None}
        words = f"a factor {self.factor:.2g} apart: {self.points} of {POINTS} points"
        return Stack(log_bars(self.question, known, self.unit), Shown(f"<p>{words}</p>", words))

    @property
    def factor(self) -> float:
        """How many times the guess is above or below what came out; infinite before it did."""
        if not self.measured:
            return math.inf
        return max(self.guess / self.measured, self.measured / self.guess)

    @property
    def points(self) -> int:
        """Points of ten: all within a quarter, none from eight times on, and even steps of the logarithm between."""
        if self.factor <= CLOSE:
            return POINTS
        if self.factor >= FAR:
            return 0
        return round(POINTS * math.log(FAR / self.factor) / math.log(FAR / CLOSE))

    def form(self) -> Any:
        """A field to type the guess into, with ipywidgets; without, a line that says where to write it."""
        try:
            import ipywidgets  # type: ignore[import-untyped]
        except ImportError:
            return Shown(f"<p>{self._line()}</p>", self._line())
        field = ipywidgets.FloatText(value=self.guess, layout={"width": "8em"})

        def typed(change: dict[str, Any]) -> None:
            if change["new"] > 0:
                self.guess = float(change["new"])

        field.observe(typed, names="value")
        then = ipywidgets.Label(f"{self.unit}. Type your guess here, then run the next cell.")
        return ipywidgets.HBox([field, then])

    def _line(self) -> str:
        return f"{self.question}: your guess is {self.guess:g} {self.unit}. Write another number for guess, run again."

    def _ipython_display_(self) -> None:
        from IPython.display import display

        form = self.form()
        if isinstance(form, Shown):
            display(form)  # type: ignore[no-untyped-call]
        else:
            asked = f"{self.question}: the cell's guess is {self.guess:g} {self.unit}"
            display(Shown(f"<p>{escape(asked)}</p>", asked), form)  # type: ignore[no-untyped-call]


def predict(question: str, unit: str, guess: float) -> Prediction:
    """Ask before measuring.

    Args:
        question: what will be measured; asking it again replaces the guess.
        unit: of the guess.
        guess: above zero.

    Raises:
        UsageError: a guess that is not above zero.

    Example:
        >>> asked = predict("How much faster is one kernel than two?", "x", 2.0)
        >>> asked.measured = 1.8
        >>> asked.points
        10
    """
    if not guess > 0 or math.isinf(guess):
        raise UsageError(f"a guess of {guess} {unit}", hint="any number above zero: this is about orders of magnitude")
    _asked[question] = Prediction(question, unit, float(guess))
    return _asked[question]


def score() -> Shown:
    """Every prediction of this session with its points."""
    done = [p for p in _asked.values() if p.measured is not None]
    rows = [
        (p.question, f"{p.guess:g} {p.unit}", f"{p.measured:.3g} {p.unit}", f"{p.factor:.2g}x", f"{p.points}")
        for p in done
    ]
    total = f"{sum(p.points for p in done)} of {POINTS * len(done)} points"
    return Rows(("question", "your guess", "came out", "apart", "points"), rows, note=total)
