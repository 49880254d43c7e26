"""Captures under dynamic shapes, several compile workers and CUDA graphs: every kernel once, none lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fuselab.capture import Capture, capture  # noqa: E402
from fuselab.records import Direction, Stage  # noqa: E402

pytestmark = pytest.mark.slow


def attention_like(x, weight):
    """Several kernels with a library's call between them, forward and backward."""
    mixed = torch.softmax(x, -1) @ weight
    return torch.nn.functional.layer_norm(mixed, mixed.shape[-1:]).relu()


def make(rows: int, device: str = "cpu"):
    return (torch.randn(rows, 64, device=device, requires_grad=True), torch.randn(64, 64, device=device))


def step(compiled, rows: int, device: str = "cpu") -> None:
    """One step, its result and gradient held against eager's."""
    x, weight = make(rows, device)
    result = compiled(x, weight)
    (gradient,) = torch.autograd.grad(result.square().sum(), x)
    expected = attention_like(x, weight)
    torch.testing.assert_close(result, expected, rtol=2e-3, atol=2e-3)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=2e-2, atol=2e-2)


def said(captured: Capture) -> list[list[object]]:
    """What identifies each kernel, and what was saved of it."""
    return [[k.kernel_id, k.backend, list(k.operations), list(k.stages), k.launches] for k in captured.kernels]


def check_complete(captured: Capture, graphs: int) -> None:
    """So many graphs in each direction; every node that was computed in exactly one kernel; every file once."""
    paths = Counter(a.path for a in captured.artifacts if a.path)
    assert set(paths.values()) == {1}
    assert all((captured.into / path).is_file() for path in paths)
    ids = [kernel.kernel_id for kernel in captured.kernels]
    assert len(ids) == len(set(ids))
    for direction in Direction:
        codes = [a for a in captured.artifacts if a.path and a.direction is direction and a.stage is Stage.OUTPUT_CODE]
        assert len(codes) == graphs
        chain = captured.chain(direction)
        assert len(chain.graphs) == graphs
        in_chain = [kernel.kernel_id for graph in chain.graphs for kernel in graph.kernels]
        assert sorted(in_chain) == sorted(k.kernel_id for k in captured.kernels if k.direction is direction)
        for graph in chain.graphs:
            owners = {kernel.kernel_id for kernel in graph.kernels}
            computed = [node for node in graph.nodes if node.computes]
            assert computed
            assert {node.kernel for node in computed} == owners
    # What stands in the output code is what was captured, launch by launch.
    assert all(kernel.launches for kernel in captured.kernels)


def test_one_dynamic_graph_serves_all_sizes_and_is_captured_once(tmp_path):
    torch.compiler.reset()
    with capture(tmp_path / "dynamic", variant="compile", workload="w") as captured:
        compiled = torch.compile(attention_like, dynamic=True)
        for rows in (8, 12, 20):
            step(compiled, rows)
    check_complete(captured, graphs=1)
    assert captured.warnings == []
    sources = [k for k in captured.kernels if k.backend == "cpp"]
    assert len(sources) >= 3
    for kernel in sources:
        card = json.loads((captured.into / kernel.file_path).with_name("card.json").read_text())
        sizes = [a["value"] for a in card["launch"]["arguments"] if "value" in a]
        assert sizes, "a dynamic kernel is launched with its sizes"
        assert card["traffic"].get("fewest_bytes") or card["traffic"]["absent"]


def test_a_size_that_turns_dynamic_adds_a_graph_and_doubles_nothing(tmp_path):
    torch.compiler.reset()
    with capture(tmp_path / "turned", variant="compile", workload="w") as captured:
        compiled = torch.compile(attention_like)
        for rows in (8, 12, 20):
            step(compiled, rows)
    check_complete(captured, graphs=2)
    assert len([w for w in captured.warnings if w.startswith("recompile of attention_like")]) == 1
    turned = [k.operations for k in captured.kernels if k.kernel_id.endswith(".g1") and k.backend == "extern"]
    static = [k.operations for k in captured.kernels if not k.kernel_id.endswith(".g1") and k.backend == "extern"]
    assert turned == static != []


IN_WORKERS = """
import json, runpy, sys
from pathlib import Path
tests = runpy.run_path(sys.argv[1], run_name="tests")
from torch._inductor import config
from fuselab.capture import capture
with capture(Path(sys.argv[2]), variant="compile", workload="w") as captured:
    compiled = tests["torch"].compile(tests["attention_like"], dynamic=False)
    tests["step"](compiled, 8)
tests["check_complete"](captured, graphs=1)
print(json.dumps([config.compile_threads, tests["said"](captured), captured.warnings]))
"""


def test_several_compile_workers_lose_nothing_and_double_nothing(tmp_path, clean_environment):
    here = str(Path(__file__))
    found = []
    for threads in ("1", "4"):
        done = subprocess.run(
            [sys.executable, "-c", IN_WORKERS, here, str(tmp_path / threads)],
            env=clean_environment(TORCHINDUCTOR_COMPILE_THREADS=threads),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        used, kernels, warnings = json.loads(done.stdout.splitlines()[-1])
        assert used == int(threads)
        assert warnings == []
        found.append(kernels)
    assert found[0] == found[1]
    assert {backend for _, backend, *_ in found[0]} == {"cpp", "extern"}
    assert all(stages == ["cpp", "assembly"] for _, backend, _, stages, _ in found[0] if backend == "cpp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dynamic", [False, True])
def test_cuda_graphs_replay_kernels_that_are_captured_once(tmp_path, dynamic):
    """Recorded after a warm-up and replayed: compiled once, launched by the first two calls alone."""
    found = {}
    for mode in ("default", "reduce-overhead"):
        torch.compiler.reset()
        with capture(tmp_path / mode, variant="compile", workload="w") as captured:
            compiled = torch.compile(attention_like, mode=mode, dynamic=dynamic)
            for rows in (32, 32, 32, 48 if dynamic else 32):
                torch.compiler.cudagraph_mark_step_begin()
                step(compiled, rows, "cuda")
            torch.cuda.synchronize()
        check_complete(captured, graphs=1)
        assert captured.warnings == []
        found[mode] = said(captured)
        # The recorded graphs outlive the capture.
        torch.compiler.cudagraph_mark_step_begin()
        step(compiled, 32, "cuda")
    assert found["default"] == found["reduce-overhead"]
    stages = [s for _, backend, _, s, _ in found["default"] if backend == "triton"]
    assert len(stages) >= 3
    assert all(s == ["triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"] for s in stages)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_replayed_cuda_graph_is_said_to_be_compiled_before(tmp_path):
    torch.compiler.reset()
    compiled = torch.compile(attention_like, mode="reduce-overhead", dynamic=False)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        step(compiled, 32, "cuda")
    with capture(tmp_path / "again", variant="compile", workload="w") as captured:
        torch.compiler.cudagraph_mark_step_begin()
        step(compiled, 32, "cuda")
    assert captured.kernels == []
    assert any("already compiled" in warning for warning in captured.warnings)
