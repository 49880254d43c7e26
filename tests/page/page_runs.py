"""Runs made by hand for the tests of the page: everything that it draws, and every text that it shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fuselab.records import (
    Artifact,
    Ceiling,
    Clock,
    Comparison,
    Correctness,
    Direction,
    Environment,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Sample,
    Stage,
    Status,
    Traffic,
    Verdict,
    Workload,
)
from fuselab.store import Run, create_run

SMALL = Workload(shape=(64, 256), dtype="f32", options={"form": "add"})
LARGE = Workload(shape=(4096, 256), dtype="f32", options={"form": "add"})

DYNAMO = """class GraphModule(torch.nn.Module):
    def forward(self, L_x_: "f32[ROWS, 256][256, 1]cpu", L_y_: "f32[ROWS, 256][256, 1]cpu"):
        l_x_ = L_x_
        l_y_ = L_y_
        total: "f32[ROWS, 256][256, 1]cpu" = l_x_ + l_y_;  l_x_ = l_y_ = None
        silu: "f32[ROWS, 256][256, 1]cpu" = torch.nn.functional.silu(total);  total = None
        return (silu,)
"""
POST_GRAD = """class GraphModule(torch.nn.Module):
    def forward(self, primals_1: "f32[ROWS, 256][256, 1]cpu", primals_2: "f32[ROWS, 256][256, 1]cpu"):
        add: "f32[ROWS, 256][256, 1]cpu" = torch.ops.aten.add.Tensor(primals_1, primals_2);  primals_1 = None
        sigmoid: "f32[ROWS, 256][256, 1]cpu" = torch.ops.aten.sigmoid.default(add)
        mul: "f32[ROWS, 256][256, 1]cpu" = torch.ops.aten.mul.Tensor(add, sigmoid);  add = sigmoid = None
        return (mul,)
"""

Text = Callable[[str], str]


def environment(text: Text = str) -> Environment:
    """A described GPU, so that the roofline has a flat roof; every word through ``text``."""
    return Environment(
        device=text("NVIDIA H200"),
        device_type="cuda",
        driver=text("580.1"),
        cpu=text("Intel"),
        cpu_cores=16,
        os=text("Linux 6.1"),
        python=text("3.12.3"),
        compiler=text("g++ 13"),
        versions={"torch": text("2.11.0"), "triton": text("3.6.0"), text("peer"): text("1.0")},
        variables={"CC": text("/opt/gcc/bin/gcc")},
    )


def cell(variant: str, workload: Workload, direction: Direction, time_us: float, text: Text = str) -> Measurement:
    """A timed, correct cell of twelve samples."""
    ns = time_us * 1e3
    moved = 3 * workload.rows * 256 * 4
    eager = variant == "eager"
    comparison = Comparison(baseline="eager", verdict=Verdict.BASELINE)
    if not eager:
        speedup = 100.0 / time_us
        verdict = Verdict.FASTER if speedup > 1.01 else Verdict.SLOWER
        comparison = Comparison(
            baseline="eager", verdict=verdict, speedup=speedup, low=speedup * 0.97, high=speedup * 1.02, rounds=12,
            p_value=1e-9,
        )  # fmt: skip
    return Measurement(
        experiment="add_silu",
        variant=variant,
        workload=workload,
        direction=direction,
        status=Status.OK,
        device=text("NVIDIA H200"),
        correctness=Correctness(correct=True),
        clock=Clock.CUDA_GRAPH,
        cold=True,
        samples=[Sample(round=n, position=0, duration_ns=ns * (1 + (n % 5 - 2) / 400)) for n in range(12)],
        other_clocks={"kernel": [Sample(round=0, position=0, duration_ns=ns * 0.98)]},
        median_ns=ns,
        low_ns=ns * 0.995,
        high_ns=ns * 1.005,
        comparison=comparison,
        self_comparison=Comparison(baseline="eager", verdict=Verdict.EQUIVALENT, speedup=1.001) if eager else None,
        control_comparison=Comparison(baseline="eager", verdict=Verdict.SLOWER, speedup=0.98) if eager else None,
        traffic=Traffic(bytes_read=2 * moved // 3, bytes_written=moved // 3, operations=moved // 4, reads=2),
        ceiling=Ceiling(bytes_per_s=moved / ns * 1e9 / 0.8, duration_ns=ns * 0.8, share=0.8, method=text("stream 2:1")),
        kernels_launched=2 if eager else 1,
        compile_ns=None if eager else 2_000_000_000,
        labels=[text("launch-bound")],
        warnings=[] if eager else [text("graph break at /home/ada/model.py:3")],
    )


def full_run(root: Path, text: Text = str, experiment: str = "add_silu", variant: str = "compile") -> Run:
    """A complete run with two sizes, both directions, graphs, a kernel each, a failure, and what is not here.

    Args:
        root: directory that holds the runs.
        text: every free word goes through it: an injection, or what has to be redacted.
        experiment: its name.
        variant: name of the variant that is compiled.
    """
    cells = []
    for workload in (SMALL, LARGE):
        for direction in Direction:
            cells += [
                cell("eager", workload, direction, 100.0, text),
                cell(variant, workload, direction, 55.0, text),
                cell("triton", workload, direction, 110.0, text),
                msgspec.structs.replace(
                    cell("liger", workload, direction, 1.0, text), status=Status.CRASHED, samples=[], median_ns=None,
                    comparison=None, reason=text("killed by signal 11"),
                ),
            ]  # fmt: skip
    cells = [msgspec.structs.replace(c, experiment=experiment) for c in cells]
    metadata = RunMetadata(
        id="",
        experiment=experiment,
        description=text("addition, then SiLU"),
        status=RunStatus.RUNNING,
        created_at="",
        command=["fuselab", "run", text("/home/ada/model.py:f")],
        preset=text("quick"),
        device_type="cuda",
        versions={"torch": text("2.11.0")},
        target=text("/home/ada/model.py:f"),
        plan=[SMALL, LARGE],
        variants=["eager", variant, "triton", "liger"],
        directions=list(Direction),
        pid=4242,
    )
    run = create_run(root, metadata, environment(text))
    artifacts, kernels = [], []
    for workload in (SMALL, LARGE):
        place = f"graphs/compile/{workload.key}/forward"
        (run.path / place).mkdir(parents=True)
        rows = str(workload.rows)
        for stage, body in ((Stage.DYNAMO_GRAPH, DYNAMO), (Stage.POST_GRAD_GRAPH, POST_GRAD)):
            path = f"{place}/{stage.value}.py"
            (run.path / path).write_text(body.replace("ROWS", rows), encoding="utf-8")
            artifacts.append(
                Artifact(stage=stage, variant=variant, workload=workload.key, direction=Direction.FORWARD, path=path)
            )
        folder = f"kernels/compile/{workload.key}/forward/triton_poi_fused_add_silu_0"
        (run.path / folder).mkdir(parents=True)
        (run.path / folder / "kernel.py").write_text(f"# {text('kernel')}\nimport triton\n", encoding="utf-8")
        card = {"traffic": {"read_bytes": 2 * workload.rows * 1024, "written_bytes": workload.rows * 1024}}
        (run.path / folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
        kernels.append(
            Kernel(
                kernel_id=f"{variant}/{workload.key}/forward/triton_poi_fused_add_silu_0",
                name=text("triton_poi_fused_add_silu_0"),
                backend="triton",
                variant=variant,
                workload=workload.key,
                direction=Direction.FORWARD,
                file_path=f"{folder}/kernel.py",
                size_bytes=24,
                created_at="2026-01-02T03:04:05Z",
                operations=["aten.add.Tensor", "aten.sigmoid.default", "aten.mul.Tensor"],
                nodes=["add", "sigmoid", "mul"],
                source_lines=[text("/home/ada/model.py:3")],
                launches=1,
            )
        )
    run.append(cells)
    run.update(artifacts=artifacts, kernels=kernels)
    run.finish(RunStatus.COMPLETE, {})
    return run


def empty_run(root: Path, status: RunStatus = RunStatus.COMPLETE, **fields: Any) -> Run:
    """A run without measurements, as far as its status says."""
    metadata = RunMetadata(
        **{
            "id": "",
            "experiment": "add_silu",
            "description": "addition, then SiLU",
            "status": RunStatus.RUNNING,
            "created_at": "",
            "plan": [SMALL],
            "variants": ["eager", "compile"],
            "directions": list(Direction),
            **fields,
        }
    )
    run = create_run(root, metadata, environment())
    run.finish(status, {}, error="StoreError: the disk is full" if status is RunStatus.FAILED else None)
    return run


__all__ = ["DYNAMO", "LARGE", "POST_GRAD", "SMALL", "cell", "empty_run", "environment", "full_run"]
