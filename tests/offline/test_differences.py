"""What differs between targets, from records made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fuselab.offline.differences import comparable_source, differences
from fuselab.offline.messages import KernelFailure, LibraryCall
from fuselab.offline.results import Inspection, KernelResult, TargetResult, WorkloadResult
from fuselab.records import Direction
from fuselab.report.inspect import inspection_view

SOURCE = """@triton_heuristics.pointwise(size_hints={{'x': 8}}, filename=__file__,
    triton_meta={{'device': DeviceProperties(type='cuda', multi_processor_count={sms}, cc=90), 'constants': {{}}}},
    inductor_meta={{'backend_hash': '{digest}', 'num_load': {loads}}})
@triton.jit
def k(x):
    {body}
"""


def target(
    folder: Path, name: str, *, kernel: dict[str, Any] | None = None, calls: list[str] | None = None, **source: Any
) -> TargetResult:
    run = folder / name
    run.mkdir()
    (run / "k.py").write_text(SOURCE.format(**{"sms": 132, "digest": "A1", "loads": 1, "body": "pass", **source}))
    fields: dict[str, Any] = {
        "name": "triton_poi_k",
        "config": {"XBLOCK": 256},
        **{"registers": 32, "spills": 0, "shared_bytes": 0, "num_warps": 4, "occupancy": 0.5},
        **(kernel or {}),
    }
    kernels = [KernelResult(kernel_id=name, backend="triton", direction=Direction.FORWARD, source="k.py", **fields)]
    found = [LibraryCall(operator=c, direction=Direction.FORWARD, inputs=["bf16[8]"], outputs=[]) for c in calls or []]
    shown = WorkloadResult(workload="x=f32[8]", key="k", ok=True, way="described", kernels=kernels, calls=found)
    return TargetResult(target=name, device=name, arch=f"sm_{name}", run=str(run), workloads=(shown,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sms": 148, "digest": "B2"}, "1 of 1 kernels that both have are the same Triton source"),
        ({"loads": 2}, "the same body and other settings of Inductor: triton_poi_k"),
        ({"body": "return"}, "another body: triton_poi_k"),
        ({"kernel": {"config": {"XBLOCK": 512}}}, "XBLOCK 256 -> 512"),
        ({"kernel": {"spills": 6}}, "6 spilled registers, 0 on a"),
        ({"kernel": {"occupancy": 0.25, "registers": 64}}, "occupancy 25%, 50% on a (64 registers instead of 32)"),
        ({"kernel": {"name": "triton_red_k"}}, "1 of its own and 1 not"),
        (
            {"calls": ["aten._scaled_dot_product_flash_attention.default"]},
            "calls flash attention instead of cuDNN's attention",
        ),
    ],
)
def test_each_difference_is_a_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    cudnn = ["aten._scaled_dot_product_cudnn_attention.default"]
    first = target(tmp_path, "a", calls=cudnn)
    other = target(tmp_path, "b", **{"calls": cudnn, **change})
    said = differences([first, other], 0)
    assert any(sentence in text and text.startswith("b: ") for text in said), said
    assert differences([first], 0) == []


def test_nothing_else_is_said_of_two_that_are_the_same(tmp_path: Path) -> None:
    said = differences([target(tmp_path, "a"), target(tmp_path, "b")], 0)
    assert said == ["b: 1 of 1 kernels that both have are the same Triton source, compiled for sm_b"]


def test_only_what_names_the_machine_is_taken_out_of_a_source() -> None:
    text = SOURCE.format(sms=132, digest="A1", loads=1, body="pass")
    bare = comparable_source(text)
    assert "DeviceProperties" not in bare
    assert "A1" not in bare
    assert "'num_load': 1" in bare
    assert "'constants': {}" in bare
    assert "multi_processor_count=132" in comparable_source(text, device=True)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_shows_each_target_and_each_failure(tmp_path: Path, width: int) -> None:
    results = [target(tmp_path, "a"), target(tmp_path, "b", kernel={"spills": 3, "registers": 255})]
    broken = WorkloadResult(
        workload="x=f32[8]",
        key="k",
        ok=False,
        reason="ValueError: \x1b[31mno",
        failures=[KernelFailure(kernel="k", error="too big")],
    )
    results.append(TargetResult(target="c", device="c", arch="gfx1", run="runs/c", workloads=(broken,)))
    found = Inspection(
        what="f", experiment="f", variant="compile", note="nothing was measured", versions={}, targets=tuple(results)
    )
    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115, PTH123
    console.print(inspection_view(found))
    text = console.export_text()
    assert "triton_poi_k" in text
    assert "32/0/4 50%" in text
    assert "255+3/0/4" in text
    assert "too big" in text
    assert "\x1b" not in text
    assert "nothing was measured" in " ".join(text.split())
