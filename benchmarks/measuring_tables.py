"""The measured tables of docs/measuring.md, from the results that are committed.

    python benchmarks/measuring_tables.py            write them into the page
    python benchmarks/measuring_tables.py --check    exit 1 if the page has others

``fuselab calibrate --device cuda --pairs 400 --json``, the same with ``--device cpu --pairs 100``, and
``benchmarks/engines.py --out`` make the results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import engine_rules

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "measuring.md"
RESULTS = {
    "calibration": "h200-calibration.json",
    "engines": "h200-engines.json",
    "calibration on a CPU": "cpu-calibration.json",
}
NONE = "No such result is recorded under benchmarks/results/."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, ROOT / "benchmarks" / "results")
    if arguments.check:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def filled(page: str, results: Path) -> str:
    """The page with what stands between its markers made anew."""
    for name, file in RESULTS.items():
        path = results / file
        text = NONE if not path.is_file() else TABLES[name](json.loads(path.read_text(encoding="utf-8")))
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page, count = re.subn(
            f"{re.escape(start)}.*?{re.escape(end)}",
            lambda _, start=start, text=text, end=end: f"{start}\n{text}\n{end}",
            page,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} places for {name}")
    return page


def engines(document: dict[str, Any]) -> str:
    """The table of timers, where it was measured, and who is best at what."""
    best = "\n".join(f"- {line}" for line in document["best"])
    return f"{stamp(document)}\n\n{engine_rules.markdown(document['rows'])}\n\n{best}"


def calibration(document: dict[str, Any]) -> str:
    """The bars, each with its value and whether it holds."""
    held = {True: "holds", False: "**fails**", None: "no bar here"}
    lines = ["| bar | target | measured | | |", "| --- | --- | --- | --- | --- |"]
    for bar in document["bars"]:
        value = "-" if bar["value"] is None else f"{bar['value']:.4g}"
        lines.append(f"| {bar['name']} | {bar['target']} | {value} | {held[bar['passed']]} | {bar['detail']} |")
    return f"{stamp(document)}\n\n" + "\n".join(lines)


def stamp(document: dict[str, Any]) -> str:
    """Device, versions, and how long it took."""
    environment = document["environment"]
    versions = ", ".join(
        f"{n} {environment['versions'][n]}" for n in ("torch", "triton") if n in environment["versions"]
    )
    driver = f", driver {environment['driver']}" if environment.get("driver") else ""
    return f"{environment['device']}, {versions}{driver}; {document['seconds']:.0f} s."


TABLES = {"calibration": calibration, "calibration on a CPU": calibration, "engines": engines}

if __name__ == "__main__":
    sys.exit(main())
