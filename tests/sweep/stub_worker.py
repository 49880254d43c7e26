"""A worker process of the sweep's tests: fuselab's own, whose checks and timings answer from what is planted in sizes.

``STUB_LOG`` names a file that gets one line for each cell that is measured. A workload of 1 + 8 n rows behaves; other
rows are planted faults of the variant ``compile``.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from fuselab.records import Correctness, Environment, Measurement, Sample, Status
from fuselab.worker import __main__ as child
from fuselab.worker.messages import (
    CheckRequest,
    CheckResult,
    DescribeRequest,
    DescribeResult,
    Progress,
    TimeRequest,
    TimeResult,
)

MEMORY, CRASH, HANG, WRONG = 2, 3, 4, 5
"""Rows whose ``compile`` goes wrong in that way."""

MODEL = os.environ.get("STUB_MODEL", "CPU stub")
RIGHT = Correctness(correct=True)


def carry_out(request, say):
    if isinstance(request, DescribeRequest):
        return DescribeResult(environment=Environment(device=MODEL, device_type="cpu", cpu_cores=2), device_id="cpu")
    if isinstance(request, CheckRequest):
        return check(request)
    assert isinstance(request, TimeRequest)
    for direction, names in request.groups.items():
        cells = [
            Measurement(
                experiment=request.experiment.name,
                variant=name,
                workload=request.workload,
                direction=direction,
                status=Status.OK,
                median_ns=1000.0 + len(name),
                samples=[Sample(round=0, position=0, duration_ns=1000.0)],
            )
            for name in names
        ]
        log(request, names, direction)
        say(Progress(text="timed", measurements=cells))
    return TimeResult()


def check(request):
    rows = request.workload.shape[0] if request.variant == "compile" else 1
    if rows in (MEMORY, CRASH, HANG, WRONG):
        log(request, [request.variant], request.directions[0])
    if rows == MEMORY:
        raise MemoryError("planted")
    if rows == CRASH:
        ctypes.string_at(0)
    if rows == HANG:
        time.sleep(3600)
    if rows == WRONG:
        wrong = Correctness(correct=False, reason="planted")
        return CheckResult(status=Status.WRONG, correctness=dict.fromkeys(request.directions, wrong))
    return CheckResult(status=Status.OK, correctness=dict.fromkeys(request.directions, RIGHT))


def log(request, names, direction):
    if path := os.environ.get("STUB_LOG"):
        lines = "".join(f"{request.workload.key} {name} {direction.value}\n" for name in names)
        with Path(path).open("a") as file:
            file.write(lines)


if __name__ == "__main__":
    child.carry_out = carry_out
    child.main()
