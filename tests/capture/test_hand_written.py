"""Triton kernels that the user's code launches by itself: compiled for a described device, nothing is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver as runtime_driver  # noqa: E402
from triton.runtime import jit as runtime_jit  # noqa: E402

from fuselab.capture import capture, internals  # noqa: E402
from fuselab.capture.chain import OUTSIDE, coverage  # noqa: E402

HERE = Path(__file__)


class DescribedDriver:
    """An H200 to compile for; nothing can be launched on it."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def is_active(self):
        return True


@triton.jit
def _doubled(x):
    return x * 2.0


@triton.jit
def affine(
    p, q, n, B: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0) * B + tl.arange(0, B)
    x = tl.load(p + i, mask=i < n)
    y = _doubled(x) + 1.0
    tl.store(q + i, y, mask=i < n)


@pytest.fixture
def described(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here: its own driver would be replaced")
    if not isinstance(affine, runtime_jit.JITFunction):
        pytest.skip("Triton was imported for its interpreter")
    monkeypatch.setattr(runtime_driver, "_active", DescribedDriver())


@pytest.mark.slow
def test_source_stages_lines_and_the_launching_line_are_captured(described, tmp_path):
    run = runtime_jit.JITFunction.run
    with capture(tmp_path, variant="mine", workload="w") as captured:
        assert runtime_jit.JITFunction.run is not run
        affine.warmup(torch.float32, torch.float32, 1024, B=256, grid=(4,))
    here = _line_of("affine.warmup(torch.float32")
    assert runtime_jit.JITFunction.run is run
    (kernel,) = captured.kernels
    assert (kernel.name, kernel.backend, kernel.launches) == ("affine", "triton", 0)
    assert kernel.stages == ["triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"]
    assert kernel.source_lines == [f"{HERE}:{here}"]
    assert kernel.registers > 0
    assert captured.warnings == []
    card = json.loads((tmp_path / kernel.file_path).with_name("card.json").read_text())
    head = _line_of("def affine(")
    assert card["defined_at"] == f"{HERE}:{head}"

    (graph,) = captured.chain().graphs
    assert graph.number == OUTSIDE
    (found,) = graph.kernels
    by_kind = {line.kind: line for line in found.lines}
    assert by_kind["load"].user == [f"{HERE}:{_line_of('x = tl.load(p')}"]
    assert "tl.store(q + i" in graph.sources[by_kind["store"].user[0]]
    for line in found.lines:
        assert set(line.became) == {"ttir", "ttgir", "llir", "ptx", "sass"}
    assert coverage([found]) == {"lines": 3, "to_user": 3, "to_instruction": 3, "direct": 3}
    # What the helper computes belongs to the line that calls it.
    ptx = (tmp_path / "kernels/forward/affine/ptx").read_text().splitlines()
    assert any(word in ptx[at - 1] for at in by_kind["compute"].became["ptx"] for word in ("fma", "add.", "mul."))


def _line_of(text: str) -> int:
    lines = HERE.read_text().splitlines()
    return next(n for n, line in enumerate(lines, start=1) if line.strip().startswith(text))


def test_without_triton_nothing_is_wrapped(monkeypatch):
    from fuselab.capture import internals_triton

    monkeypatch.setattr(internals_triton, "_module", lambda name: None)
    run = runtime_jit.JITFunction.run
    with internals_triton.jit_launches({}, internals.library_roots()):
        assert runtime_jit.JITFunction.run is run


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_launches_on_a_gpu_are_counted_before_and_after_the_first(tmp_path):
    x, y = torch.randn(1024, device="cuda"), torch.empty(1024, device="cuda")
    affine[(4,)](x, y, 1024, B=256)  # compiled before the capture opens, captured all the same
    with capture(tmp_path, variant="mine", workload="w") as captured:
        for _ in range(3):
            affine[(4,)](x, y, 1024, B=256)
    (kernel,) = captured.kernels
    assert kernel.launches == 3
    assert kernel.stages == ["triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"]
    torch.testing.assert_close(y, x * 2 + 1)
