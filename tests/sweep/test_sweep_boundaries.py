"""SIGKILL before every write, flush and rename of a sweep's client: every file readable, every stored cell kept, once.

``FUSELAB_SWEEP_KILLS`` of 200 and more kills at each of them; the suite takes a few, drawn anew from a fixed seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest
from rich.console import Console
from table_workers import PLAN, Workers, right

from fuselab.experiment import load_registry
from fuselab.records import RunStatus, Status
from fuselab.store import Run, list_runs
from fuselab.sweep import conduct, dispatch
from fuselab.sweep.cluster import Cluster, Where
from fuselab.sweep.plan import read_plan
from fuselab.sweep.record import list_sweeps
from fuselab.sweep.results import load_results
from fuselab.sweep.watch import SweepWatcher

KILLS = int(os.environ.get("FUSELAB_SWEEP_KILLS", "2"))
FEW = 24
BOUNDARIES = ("write", "fsync", "rename", "replace", "mkdir", "ftruncate")
"""What changes a disk, as ``os`` has it."""

REGISTRY = load_registry(entry_points=())


@pytest.fixture
def quick(monkeypatch):
    """No waiting: the workers answer at once."""
    monkeypatch.setattr(dispatch, "MEMBERS_EVERY_S", 0.0)
    monkeypatch.setattr(dispatch, "POLL_S", 0.01)

    @contextlib.contextmanager
    def opened(where, device):
        yield Cluster(Workers({"a": right}), "inproc://table")

    monkeypatch.setattr(conduct, "opened", opened)


def begin(root):
    path = root / "plan.toml"
    path.write_text(PLAN.format(extra=""))
    conduct.begin(read_plan(path, REGISTRY), Where(), root, SweepWatcher(Console(quiet=True)), ["fuselab"])


def killed_before(root, boundary):
    """Begin a sweep in a process that is killed before so many boundaries; the number passed, or None if it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        passed = 0
        real = {name: getattr(os, name) for name in BOUNDARIES}

        def counted(name):
            def call(*arguments, **options):
                nonlocal passed
                if passed == boundary:
                    os.kill(os.getpid(), signal.SIGKILL)
                passed += 1
                return real[name](*arguments, **options)

            return call

        for name in BOUNDARIES:
            setattr(os, name, counted(name))
        try:
            begin(root)
            real["write"](writer, str(passed).encode())
            os._exit(0)
        except BaseException:
            os._exit(3)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the sweep failed by itself"
    return int(text) if text else None


def chosen(total):
    """Boundaries to kill at: all of them, or a few."""
    return range(total) if KILLS >= 200 else sorted(random.Random(0).sample(range(total), FEW))


def test_fault_14_a_kill_before_any_write_boundary_of_a_sweep_loses_nothing(tmp_path, quick):
    whole = tmp_path / "whole"
    whole.mkdir()
    total = killed_before(whole, -1)
    assert total > 50
    for boundary in chosen(total):
        root = tmp_path / str(boundary)
        root.mkdir()
        assert killed_before(root, boundary) is None
        check(root)


def check(root: Path):
    """Everything reads; the sweep ends as if nothing had been, and what had been stored stays as it was."""
    summaries, rejected = list_runs(root)
    assert rejected == []
    before = {Path(summary.path): Run(Path(summary.path)).measurements() for summary in summaries}
    sweeps = list_sweeps(root)
    if sweeps and sweeps[0].record().runs and sweeps[0].record().status is not RunStatus.COMPLETE:
        conduct.resume(sweeps[0], Where(), SweepWatcher(Console(quiet=True)))
        assert sweeps[0].record().status is RunStatus.COMPLETE
        cells = load_results(sweeps[0]).cells
        assert len(cells) == 12
        assert {m.status for m in cells} == {Status.OK}
    for path, stored in before.items():
        after = Run(path).measurements()
        assert after[: len(stored)] == stored
        assert len((path / "measurements.jsonl").read_text().splitlines()) == len(after)
