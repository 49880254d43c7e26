"""Bytes and operations against numbers counted by hand."""

from __future__ import annotations

import pytest

from fuselab.experiment import load_registry
from fuselab.records import Direction, Workload

REGISTRY = load_registry([])
F, B = Direction.FORWARD, Direction.BACKWARD

# 8 x 16 elements: 128, of 4 bytes 512, of 2 bytes 256; a weight of 16: 64 or 32 bytes.
CASES = [
    # name, shape, dtype, options, direction, read, written, streams, operations
    ("layer_norm_gelu", (8, 16), "f32", {}, F, 512 + 128, 512, (1, 1), 12 * 128),
    ("layer_norm_gelu", (8, 16), "f32", {}, B, 1024 + 128, 512 + 128, (2, 1), 29 * 128),
    ("layer_norm_gelu", (2, 4, 16), "bf16", {"approximate": "tanh"}, F, 256 + 64, 256, (1, 1), 16 * 128),
    ("layer_norm_gelu", (2, 4, 16), "bf16", {"approximate": "tanh"}, B, 512 + 64, 256 + 64, (2, 1), 35 * 128),
    ("rms_norm", (8, 16), "f32", {}, F, 512 + 64, 512, (1, 1), 4 * 128),
    ("rms_norm", (8, 16), "f32", {}, B, 1024 + 64, 512 + 64, (2, 1), 11 * 128),
    ("rms_norm", (8, 16), "bf16", {"form": "add"}, F, 512 + 32, 512, (2, 2), 5 * 128),
    ("rms_norm", (8, 16), "bf16", {"form": "add"}, B, 768 + 32, 256 + 32, (3, 1), 12 * 128),
    ("rms_norm", (8, 16), "bf16", {"casting": "gemma"}, F, 256 + 32, 256, (1, 1), 4 * 128 + 16),
    ("silu", (8, 16), "f32", {}, F, 512, 512, (1, 1), 4 * 128),
    ("silu", (8, 16), "f32", {}, B, 1024, 512, (2, 1), 9 * 128),
    ("silu", (8, 16), "f16", {"form": "swiglu"}, F, 512, 256, (2, 1), 5 * 128),
    ("silu", (8, 16), "f16", {"form": "swiglu"}, B, 768, 512, (3, 2), 12 * 128),
    ("softmax_dropout", (8, 16), "f32", {}, F, 512, 512, (1, 1), 6 * 128),
    ("softmax_dropout", (8, 16), "f32", {}, B, 1024, 512, (2, 1), 10 * 128),
    ("softmax_dropout", (8, 16), "f32", {"scale": "sqrt"}, F, 512, 512, (1, 1), 7 * 128),
    ("softmax_dropout", (8, 16), "f32", {"scale": "sqrt"}, B, 1024, 512, (2, 1), 12 * 128),
    # causal, 4 queries of 4 keys: 1 + 2 + 3 + 4 = 10 of 16 in each of 6 heads, and a mask of 16 bytes
    ("softmax_dropout", (2, 3, 4, 4), "f32", {"mask": "causal"}, F, 240 + 16, 384, (1, 1), 6 * 60),
    ("softmax_dropout", (2, 3, 4, 4), "f32", {"mask": "causal"}, B, 480 + 16, 384, (2, 1), 10 * 60),
    # causal, 5 queries of 3 keys: 1 + 2 + 3 + 3 + 3 = 12 of 15
    ("softmax_dropout", (5, 3), "bf16", {"mask": "causal"}, F, 24 + 15, 30, (1, 1), 6 * 12),
    # padding: 14 and 12 of 16 keys, 3 heads of 4 queries; 2 x 16 additive values of 2 bytes
    ("softmax_dropout", (2, 3, 4, 16), "bf16", {"mask": "padding"}, F, 624 + 64, 768, (1, 1), 7 * 312),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "options", "direction", "read", "written", "streams", "ops"), CASES)
def test_traffic_is_what_was_counted(name, shape, dtype, options, direction, read, written, streams, ops):
    experiment = REGISTRY[name]
    traffic = experiment.traffic(experiment.workload(shape, dtype, 0, options), direction)
    assert traffic.bytes_read == read
    assert traffic.bytes_written == written
    assert (traffic.reads, traffic.writes) == streams
    assert traffic.operations == ops


@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 5, 24), (5, 2, 7, 16), (1, 2, 9, 4)])
def test_unmasked_elements_are_those_of_the_mask(mask, shape):
    experiment = REGISTRY["softmax_dropout"]
    workload = experiment.workload(shape, "f32", 0, {"mask": mask})
    inputs = experiment.make_inputs(workload, "cpu")
    x, *rest = inputs.args
    kept = x.isfinite()
    size = 0
    if rest:
        (given,) = rest
        kept = kept & (given if mask == "causal" else given == 0)
        size = given.numel() * given.element_size()
    traffic = experiment.traffic(workload, Direction.FORWARD)
    assert traffic.bytes_read == 4 * int(kept.sum()) + size
    assert traffic.bytes_written == 4 * x.numel()


@pytest.mark.parametrize("experiment", REGISTRY.values(), ids=REGISTRY)
def test_forward_reads_each_input_and_writes_each_output(experiment):
    """Without a mask the forward's bytes are those of the tensors themselves."""
    for form in experiment.options.get("form", ("",)):
        options = {"form": form} if form else {}
        workload = experiment.workload((6, 24), "bf16", 0, options)
        inputs = experiment.make_inputs(workload, "cpu")
        outputs = experiment.variant("eager").build(workload)(*inputs.args)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        traffic = experiment.traffic(workload, Direction.FORWARD)
        assert traffic.bytes_read == sum(t.numel() * 2 for _, t in inputs.tensors())
        assert traffic.bytes_written == sum(t.numel() * 2 for t in outputs)
        assert traffic.reads == sum(t.numel() == 144 for _, t in inputs.tensors())
        assert traffic.writes == len(outputs)


def test_a_workload_made_by_hand_may_leave_out_defaults():
    for experiment in REGISTRY.values():
        full = experiment.workload((8, 16), "f32")
        bare = Workload(shape=(8, 16), dtype="f32")
        for direction in Direction:
            assert experiment.traffic(bare, direction) == experiment.traffic(full, direction)
