"""The Python interface: lazy, and the same runs as the command line's."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fuselab
from fuselab.errors import UsageError
from fuselab.records import Direction, RunStatus, Status


def test_what_is_not_listed_is_private():
    assert set(dir(fuselab)) == set(fuselab.__all__)
    with pytest.raises(AttributeError, match=r"it has .*capture.*run"):
        _ = fuselab.rnu


def test_every_listed_name_exists_and_importing_imports_no_torch():
    code = (
        "import sys, fuselab\n"
        "assert 'torch' not in sys.modules\n"
        "assert all(callable(getattr(fuselab, n)) or n in ('__version__', 'deploy') for n in fuselab.__all__)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_function_of_this_process_needs_isolate_false():
    with pytest.raises(UsageError, match="isolate=False"):
        fuselab.run(lambda x: x + 1, args=["x=f32[2]"])


@pytest.mark.slow
def test_a_function_of_this_process_runs_here(tmp_path):
    def halve(x):
        return x.sin() * 0.5

    (outcome,) = fuselab.run(
        halve, args=["x=f32[64,64]:requires_grad"], device="cpu", out=tmp_path, isolate=False, budget_s=0.2
    )
    assert outcome.metadata.status is RunStatus.COMPLETE
    cells = {(m.variant, m.direction): m for m in outcome.measurements}
    for variant in ("eager", "compile"):
        for direction in Direction:
            cell = cells[variant, direction]
            assert cell.status is Status.OK, cell.reason
            assert cell.correct
            assert cell.median_ns > 0
    assert {op for k in outcome.metadata.kernels for op in k.operations} >= {"aten.sin.default"}
    assert "<svg" in outcome._repr_html_()
    again = fuselab.load_run("latest", tmp_path)
    assert again.measurements == outcome.measurements


@pytest.mark.slow
def test_capture_can_be_called_as_a_function(tmp_path):
    import torch

    def shifted(x):
        return x.cos() + 3

    with fuselab.capture(tmp_path) as captured:
        torch.compile(shifted, dynamic=False)(torch.ones(8, 8))
    assert [k.operations for k in captured.kernels] == [["aten.cos.default", "aten.add.Tensor"]]
