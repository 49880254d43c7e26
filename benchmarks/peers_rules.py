"""What the operators have to reach beside their peers, as data, and whether a recorded measurement reaches it. Pure.

A cell is one operator at one shape in one direction, as ``peers`` records it::

    {"operator": "silu", "shape": [64, 4096], "direction": "forward", "bytes": 1048576,
     "ceiling": {"us": 0.31, ...}, "variants": {"ours": {"us": 1.6, "low_us": 1.6, "high_us": 1.6, "share": 0.19},
     "eager": {"us": 1.9, ..., "ratio": 1.18, "ratio_low": 1.17, "ratio_high": 1.19}, "liger": {"absent": "why"}}}

``ratio`` is a peer's time over ours in the same rounds: above 1, ours is faster. A variant with ``absent``, ``wrong``
or ``error`` has no time, and ``floor`` marks one that does less than the others and is compared with nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS, EAGER, COMPILE, TUNED, LIGER, QUACK = "ours", "eager", "compile", "max-autotune", "liger", "quack"
LARGE = ((16384, 4096), (8192, 8192), (4096, 16384), (65536, 1024), (131072, 256), (8192, 32768))
SMALL = ((1, 4096), (16, 4096), (64, 4096), (256, 4096))
HOST = ((16, 4096),)

MARGIN = 0.01
"""Times within this share of each other count as equal: the engine's own margin."""

PASS, FAIL, PARTIAL, MISSING = "pass", "fail", "partial", "not measured"

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One demand on an operator in one direction, at some shapes."""

    operator: str
    direction: str
    kind: str
    """``share`` of the ceiling, ``ratio`` to the fastest peer, ``behind`` nobody, ``host`` time of a call."""
    bound: float
    """At least this (``host``: at most this many times a peer's time)."""
    shapes: tuple[tuple[int, int], ...] = LARGE
    against: tuple[str, ...] = ()
    """Whom to compare with; empty: everybody."""

    @property
    def words(self) -> str:
        """The demand in words."""
        who = " and ".join(self.against) or "the best peer"
        if self.kind == "share":
            return f"share of the ceiling >= {self.bound:g}"
        if self.kind == "behind":
            return "never behind the best peer" + (f" by more than {1 - self.bound:.0%}" if self.bound < 0.985 else "")
        if self.kind == "host":
            return f"host time of a call <= {self.bound:.3g}x {who}"
        return f">= {self.bound:g}x {who}"

    @property
    def where(self) -> str:
        """The shapes in words."""
        if self.shapes == SMALL:
            return "1 to 256 rows x 4096"
        widths = sorted(width for _, width in self.shapes)
        return f"width {widths[0]}" + (f" to {widths[-1]}" if widths[-1] != widths[0] else "")


def _at(shapes: Iterable[tuple[int, int]], low: int = 0, high: int = 2**62) -> tuple[tuple[int, int], ...]:
    return tuple(shape for shape in shapes if low <= shape[1] <= high)


NEVER_BEHIND = 1 / (1 + MARGIN)


def _norm_backward(operator: str) -> list[Rule]:
    return [
        Rule(operator, "backward", "share", 0.88, _at(LARGE, high=8192)),
        Rule(operator, "backward", "share", 0.80, _at(LARGE, low=8193)),
        Rule(operator, "backward", "ratio", 1.05, against=(QUACK, COMPILE)),
    ]


_POINTWISE = ("silu", "swiglu", "geglu_tanh", "geglu")

RULES: tuple[Rule, ...] = (
    Rule("layer_norm_gelu", "forward", "share", 0.85),
    Rule("layer_norm_gelu", "forward", "ratio", 1.6),
    Rule("layer_norm_gelu", "backward", "share", 0.75),
    Rule("layer_norm_gelu", "backward", "ratio", 2.2),
    Rule("softmax_dropout", "forward", "share", 0.80),
    Rule("softmax_dropout", "forward", "ratio", 2.1),
    Rule("softmax_dropout", "backward", "share", 0.85),
    Rule("softmax_dropout", "backward", "ratio", 1.5, _at(LARGE, low=4096)),
    Rule("softmax_dropout", "backward", "behind", NEVER_BEHIND),
    Rule("rms_norm", "forward", "share", 0.97),
    Rule("rms_norm", "forward", "behind", 1 / 1.02),
    *_norm_backward("rms_norm"),
    Rule("add_rms_norm", "forward", "share", 0.97),
    Rule("add_rms_norm", "forward", "behind", NEVER_BEHIND),
    *_norm_backward("add_rms_norm"),
    *(
        Rule(operator, direction, kind, bound)
        for operator in _POINTWISE
        for direction in ("forward", "backward")
        for kind, bound in (("share", 0.98), ("behind", NEVER_BEHIND))
    ),
    *(
        Rule(operator, direction, "behind", NEVER_BEHIND, SMALL)
        for operator in ("layer_norm_gelu", "softmax_dropout", "rms_norm", "add_rms_norm", *_POINTWISE)
        for direction in ("forward", "backward")
    ),
    *(
        Rule(operator, "host", "host", bound, HOST, (peer,))
        for operator in ("layer_norm_gelu", "softmax_dropout", "rms_norm", "add_rms_norm", *_POINTWISE)
        for peer, bound in ((EAGER, 1.0), (LIGER, 1 / 3))
        if not (peer == LIGER and operator in ("silu", "geglu"))  # it has none
    ),
)
"""The demands. Shapes that an operator is not measured at by plan (GEGLU by erf has a few) are left out of its rows."""

SHAPES = {"geglu": ((16384, 4096), (4096, 16384), (131072, 256), (64, 4096))}
"""Operators that are measured at some of the shapes."""


@dataclass(frozen=True)
class Outcome:
    """What one cell says to a rule."""

    shape: tuple[int, int]
    value: float | None
    """None where there is none; ``why`` says why."""
    passed: bool | None
    peer: str = ""
    """Who was compared with."""
    why: str = ""


@dataclass(frozen=True)
class Row:
    """A rule and what all its cells say."""

    rule: Rule
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> str:
        """``pass`` if every shape was measured and passed; ``partial`` if those that were measured passed."""
        found = [outcome.passed for outcome in self.outcomes]
        if any(passed is False for passed in found):
            return FAIL
        if not any(found):
            return MISSING
        return PASS if all(found) else PARTIAL

    @property
    def worst(self) -> Outcome | None:
        """The cell that is furthest from passing, or nearest to failing."""
        with_value = [outcome for outcome in self.outcomes if outcome.value is not None]
        sign = -1 if self.rule.kind == "host" else 1
        failed = [o for o in self.outcomes if o.passed is False and o.value is None]
        if failed:
            return failed[0]
        return min(with_value, key=lambda outcome: sign * (outcome.value or 0.0), default=None)

    @property
    def counts(self) -> tuple[int, int]:
        """Shapes that passed, and shapes of the rule."""
        return sum(o.passed is True for o in self.outcomes), len(self.outcomes)


def rows(cells: Sequence[Cell], rules: Sequence[Rule] = RULES) -> list[Row]:
    """Every rule with what the cells say to it."""
    by_key = {(c["operator"], tuple(c["shape"]), c["direction"]): c for c in cells}
    found = []
    for rule in rules:
        planned = SHAPES.get(rule.operator)
        shapes = [s for s in rule.shapes if planned is None or s in planned or rule.kind == "host"]
        outcomes = [outcome(rule, s, by_key.get((rule.operator, s, rule.direction))) for s in shapes]
        found.append(Row(rule, tuple(outcomes)))
    return found


def outcome(rule: Rule, shape: tuple[int, int], cell: Cell | None) -> Outcome:
    """What one cell says to a rule; ours that is wrong or raised fails, what was not measured is neither."""
    if cell is None or OURS not in cell["variants"]:
        return Outcome(shape, None, None, why="not measured")
    ours = cell["variants"][OURS]
    if reason := ours.get("wrong") or ours.get("error"):
        return Outcome(shape, None, False, why=reason)
    if reason := cell.get("untrusted") or ours.get("above_ceiling"):
        return Outcome(shape, None, None, why=reason)
    if "us" not in ours:
        return Outcome(shape, None, None, why=ours.get("absent", "not measured"))
    return _share(rule, shape, ours) if rule.kind == "share" else _compared(rule, shape, cell, ours)


def _share(rule: Rule, shape: tuple[int, int], ours: Mapping[str, Any]) -> Outcome:
    if ours.get("share") is None:
        return Outcome(shape, None, None, why="the ceiling was not measured")
    return Outcome(shape, ours["share"], ours["share"] >= rule.bound)


def _compared(rule: Rule, shape: tuple[int, int], cell: Cell, ours: Mapping[str, Any]) -> Outcome:
    peers = timed_peers(cell, rule.against)
    missing = [name for name in rule.against if name not in peers]
    if missing or not peers:
        return Outcome(shape, None, None, why=f"{', '.join(missing) or 'no peer'} was not measured")
    if rule.kind == "host":
        value, peer = max((ours["us"] / peers[name]["us"], name) for name in peers)
        return Outcome(shape, value, value <= rule.bound, peer)
    value, peer = min((peers[name]["ratio"], name) for name in peers)
    return Outcome(shape, value, value >= rule.bound, peer)


def timed_peers(cell: Cell, names: Sequence[str] = ()) -> dict[str, Any]:
    """The variants beside ours that have a time and do the same job, by name."""
    comparable = "us" if cell["direction"] == "host" else "ratio"
    return {
        name: variant
        for name, variant in cell["variants"].items()
        if name != OURS
        and variant.get(comparable) is not None
        and not variant.get("floor")
        and name in (names or [name])
    }


# Tables.


def summary(cells: Sequence[Cell], rules: Sequence[Rule] = RULES) -> str:
    """The demands as a Markdown table: pass or fail a row, with the worst cell."""
    lines = [
        "| operator | direction | demand | where | worst | shapes | verdict |",
        "| --- | --- | --- | --- | --- | ---: | --- |",
    ]
    for row in rows(cells, rules):
        rule, worst = row.rule, row.worst
        passed, planned = row.counts
        bold = f"**{row.verdict}**" if row.verdict == FAIL else row.verdict
        lines.append(
            f"| `{rule.operator}` | {rule.direction} | {rule.words} | {rule.where} | {_worst(worst)} "
            f"| {passed} of {planned} | {bold} |"
        )
    return "\n".join(lines)


def tally(cells: Sequence[Cell], rules: Sequence[Rule] = RULES) -> str:
    """How many rows passed, in one line.

    Example:
        >>> tally([], RULES[:2])
        '0 of 2 rows pass, 0 fail, 0 partial, 2 not measured'
    """
    verdicts = [row.verdict for row in rows(cells, rules)]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (FAIL, PARTIAL, MISSING))
    return f"{verdicts.count(PASS)} of {len(verdicts)} rows pass, {counts}"


def _worst(worst: Outcome | None) -> str:
    if worst is None:
        return "-"
    where = "x".join(map(str, worst.shape))
    if worst.value is None:
        return f"{worst.why} at {where}"
    against = f" {worst.peer}" if worst.peer else ""
    return f"{worst.value:.3g}{'x' if worst.peer else ''}{against} at {where}"


def figures(cells: Sequence[Cell], operator: str, direction: str) -> str:
    """One operator's times as a Markdown table: a row a shape, microseconds of a call by variant."""
    chosen = [cell for cell in cells if cell["operator"] == operator and cell["direction"] == direction]
    order = {shape: number for number, shape in enumerate((*LARGE, *reversed(SMALL)))}
    chosen.sort(key=lambda cell: order.get(tuple(cell["shape"]), len(order)))
    variants = [name for name in (EAGER, COMPILE, TUNED, LIGER, QUACK) if any(name in c["variants"] for c in chosen)]
    heads = ["shape", "limit", *variants, OURS, "share", "best / ours"]
    if direction == "host":
        heads = ["shape", *variants, OURS]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for cell in chosen:
        times = [_time(cell["variants"].get(name)) for name in (*variants, OURS)]
        line = ["x".join(map(str, cell["shape"])), *times]
        if direction != "host":
            ours, peers = cell["variants"].get(OURS, {}), timed_peers(cell)
            limit = limit_us(cell)
            line.insert(1, "-" if limit is None else f"{limit:.1f}")
            line.append("-" if ours.get("share") is None else f"{ours['share']:.2f}")
            line.append(f"{min(p['ratio'] for p in peers.values()):.2f}" if peers and "us" in ours else "-")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def limit_us(cell: Cell) -> float | None:
    """Time of the fewest bytes at the ceiling's bandwidth."""
    ceiling = cell.get("ceiling")
    return None if not ceiling else cell["bytes"] / ceiling["bytes_per_s"] * 1e6


def _time(variant: Mapping[str, Any] | None) -> str:
    if not variant:
        return "-"
    if "us" in variant:
        return f"{variant['us']:.1f}" + ("*" if variant.get("floor") else "")
    return next((kind for kind in ("wrong", "error") if kind in variant), "-")
