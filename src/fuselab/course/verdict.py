"""What a check says of a learner's kernel, as text, as HTML in a notebook and as JSON."""

from __future__ import annotations

import html
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

__all__ = ["Finding", "Hint", "Outcome", "Resemblance", "Score", "Verdict"]


class Outcome(StrEnum):
    """How a check ended."""

    RIGHT = "right"
    WRONG = "wrong"
    UNFINISHED = "unfinished"
    """A ``...`` stands where the learner's line belongs."""
    RAISED = "raised"
    """It raised, or did not compile."""
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    NO_KERNEL = "no kernel"
    """The numbers are right, and torch computed them."""
    UNAVAILABLE = "unavailable"
    """Needs triton, which this machine does not have."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with one result."""

    case: str
    """Dtype, shape and layout: ``f32[4, 100]``."""
    output: str
    """Which result: ``dx``; empty where it is about the call as a whole."""
    says: str


class Resemblance(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake that gives the very numbers that the learner's kernel gave."""

    name: str
    title: str
    says: str
    outputs: tuple[str, ...] = ()
    """The results that it explains; empty for all of them."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``check``: displays itself in a notebook, ``print`` gives the same words."""

    exercise: str
    title: str
    outcome: Outcome
    cases: int = 0
    """How many inputs were tried."""
    right: int = 0
    """How many of them came out right."""
    findings: tuple[Finding, ...] = ()
    mistakes: tuple[Resemblance, ...] = ()
    """The likeliest first."""
    line: int | None = None
    """Where in the learner's file it stopped, from 1; for a function out of a notebook, counted from its first line."""
    code: str = ""
    """That line."""
    where: str = ""
    """The file's or the function's name."""
    note: str = ""
    """How it was run, and what that leaves out."""
    printed: str = ""
    """The last that the learner's code printed: in the interpreter a kernel can print its blocks."""

    @property
    def ok(self) -> bool:
        """Whether the exercise is solved."""
        return self.outcome is Outcome.RIGHT

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"{self.exercise}: {self.headline}"]
        lines += [f"  {finding_text(f)}" for f in self.findings]
        if self.line is not None:
            lines.append(f"  {self.where}, line {self.line}: {self.code}")
        lines += [f"  resembles {m.title}{_of(m)}: {m.says}" for m in self.mistakes]
        if self.printed:
            lines += ["  it printed:", *(f"    {line}" for line in self.printed.splitlines())]
        if self.note:
            lines.append(f"  ({self.note})")
        if not self.ok and self.outcome is not Outcome.UNAVAILABLE:
            lines.append(f'  stuck? hint("{self.exercise}")')
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    @property
    def headline(self) -> str:  # noqa: PLR0911 - one an outcome
        """The outcome in one line."""
        match self.outcome:
            case Outcome.RIGHT:
                return f"right, on {self.cases} inputs"
            case Outcome.WRONG:
                return f"wrong on {self.cases - self.right} of {self.cases} inputs"
            case Outcome.UNFINISHED:
                return "a line is still to be written"
            case Outcome.RAISED:
                return "it stopped with an error"
            case Outcome.CRASHED:
                return "it took its process down"
            case Outcome.TIMED_OUT:
                return "it did not end in time"
            case Outcome.NO_KERNEL:
                return "the numbers are right, but no Triton kernel of yours was launched"
            case Outcome.UNAVAILABLE:
                return "cannot be run here"

    def _repr_html_(self) -> str:
        colour = "#2e7d32" if self.ok else "#757575" if self.outcome is Outcome.UNAVAILABLE else "#c62828"
        parts = [f"<b>{html.escape(self.title)}</b> <code>{html.escape(self.exercise)}</code>: "]
        parts.append(f'<b style="color:{colour}">{html.escape(self.headline)}</b>')
        if self.findings:
            parts.append(_list(f"{html.escape(finding_text(f))}" for f in self.findings))
        if self.line is not None:
            parts.append(f"<div>{html.escape(self.where)}, line {self.line}:</div>")
            parts.append(f"<pre>{html.escape(self.code)}</pre>")
        if self.mistakes:
            said = (f"<b>{html.escape(m.title)}</b>{html.escape(f'{_of(m)}: {m.says}')}" for m in self.mistakes)
            parts.append(f"<div>This resembles</div>{_list(said)}")
        if self.printed:
            parts.append(f"<div>It printed</div><pre>{html.escape(self.printed)}</pre>")
        if self.note:
            parts.append(f"<div><small>{html.escape(self.note)}</small></div>")
        if not self.ok and self.outcome is not Outcome.UNAVAILABLE:
            parts.append(f"<div>Stuck? <code>hint(&quot;{html.escape(self.exercise)}&quot;)</code></div>")
        style = f"border-left:4px solid {colour};padding:0.2em 0.8em;margin:0.3em 0"
        return f'<div class="fuselab-verdict" style="{style}">{"".join(parts)}</div>'


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """One of an exercise's three hints, from a nudge to nearly the line itself."""

    exercise: str
    number: int
    of: int
    text: str

    def __str__(self) -> str:
        more = "" if self.number < self.of else f" (the last; solutions/{self.exercise}.py has the whole kernel)"
        return f"hint {self.number} of {self.of}: {self.text}{more}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return (
            '<div class="fuselab-hint" style="border-left:4px solid #f9a825;padding:0.2em 0.8em">'
            f"{html.escape(str(self))}</div>"
        )


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of all exercises of a learner's folder."""

    verdicts: tuple[Verdict, ...]

    @property
    def solved(self) -> int:
        """How many are right."""
        return sum(v.ok for v in self.verdicts)

    def __str__(self) -> str:
        rows = [f"  {v.exercise:<28}{v.outcome.value:<13}{_reason(v)}".rstrip() for v in self.verdicts]
        return "\n".join([f"{self.solved} of {len(self.verdicts)} exercises solved", *rows])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{html.escape(v.exercise)}</code></td><td>{html.escape(v.title)}</td>"
            f"<td>{html.escape(v.outcome.value)}</td><td>{html.escape(_reason(v))}</td></tr>"
            for v in self.verdicts
        )
        return (
            f"<div><b>{self.solved} of {len(self.verdicts)} exercises solved</b></div>"
            f"<table><thead><tr><th>exercise</th><th>what</th><th>outcome</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, title, outcome and reason of each."""
        return [(v.exercise, v.title, v.outcome.value, _reason(v)) for v in self.verdicts]


def finding_text(finding: Finding) -> str:
    """A finding as a line.

    Example:
        >>> finding_text(Finding(case="f32[4, 100]", output="y", says="row 3 is all zeros"))
        'f32[4, 100] y: row 3 is all zeros'
    """
    about = " ".join(word for word in (finding.case, finding.output) if word)
    return f"{about}: {finding.says}" if about else finding.says


def _reason(verdict: Verdict) -> str:
    if verdict.ok:
        return ""
    if verdict.mistakes:
        return verdict.mistakes[0].title
    if verdict.outcome is Outcome.UNFINISHED:
        return f"line {verdict.line}"
    return verdict.findings[0].says if verdict.findings else verdict.note


def _of(mistake: Resemblance) -> str:
    return f" (in {', '.join(mistake.outputs)})" if mistake.outputs else ""


def _list(items: Iterable[Any]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
