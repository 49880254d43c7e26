"""One plan on one GPU and on two GPUs of the same host: how much sooner two are done, and whether both say the same.

    python benchmarks/two_gpus.py --into legs                      # predicts, measures both legs, compares
    python benchmarks/two_gpus.py --into legs --preset quick --timing-s 0.3
    python benchmarks/two_gpus.py --into legs --leg one            # one leg; the same command again goes on with it
    python benchmarks/two_gpus.py --into legs --leg two
    python benchmarks/two_gpus.py --compare legs --out benchmarks/results/h200-two-gpus.json
    python benchmarks/two_gpus.py --from benchmarks/results/h200-two-gpus.json

A leg is ``fuselab sweep`` with ``--workers 1`` or ``--workers 2``. Where a command may last so long only, a leg is
measured in several attempts: ``--limit-s`` says after how many seconds of an attempt no workload is begun any more, and
a leg that was killed is resumed just so. Exit code 3 says that the leg is not done.

Overlap is seconds of compilation a second of wall time: compiling is the CPU's work, and goes on beside timings on
other GPUs.

Wall time is what ``fuselab sweep`` needs apart from its start-up: of each attempt, from the beginning of the first
workload to the end of the last one that came back. What was in flight at a kill is measured again and counts again.

Two cells agree when their speedups' intervals, of 95% each, overlap. What lies between two processes on two GPUs is in
neither interval, so cells whose intervals lie no farther apart than the run's margin are counted by themselves, and
verdicts that differ are held against the legs only where the intervals lie farther apart than that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from record import without_directories
from rich.console import Console
from rich.table import Table

from fuselab.experiment import load_registry
from fuselab.records import RunStatus
from fuselab.report.document import run_document
from fuselab.sweep.record import Sweep, list_sweeps
from fuselab.sweep.results import Results, load_results, row

LEGS = {"one": 1, "two": 2}
"""Workers of each leg."""

RATIO = 0.55
"""What two GPUs may take of the time of one."""

OPPOSITE = {"faster", "slower"}
OPEN = {None, "unresolved", "withheld"}
"""Verdicts that say nothing, and so contradict nothing."""

LISTED = ("missing", "other status", "opposite", "differ", "apart")
"""Agreements that are shown cell by cell."""

NOT_DONE = 3
SHOWN = 20


def main() -> int:
    arguments = parsed()
    if arguments.recorded:
        document = json.loads(arguments.recorded.read_text(encoding="utf-8"))
    elif arguments.compare:
        document = compared(arguments.compare)
    else:
        for leg in [arguments.leg] if arguments.leg else LEGS:
            left = measured(leg, arguments)
            if left:
                print(f"leg {leg}: {left} cells are left; the same command goes on with them", file=sys.stderr)
                return NOT_DONE
        if arguments.leg:
            return 0
        document = compared(arguments.into)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    show(document, Console())
    return int(not all(bar["passed"] for bar in document["bars"]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, metavar="DIR", help="where the legs lie: a leg that is there is resumed")
    parser.add_argument("--leg", choices=LEGS, help="measure one leg only")
    parser.add_argument("--compare", type=Path, metavar="DIR", help="compare the legs that lie there")
    parser.add_argument("--from", dest="recorded", type=Path, metavar="JSON", help="show an earlier result again")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the comparison here")
    new = parser.add_argument_group("what is measured, said when the first leg begins")
    new.add_argument("--preset", default="full")
    new.add_argument("--experiment", action="append", metavar="NAME", help="unless said: all of them")
    new.add_argument("--variant", action="append", metavar="NAME", help="unless said: all of them")
    new.add_argument("--timing-s", type=float, metavar="S", help="seconds of timing for each variant of a group")
    new.add_argument("--limit-s", type=float, metavar="S", help="no workload is begun later than this in an attempt")
    new.add_argument("--plan", type=Path, metavar="TOML", help="a plan of your own instead of these")
    arguments = parser.parse_args()
    if sum(map(bool, (arguments.into, arguments.compare, arguments.recorded))) != 1:
        parser.error("one of --into, --compare and --from is needed")
    return arguments


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


def measured(leg: str, arguments: argparse.Namespace) -> int:
    """Begin or resume a leg; the number of cells that are left of it."""
    place = arguments.into / leg
    place.mkdir(parents=True, exist_ok=True)
    plan = arguments.into / "plan.toml"
    if not plan.is_file():
        plan.write_text(arguments.plan.read_text() if arguments.plan else plan_text(arguments), encoding="utf-8")
    found = sweep_in(place)
    if found is not None and found.record().status is RunStatus.COMPLETE:
        return left_of(load_results(found))
    workers = str(LEGS[leg])
    if found is None:
        subprocess.run([*fuselab("sweep"), str(plan), "--dry-run"], env=environment(), check=True)
        what = [str(plan)]
    else:
        what = ["--resume", found.path.name]
    with (place / "attempts.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"begun_at": stamp()}) + "\n")
    begun = time.monotonic()
    done = subprocess.run(
        [*fuselab("sweep"), *what, "--workers", workers, "--out", str(place / "runs")], env=environment(), check=False
    )
    print(f"leg {leg}: {time.monotonic() - begun:.0f} s, start-up included", file=sys.stderr)
    found = sweep_in(place)
    if found is None or done.returncode not in (0, 1):  # 1 says that a cell failed or is left
        raise SystemExit(f"leg {leg}: fuselab sweep ended with {done.returncode}")
    return left_of(load_results(found))


def plan_text(arguments: argparse.Namespace) -> str:
    """The plan of a preset."""
    lines = ['name = "two-gpus"', 'device = "cuda"']
    if arguments.variant:
        lines.append(f"variants = {json.dumps(arguments.variant)}")
    if arguments.timing_s is not None:
        lines.append(f"budget.timing_s = {arguments.timing_s:g}")
    if arguments.limit_s is not None:
        lines.append(f"budget.hours = {arguments.limit_s / 3600:.6f}")
    for name in arguments.experiment or load_registry(entry_points=()):
        lines += ["[[experiment]]", f"name = {json.dumps(name)}", f"preset = {json.dumps(arguments.preset)}"]
    return "\n".join(lines) + "\n"


def fuselab(command: str) -> list[str]:
    return [sys.executable, "-m", "fuselab", command]


def environment() -> dict[str, str]:
    """This process's variables, with the source tree on the path where fuselab is not installed."""
    source = str(Path(__file__).parent.parent / "src")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))}


def sweep_in(place: Path) -> Sweep | None:
    """The leg's sweep; one that was killed before its runs were made measured nothing and counts as none."""
    for sweep in list_sweeps(place / "runs"):
        record = sweep.record()
        if len(record.runs) == record.blocks:
            return sweep
    return None


def left_of(results: Results) -> int:
    """Cells that the plan has and the store has not."""
    planned = sum(
        len(o.metadata.plan) * len(o.metadata.variants) * len(o.metadata.directions) for o in results.outcomes
    )
    return planned - len(results.cells)


# ---------------------------------------------------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------------------------------------------------


def compared(directory: Path) -> dict[str, Any]:
    """What the legs that lie in a directory say."""
    legs: dict[str, Any] = {}
    cells: dict[str, dict[str, Any]] = {}
    environments: list[dict[str, Any]] = []
    margin = 0.0
    for leg in LEGS:
        found = sweep_in(directory / leg)
        if found is None:
            raise SystemExit(f"there is no leg {leg} in {directory}: --into {directory} --leg {leg}")
        results = load_results(found)
        runs = run_document(results.outcomes)["runs"]
        attempts = [json.loads(line) for line in (directory / leg / "attempts.jsonl").read_text().splitlines()]
        units = [
            {"run": u.run, "workload": u.workload, "device": u.device_id, "begun": end - u.seconds, "ended": end}
            for u, end in ((u, seconds_of(u.ended_at)) for u in found.units())
        ]
        legs[leg] = {
            "left": left_of(results),
            "statuses": dict(Counter(cell.status.value for cell in results.cells)),
            **spent([seconds_of(a["begun_at"]) for a in attempts], units),
            "compile_s": compile_seconds(runs),
        }
        cells[leg] = {identity(cell): cell for cell in map(row, results.cells)}
        environments += [run["environment"] for run in runs]
        margin = max(run["metadata"]["margin"] for run in runs)
    plan = (directory / "plan.toml").read_text(encoding="utf-8")
    document: dict[str, Any] = without_directories(judged(legs, cells["one"], cells["two"], margin, environments, plan))
    return document


def judged(
    legs: Mapping[str, Mapping[str, Any]],
    one: Mapping[str, Mapping[str, Any]],
    two: Mapping[str, Mapping[str, Any]],
    margin: float,
    environments: Sequence[Mapping[str, Any]],
    plan: str,
) -> dict[str, Any]:
    """The comparison: hardware, legs, every cell of both, and what is asked of them.

    Args:
        legs: what each leg took, from ``spent``.
        one: flat rows of the leg on one GPU, by ``identity``.
        two: the same of the leg on two.
        margin: relative difference below which two variants count as equally fast.
        environments: of all runs; they differ in nothing that a figure hangs on, or a bar says so.
        plan: the text of the plan.
    """
    pairs = [pair(key, one.get(key), two.get(key), margin) for key in sorted({*one, *two})]
    counts = Counter(p["agreement"] for p in pairs)
    ratio = legs["two"]["wall_s"] / legs["one"]["wall_s"] if legs["one"]["wall_s"] else None
    kinds = {(e["device"], e["driver"], json.dumps(e["versions"], sort_keys=True)) for e in environments}
    on_gpus = all(e["device_type"] == "cuda" for e in environments)
    found = [
        bar("time of two GPUs to one's", f"at most {RATIO}", ratio, ratio is not None and ratio <= RATIO),
        bar("cells left in either leg", "0", sum(leg["left"] for leg in legs.values())),
        bar("cells with another status, or in one leg only", "0", counts["other status"] + counts["missing"]),
        bar("cells faster in one leg and slower in the other", "0", counts["opposite"]),
        bar("other verdicts, intervals farther apart than the margin", "0", counts["differ"]),
        bar("kinds of hardware and versions", "1", len(kinds), len(kinds) == 1),
    ]
    if on_gpus:
        devices = {leg: legs[leg]["devices"] for leg in LEGS}
        right = all(count == LEGS[leg] for leg, counts in devices.items() for count in counts)
        found.append(bar("GPUs of each attempt", "1, then 2", list(devices.values()), right))
        found.append(bar("workloads that shared a GPU in time", "0", sum(leg["shared"] for leg in legs.values())))
    return {
        "environment": dict(environments[0]) if environments else {},
        "plan": plan,
        "margin": margin,
        "legs": dict(legs),
        "ratio": ratio,
        "agreement": dict(counts),
        "bars": found,
        "cells": pairs,
    }


def bar(name: str, target: str, value: Any, passed: bool | None = None) -> dict[str, Any]:
    """One thing that is asked; a count passes at 0 unless said otherwise."""
    return {"name": name, "target": target, "value": value, "passed": value == 0 if passed is None else passed}


def identity(cell: Mapping[str, Any]) -> str:
    """What makes two cells of two legs the same one."""
    return " ".join(str(cell[field]) for field in ("experiment", "label", "variant", "direction"))


def pair(key: str, one: Mapping[str, Any] | None, two: Mapping[str, Any] | None, margin: float) -> dict[str, Any]:
    """One cell in both legs, and how they agree."""
    fields = ("status", "median_ns", "speedup", "speedup_low", "speedup_high", "verdict")
    legs = {leg: {f: cell[f] for f in fields} if cell else None for leg, cell in (("one", one), ("two", two))}
    agreement, gap = agree(one, two, margin)
    return {"cell": key, "agreement": agreement, "gap": gap, **legs}


def agree(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None, margin: float) -> tuple[str, float | None]:
    """How a cell's two measurements agree, and how far apart their intervals lie, relatively; 0 where they overlap.

    ``missing``, ``other status``, ``unjudged`` (no speedup: not timed, or the baseline itself), ``overlap``,
    ``within the margin``, ``apart`` (farther than the margin, verdicts compatible), ``differ`` (the same, verdicts
    not), ``opposite`` (faster and slower).
    """
    if one is None or two is None or one["status"] != two["status"]:
        return ("missing" if one is None or two is None else "other status"), None
    ends = [leg[end] for leg in (one, two) for end in ("speedup_low", "speedup_high")]
    if any(end is None for end in ends) or one["verdict"] == "baseline":
        return "unjudged", None
    low_one, high_one, low_two, high_two = ends
    gap = max(0.0, max(low_one, low_two) / min(high_one, high_two) - 1)
    verdicts = {one["verdict"], two["verdict"]}
    if verdicts == OPPOSITE:
        return "opposite", gap
    if gap <= margin:
        return ("within the margin" if gap else "overlap"), gap
    return ("apart" if len(verdicts) == 1 or verdicts & OPEN else "differ"), gap


def spent(attempts: Sequence[float], units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a leg took, apart from the start-up of its attempts.

    Args:
        attempts: when each began, in seconds.
        units: workloads that came back: ``device``, and ``begun`` and ``ended`` in seconds.

    Returns:
        ``wall_s`` over all attempts; ``busy_s``, seconds that workloads took on all devices together; ``at_once``, how
        many were under way on average; ``devices`` of each attempt; ``shared``, workloads that began on a device before
        the one before them had ended there.
    """
    walls, devices, shared = [], [], 0
    for begin, end in zip(attempts, [*attempts[1:], float("inf")], strict=True):
        own = [u for u in units if begin <= u["ended"] < end]
        if not own:  # it was killed before anything came back
            continue
        walls.append(max(u["ended"] for u in own) - min(u["begun"] for u in own))
        names = sorted({u["device"] for u in own})
        devices.append(len(names))
        for name in names:
            mine = sorted((u["begun"], u["ended"]) for u in own if u["device"] == name)
            # Both ends are read from clocks that tick in milliseconds, one after the other.
            shared += sum(after[0] < before[1] - 0.5 for before, after in itertools.pairwise(mine))
    busy = sum(u["ended"] - u["begun"] for u in units)
    wall = sum(walls)
    return {
        "wall_s": round(wall, 3),
        "attempts": len(attempts),
        "workloads": len(units),
        "busy_s": round(busy, 3),
        "at_once": round(busy / wall, 3) if wall else None,
        "devices": devices,
        "shared": shared,
    }


def compile_seconds(runs: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of compilation in a leg's checks: once a variant and workload, whichever directions it has."""
    found: dict[tuple[str, str, str], int] = {}
    for run in runs:
        for cell in run["measurements"]:
            if cell.get("compile_ns"):
                key = (cell["experiment"], cell["variant"], json.dumps(cell["workload"], sort_keys=True))
                found[key] = cell["compile_ns"]
    return round(sum(found.values()) / 1e9, 3)


def seconds_of(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---------------------------------------------------------------------------------------------------------------------
# Showing
# ---------------------------------------------------------------------------------------------------------------------


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print a comparison."""
    here = document["environment"]
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("torch", "triton") if name in here["versions"])
    driver = f", driver {here['driver']}" if here["driver"] else ""
    console.print(f"{here['device']}{driver}, {versions}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("leg", "wall", "workloads", "at once", "compilation", "overlap", "attempts", "cells"):
        table.add_column(head, justify="left" if head in ("leg", "cells") else "right", no_wrap=head != "cells")
    for name, leg in document["legs"].items():
        overlap = leg["compile_s"] / leg["wall_s"] if leg["wall_s"] else 0.0
        table.add_row(
            name,
            f"{leg['wall_s']:.1f} s",
            str(leg["workloads"]),
            "" if leg["at_once"] is None else f"{leg['at_once']:.2f}",
            f"{leg['compile_s']:.1f} s",
            f"{overlap:.2f}x",
            str(leg["attempts"]),
            ", ".join(f"{count} {status}" for status, count in leg["statuses"].items()),
        )
    console.print(table)
    asked = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("asked", "target", "measured", ""):
        asked.add_column(head)
    for each in document["bars"]:
        value = f"{each['value']:.3f}" if isinstance(each["value"], float) else str(each["value"])
        asked.add_row(each["name"], each["target"], value, "[green]passed[/]" if each["passed"] else "[red]FAILED[/]")
    console.print(asked)
    words = ", ".join(f"{count} {name}" for name, count in sorted(document["agreement"].items()))
    console.print(f"{len(document['cells'])} cells: {words}", highlight=False)
    rest = [
        c for c in document["cells"] if c["agreement"] in ("missing", "other status", "opposite", "differ", "apart")
    ]
    if rest:
        console.print(_cells(rest[:SHOWN]))
    if len(rest) > SHOWN:
        console.print(f"and {len(rest) - SHOWN} more", highlight=False)


def _cells(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("cell", "", "one GPU", "two GPUs"):
        table.add_column(head, overflow="fold")
    for cell in found:
        table.add_row(cell["cell"], cell["agreement"], *(_said(cell[leg]) for leg in LEGS))
    return table


def _said(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if cell["speedup"] is None:
        return str(cell["status"])
    return f"{cell['speedup_low']:.3f} to {cell['speedup_high']:.3f} {cell['verdict']}"


if __name__ == "__main__":
    sys.exit(main())
