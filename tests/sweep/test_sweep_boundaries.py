"""SIGKILL before every write, flush and rename of a sweep's client: every file readable, every stored cell kept, once.

What goes on with it is killed twice more, at boundaries drawn from a fixed seed. ``FUSELAB_SWEEP_KILLS`` of 200 and
more kills at every boundary; the suite takes a few.
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
FEW = 8
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


def resume(root):
    (sweep,) = list_sweeps(root)
    conduct.resume(sweep, Where(), SweepWatcher(Console(quiet=True)))


def killed_before(root, boundary, action=begin):
    """Carry a sweep out in a process that is killed at a boundary: None; else how many boundaries it passed."""
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
            action(root)
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
    chance = random.Random(1)
    assert total > 50
    for boundary in chosen(total):
        root = tmp_path / str(boundary)
        root.mkdir()
        assert killed_before(root, boundary) is None
        for _ in range(2):
            check(root)
            if can_go_on(root):
                killed_before(root, chance.randrange(total), resume)
        check(root, to_the_end=True)


def can_go_on(root):
    """Whether there is a sweep with its run that is not complete."""
    sweeps = list_sweeps(root)
    return bool(sweeps and sweeps[0].record().runs and sweeps[0].record().status is not RunStatus.COMPLETE)


def check(root: Path, *, to_the_end: bool = False):
    """Everything reads; the sweep ends as if nothing had been, and what had been stored stays as it was."""
    summaries, rejected = list_runs(root)
    assert rejected == []
    before = {Path(summary.path): Run(Path(summary.path)).measurements() for summary in summaries}
    if to_the_end and can_go_on(root):
        resume(root)
        (sweep,) = list_sweeps(root)
        assert sweep.record().status is RunStatus.COMPLETE
        cells = load_results(sweep).cells
        assert len(cells) == 12
        assert {m.status for m in cells} == {Status.OK}
    for path, stored in before.items():
        after = Run(path).measurements()
        assert after[: len(stored)] == stored
        assert len((path / "measurements.jsonl").read_text().splitlines()) == len(after)
