"""Timers of torch, Inductor and triton beside fuselab's, on the same pairs on one device.

    PYTHONPATH=src python benchmarks/engines.py --out benchmarks/results/h200-engines.json
    python benchmarks/engines.py --markdown benchmarks/results/h200-engines.json

Every timer gets the same functions (SiLU, RMSNorm, softmax in bf16, of about 30 and 90 us on an H200): copies of one
function, which are equally fast, and controls with exactly 1% and 2% more rows, each on inputs of its own (``--inputs
shared``: all of one size on the same). Ours times the functions of a group together, in rounds; the others time one
after the other, as their users do, in an order of timers that is drawn anew for each group. Each of them may take as
long for a function as ours took in that group, all of its preparation included, within the bounds below.
``engine_rules`` says how each one's figures are judged.

The work is split over fresh processes. Each measures the same two ratios (one function against another) beside its
share of the pairs: how far these differ from process to process is the repeatability.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engine_rules as rules

GROUP = (0, 0, 1, 0, 0, 2, 0, 0)
"""Per cent more rows, function by function in the order that the others time them: copies, and the controls between."""
PAIRS = (
    (0, 1, "A/A"),
    (3, 4, "A/A"),
    (6, 7, "A/A"),
    (1, 2, "1% more"),
    (3, 2, "1% more"),
    (4, 5, "2% more"),
    (6, 5, "2% more"),
)
"""Neighbours: the A/A pairs have no function in common; a control is compared with the copy on either side."""
FUNCTIONS = ("silu", "rms_norm", "softmax")
REPEATED = (("silu", "softmax"), ("rms_norm", "silu"))
"""One ratio a size, in every process."""
SHORTEST_S, LONGEST_S = 0.05, 0.25
"""What a foreign timer may take for a function."""


def main() -> int:
    arguments = parsed()
    if arguments.markdown:
        print(rules.markdown(json.loads(Path(arguments.markdown).read_text())["rows"]))
        return 0
    if arguments.child is not None:
        Path(arguments.out).write_text(json.dumps(child(arguments)))
        return 0
    started = time.monotonic()
    parts, failures = [], []
    for number in range(arguments.processes):
        left = arguments.limit_s - (time.monotonic() - started)
        if left <= 0:
            failures.append(f"process {number} was not started: {arguments.limit_s:.0f} s were over")
            continue
        part, failure = run_child(number, left / (arguments.processes - number), left)
        parts += [part] if part else []
        failures += [f"process {number}: {failure}"] if failure else []
        print(f"process {number + 1} of {arguments.processes}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    if not parts:
        print("\n".join(failures), file=sys.stderr)
        return 1
    document = summarised(parts)
    document["failures"] = failures
    document["seconds"] = time.monotonic() - started
    document["settings"] = {
        key: getattr(arguments, key)
        for key in ("device", "processes", "groups", "budget_s", "limit_s", "sizes", "inputs", "seed")
    }
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(document, indent=1) + "\n")
    show(document)
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes that share the work")
    parser.add_argument("--groups", type=int, default=3, help="groups a process: 3 A/A pairs and 2 controls each")
    parser.add_argument("--budget-s", type=float, default=0.08, help="seconds of timing that ours takes for a function")
    parser.add_argument("--limit-s", type=float, default=165.0, help="no group is begun that would end after this")
    parser.add_argument("--sizes", help="ROWSxCOLUMNS,...; rows a multiple of 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--inputs", choices=("own", "shared"), default="own", help="whether functions of one size have the same inputs"
    )
    parser.add_argument("--out", help="write the JSON here")
    parser.add_argument("--markdown", metavar="FILE", help="print the table of a JSON file, and do nothing else")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sizes is None:
        arguments.sizes = "8000x4096,24000x4096" if arguments.device == "cuda" else "400x512,1200x512"
    for size in arguments.sizes.split(","):
        if int(size.split("x")[0]) % 100:
            parser.error(f"--sizes {size}: 1% of the rows has to be a whole number")
    return arguments


def run_child(number: int, share_s: float, left_s: float) -> tuple[dict[str, Any] | None, str]:
    """What a fresh process found, or why there is nothing."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "part.json"
        own = [Path(__file__), *sys.argv[1:], "--child", str(number), "--limit-s", f"{share_s:.3f}", "--out", out]
        try:
            done = subprocess.run(
                [sys.executable, *map(str, own)], env=environment(), timeout=left_s + 120, check=False,
                stdout=sys.stderr,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, "it did not come to an end"
        if not out.exists():
            return None, f"it ended with {done.returncode} before it had a result"
        return json.loads(out.read_text()), ""


def environment() -> dict[str, str]:
    """This process's variables, with the source tree on the path where fuselab is not installed."""
    source = str(Path(__file__).parent.parent / "src")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))}


def child(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure this process's groups and the repeated ratios, within the limit."""
    started = time.monotonic()
    import msgspec
    import torch

    from fuselab.device import environment as environment_of
    from fuselab.measure.calibrate import Case
    from fuselab.records import Direction

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use; --device cpu compares the timers that work without one")
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes.split(",")]
    dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    calls = {name: Case(name, 100, 100, dtype, Direction.FORWARD).function() for name in FUNCTIONS}
    bench = Bench(arguments, calls, getattr(torch, dtype))
    bench.ours([("silu", 0)] * 2, sizes[0], 1, budget_s=0.01)  # what happens once a process happens here
    repeated = [
        bench.repeated(pair, size, number) for number, (pair, size) in enumerate(zip(REPEATED, sizes, strict=False))
    ]
    groups: list[dict[str, Any]] = []
    longest = 0.0
    for number in range(arguments.groups):
        begun = time.monotonic()
        if begun - started + longest > arguments.limit_s:
            break
        at = arguments.child * arguments.groups + number
        name, size = FUNCTIONS[at % len(FUNCTIONS)], sizes[at // len(FUNCTIONS) % len(sizes)]
        groups.append(bench.group(name, size, at))
        longest = max(longest, time.monotonic() - begun)
    return {
        "environment": msgspec.to_builtins(environment_of(arguments.device)),
        "repeated": repeated,
        "groups": groups,
    }


class Bench:
    """All timers on this device."""

    def __init__(self, arguments: argparse.Namespace, calls: dict[str, Any], dtype: Any) -> None:
        import engine_timers

        self.engine = engine_timers
        self.device = arguments.device
        self.budget_s = arguments.budget_s
        self.seed = arguments.seed
        self.shared = arguments.inputs == "shared"
        self.calls = calls
        self.dtype = dtype
        self.timers = engine_timers.timers(self.device)

    def functions(self, kinds: list[tuple[str, int]], size: tuple[int, ...], at: int) -> list[Any]:
        """Functions of (name, per cent more rows), each with inputs of its own, or sharing those of its size."""
        sources: dict[Any, Any] = {}
        functions = []
        for i, (name, percent) in enumerate(kinds):
            rows, key = size[0] + size[0] * percent // 100, percent if self.shared else i
            if key not in sources:
                seed = 100 * (self.seed + at) + i
                sources[key] = self.engine.Source(rows, size[1], self.dtype, self.device, seed)
            functions.append(self.engine.Function(f"{i} {name} +{percent}%", self.calls[name], sources[key]))
        return functions

    def ours(self, kinds: list[tuple[str, int]], size: tuple[int, ...], at: int, budget_s: float) -> tuple[Any, float]:
        """Samples by function, in order, and seconds a function."""
        functions = self.functions(kinds, size, at)
        samples, seconds = self.engine.time_ours(functions, self.device, self.seed + at, budget_s)
        return [samples[f.name] for f in functions], seconds

    def all(
        self, kinds: list[tuple[str, int]], pairs: Sequence[tuple[int, int, str]], size: tuple[int, ...], at: int
    ) -> Any:
        """Every timer's answers on these functions: decisions by rule and kind of pair, seconds, or why it failed."""
        samples, seconds = self.ours(kinds, size, at, self.budget_s)
        answers: dict[str, Any] = {
            self.engine.OURS: {
                "clock": "graph replays over rotating buffers, in rounds (cold)" if self.device == "cuda"
                else "host clock around loops of calls over rotating buffers, in rounds (cold)",
                "seconds": 2 * seconds,
                "decisions": [
                    {"rule": "verdict", "kind": kind, **vars(self.engine.decide_ours(samples[a], samples[b]))}
                    for a, b, kind in pairs
                ],
            }
        }  # fmt: skip
        timers = list(self.timers)
        random.Random(self.seed + at).shuffle(timers)
        budget_s = min(LONGEST_S, max(SHORTEST_S, seconds))
        for timer in timers:
            answers[timer.name] = self.foreign(timer, kinds, pairs, size, at, budget_s)
        return answers

    def foreign(self, timer: Any, kinds: Any, pairs: Any, size: Any, at: int, budget_s: float) -> dict[str, Any]:
        """One timer on the functions in order, one after the other."""
        answer: dict[str, Any] = {"clock": timer.clock, "seconds": None, "decisions": []}
        started = time.perf_counter()
        try:
            made: dict[int, Any] = {}
            timed = [timer.time(function.bound(made), budget_s) for function in self.functions(kinds, size, at)]
        except Exception as error:  # noqa: BLE001 - whatever a timer raises is its row's reason; the others go on
            answer["failure"] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return answer
        answer["seconds"] = 2 * (time.perf_counter() - started) / len(kinds)
        answer["decisions"] = [
            {"rule": rule, "kind": kind, **vars(rules.decide(rule, timed[a], timed[b]))}
            for a, b, kind in pairs
            for rule in rules.rules_of(timed[a], timer.summary)
        ]
        return answer

    def group(self, name: str, size: tuple[int, ...], at: int) -> dict[str, Any]:
        """Three A/A pairs and the controls."""
        kinds = [(name, percent) for percent in GROUP]
        return {"case": f"{name} {size[0]}x{size[1]}", "answers": self.all(kinds, PAIRS, size, at)}

    def repeated(self, names: tuple[str, str], size: tuple[int, ...], number: int) -> dict[str, Any]:
        """One function against another: the same pair in every process."""
        answers = self.all([(name, 0) for name in names], [(0, 1, "repeated")], size, 10_000 + number)
        return {"case": f"{names[0]} against {names[1]}, {size[0]}x{size[1]}", "answers": answers}


def summarised(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of all processes' answers, with every decision kept beside them."""
    groups = [group for part in parts for group in part["groups"]]
    repeated = [pair for part in parts for pair in part["repeated"]]
    engines = dict.fromkeys(engine for entry in groups + repeated for engine in entry["answers"])
    ordered = sorted(engines, key=lambda engine: (engine != "fuselab", engine))
    rows = [row for engine in ordered for row in rows_of(engine, groups, repeated)]
    return {
        "environment": parts[0]["environment"],
        "rows": [vars(row) for row in rows],
        "best": rules.best(rows),
        "parts": [{"repeated": part["repeated"], "groups": part["groups"]} for part in parts],
    }


def rows_of(engine: str, groups: list[dict[str, Any]], repeated: list[dict[str, Any]]) -> list[rules.Row]:
    """One row a rule; one with the reason where the timer failed."""
    answers = [entry["answers"][engine] for entry in groups]
    everything = answers + [entry["answers"][engine] for entry in repeated]
    clock = everything[0]["clock"]
    failure = next((a["failure"] for a in everything if "failure" in a), "")
    if failure:
        return [rules.Row(engine, clock, "-", failure=failure)]
    seconds = sorted(a["seconds"] for a in answers)
    rows = []
    for rule in dict.fromkeys(d["rule"] for a in everything for d in a["decisions"]):
        row = rules.Row(engine, clock, rule, seconds=seconds[len(seconds) // 2] if seconds else None)
        made = [d for a in answers for d in a["decisions"] if d["rule"] == rule]
        for kind in rules.PAIRS:
            of_kind = [rules.Decision(d["ratio"], d["raw"], d["different"]) for d in made if d["kind"] == kind]
            row.called |= {kind: rules.counted(of_kind)} if of_kind else {}
        ratios: dict[str, list[float]] = {}
        for entry in repeated:
            found = [d["ratio"] for d in entry["answers"][engine]["decisions"] if d["rule"] == rule]
            ratios.setdefault(entry["case"], []).extend(found)
        row.half_range = max((rules.half_range(r) for r in ratios.values() if len(r) > 1), default=None)
        rows.append(row)
    return rows


def show(document: dict[str, Any]) -> None:
    """One table, and who is best at what."""
    device, versions = document["environment"]["device"], document["environment"]["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "triton", "fuselab") if name in versions)
    print(f"{device}, {shown}, {document['seconds']:.0f} s\n")
    lines = rules.table(document["rows"])
    widths = [
        max(len(line[i]) for line in lines if not line[3].startswith("not measured")) for i in range(len(lines[0]))
    ]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\n" + "\n".join(document["best"]))
    for failure in document["failures"]:
        print(f"incomplete: {failure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
