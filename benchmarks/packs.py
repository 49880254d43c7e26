"""Every experiment and every example packed and proven: a table, and with --json FILE the figures.

    python benchmarks/packs.py                               # all four experiments, all examples, on the CPU
    python benchmarks/packs.py --device cuda --direction both
    PYTHONPATH=src python benchmarks/packs.py --only rms_norm --repeats 5 --json packs.json

One cold start beside one of each warm way, in fresh processes with empty caches, in random order, ``--repeats`` times.
Exits with 1 when a package compiles, answers wrong, or its best way starts less than ``--at-least`` times faster than
cold (5 on a CPU, where that is the bar).
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from fuselab.deploy.manifest import Reference
from fuselab.deploy.packing import pack
from fuselab.deploy.proof import FIGURE, Proof, verify
from fuselab.errors import FuselabError, UsageError
from fuselab.experiment import load_registry
from fuselab.experiments.user import experiment_from
from fuselab.records import Workload

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def targets() -> dict[str, Reference]:
    """Every experiment by name, and every example by the first name in its docstring's commands."""
    found = {name: Reference(name=name) for name in load_registry()}
    for path in sorted(EXAMPLES.glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        named = re.search(rf"examples/{path.stem}\.py:(\w+)", doc)
        if named:
            found[f"{path.stem}:{named[1]}"] = Reference(target=f"{path}:{named[1]}")
    return found


def workloads_of(reference: Reference, device_type: str) -> list[Workload]:
    """The calls to pack."""
    if reference.target:
        return list(experiment_from(reference.target, []).workloads("smoke", device_type))
    return list(load_registry()[reference.name].workloads("smoke", device_type))


def row(name: str, proof: Proof, seconds: float, at_least: float) -> list[dict[str, Any]]:
    """One record a way to start."""
    rows = []
    for start in proof.starts:
        counts = start.counts
        rows.append(
            {
                "name": name,
                "way": start.way,
                "direction": start.direction,
                "start_s": start.start_s,
                "process_s": start.process_s,
                "median_start_s": statistics.median(start.start_s),
                "speedup": start.speedup,
                "speedup_lowest": start.speedup_lowest,
                "dynamo_graphs": counts.dynamo_graphs,
                "inductor_graphs": counts.inductor_graphs,
                "cpp": counts.cpp,
                "triton": counts.triton,
                "equal": start.equal,
                "proven": start.proven if start.way != "cold" else None,
                "packing_s": round(seconds, 1),
                "warnings": proof.manifest.warnings,
                "failures": proof.failures,
            }
        )
    best = max((s.speedup or 0.0 for s in proof.starts if s.direction == "forward"), default=at_least)
    if best < at_least:
        rows[0]["failures"] = [*proof.failures, f"forward starts {best:.1f} times faster than cold, not {at_least:g}"]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A line a way to start."""
    for r in rows:
        speedup = "-" if r["speedup"] is None else f"{r['speedup']:.1f}x (at least {r['speedup_lowest']:.1f}x)"
        print(
            f"{r['name']:28} {r['direction']:9} {r['way']:10} {r['median_start_s']:8.3f} s  {speedup:26} "
            f"traced {r['dynamo_graphs']} inductor {r['inductor_graphs']} c++ {r['cpp']} triton {r['triton']}  "
            f"{'equal' if r['equal'] else 'DIFFER'}",
            flush=True,
        )
    for failure in rows[0]["failures"]:
        print(f"    FAILED {failure}")
    for warning in rows[0]["warnings"]:
        print(f"    ! {warning}")


def main() -> int:
    """Pack and prove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--direction", default="forward", choices=["forward", "backward", "both"])
    parser.add_argument("--only", action="append", default=[], help="a name from the first column; may be repeated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-least", type=float, default=None, help="5 on a CPU, nothing on a GPU, unless given")
    parser.add_argument("--without-compiler", action="store_true", help="hide every compiler from the warm starts")
    parser.add_argument("--no-aoti", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    known = targets()
    unknown = [name for name in options.only if name not in known]
    if unknown:
        parser.error(f"unknown {unknown[0]!r}; there are {', '.join(known)}")
    at_least = options.at_least if options.at_least is not None else (5.0 if options.device == "cpu" else 0.0)
    print(f"start: {FIGURE}; {options.repeats} of each way, in random order\n")
    rows: list[dict[str, Any]] = []
    machine: Any = None
    for name, reference in known.items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="fuselab-packs-") as directory:
            began = time.monotonic()
            try:
                package = Path(directory) / "model.pack"
                pack(
                    reference,
                    workloads_of(reference, options.device),
                    package,
                    device_type=options.device,
                    direction=options.direction,
                    aoti=not options.no_aoti,
                )
                seconds = time.monotonic() - began
                proof = verify(package, repeats=options.repeats, without_compiler=options.without_compiler)
            except UsageError as error:  # what has no golden answer cannot be packed, and says so
                found = [{"name": name, "refused": error.message, "failures": [], "warnings": []}]
                print(f"{name:28} refused: {error.message}", flush=True)
            except FuselabError as error:
                found = [{"name": name, "failures": [str(error)], "warnings": []}]
                print(f"{name:28} FAILED {error}", flush=True)
            else:
                machine = proof.machine
                found = row(name, proof, seconds, at_least)
                show(found)
        rows += found
    failures = [f"{r['name']}: {failure}" for r in rows for failure in r["failures"]]
    if options.json:
        document = {"figure": FIGURE, "repeats": options.repeats, "machine": machine, "rows": rows}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    names = list(dict.fromkeys(r["name"] for r in rows))
    failed = list(dict.fromkeys(r["name"] for r in rows if r["failures"]))
    refused = [r["name"] for r in rows if "refused" in r]
    said = f"{len(names) - len(failed) - len(refused)} of {len(names)} proven"
    said += f"; refused: {', '.join(refused)}" if refused else ""
    print(f"\n{said}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
