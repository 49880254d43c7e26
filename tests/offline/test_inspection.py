"""Inspecting for devices that are not here: what comes out, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fuselab import store, targets
from fuselab.errors import ArgumentSpecError, SetupError, UnknownNameError, UsageError
from fuselab.offline import Inspection, inspect
from fuselab.offline.results import WorkloadResult
from fuselab.records import Direction, RunStatus

PROGRAMS = Path(__file__).with_name("programs.py")
BY_HAND = Path(__file__).with_name("kernels_by_hand.py")
NVIDIA = {"triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"}
AMD = {"triton", "ttir", "ttgir", "llir", "amdgcn"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux")]


def one(found: Inspection, target: int = 0) -> WorkloadResult:
    (workload,) = found.targets[target].workloads
    return workload


def test_every_kernel_has_every_stage_for_every_vendor_and_the_run_is_a_run(described: Path) -> None:
    x = "x=bf16[64,512]:requires_grad"
    found = inspect(
        f"{PROGRAMS}:norm_gelu", [x, "w=bf16[512]:requires_grad"], targets=["h100", "mi300x"], out=described
    )
    assert not found.failed
    for result, stages, arch in zip(found.targets, (NVIDIA, AMD), (".target sm_90", "gfx942"), strict=True):
        (workload,) = result.workloads
        assert workload.way == "described"
        assert {k.direction for k in workload.kernels} == {Direction.FORWARD, Direction.BACKWARD}
        for kernel in workload.kernels:
            assert set(kernel.stages) == stages
            assert kernel.registers is not None
            assert 8 <= kernel.registers <= 512
            assert kernel.spills == 0
            assert kernel.num_warps in (1, 2, 4, 8, 16)
            assert [c.first for c in kernel.candidates].count(True) == 1
            machine = kernel.stages.get("ptx") or kernel.stages["amdgcn"]
            assert arch in (Path(result.run) / machine).read_text()
        # rms_norm is one operator on a device and a decomposition on a CPU: the tracing went the device's way
        assert any("_fused_rms_norm" in o for k in workload.kernels for o in [*k.operations, k.name])
        run = store.open_run(result.run, described)
        metadata, environment = run.metadata(), run.environment()
        assert metadata.status is RunStatus.COMPLETE
        assert metadata.device_type == environment.device_type == "described"
        assert "nothing was measured" in environment.device
        assert "nothing was measured" in metadata.summary["described"]
        assert run.measurements() == []
        assert {k.name for k in metadata.kernels} == {k.name for k in workload.kernels}
        assert not list(Path(result.run).rglob("answer.json"))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_attention_is_chosen_as_on_the_device(described: Path) -> None:
    qkv = "bf16[2,4,128,64]:requires_grad"
    found = inspect(f"{PROGRAMS}:attention", [f"{n}={qkv}" for n in "qkv"], targets=["h200", "a100"], out=described)
    for index, call in enumerate(("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention")):
        workload = one(found, index)
        assert workload.ok, workload.reason
        forward = next(c for c in workload.calls if c.direction is Direction.FORWARD)
        assert call in forward.operator
        assert forward.inputs[:3] == ["bf16[2,4,128,64]"] * 3
        assert forward.flops == 2 * 2 * 2 * 4 * 128 * 128 * 64  # two products, a multiply and an add each
        assert any(call in k.name and k.backend == "extern" for k in workload.kernels)


def test_a_program_that_asks_for_a_gpu_finds_the_described_one_and_keeps_its_ties(described: Path) -> None:
    workload = one(
        inspect(f"{PROGRAMS}:AsksForCuda", ["x=bf16[32,64]:requires_grad"], targets=["rtx4090"], out=described)
    )
    assert workload.ok, workload.reason
    forward = [c for c in workload.calls if c.direction is Direction.FORWARD]
    assert [c.operator for c in forward] == ["aten.mm.default"] * 2
    assert all(t.startswith("bf16[") for c in forward for t in [*c.inputs, *c.outputs])


def test_a_program_that_looks_at_values_is_traced_the_other_way_and_says_so(described: Path) -> None:
    found = inspect(f"{PROGRAMS}:looks_at_values", ["x=f32[8,256]"], targets=["h100"], out=described)
    workload = one(found)
    assert workload.ok, workload.reason
    assert workload.way == "rewritten"
    assert any("looks at values" in w and "may differ" in w for w in workload.warnings)
    assert {k.backend for k in workload.kernels} == {"triton"}
    assert all(set(k.stages) == NVIDIA for k in workload.kernels)


def test_without_a_compiler_the_other_way_is_taken_and_named(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(described / "empty"))
    monkeypatch.setenv("CXX", str(described / "no-such-compiler"))
    arguments = ["x=f32[8,256]:requires_grad"]
    workload = one(inspect(f"{PROGRAMS}:breaks", arguments, targets=["h100"], out=described))
    assert workload.ok, workload.reason
    assert workload.way == "rewritten"
    assert any("no-such-compiler" in w and "may differ" in w for w in workload.warnings)
    assert any("graph break" in w and "programs.py" in w for w in workload.warnings)
    assert {k.direction for k in workload.kernels} == {Direction.FORWARD, Direction.BACKWARD}
    with pytest.raises(SetupError, match="does not compile"):
        inspect(f"{PROGRAMS}:breaks", arguments, targets=["h100"], out=described, way="described")


def test_the_users_own_error_is_the_reason_and_the_run_has_failed(described: Path) -> None:
    found = inspect(f"{PROGRAMS}:raises", ["x=f32[8,8]"], targets=["h100"], out=described)
    workload = one(found)
    assert found.failed
    assert "4711" in workload.reason
    assert store.open_run(found.targets[0].run, described).metadata().status is RunStatus.FAILED


def test_a_process_that_gives_no_answer_is_ended_and_named(described: Path) -> None:
    found = inspect(
        f"{PROGRAMS}:norm_gelu", ["x=f32[8,8]", "w=f32[8]"], targets=["h100"], out=described, deadline_s=0.2
    )
    assert "no answer within" in one(found).reason


def test_a_kernel_by_hand_compiles_from_its_arguments(described: Path) -> None:
    pointers = [f"{name}=f32[4096]" for name in ("x_ptr", "y_ptr", "out_ptr")]
    found = inspect(f"{BY_HAND}:add", [*pointers, "n=4096", "BLOCK=1024"], targets=["b200"], out=described)
    workload = one(found)
    assert workload.ok, workload.reason
    kernel = next(k for k in workload.kernels if k.name == "add")
    assert ".target sm_100" in (Path(found.targets[0].run) / kernel.stages["ptx"]).read_text()
    assert (kernel.registers or 0) >= 8


def test_a_kernel_that_does_not_fit_on_one_target_fails_there_and_stands_elsewhere(described: Path) -> None:
    arguments = ["x_ptr=f32[16384]", "out_ptr=f16[16384]", "B=128"]
    found = inspect(f"{BY_HAND}:square", arguments, targets=["h100", "rtx4090"], out=described)
    roomy, small = one(found, 0), one(found, 1)
    assert roomy.ok
    assert not roomy.failures
    assert [f.kernel for f in small.failures] == ["square"]
    assert "131072 bytes of shared memory" in small.failures[0].error
    assert found.failed


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
from fuselab.offline.__main__ import main
main()
"""


def test_without_triton_graphs_and_source_are_shown_all_the_same(described: Path) -> None:
    from fuselab.offline import guard
    from fuselab.offline.messages import Answer, Request
    from fuselab.offline.selection import choose

    chosen = choose(f"{PROGRAMS}:norm_gelu", ["x=f32[64,256]", "w=f32[256]"], direction="forward")
    into = described / "into"
    into.mkdir()
    request = Request(
        target=targets.find("h100"),
        into=str(into),
        workload=chosen.workloads[0],
        directions=[Direction.FORWARD],
        file_target=chosen.experiment.target or "",
        arguments=list(chosen.arguments),
        library=str(guard.build()),
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON],
        input=msgspec.json.encode(request),
        env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        capture_output=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    answer = msgspec.json.decode((into / "answer.json").read_bytes(), type=Answer)
    assert answer.ok, answer.reason
    assert any("triton is not installed" in w for w in answer.warnings)
    (kernel,) = answer.kernels
    assert "@triton.jit" in (into / kernel.file_path).read_text()
    absent = {a.stage.value for a in answer.artifacts if a.kernel_id == kernel.kernel_id and a.absent}
    assert {"ttir", "ptx"} <= absent


def test_the_command_prints_a_table_and_json(described: Path) -> None:
    command = [sys.executable, "-m", "fuselab", "inspect", f"{PROGRAMS}:norm_gelu", "--arg", "x=f32[64,256]"]
    command += ["--arg", "w=f32[256]", "--direction", "forward", "--target", "h100", "--out", str(described)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [t["target"] for t in document["targets"]] == ["h100"]
    assert document["note"] == "described, nothing was measured"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"targets": ["h20"]}, UnknownNameError, "did you mean 'h200'"),
        ({"targets": []}, UsageError, "no target"),
        ({"targets": ["h100"], "arguments": ["y=f32[8]"]}, ArgumentSpecError, "has no parameter 'y'"),
        ({"targets": ["h100"], "direction": "sideways"}, UnknownNameError, "sideways"),
        ({"targets": ["h100"], "shapes": ["8x8"]}, UsageError, "--shape"),
        ({"targets": ["h100"], "variant": "eager"}, UsageError, "generates no kernels"),
        ({"targets": ["h100"], "what": "rmsnorm"}, UnknownNameError, "did you mean 'rms_norm'"),
    ],
)
def test_bad_input_is_named_before_anything_starts(
    described: Path, call: dict[str, object], error: type[Exception], words: str
) -> None:
    arguments = {"what": f"{PROGRAMS}:norm_gelu", "arguments": ["x=f32[8,8]", "w=f32[8]"], "out": described, **call}
    if arguments["what"] == "rmsnorm":
        arguments["arguments"] = []
    with pytest.raises(error, match=words):
        inspect(**arguments)  # type: ignore[arg-type]
    assert not list(described.iterdir())
