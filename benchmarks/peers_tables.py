"""The measured tables of the operators, from the recording that is committed.

    python benchmarks/peers_tables.py            write them into the pages
    python benchmarks/peers_tables.py --check    exit 1 if a page has others

``peers.py`` makes the recording. A page has a place for a table where it has the two comments of ``TABLES``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import peers_rules as rules
from peers_operators import HOST_CELL, OPERATORS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "operators.md")
RESULT = ROOT / "benchmarks" / "results" / "h200-peers.json"
NONE = "No such result is recorded under benchmarks/results/."
EXPECTED = {"layer_norm_gelu": (1.5, 3.0), "softmax_dropout": (1.2, 2.0), "rms_norm": (1.1, 1.8)}
"""What a course on fusing them expects over eager, as a range of speedups of the forward."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    differing = 0
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before, RESULT)
        if before != after:
            differing += 1
            if not arguments.check:
                path.write_text(after, encoding="utf-8")
    return int(arguments.check and differing > 0)


def filled(page: str, result: Path) -> str:
    """The page with what stands between its markers made anew; a page may have none of them."""
    document = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = NONE if document is None else table(document)
        page = re.sub(
            f"{re.escape(start)}.*?{re.escape(end)}",
            lambda _, start=start, text=text, end=end: f"{start}\n{text}\n{end}",
            page,
            flags=re.DOTALL,
        )
    return page


def overview(document: dict[str, Any]) -> str:
    """One line an operator and direction: speedups over eager and over the best peer, and the share of the ceiling."""
    lines = [
        "| operator | direction | over eager | over the best peer | share of the ceiling |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, operator in OPERATORS.items():
        for direction in ("forward", "backward"):
            cells = [
                cell
                for cell in document["cells"]
                if cell["operator"] == name
                and cell["direction"] == direction
                and tuple(cell["shape"]) in rules.LARGE
                and "us" in cell["variants"].get(rules.OURS, {})
            ]
            eager = [p[rules.EAGER]["ratio"] for c in cells if rules.EAGER in (p := rules.timed_peers(c))]
            best = [min(p["ratio"] for p in rules.timed_peers(c).values()) for c in cells if rules.timed_peers(c)]
            shares = [s for c in cells if (s := c["variants"][rules.OURS].get("share")) is not None]
            figures = (_range(eager, "x"), _range(best, "x"), _range(shares, ""))
            lines.append(f"| {operator.title} | {direction} | {' | '.join(figures)} |")
    return f"{peers.stamp_line(document)} Widths 256 to 32768; from the worst shape to the best.\n\n" + "\n".join(lines)


def _range(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"{low}{unit}" if low == high else f"{low}{unit} to {high}{unit}"


def expectations(document: dict[str, Any]) -> str:
    """What was expected over eager, and what was measured, forward and backward, at the same large shapes."""
    lines = ["| pattern | expected over eager | forward | backward |", "| --- | --- | ---: | ---: |"]
    for name, (low, high) in EXPECTED.items():
        measured = []
        for direction in ("forward", "backward"):
            found = [
                peers_of[rules.EAGER]["ratio"]
                for cell in document["cells"]
                if cell["operator"] == name and cell["direction"] == direction and tuple(cell["shape"]) in rules.LARGE
                if rules.EAGER in (peers_of := rules.timed_peers(cell))
            ]
            measured.append(_range(found, "x"))
        lines.append(f"| {OPERATORS[name].title} | {low:g} to {high:g}x | {' | '.join(measured)} |")
    return "\n".join(lines)


def verdicts(document: dict[str, Any]) -> str:
    """The demands with pass or fail a row."""
    cells = document["cells"]
    return f"{peers.stamp_line(document)}\n\n{rules.summary(cells)}\n\n{rules.tally(cells)}."


def everything(document: dict[str, Any]) -> str:
    """Times of every variant at every shape."""
    parts = [peers.stamp_line(document) + " `*`: does less than the others, and is compared with none."]
    for name, operator in OPERATORS.items():
        for direction in ("forward", "backward", HOST_CELL):
            if any(cell["operator"] == name and cell["direction"] == direction for cell in document["cells"]):
                table = rules.figures(document["cells"], name, direction)
                parts.append(f"### {operator.title}, {direction}\n\n{table}")
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "operators overview": overview,
    "operators expectations": expectations,
    "operators verdicts": verdicts,
    "operators figures": everything,
}

if __name__ == "__main__":
    sys.exit(main())
