"""Training under DistributedDataParallel and FSDP2 on two devices is what it is on one, to float32's rounding.

The bound is that of the correctness gate: losses, all gradients of all steps and the parameters after them, against
float64, beside the error that one device with the whole batch has. Planted faults show that it sees what it is for.
On a CPU two processes speak through gloo, with torch's operators and with the kernels in Triton's interpreter; on two
GPUs through NCCL.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import parallel_worker
import pytest
import torch
from parallel_worker import BATCH, LENGTH, RANKS, STEPS, WIDTH

from fuselab.child import environment_of_child, kill_group, reap
from fuselab.measure.tolerance import Scale, compare

pytestmark = pytest.mark.slow

DEADLINE_S = 240.0
SCALE = Scale(elements=STEPS * BATCH * LENGTH * 3 * WIDTH, last_axis=2 * WIDTH, sixteen_bit=False)
"""Of the largest activation; twice WIDTH are the terms of the widest projection."""

FAULTS = ("ddp_without_all_reduce", "ddp_without_a_gradient", "fsdp_without_a_gradient", "fsdp_without_division")
LEGS = ("one", "ddp", "fsdp", "one_patched", "patched_ddp", "patched_fsdp")
ARITHMETICS = {
    "cpu": ("cpu", {"TRITON_INTERPRET": "0"}, (*LEGS, *FAULTS)),
    "interpreter": ("cpu", {"TRITON_INTERPRET": "1"}, LEGS),
    "two GPUs": ("cuda", {"TRITON_INTERPRET": "0"}, (*LEGS, *FAULTS, "compiled_ddp")),
}
"""Device, environment, and what is trained."""


def trained(folder, arithmetic):
    """What both processes wrote."""
    device, environment, legs = ARITHMETICS[arithmetic]
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    environment = environment_of_child({"OMP_NUM_THREADS": "1", **environment})
    environment["PYTHONPATH"] = os.pathsep.join((environment["PYTHONPATH"], path))
    deadline = time.monotonic() + DEADLINE_S
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((folder / f"rank{rank}.log").open("w+")) for rank in range(RANKS)]
        processes = []
        for rank, log in enumerate(logs):
            settings = {"rank": rank, "device": device, "legs": legs, "folder": str(folder)}
            process = subprocess.Popen(
                [sys.executable, parallel_worker.__file__, json.dumps(settings)],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
            stack.callback(reap, process)
            stack.callback(kill_group, process)
            processes.append(process)
        # One that fails leaves the other waiting for it.
        while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    assert codes == [0] * RANKS, f"exit codes {codes}\n" + "\n".join(
        (folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(RANKS)
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both processes came to in an arithmetic; started once for each."""
    return functools.cache(lambda arithmetic: trained(tmp_path_factory.mktemp("parallel"), arithmetic))


@functools.cache
def truth(kind):
    """The same steps in float64, which neither stand still nor run away: NaN would equal NaN."""
    result = parallel_worker.in_float64(kind)
    assert result["losses"].max() < 100
    assert all(1e-3 < gradient.abs().max() < 100 for gradient in result["gradients"].values())
    return result


def losses(results, leg):
    """Of the whole batch: the halves side by side, where each process has its own."""
    parts = [result[leg]["losses"] for result in results]
    return parts[0] if parts[0].shape[1] == BATCH else torch.cat(parts, 1)


def wrong(results, leg, one, kind):
    """What is further from float64 than one device's own error allows, in words."""
    reference = truth(kind)
    pairs = [("losses", losses(results, leg), losses(results, one), reference["losses"])]
    for what in ("gradients", "parameters"):
        for result in results:
            assert list(result[leg][what]) == list(reference[what])
            pairs += [
                (name, got, results[0][one][what][name], reference[what][name])
                for name, got in result[leg][what].items()
            ]
    checks = [compare(*pair, SCALE) for pair in pairs]
    return [f"{check.name}: {check.reason}" for check in checks if not check.correct]


TWO_GPUS = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two NVIDIA GPUs")]


def on(*arithmetics):
    """These ways of computing; two GPUs are used where they are."""
    return [pytest.param(each, marks=TWO_GPUS if each == "two GPUs" else []) for each in arithmetics]


EVERYWHERE = on(*ARITHMETICS)


@pytest.mark.parametrize("arithmetic", EVERYWHERE)
@pytest.mark.parametrize("leg", ["one", "ddp", "fsdp"])
def test_two_devices_train_as_one_does(ranks, arithmetic, leg):
    assert wrong(ranks(arithmetic), leg, "one", "fuselab") == []


@pytest.mark.parametrize("arithmetic", on("two GPUs"))
def test_a_compiled_model_under_ddp_trains_as_one_does(ranks, arithmetic):
    assert wrong(ranks(arithmetic), "compiled_ddp", "one", "fuselab") == []


@pytest.mark.parametrize("arithmetic", EVERYWHERE)
@pytest.mark.parametrize("leg", ["ddp", "fsdp", "patched_ddp", "patched_fsdp"])
def test_both_devices_end_with_the_same_parameters(ranks, arithmetic, leg):
    first, second = (result[leg]["parameters"] for result in ranks(arithmetic))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("arithmetic", EVERYWHERE)
@pytest.mark.parametrize("leg", ["one_patched", "patched_ddp", "patched_fsdp"])
def test_a_patched_model_trains_on_two_devices_as_on_one(ranks, arithmetic, leg):
    assert wrong(ranks(arithmetic), leg, "one_patched", "ordinary") == []


@pytest.mark.parametrize("arithmetic", EVERYWHERE)
@pytest.mark.parametrize("leg", ["patched_ddp", "patched_fsdp"])
def test_a_patched_model_calls_the_operators_on_two_devices(ranks, arithmetic, leg):
    """Once a step, under FSDP2 as well: its parameters are plain tensors while a module computes."""
    calls = {} if arithmetic == "cpu" else dict.fromkeys(("layer_norm_gelu", "rms_norm", "silu", "swiglu"), 3)
    assert [result[leg]["calls"] for result in ranks(arithmetic)] == [calls] * RANKS


@pytest.mark.parametrize("arithmetic", EVERYWHERE)
def test_a_patch_is_undone_under_ddp_and_refused_by_name_after_fully_shard(ranks, arithmetic):
    for result in ranks(arithmetic):
        assert result["patched_ddp"]["undo"] == "RMSNorm"
        assert result["patched_fsdp"]["undo"] == (
            "patch.undo: the class of the model itself, 3, 4 was exchanged since; undo in the opposite order"
        )


@pytest.mark.parametrize("arithmetic", on("cpu", "two GPUs"))
@pytest.mark.parametrize(
    ("leg", "seen"),
    [
        ("ddp_without_all_reduce", "blocks.0.norm.weight"),
        ("ddp_without_a_gradient", "blocks.0.add_norm.weight"),
        ("fsdp_without_a_gradient", "blocks.0.add_norm.weight"),
        ("fsdp_without_division", "blocks.0.norm.weight"),
    ],
)
def test_a_planted_fault_is_seen(ranks, arithmetic, leg, seen):
    found = wrong(ranks(arithmetic), leg, "one", "fuselab")
    assert any(each.startswith(f"{seen}: root-mean-square error") for each in found), found
