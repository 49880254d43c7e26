"""What a CPU checks in the place of a kernel: the interpreter's answer, or nothing, never torch's own operators."""

import pytest

from fuselab.experiment import load_registry
from fuselab.ops.launch import INTERPRETED
from fuselab.records import Direction, Status
from fuselab.worker.check import check
from fuselab.worker.messages import CheckRequest, ExperimentReference


@pytest.mark.skipif(INTERPRETED, reason="this process interprets kernels")
@pytest.mark.parametrize("name", ["silu", "rms_norm", "layer_norm_gelu", "softmax_dropout"])
def test_our_variant_is_unavailable_in_a_process_without_the_interpreter(tmp_path, name):
    """fuselab.ops computes there all the same, and right: that must not pass for a check of the kernels."""
    experiment = load_registry()[name]
    request = CheckRequest(
        experiment=ExperimentReference(name=name),
        variant="triton",
        baseline="eager",
        workload=experiment.workloads("smoke", "cpu")[0],
        directions=list(Direction),
        device_type="cpu",
        staging=str(tmp_path / "staging"),
        caches=str(tmp_path / "caches"),
    )
    result = check(request)
    assert result.status is Status.UNAVAILABLE
    assert "TRITON_INTERPRET=1" in result.reason
    assert not result.correctness
