"""Generated kernels in Triton's interpreter: they agree with eager, and a fault that is planted in one is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fuselab.offline import guard
from fuselab.offline.cannot import LOOPS, cannot, why_it_stopped
from fuselab.offline.children import run_process
from fuselab.offline.inspection import inspect
from fuselab.offline.interpreted import fewer_rows, interpret_request, interpreted, smaller
from fuselab.offline.messages import DESCRIBED, Answer, Request
from fuselab.offline.replay import FILE, FOLDER, Replay
from fuselab.offline.results import WorkloadResult
from fuselab.offline.selection import choose
from fuselab.records import Direction, Workload
from fuselab.targets import find

PROGRAMS = Path(__file__).with_name("programs.py")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x=bf16[32,1024,768]", "w=bf16[768]"], ["x=bf16[2,8,768]", "w=bf16[768]"]),
        (["x=bf16[4096,4096]"], ["x=bf16[4096,4096]"]),  # the rows are as many as the columns: which is which?
        (["x=f32[64,512]:requires_grad", "w=f32[256,512]"], ["x=f32[8,512]:requires_grad", "w=f32[8,512]"]),
        (["x=f32[16,64,56,56]"], ["x=f32[2,64,56,56]"]),  # an image is not cut
        (["x=f32[4096]", "n=4096"], ["x=f32[4096]", "n=4096"]),
        (["ids=i64[8,512]<50257", "x=f32[8,512,64]"], ["ids=i64[2,512]<50257", "x=f32[2,512,64]"]),
    ],
)
def test_smaller_inputs_keep_the_width_and_stay_consistent(arguments: list[str], expected: list[str]) -> None:
    assert list(smaller(arguments)) == expected


def test_a_workload_keeps_its_width() -> None:
    assert fewer_rows(Workload(shape=(16, 12, 512, 384))).shape == (1, 1, 8, 384)
    assert fewer_rows(Workload(shape=(4, 131072))).shape == (4, 131072)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("tl.inline_asm_elementwise('x')", "inline assembly"),
        ("libdevice.rsqrt(x)", "libdevice"),
        ("a: '*fp8e4nv'; tl.dot(a, b)", "tl.dot of fp8"),
        ("tl.make_tensor_descriptor(p)", "TMA"),
        ("tl.atomic_add(p, x)", "atomics"),
        ("tl.rand(seed, offset)", "random"),
        ("triton_helpers.x_grid_barrier(sem)", "never opens"),
    ],
)
def test_what_the_interpreter_cannot_do_is_named(source: str, said: str) -> None:
    assert any(said in words for words in cannot(source))
    assert cannot("tmp = tl.load(p) + 1") == []


def test_a_known_limit_of_old_versions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TypeError("only 0-dimensional arrays can be converted to Python scalars")
    versions = {"numpy": "2.5.2", "triton": "3.6.0"}
    monkeypatch.setattr("fuselab.offline.cannot.installed", versions.get)
    assert LOOPS in why_it_stopped("k", error)
    versions["triton"] = "3.7.1"
    assert LOOPS not in why_it_stopped("k", error)
    assert why_it_stopped("k", error).startswith("k: TypeError: only")


# --- in processes of their own --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A norm with a mask (its width is no power of two) and GELU, traced for an H100 with what its graphs are given."""
    into = tmp_path_factory.mktemp("traced")
    arguments = ["x=f32[8,250]:requires_grad", "w=f32[250]:requires_grad"]
    from fuselab.experiments.user import experiment_from

    target = f"{PROGRAMS}:norm_gelu"
    request = Request(
        target=find("h100"),
        into=str(into),
        workload=experiment_from(target, arguments).workloads("quick", "cuda")[0],
        directions=[Direction.FORWARD, Direction.BACKWARD],
        file_target=target,
        arguments=arguments,
        way=DESCRIBED,
        library=str(guard.build()),
        replay=True,
    )
    with (into / "log").open("w+b") as log:
        assert run_process("fuselab.offline", msgspec.json.encode(request), log, 600.0) == ""
    answer = msgspec.json.decode((into / "answer.json").read_bytes(), type=Answer)
    assert answer.ok, answer.reason
    return request


def kernel_of(request: Request, direction: Direction) -> tuple[str, str]:
    """The first Triton kernel of a direction, and its module's text."""
    replay = msgspec.json.decode((Path(request.into) / FOLDER / FILE).read_bytes(), type=Replay)
    text = next((Path(request.into) / c.file).read_text() for c in replay.calls if c.direction is direction)
    return text.split("async_compile.triton('")[1].partition("'")[0], text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux")
class TestPlanted:
    """One traced program; each fault is an edit of one kernel's text."""

    def test_without_a_fault_everything_agrees(self, traced: Request) -> None:
        found = interpret_request(traced, 600.0)
        assert (found.status, found.reason) == ("agrees", "")
        assert {t.name for t in found.tensors} == {"output", "grad x", "grad w"}
        assert all(t.correct and t.rms_error is not None and t.rms_error > 0 for t in found.tensors)
        assert {k.direction for k in found.kernels} == {Direction.FORWARD, Direction.BACKWARD}
        assert all(k.launches >= 1 and k.programs >= 1 and not k.problem for k in found.kernels)

    @pytest.mark.parametrize(
        ("direction", "old", "new"),
        [
            (Direction.FORWARD, "0.7071067811865476", "0.7071167811865476"),  # a constant
            (Direction.FORWARD, "r0_index < r0_numel", "r0_index < 10000"),  # a mask dropped: loads and stores stray
            (Direction.BACKWARD, "r0_index < r0_numel", "r0_index < 249"),  # an element lost
        ],
    )
    def test_a_fault_is_found(self, traced: Request, direction: Direction, old: str, new: str) -> None:
        name, text = kernel_of(traced, direction)
        if old not in text:
            pytest.skip(f"this torch writes {old} in another way")
        found = interpret_request(traced, 600.0, {name: [(old, new)]})
        assert found.status == "differs", found.reason
        assert found.reason


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux")
def test_attention_has_a_counterpart(described: Path) -> None:
    arguments = [f"{name}=f32[2,2,16,16]:requires_grad" for name in "qkv"]
    found = inspect(f"{PROGRAMS}:attention_gelu", arguments, targets=["h100"], out=described, check=True)
    run = found.targets[0].workloads[0].interpreted
    assert run is not None
    assert (run.status, run.reason) == ("agrees", "")
    assert [t.name for t in run.tensors] == ["output", "grad q", "grad k", "grad v"]
    assert any("attention" in name for name in run.libraries)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux")
def test_the_command_says_what_agrees_and_random_numbers_are_the_same(described: Path) -> None:
    command = [sys.executable, "-m", "fuselab", "inspect", f"{PROGRAMS}:dropout", "--check", "--out", str(described)]
    command += ["--arg", "x=f32[64,96]:requires_grad", "--target", "h100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = " ".join(done.stdout.split())
    assert "results agree with eager" in shown
    assert "predicted, not measured" in shown


@pytest.mark.parametrize(
    ("variant", "numpy", "reason"), [("triton", "2.4", "by hand"), ("compile", None, "needs numpy")]
)
def test_what_cannot_be_interpreted_at_all_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, variant: str, numpy: str | None, reason: str
) -> None:
    monkeypatch.setattr("fuselab.offline.interpreted.installed", lambda _name: numpy)
    chosen = choose("rms_norm", variant=variant)
    found = WorkloadResult(workload="w", key="w", ok=True)
    run = interpreted(lambda *_: pytest.fail("a process was started"), chosen, chosen.workloads[0], found, 1.0)
    assert run.status == "not run"
    assert reason in run.reason
    failed = interpreted(
        lambda *_: pytest.fail("a process was started"),
        chosen,
        chosen.workloads[0],
        WorkloadResult(workload="w", key="w", ok=False, reason="4711"),
        1.0,
    )
    assert "4711" in failed.reason
