"""From samples to what is called different, for every timer: the rules that people use, one test for all. Pure numpy.

A timer without a verdict of its own is judged by three rules, so that none is a straw man:

- ``default``: the ratio of what the timer returns by default (a mean, a minimum, a median) is off 1 by more than the
  margin. This is how its figures are read.
- ``medians``: the same with the ratio of medians.
- ``Mann-Whitney``: a two-sided rank test at 95% on the raw samples; with the margin, the ratio of medians has to be
  beyond it, too.

``torch.utils.benchmark`` has a notion of significance: it takes as many figures to be significant as the spread within
the interquartile range allows, and prints that many. ``figures`` calls two medians different where they differ as
printed, to the fewer figures of the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MARGIN = 0.01
LEVEL = 0.05
SUMMARIES = {"mean": np.mean, "median": np.median, "min": np.min}
PAIRS = ("A/A", "1% more", "2% more")


@dataclass(frozen=True)
class Timed:
    """What a timer said of one function."""

    default: float
    """What it returns by default, in ns."""
    samples: tuple[float, ...] = ()
    """The raw samples in ns, where it returns them."""
    figures: int | None = None
    """Significant figures, where it has a notion of them."""


@dataclass(frozen=True)
class Decision:
    """What one rule says of one pair."""

    ratio: float
    """The first one's time over the second one's: below 1, the second is slower."""
    raw: bool | None
    """Whether it is called different before the margin; None where the rule has no such notion."""
    different: bool
    """Whether it is called different in the end."""


@dataclass
class Row:
    """One timer judged by one rule."""

    engine: str
    clock: str
    rule: str
    called: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By kind of pair: how many, how many called different raw and in the end, how many of those slower."""
    half_range: float | None = None
    """Half the range of one ratio over fresh processes, over its median: the largest of the cells."""
    seconds: float | None = None
    """Wall time a pair, everything included: median."""
    failure: str = ""


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of the Mann-Whitney U test: normal approximation, ties and continuity corrected.

    Example:
        >>> round(mann_whitney([1, 2, 3, 4, 5, 6, 7, 8], [5, 6, 7, 8, 9, 10, 11, 12]), 4)
        0.0063
    """
    n, m = len(a), len(b)
    if not n or not m:
        return 1.0
    pooled = np.concatenate([np.asarray(a, dtype=float), np.asarray(b, dtype=float)])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = ((last - counts + 1 + last) / 2)[inverse.reshape(-1)]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    ties = float((counts.astype(float) ** 3 - counts).sum()) / (total * (total - 1)) if total > 1 else 0.0
    variance = n * m / 12 * (total + 1 - ties)
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def printed(value: float, figures: int) -> float:
    """``value`` rounded to so many significant figures.

    Example:
        >>> printed(20.468, 3)
        20.5
    """
    return float(f"{value:.{max(figures, 1) - 1}e}")


def rules_of(timed: Timed, summary: str) -> list[str]:
    """The rules that a timer's answer allows: its own first."""
    rules = ["default"]
    if timed.samples:
        rules += [] if summary == "median" else ["medians"]
        rules.append("Mann-Whitney")
    if timed.figures is not None:
        rules.append("figures")
    return rules


def decide(rule: str, first: Timed, second: Timed) -> Decision:
    """What ``rule`` says of a pair."""
    if rule == "default":
        ratio = first.default / second.default
        return Decision(ratio, None, _beyond(ratio))
    ratio = float(np.median(first.samples) / np.median(second.samples))
    if rule == "medians":
        return Decision(ratio, None, _beyond(ratio))
    if rule == "Mann-Whitney":
        raw = mann_whitney(first.samples, second.samples) < LEVEL
    elif rule == "figures":
        figures = min(first.figures or 1, second.figures or 1)
        raw = printed(float(np.median(first.samples)), figures) != printed(float(np.median(second.samples)), figures)
    else:
        raise ValueError(f"no rule {rule!r}")
    return Decision(ratio, raw, raw and _beyond(ratio))


def _beyond(ratio: float) -> bool:
    return abs(math.log(ratio)) > math.log1p(MARGIN)


def counted(decisions: Sequence[Decision]) -> dict[str, Any]:
    """How many of the decisions on pairs of one kind call them different, and rightly or wrongly say slower."""
    raws = [d for d in decisions if d.raw is not None]
    return {
        "pairs": len(decisions),
        "raw": sum(bool(d.raw) for d in raws) if raws else None,
        "raw_slower": sum(bool(d.raw) and d.ratio < 1 for d in raws) if raws else None,
        "different": sum(d.different for d in decisions),
        "slower": sum(d.different and d.ratio < 1 for d in decisions),
    }


def half_range(ratios: Sequence[float]) -> float:
    """Half the range over the median.

    Example:
        >>> round(half_range([1.0, 1.02, 0.99]), 6)
        0.015
    """
    return (max(ratios) - min(ratios)) / 2 / float(np.median(ratios))


def share(called: Mapping[str, Any] | None, key: str) -> float | None:
    """A count over its pairs; None where there is none."""
    if not called or not called["pairs"] or called[key] is None:
        return None
    return float(called[key] / called["pairs"])


def best(rows: Sequence[Row]) -> list[str]:
    """Who is best at what, in words; rows that failed take no part."""
    columns = (
        ("fewest A/A pairs called different", lambda r: share(r.called.get("A/A"), "different"), 1),
        ("2% found most often", lambda r: share(r.called.get("2% more"), "slower"), -1),
        ("1% found most often", lambda r: share(r.called.get("1% more"), "slower"), -1),
        ("most repeatable ratio", lambda r: r.half_range, 1),
        ("least time a pair", lambda r: r.seconds, 1),
    )
    lines = []
    for title, value, sign in columns:
        known = [(sign * v, r) for r in rows if not r.failure and (v := value(r)) is not None]
        if known:
            top = min(v for v, _ in known)
            names = dict.fromkeys(f"{r.engine} ({r.rule})" for v, r in known if v == top)
            lines.append(f"{title}: {', '.join(names)}")
    return lines


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and lines of the table, as text; ``rows`` as they stand in the JSON."""
    header = [
        "engine", "what it times", "rule", "A/A different, raw", "A/A different, beyond 1%", "2% found", "1% found",
        "half-range of a ratio", "seconds a pair",
    ]  # fmt: skip
    lines = [header]
    for row in rows:
        if row["failure"]:
            lines.append([row["engine"], row["clock"], row["rule"], f"not measured: {row['failure']}", *[""] * 5])
            continue
        aa, one, two = (row["called"].get(kind) for kind in ("A/A", "1% more", "2% more"))
        lines.append(
            [
                row["engine"],
                row["clock"],
                row["rule"],
                _of(aa, "raw"),
                _of(aa, "different"),
                _of(two, "slower"),
                _of(one, "slower"),
                "-" if row["half_range"] is None else f"{row['half_range']:.2%}",
                "-" if row["seconds"] is None else f"{row['seconds']:.2f}",
            ]
        )
    return lines


def _of(called: Mapping[str, Any] | None, key: str) -> str:
    value = share(called, key)
    return "-" if value is None or called is None else f"{called[key]} of {called['pairs']} ({value:.0%})"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as it stands in docs/measuring.md."""
    header, *lines = table(rows)
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))
