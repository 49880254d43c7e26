"""A sweep on real GPUs: each has a worker, is named by its UUID, and is timed by one unit at a time."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(0)]

PLAN = """
name = "gpus"
device = "cuda"
variants = ["eager", "compile", "triton"]
directions = "forward"
budget.timing_s = 0.2
[[experiment]]
name = "silu"
shape = "{rows}x4096"
axes.rows = [512, 1024, 2048, 4096]
axes.dtype = "bf16"
"""


def test_every_gpu_takes_its_share_and_the_figures_carry_its_name(place):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    place.plan(PLAN)
    done = place.fuselab("sweep", "plan.toml", "--json", DASK_DISTRIBUTED__WORKER__PRELOAD="[]")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    assert {m["device"] for run in document["runs"] for m in run["measurements"]} <= names
    assert all(m["status"] == "ok" for run in document["runs"] for m in run["measurements"])
    (path,) = place.directory.glob("runs/sweeps/*/units.jsonl")
    used = {json.loads(line)["device_id"] for line in path.read_text().splitlines()}
    assert all(uuid.startswith(("GPU-", "MIG-")) for uuid in used)
    assert len(used) == min(torch.cuda.device_count(), 4)
