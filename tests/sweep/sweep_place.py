"""Dask processes and sweeps of stubs: no torch is imported, every check and timing is a process all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE_S = 240
"""A machine five times slower than a quiet one still makes it."""


def until(condition, what, patience_s=PATIENCE_S):
    """Wait until something is so."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {patience_s} s"
        time.sleep(0.02)
    return found


class Place:
    """A directory with a plan in it, and the environment of processes that answer from stubs."""

    def __init__(self, directory):
        self.directory = directory
        self.runtime = directory / "locks"
        self.log = directory / "measured"
        self.processes = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": '["stub_crew"]',
            "STUB_LOG": str(self.log),
            "FUSELAB_RUNTIME_DIR": str(self.runtime),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self.log.touch()

    def start(self, *arguments, **environment):
        """A Python process of ours that ends with the test."""
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=self.directory,
            env={**self.environment, **environment},
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "errors").open("ab"),
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def fuselab(self, *arguments, **environment):
        """A command of ours, carried out to its end."""
        return subprocess.run(
            [sys.executable, "-m", "fuselab", *map(str, arguments)],
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def scheduler(self, *options):
        """A scheduler of its own process; its address."""
        file = self.directory / f"scheduler-{len(self.processes)}.json"
        process = self.start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", file, *options,
        )  # fmt: skip
        until(file.exists, "the scheduler's start")
        return process, until(lambda: address_in(file), "the scheduler's address")

    def worker(self, address, **environment):
        """A nanny and its worker."""
        return self.start(
            "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard",
            "--local-directory", self.directory / "dask", **environment,
        )  # fmt: skip

    def plan(self, text):
        """Write the plan."""
        (self.directory / "plan.toml").write_text(text)

    def stored(self):
        """Every cell in the store, as ``workload variant direction``, with how often; and their statuses."""
        cells, statuses = Counter(), {}
        for path in self.directory.glob("runs/*/*/measurements.jsonl"):
            for line in path.read_bytes().split(b"\n"):
                try:
                    m = json.loads(line)
                except ValueError:  # the last line of a process that was killed
                    continue
                w = m["workload"]
                name = f"{'x'.join(map(str, w['shape']))} {m['variant']} {m['direction']}"
                cells[name] += 1
                statuses[name] = m["status"]
        return cells, statuses

    def measured(self):
        """Cells in the order in which a process measured them, with the workload's size for its key."""
        return [
            line.split()[0].split("_")[0] + " " + line.split(" ", 1)[1] for line in self.log.read_text().splitlines()
        ]

    def close(self):
        """End everything that was started here."""
        for process in self.processes:
            for pid in [*children_of(process.pid), process.pid]:
                kill(pid)
            process.wait()


def address_in(file):
    try:
        return json.loads(file.read_text())["address"]
    except ValueError:  # it is being written
        return None


def children_of(pid):
    """Processes whose parent this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
