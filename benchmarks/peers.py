"""fuselab's operators beside eager, torch.compile, Liger and QuACK: the table of what they have to reach, measured.

    python benchmarks/peers.py --jobs 12 --out benchmarks/results/h200-peers.json     measure, and print the table
    python benchmarks/peers.py --from benchmarks/results/h200-peers.json              print a recorded one; needs no GPU
    python benchmarks/peers.py --quick --only rms_norm --out quick.json               three shapes, one operator

bf16, from fuselab's measuring engine: variants in paired rounds, CUDA-graph replays, cold caches, the ceiling of each
cell's own mix of reads and writes in the same rounds. Every variant is checked against float64 first, at full size,
forward and backward; what is wrong is listed and not timed. The host's time of a call is the engine's dispatch clock.

``--jobs`` processes build and check everything at once (compiled kernels are tuned one at a time, with the device for
themselves); then they stay, idle, and one cell after the other is timed in the process that built it. The JSON is
written after each cell. ``--resume`` measures what is missing in it: cells, and variants that were not built in time.
Two processes may share the work on two devices, whose results are then joined::

    CUDA_VISIBLE_DEVICES=0 python benchmarks/peers.py --shard 0/2 --out a.json &
    CUDA_VISIBLE_DEVICES=1 python benchmarks/peers.py --shard 1/2 --out b.json; wait
    python benchmarks/peers.py --merge a.json b.json --out benchmarks/results/h200-peers.json

``peers_rules`` holds the demands and the verdicts, ``peers_operators`` everybody's implementations, ``peers_worker``
what a process does. ``peers_tables.py`` writes the tables into the documentation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers_operators as peers
import peers_rules as rules
from peers_operators import HOST, HOST_CELL, OPERATORS, VARIANTS

Key = tuple[str, tuple[int, int]]

COST = {"layer_norm_gelu": 3.0, "softmax_dropout": 2.5, "rms_norm": 3.0, "add_rms_norm": 3.0}
"""Roughly how long an operator's variants take to build, beside the others."""
CELL_S = 90.0
"""A cell that takes longer than this is given up, and its process with it."""
GRACE_S = 150.0
"""What is being compiled when the time for building ends may take this much longer."""


def main() -> int:
    arguments = parsed()
    if arguments.show:
        show(json.loads(arguments.show.read_text()))
        return 0
    if arguments.merge:
        document = merged([json.loads(path.read_text()) for path in arguments.merge])
        write(arguments.out, document)
        show(document)
        return 0
    before = json.loads(arguments.out.read_text()) if arguments.resume and arguments.out.is_file() else None
    run = Run(arguments, before)
    if not run.wanted:
        print("nothing is missing", file=sys.stderr)
    else:
        run.measure()
    show(run.document)
    return 0


def parsed(text: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the JSON, written after each cell")
    parser.add_argument("--from", dest="show", type=Path, metavar="JSON", help="print what was recorded, and no more")
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="JSON", help="join recordings of one machine into --out"
    )
    parser.add_argument("--resume", action="store_true", help="measure what --out does not have")
    parser.add_argument("--as-built", action="store_true", help="with --resume: cells that lack a late variant stay")
    parser.add_argument("--quick", action="store_true", help="three shapes, fewer rounds")
    parser.add_argument("--only", action="append", metavar="OPERATOR", choices=tuple(OPERATORS))
    parser.add_argument("--without", action="append", metavar="VARIANT", choices=VARIANTS, default=[])
    parser.add_argument("--shapes", help="ROWSxCOLUMNS,...; default: those of the table")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that build")
    parser.add_argument("--seconds", type=float, default=0.1, help="of timing, for each variant of a cell")
    parser.add_argument("--rounds", type=int, help="most rounds of a cell; default 60, with --quick 25")
    parser.add_argument("--build-s", type=float, default=170.0, help="no tuning is begun after this")
    parser.add_argument("--limit-s", type=float, default=400.0, help="no cell is begun after this")
    parser.add_argument("--shard", metavar="I/N", help="do a share of the work, the same operators on both")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the flow, not to compare"
    )
    arguments = parser.parse_args(text)
    if arguments.shapes:
        if not re.fullmatch(r"\d+x\d+(,\d+x\d+)*", arguments.shapes):
            parser.error(f"--shapes {arguments.shapes}: for example 64x4096,16384x4096")
        pairs = (shape.split("x") for shape in arguments.shapes.split(","))
        arguments.shapes = [(int(rows), int(columns)) for rows, columns in pairs]
    if arguments.shard and not re.fullmatch(r"\d+/[1-9]\d*", arguments.shard):
        parser.error(f"--shard {arguments.shard}: for example 0/2")
    if arguments.out is None and not arguments.show:
        parser.error("--out: where to write the JSON")
    arguments.rounds = arguments.rounds or (25 if arguments.quick else 60)
    return arguments


# What there is to do.


def planned(arguments: argparse.Namespace) -> list[tuple[Key, str]]:
    """Every cell, in the order they are timed: large shapes first, all operators in turn."""
    names = arguments.only or list(OPERATORS)
    cells = []
    for shape in arguments.shapes or (peers.QUICK if arguments.quick else peers.LARGE + peers.SMALL):
        for name in names:
            if arguments.shapes or shape in OPERATORS[name].shapes:
                cells += [((name, shape), direction) for direction in ("forward", "backward")]
    host = peers.HOST if not arguments.shapes or HOST in arguments.shapes else arguments.shapes[-1]
    cells += [((name, host), HOST_CELL) for name in names]
    if arguments.shard:
        index, count = map(int, arguments.shard.split("/"))
        keys = sorted(dict.fromkeys(key for key, _ in cells), key=lambda key: (-cost(key), key))
        mine = set(keys[index::count])
        cells = [cell for cell in cells if cell[0] in mine]
    return cells


def cost(key: Key) -> float:
    """How long a key takes to build, roughly, beside the others."""
    name, (rows, columns) = key
    return COST.get(name, 1.5) * (1 + (rows * columns) / 2**28)


def shared_out(keys: Sequence[Key], processes: int) -> list[list[Key]]:
    """The keys by process, the longest first, each to whoever has least to do.

    Example:
        >>> shared_out([("silu", (1, 1)), ("rms_norm", (1, 1)), ("swiglu", (1, 1))], 2)
        [[('rms_norm', (1, 1))], [('silu', (1, 1)), ('swiglu', (1, 1))]]
    """
    shares: list[list[Key]] = [[] for _ in range(max(1, min(processes, len(keys))))]
    loads = [0.0] * len(shares)
    for key in sorted(keys, key=lambda key: (-cost(key), key)):
        least = loads.index(min(loads))
        shares[least].append(key)
        loads[least] += cost(key)
    return shares


def named(key: Key, direction: str) -> str:
    """A cell as a worker reads it."""
    return f"{key[0]} {key[1][0]}x{key[1][1]} {direction}"


def complete(cell: dict[str, Any], as_built: bool = False) -> bool:
    """Whether there is nothing in a recorded cell that another run could add; ``as_built``: but late variants."""
    late = not as_built and any(str(v.get("absent", "")).startswith("not built") for v in cell["variants"].values())
    return bool(cell["variants"]) and not late and "failure" not in cell


# Doing it.


class Child:
    """A process that builds and times; what it says goes into a queue that all share."""

    def __init__(
        self, number: int, settings: dict[str, Any], environment: dict[str, str], said: queue.Queue[Any]
    ) -> None:
        self.number = number
        command = [sys.executable, str(Path(__file__).with_name("peers_worker.py")), json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.alive = True
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said.put((self.number, json.loads(line)))
        self.process.wait()
        said.put((self.number, {"event": "ended", "code": self.process.returncode}))

    def ask(self, text: str) -> None:
        """Have a cell timed; a process that is gone says so in the queue."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Nothing more will be asked of it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """Wait for it to end by itself, but not for long."""
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Run:
    """One measurement, from nothing or from what an earlier one left."""

    def __init__(self, arguments: argparse.Namespace, before: dict[str, Any] | None) -> None:
        self.arguments = arguments
        self.started = time.monotonic()
        self.document = before or {"environment": None, "settings": [], "cells": [], "failures": []}
        cells = [cell for cell in self.document["cells"] if complete(cell, arguments.as_built)]
        done = {(cell["operator"], tuple(cell["shape"]), cell["direction"]) for cell in cells}
        self.wanted = [(key, direction) for key, direction in planned(arguments) if (*key, direction) not in done]
        self.said: queue.Queue[Any] = queue.Queue()
        self.children: dict[int, Child] = {}
        self.owners: dict[Key, int] = {}

    def measure(self) -> None:
        """Build everything, then time everything; whatever happens, what was measured is written."""
        environment = self._environment()
        stamp = _stamp(self.arguments.device)
        if before := self.document["environment"]:
            if why := differ(before, stamp):
                raise SystemExit(f"{self.arguments.out} was measured elsewhere: {why}; measure into another file")
            stamp = together([before, stamp])
        self.document["environment"] = stamp
        settings = {
            key: getattr(self.arguments, key)
            for key in (
                "device",
                "jobs",
                "seconds",
                "rounds",
                "build_s",
                "limit_s",
                "quick",
                "only",
                "shapes",
                "without",
            )
        } | {"shard": self.arguments.shard}
        self.document["settings"].append(settings)
        with tempfile.TemporaryDirectory() as scratch:
            environment |= {
                "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
                "TRITON_CACHE_DIR": f"{scratch}/triton",
            }
            try:
                self._start(environment, Path(scratch) / "device.lock")
                self._built()
                settings["built_s"] = round(time.monotonic() - self.started, 1)
                self._time()
            finally:
                for child in self.children.values():
                    child.close()
                for child in self.children.values():
                    child.end()
                settings["measured_s"] = round(time.monotonic() - self.started, 1)
                write(self.arguments.out, self.document)

    def _environment(self) -> dict[str, str]:
        source = str(Path(__file__).parent.parent / "src")
        paths = filter(None, (source, os.environ.get("PYTHONPATH", "")))
        # A process compiles by itself: there are as many of them as the machine can feed.
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(paths), "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"
        }  # fmt: skip

    def _start(self, environment: dict[str, str], lock: Path) -> None:
        directions: dict[Key, list[str]] = {}
        for key, direction in self.wanted:
            directions.setdefault(key, []).append(direction)
        keys = list(directions)
        for number, share in enumerate(shared_out(keys, self.arguments.jobs)):
            settings = {
                "device": self.arguments.device,
                "seconds": self.arguments.seconds,
                "rounds": self.arguments.rounds,
                "build_deadline": time.time() + self.arguments.build_s - (time.monotonic() - self.started),
                "variants": [variant for variant in VARIANTS if variant not in self.arguments.without],
                "tasks": [(*key, directions[key]) for key in share],
                "lock": str(lock),
            }
            self.children[number] = Child(number, settings, environment, self.said)
            self.owners.update(dict.fromkeys(share, number))

    def _built(self) -> None:
        """Wait until everybody is ready, or gone, or late beyond hope."""
        waiting, count = set(self.children), 0
        end = self.started + self.arguments.build_s + GRACE_S
        while waiting:
            try:
                number, event = self.said.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                for number in waiting:
                    self._gone(number, "it was not ready in time")
                return
            if event["event"] == "built":
                count += 1
                self._note(f"{count} built: {event['key']} {event['variant']}, {event['seconds']:.0f} s")
            elif event["event"] == "ready":
                waiting.discard(number)
                self._note(f"process {number} is ready, {len(waiting)} are not")
            else:
                waiting.discard(number)
                self._gone(number, f"it ended with {event['code']} while it built")

    def _time(self) -> None:
        for at, (key, direction) in enumerate(self.wanted):
            if time.monotonic() - self.started > self.arguments.limit_s:
                self._fail(f"{len(self.wanted) - at} cells were not begun: {self.arguments.limit_s:.0f} s were over")
                return
            child = self.children[self.owners[key]]
            if not child.alive:
                continue
            child.ask(named(key, direction))
            try:
                number, event = self.said.get(timeout=CELL_S)
                while number != child.number:  # somebody who was late ended meanwhile
                    number, event = self.said.get(timeout=CELL_S)
            except queue.Empty:
                self._gone(child.number, f"{named(key, direction)} did not end")
                continue
            if event["event"] == "cell":
                self._keep(event["cell"])
                self._note(f"{at + 1} of {len(self.wanted)} {event['asked']}: {_line(event['cell'])}")
            elif event["event"] == "failed":
                self._fail(f"{event['asked']}: {event['reason']}")
            else:
                self._gone(child.number, f"it ended with {event['code']} at {named(key, direction)}")
            write(self.arguments.out, self.document)

    def _keep(self, cell: dict[str, Any]) -> None:
        same = ("operator", "shape", "direction")
        others = [c for c in self.document["cells"] if any(c[k] != cell[k] for k in same)]
        self.document["cells"] = [*others, cell]

    def _gone(self, number: int, why: str) -> None:
        child = self.children[number]
        if child.alive:
            child.alive = False
            child.process.kill()
            self._fail(f"process {number}: {why}")

    def _fail(self, text: str) -> None:
        self._note(text)
        self.document["failures"].append(text)

    def _note(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", file=sys.stderr, flush=True)


def _line(cell: dict[str, Any]) -> str:
    ours, others = cell["variants"].get(peers.OURS, {}), rules.timed_peers(cell)
    if "us" not in ours:
        return str(ours or "ours was not timed")
    best = min(others, key=lambda name: others[name]["us"], default=None)
    beside = "" if best is None else f", best {best} {others[best]['us']:.2f}"
    share = f" share {ours['share']:.3f}" if ours.get("share") else ""
    return f"{ours['us']:.2f} us{share}{beside}; {cell['seconds']} s"


def _stamp(device: str) -> dict[str, Any]:
    import msgspec

    from fuselab.device import environment

    stamp: dict[str, Any] = msgspec.to_builtins(environment(device))
    return stamp


def differ(first: dict[str, Any], second: dict[str, Any]) -> str:
    """What two machines differ in that figures depend on, in words.

    A package that one of them does not have took no part there.
    """
    for name in ("device", "driver"):
        if first.get(name) != second.get(name):
            return f"{name} {first.get(name)} and {second.get(name)}"
    one, other = first["versions"], second["versions"]
    for package in sorted(set(one) & set(other)):
        if one[package] != other[package]:
            return f"{package} {one[package]} and {other[package]}"
    return ""


def together(environments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Environments that do not differ as one: the last, with the versions of every package that took part."""
    versions = {package: version for one in environments for package, version in one["versions"].items()}
    return environments[-1] | {"versions": versions}


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Recordings of one machine as one; of a cell that several have, the last that is complete."""
    first, *others = documents
    for other in others:
        if why := differ(first["environment"], other["environment"]):
            raise SystemExit(f"these were not measured on one machine: {why}")
    cells: dict[Any, dict[str, Any]] = {}
    for document in documents:
        for cell in document["cells"]:
            key = (cell["operator"], tuple(cell["shape"]), cell["direction"])
            if key not in cells or complete(cell):
                cells[key] = cell
    joined = {key: [entry for d in documents for entry in d[key]] for key in ("settings", "failures")}
    environment = together([document["environment"] for document in documents])
    return {"environment": environment, **joined, "cells": list(cells.values())}


def write(path: Path, document: dict[str, Any]) -> None:
    """The document as JSON with lists of numbers on one line, whole or not at all."""
    from record import without_directories

    text = json.dumps(without_directories(document), indent=1)
    text = re.sub(r"\[\n([-\d.e+,\s]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text + "\n")
    beside.replace(path)


def show(document: dict[str, Any]) -> None:
    """Every operator's figures, then the demands with pass or fail, then the tally."""
    cells = document["cells"]
    print(stamp_line(document), "\n")
    for name, operator in OPERATORS.items():
        for direction in ("forward", "backward", HOST_CELL):
            if any(cell["operator"] == name and cell["direction"] == direction for cell in cells):
                print(f"## {operator.title}, {direction}\n\n{rules.figures(cells, name, direction)}\n")
    left_out = dict.fromkeys(  # forward, backward and host have one reason
        f"- {cell['operator']} {'x'.join(map(str, cell['shape']))} {name}: {kind}: {entry[kind]}"
        for cell in cells
        for name, entry in cell["variants"].items()
        for kind in ("wrong", "error", "above_ceiling", "absent")
        if kind in entry
    )
    untrusted = [
        f"- {cell['operator']} {'x'.join(map(str, cell['shape']))} {cell['direction']}: {cell['untrusted']}"
        for cell in cells
        if "untrusted" in cell
    ]
    for title, lines in (
        ("Left out", list(left_out)),
        ("Not to be trusted", untrusted),
        ("Failures", [f"- {failure}" for failure in document["failures"]]),
    ):
        if lines:
            print(f"## {title}\n\n" + "\n".join(lines) + "\n")
    print(f"## What they have to reach\n\n{rules.summary(cells)}\n\n{rules.tally(cells)}")


def stamp_line(document: dict[str, Any]) -> str:
    """Device, driver and versions in one line."""
    environment = document["environment"]
    names = ("torch", "triton", "liger-kernel", "quack-kernels", "fuselab")
    versions = ", ".join(f"{n} {environment['versions'][n]}" for n in names if n in environment["versions"])
    driver = f", driver {environment['driver']}" if environment.get("driver") else ""
    return f"{environment['device']}, {versions}{driver}; bf16, microseconds of a call."


if __name__ == "__main__":
    sys.exit(main())
