"""The list of what has to be rejected, name for name: in Triton's interpreter here, on a GPU at the sizes of models."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import planted
import pytest
import torch
import torch.nn.functional as F

from fuselab.measure.correctness import check
from fuselab.records import Direction

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
FORWARD, BACKWARD = BOTH = tuple(Direction)
DTYPES = ("f32", "bf16")
SHAPES = ((4096, 4096), (16384, 1000))
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
cuda = pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])


def run(experiment, implementation, shape, dtype, device):
    workload = planted.workload(shape, dtype)
    eager = experiment.variant("eager").build(workload)
    return check(experiment, workload, implementation, eager, device, BOTH)


def in_float32(function):
    """The same with float32 inside, as a fused kernel has it."""

    @functools.wraps(function)
    def call(*tensors):
        return function(*(t.float() for t in tensors)).to(tensors[0].dtype)

    return call


RIGHT = {
    "silu": (planted.SILU, in_float32(F.silu)),
    "rms_norm": (planted.RMS_NORM, in_float32(planted.rms_norm)),
    "layer_norm_gelu": (planted.LAYER_NORM_GELU, in_float32(planted.layer_norm_gelu)),
    "softmax_dropout": (planted.SOFTMAX_DROPOUT, in_float32(planted.softmax_dropout)),
}
"""What is right, by the experiment that something wrong is planted in."""


def rejected(name, shape, dtype, device):
    wrong = planted.planted_as(name)
    found = run(wrong.experiment, wrong.build(), shape, dtype, device)
    assert not found[wrong.direction].correct
    assert wrong.words in found[wrong.direction].reason


def accepted(name, shape, dtype, device):
    experiment, implementation = RIGHT[name]
    found = run(experiment, implementation, shape, dtype, device)
    for direction in BOTH:
        assert found[direction].correct, found[direction].reason


def test_everything_on_the_list_is_planted_with_something_right_beside_it():
    for name in planted.HAVE_TO_BE_REJECTED:
        assert planted.planted_as(name).experiment.name in RIGHT
    assert sum(planted.planted_as(name).gpu for name in planted.HAVE_TO_BE_REJECTED) == 1  # the side stream


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in planted.HAVE_TO_BE_REJECTED if not planted.planted_as(n).gpu])
def test_the_list_is_rejected(name, dtype):
    rejected(name, (1024, 1024), dtype, "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_beside_it_is_accepted(name, dtype):
    accepted(name, (1024, 1024), dtype, "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", planted.HAVE_TO_BE_REJECTED)
@cuda
def test_the_list_is_rejected_on_a_gpu(name, dtype, device):
    for shape in SHAPES:
        rejected(name, shape, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RIGHT)
@cuda
def test_what_is_right_beside_it_is_accepted_on_a_gpu(name, dtype, device):
    for shape in SHAPES:
        accepted(name, shape, dtype, device)


@cuda
@pytest.mark.parametrize(("dtype", "shape"), zip(DTYPES, SHAPES, strict=True))
def test_faulty_kernels_are_rejected_and_the_right_ones_accepted(dtype, shape, device):
    pytest.importorskip("triton")
    import planted_kernels as kernels

    assert judged(kernels, {**kernels.WRONG, **kernels.WRONG_ON_A_GPU}, [shape], dtype, device) == []


def judged(kernels, wrong, shapes, dtype, device):
    """What the gate gets wrong about the kernels: none of the faulty may pass, and all of the right have to."""
    complaints = []
    for shape in shapes:
        for name, (experiment, build, direction, words) in wrong.items():
            verdict = run(experiment, build(), shape, dtype, device)[direction]
            if verdict.correct or words not in verdict.reason:
                complaints.append((name, shape, verdict.correct, verdict.reason))
        for name, (experiment, build) in kernels.RIGHT.items():
            for verdict in run(experiment, build(), shape, dtype, device).values():
                complaints += [] if verdict.correct else [(name, shape, False, verdict.reason)]
    return complaints


INTERPRETED = """
import sys
sys.path.insert(0, {here!r})
import planted_kernels, test_planted_gpu
for dtype in ("f32", "bf16"):
    found = test_planted_gpu.judged(planted_kernels, planted_kernels.WRONG, [(16, 300)], dtype, "cpu")
    assert found == [], found
"""


@pytest.mark.slow
def test_faulty_kernels_are_rejected_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    code = INTERPRETED.format(here=str(HERE))
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, timeout=280, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
