"""Row 21 of the faults, on a GPU: what a kernel does to its process fails its cell, and the device works again."""

from __future__ import annotations

import textwrap
import time

import pytest

from fuselab.plan import select
from fuselab.records import Direction, Status
from fuselab.worker.messages import CheckRequest, DescribeRequest, DescribeResult
from fuselab.worker.supervise import Crew

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

KERNELS = """
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def outside(x, n):
        tl.store(x + n, 1.0)

    @triton.jit
    def for_ever(x):
        while tl.load(x, volatile=True) == 0.0:
            pass

    def takes_all_memory(x):
        return x + torch.empty(1 << 46, dtype=torch.uint8, device=x.device)[0]

    def writes_outside(x):
        outside[(1,)](x, 1 << 42)
        torch.cuda.synchronize()
        return x + 1

    def never_ends(x):
        for_ever[(1,)](torch.zeros(1, device=x.device))
        torch.cuda.synchronize()
        return x + 1

    def misaligned(x):
        view = torch.empty(64, dtype=torch.uint8, device=x.device)[1:33].view(torch.uint8)
        return torch.ops.aten.view.dtype(view, torch.float32) + x[:8]
"""


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("takes_all_memory", {Status.OUT_OF_MEMORY}),
        ("writes_outside", {Status.CRASHED, Status.ERROR}),
        ("never_ends", {Status.TIMED_OUT}),
        ("misaligned", {Status.ERROR, Status.CRASHED}),
    ],
)
def test_fault_21_what_a_kernel_does_fails_its_cell_and_the_device_works_within_30_s(tmp_path, name, statuses):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(KERNELS))
    (plan,) = select([f"{path}:{name}"], {}, arguments=["x=f32[1024]"]).plans("cuda")
    (tmp_path / "staging").mkdir()
    request = CheckRequest(
        experiment=plan.reference, workload=plan.workloads[0], variant="eager", baseline="eager", device_type="cuda",
        directions=[Direction.FORWARD], staging=str(tmp_path / "staging"), caches=str(tmp_path / "caches"),
    )  # fmt: skip
    with Crew() as crew:
        answer = crew.call(request, deadline_s=60.0)
        assert answer.status in statuses, answer
        failed = time.monotonic()
        again = crew.call(DescribeRequest(device="cuda", exercise=True), deadline_s=60.0)
        assert isinstance(again, DescribeResult), again
        assert time.monotonic() - failed < 30
