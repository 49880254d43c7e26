"""Choices that a run on the device measured, beside those that a description can only list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fuselab import device
from fuselab.errors import UnknownNameError, UsageError
from fuselab.offline.messages import Candidate
from fuselab.offline.recorded import Recorded, with_recorded
from fuselab.offline.results import Inspection, KernelResult, TargetResult, WorkloadResult
from fuselab.records import Direction, RunMetadata, RunStatus
from fuselab.store import create_run

SOURCE = "'device': DeviceProperties(type='cuda', cc=90), 'backend_hash': 'A1'\n@triton.jit\ndef k(x): pass\n"
CARD: dict[str, Any] = {
    "config": {"XBLOCK": 512, "num_warps": 8},
    "autotune": {
        "configurations": [
            {"config": {"XBLOCK": 512, "num_warps": 8, "num_stages": 1}, "time_us": 11.0, "chosen": True},
            {"config": {"XBLOCK": 1024, "num_warps": 4, "num_stages": 1}, "time_us": 13.5, "chosen": False},
        ]
    },
}
CANDIDATES = [
    Candidate(config={"XBLOCK": 1024}, num_warps=4, num_stages=1, first=True),
    Candidate(config={"XBLOCK": 512}, num_warps=8, num_stages=1),
]


def recorded_run(root: Path, *, device_type: str = "cuda", card: dict[str, Any] = CARD) -> Path:
    environment = msgspec.structs.replace(device.environment("cpu"), device="NVIDIA H200", device_type=device_type)
    metadata = RunMetadata(
        id="",
        experiment="mine",
        description="",
        status=RunStatus.RUNNING,
        created_at="",
        seed=0,
        device_type=device_type,
    )
    run = create_run(root, metadata, environment)
    folder = run.path / "kernels" / "compile" / "a" / "forward" / "k"
    folder.mkdir(parents=True)
    (folder / "kernel.py").write_text(SOURCE.replace("A1", "B2").replace("cc=90", "cc=90, index=0"))
    (folder / "card.json").write_bytes(msgspec.json.encode(card))
    run.finish(RunStatus.COMPLETE, {})
    return run.path


def inspected(root: Path, device_name: str = "NVIDIA H200", source: str = SOURCE) -> Inspection:
    (root / "kernel.py").write_text(source)
    kernel = KernelResult(
        kernel_id="k",
        name="k",
        backend="triton",
        direction=Direction.FORWARD,
        source="kernel.py",
        candidates=CANDIDATES,
    )
    workload = WorkloadResult(workload="w", key="w", ok=True, kernels=[kernel])
    target = TargetResult(target="h200", device=device_name, arch="sm_90", run=str(root), workloads=(workload,))
    return Inspection(what="w", experiment="e", variant="compile", note="", versions={}, targets=(target,))


def test_what_a_run_kept_and_timed_is_marked_beside_the_first_choice(tmp_path: Path) -> None:
    path = recorded_run(tmp_path / "runs")
    found = with_recorded(inspected(tmp_path), Recorded(str(path), tmp_path))
    (workload,) = found.targets[0].workloads
    (kernel,) = workload.kernels
    assert kernel.recorded is not None
    assert (kernel.recorded.device, kernel.recorded.time_us) == ("NVIDIA H200", 11.0)
    assert kernel.recorded.run == path.parent.name + "/" + path.name
    first, second = kernel.candidates
    assert (first.first, first.recorded, first.recorded_us) == (True, False, 13.5)
    assert (second.first, second.recorded, second.recorded_us) == (False, True, 11.0)
    assert any("measured choices for 1 of 1 kernels" in words for words in workload.warnings)


def test_a_run_that_timed_nothing_still_says_what_it_ran(tmp_path: Path) -> None:
    card = {"config": {"XBLOCK": 1024, "num_warps": 4}, "autotune": {"absent": "it has one configuration"}}
    path = recorded_run(tmp_path / "runs", card=card)
    kernel = with_recorded(inspected(tmp_path), Recorded(str(path), tmp_path)).targets[0].workloads[0].kernels[0]
    assert kernel.recorded is not None
    assert kernel.recorded.time_us is None
    assert [c.recorded for c in kernel.candidates] == [True, False]
    assert [c.recorded_us for c in kernel.candidates] == [None, None]


@pytest.mark.parametrize(("device_name", "source"), [("NVIDIA A100", SOURCE), ("NVIDIA H200", SOURCE + "# more")])
def test_another_device_or_another_source_takes_nothing(tmp_path: Path, device_name: str, source: str) -> None:
    path = recorded_run(tmp_path / "runs")
    kernel = (
        with_recorded(inspected(tmp_path, device_name, source), Recorded(str(path), tmp_path))
        .targets[0]
        .workloads[0]
        .kernels[0]
    )
    assert kernel.recorded is None
    assert not any(c.recorded for c in kernel.candidates)


def test_a_description_has_no_measured_choices_and_no_run_is_named(tmp_path: Path) -> None:
    path = recorded_run(tmp_path / "runs", device_type="described")
    with pytest.raises(UsageError, match="not run on a GPU"):
        Recorded(str(path), tmp_path)
    with pytest.raises(UnknownNameError):
        Recorded("mine/nothing", tmp_path / "runs")
