"""What a sweep itself costs: thousands of cells whose checks and timings take no time, on real Dask processes.

    python benchmarks/sweep_overhead.py --cells 10000 --workers 2 --out benchmarks/results/sweep-overhead.json

Reported: seconds a cell, memory of client and scheduler at the beginning, at a tenth of the cells and at the end (what
is bounded does not grow with the cells), and how long it takes to list, show, export and draw the results. The workers
preload this file's ``dask_setup``, which answers requests within the worker's process: no torch, no process a cell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from fuselab.experiment import load_registry
from fuselab.records import Comparison, Correctness, Environment, Measurement, Sample, Status, Verdict
from fuselab.worker.messages import CheckRequest, CheckResult, DescribeRequest, DescribeResult, Progress, TimeResult

HERE = Path(__file__).resolve().parent
VARIANTS = ("eager", "compile", "compile-max-autotune", "triton")
ROUNDS = 20
"""Samples of a stub cell: a line of the store as long as a measured one's would be at the smallest budget."""

ALLOWED_S = 0.020
"""What a cell may cost beyond its own checks and timings."""


class StubCrew:
    """Answers in this process: every check passes, every timing takes no time."""

    concurrent = True
    device_id = ""

    def __enter__(self) -> StubCrew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nothing is under way."""

    def call(
        self, request: Any, *, deadline_s: float, environment_variables: Any = None, on_progress: Any = None
    ) -> Any:
        if isinstance(request, DescribeRequest):
            return DescribeResult(environment=Environment(device="CPU stub", device_type="cpu", cpu_cores=1))
        if isinstance(request, CheckRequest):
            return CheckResult(
                status=Status.OK, correctness=dict.fromkeys(request.directions, Correctness(correct=True))
            )
        for direction, names in request.groups.items():
            cells = [self._cell(request, name, direction) for name in names]
            on_progress(Progress(text="timed", measurements=cells))
        return TimeResult()

    def _cell(self, request: Any, name: str, direction: Any) -> Measurement:
        is_base = name == request.baseline
        speedup = 1.0 if is_base else 1.0 + len(name) / 50
        return Measurement(
            experiment=request.experiment.name,
            variant=name,
            workload=request.workload,
            direction=direction,
            status=Status.OK,
            median_ns=1000.0 / speedup,
            peak_memory_bytes=request.workload.rows * 64 + len(name),
            samples=[Sample(round=i, position=0, duration_ns=1000.0 / speedup) for i in range(ROUNDS)],
            comparison=Comparison(
                baseline=request.baseline,
                verdict=Verdict.BASELINE if is_base else Verdict.FASTER,
                speedup=speedup, low=speedup * 0.99, high=speedup * 1.01, rounds=ROUNDS, p_value=1e-6,
            ),
        )  # fmt: skip


def dask_setup(_worker: Any) -> None:
    """Called by Dask in each worker."""
    from fuselab.sweep import seat

    seat.use(StubCrew)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="where to write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measured(Path(directory), arguments.cells, arguments.workers)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if figures["seconds_a_cell"] > ALLOWED_S:
        sys.exit(f"{figures['seconds_a_cell'] * 1e3:.1f} ms a cell; at most {ALLOWED_S * 1e3:.0f} are allowed")


def measured(directory: Path, cells: int, workers: int) -> dict[str, Any]:
    """The figures of one sweep."""
    os.environ["FUSELAB_RUNTIME_DIR"] = str(directory / "locks")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = '["sweep_overhead"]'
    plan = directory / "plan.toml"
    workloads = cells // len(VARIANTS)
    widths = 50
    plan.write_text(
        f'device = "cpu"\nvariants = {json.dumps(VARIANTS)}\ndirections = "forward"\n[[experiment]]\nname = "silu"\n'
        f'shape = "{{rows}}x{{width}}"\n[experiment.axes]\nrows = {{from = 1, to = {workloads // widths}, step = 1}}\n'
        f"width = {{from = 64, to = {64 * widths}, step = 64}}\n"
    )
    with dask(directory, workers) as (address, scheduler):
        return _sweep(directory, plan, address, scheduler)


def _sweep(directory: Path, plan: Path, address: str, scheduler: int) -> dict[str, Any]:
    from rich.console import Console

    from fuselab.report.sweep import sweep_view
    from fuselab.store import list_runs
    from fuselab.sweep import conduct
    from fuselab.sweep.cluster import Where
    from fuselab.sweep.page import render
    from fuselab.sweep.plan import read_plan
    from fuselab.sweep.results import export, load_results
    from fuselab.sweep.watch import SweepWatcher

    class Watcher(SweepWatcher):
        """Looks at memory as cells arrive; prints nothing."""

        def __init__(self) -> None:
            super().__init__(Console(quiet=True))
            self.marks: dict[str, dict[str, float]] = {}
            self.total = self.count = 0
            self.begun = self.ended = 0.0

        def planned(self, cells: int, done: int, units: int) -> None:
            super().planned(cells, done, units)
            self.begun = time.monotonic()
            self.total = cells
            self.mark("start")

        def finished_cells(self, measurements: Any) -> None:
            super().finished_cells(measurements)
            before, self.count = self.count, self.count + len(measurements)
            if before < self.total // 10 <= self.count:
                self.mark("tenth")
            if self.count == self.total:
                self.ended = time.monotonic()
                self.mark("end")

        def mark(self, name: str) -> None:
            self.marks[name] = {"client_mb": resident_mb(os.getpid()), "scheduler_mb": resident_mb(scheduler)}

    read = read_plan(plan, load_registry())
    watcher = Watcher()
    done = conduct.begin(read, Where(scheduler=address), directory / "runs", watcher, ["benchmark"])
    out = directory / "runs"
    seconds = {
        "list_runs_s": timed(lambda: list_runs(out)),
        "load_s": timed(lambda: load_results(done)),
    }
    results = load_results(done)
    planned = {o.metadata.id: watcher.total for o in results.outcomes}
    by_run = {o.metadata.id: o.measurements for o in results.outcomes}
    wall = watcher.ended - watcher.begun
    seconds |= {
        "show_s": timed(lambda: Console(quiet=True).print(sweep_view(results.record, by_run, planned, ["CPU stub"]))),
        "page_s": timed(lambda: render(results)),
        "parquet_s": timed(lambda: export(results, directory / "cells.parquet")),
        "jsonl_s": timed(lambda: export(results, directory / "cells.jsonl")),
    }
    return {
        "cells": watcher.total,
        "wall_s": round(wall, 2),
        "seconds_a_cell": round(wall / watcher.total, 5),
        "memory": watcher.marks,
        "page_kb": len(render(results)) // 1024,
        **{name: round(value, 2) for name, value in seconds.items()},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
    }


@contextlib.contextmanager
def dask(directory: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A scheduler and workers in processes of their own: the address, and the scheduler's process."""
    file = directory / "scheduler.json"
    processes = []

    def start(*arguments: object) -> int:
        command = [sys.executable, "-m", *map(str, arguments), "--no-dashboard"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return processes[-1].pid

    try:
        pid = start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        for _ in range(workers):
            start("distributed.cli.dask_worker", address, "--nthreads", 1, "--host", "127.0.0.1", "--no-nanny")
        yield address, pid
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in 10^6 bytes."""
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1)


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.monotonic()
    function()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
