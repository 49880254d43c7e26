"""SIGKILL in the middle of a run: it lists, shows what was measured, and is finished without repeating a cell.

``FUSELAB_KILLS`` sets how often (2 in the suite; 20 before a release).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("FUSELAB_KILLS", "2"))

OWN = """
import torch

def halves(x):
    return x * 0.5 + 1

def thirds(x):
    return x / 3
"""


def fuselab(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "fuselab", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_is_readable_and_resumable(number, tmp_path):
    chance = random.Random(number)
    (tmp_path / "own.py").write_text(OWN)
    command = [
        "run", "own.py:halves", "own.py:thirds", "--arg", "x=f32[64,64]:requires_grad", "--device", "cpu",
        "--variant", "eager", "--budget", "0.3", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "fuselab", *command],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(list(tmp_path.glob("runs/*/*/metadata.json"))) < 2:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 22))
    process.send_signal(signal.SIGKILL)
    process.wait()

    listing = json.loads(fuselab("list-runs", "--json", cwd=tmp_path).stdout)
    assert listing["rejected"] == []
    assert len(listing["runs"]) == 2
    before = {}
    for run in listing["runs"]:
        shown = fuselab("show", run["id"], "--json", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        (document,) = json.loads(shown.stdout)["runs"]
        before[run["id"]] = [m["created_at"] for m in document["measurements"]]
        assert fuselab("show", run["id"], cwd=tmp_path).returncode == 0

    if any(run["status"] != "complete" for run in listing["runs"]):
        resumed = fuselab("run", "--resume", "all", "--json", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
    for run, stamps in before.items():
        (document,) = json.loads(fuselab("show", run, "--json", cwd=tmp_path).stdout)["runs"]
        assert document["metadata"]["status"] == "complete"
        after = [m["created_at"] for m in document["measurements"]]
        assert len(after) == 2
        assert after[: len(stamps)] == stamps, "a finished cell was measured again"
        lines = (tmp_path / "runs" / run / "measurements.jsonl").read_text().splitlines()
        assert len(lines) == 2
