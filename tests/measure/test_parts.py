"""Whether forward and backward add up to a training step."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.cell import Work
from fuselab.measure.cpu_timer import CpuCell
from fuselab.measure.group import Arm, time_group
from fuselab.measure.parts import ROUNDS, disagreement, time_parts
from fuselab.measure.rotation import Rotation
from fuselab.records import Direction, Parts, Workload


def parts(gap: float, width: float = 0.01) -> Parts:
    return Parts(forward=[], backward=[], both=[], gap=gap, low=gap - width, high=gap + width)


@pytest.mark.parametrize(
    ("gap", "fits_cache", "said"),
    [
        (0.0, False, ""),
        (0.055, False, ""),  # the interval reaches into what is allowed
        (0.2, False, "takes 20% more"),
        (0.2, True, "takes 20% more"),
        (-0.2, False, "takes 20% less"),
        (-0.2, True, ""),  # the backward finds in the cache what its forward left there
    ],
)
def test_disagreement(gap, fits_cache, said):
    text = disagreement(parts(gap), fits_cache=fits_cache)
    assert (said in text) if said else text == ""


class _Slow(torch.autograd.Function):
    """Sleeps, so that nothing else counts; a backward right after its own forward sleeps ``extra`` seconds more."""

    extra = 0.0
    forwards = 0

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        time.sleep(2e-4)
        _Slow.forwards += 1
        ctx.number = _Slow.forwards
        return x * 2

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        time.sleep(3e-4 + (_Slow.extra if ctx.number == _Slow.forwards else 0.0))
        return grad * 2


@pytest.mark.parametrize(("extra", "said"), [(0.0, ""), (2e-3, "do not add up: a forward with its backward takes")])
def test_a_step_is_timed_in_parts_and_whole(extra, said, monkeypatch):
    rotation = Rotation(
        lambda i: Inputs((torch.randn(8, requires_grad=True),)), touched_bytes=32, cache=64, memory_bytes=10**6
    )
    work = Work(_Slow.apply, rotation, Direction.BACKWARD)
    cell = CpuCell(work)
    cell.calls = 8
    monkeypatch.setattr(_Slow, "extra", extra)
    found = time_parts(cell, work, seed=0)
    assert len(found.forward) == len(found.backward) == len(found.both) == ROUNDS
    assert min(s.duration_ns for s in found.forward) >= 2e5
    assert min(s.duration_ns for s in found.backward) >= 3e5
    text = disagreement(found, fits_cache=True)
    assert (said in text) if said else not text


def test_the_cell_of_a_backward_has_its_parts():
    found = time_group(
        [Arm("eager", torch.sin, lambda i: Inputs((torch.randn(64, 64, requires_grad=True),)))],
        workload=Workload(shape=(64, 64)),
        direction=Direction.BACKWARD,
        device_type="cpu",
        baseline="eager",
        traffic=None,
        seed=0,
        budget_s=0.1,
        max_rounds=5,
    )["eager"]
    assert found.error is None
    assert len(found.parts.both) == ROUNDS


def test_a_forward_has_no_parts():
    found = time_group(
        [Arm("eager", torch.sin, lambda i: Inputs((torch.randn(8, requires_grad=True),)))],
        workload=Workload(shape=(8,)),
        direction=Direction.FORWARD,
        device_type="cpu",
        baseline="eager",
        traffic=None,
        seed=0,
        budget_s=0.05,
        max_rounds=5,
    )["eager"]
    assert found.parts is None
