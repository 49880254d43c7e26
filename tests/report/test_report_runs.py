"""Views of runs: the list, one run, one kernel, and the JSON document."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_factory import CPU, a_run, cell, kernel, metadata, workload
from rich.console import Console, RenderableType

from fuselab.records import Artifact, Direction, Environment, Measurement, RunMetadata, RunStatus, Stage, Status
from fuselab.report.document import run_document
from fuselab.report.runs import kernel_view, run_view, runs_table
from fuselab.store import Rejected, RunSummary

HOSTILE = "[red]x[/] \x1b[2J\u202e\r"


def shown(view: RenderableType, width: int = 120) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(view)
    return console.export_text()


def summary(**fields: Any) -> RunSummary:
    return RunSummary(
        **{
            "id": "rms_norm/20260102T030405Z-0a1b2c",
            "path": "/x",
            "experiment": "rms_norm",
            "status": RunStatus.COMPLETE,
            "created_at": "2026-01-02T03:04:05Z",
            "finished_at": None,
            "device": "NVIDIA H200",
            "device_type": "cuda",
            "preset": "quick",
            "planned_cells": 16,
            "cells": {Status.OK: 12, Status.UNAVAILABLE: 4},
            "kernels": 7,
            "error": None,
            "notes": [],
            **fields,
        }
    )


def test_the_list_of_runs() -> None:
    broken = summary(
        id="silu/20260102T030405Z-ffffff", status=RunStatus.INTERRUPTED, cells={Status.OK: 3, Status.WRONG: 1},
        notes=["measurements.jsonl: the last 40 bytes are of a write that was cut off"],
    )  # fmt: skip
    text = shown(runs_table([summary(), broken], [Rejected(path="/r/x", reason="metadata.json is not JSON: x\nmore")]))
    lines = [line.split() for line in text.splitlines()]
    assert ["rms_norm/20260102T030405Z-0a1b2c", "complete", "16/16", "7", "quick", "NVIDIA", "H200"] in lines
    assert ["silu/20260102T030405Z-ffffff", "interrupted", "4/16", "7", "quick", "NVIDIA", "H200"] in lines
    assert "silu/20260102T030405Z-ffffff: failed cells: 1 wrong" in text
    assert "cut off" in text
    assert "to go on where it stopped: fuselab run --resume silu/20260102T030405Z-ffffff" in text
    assert "set aside: /r/x: metadata.json is not JSON: x" in text


def test_no_runs_says_how_to_make_one() -> None:
    assert "fuselab run" in shown(runs_table([], []))
    assert "fuselab run --resume all" in shown(
        runs_table([summary(status=RunStatus.FAILED), summary(status=RunStatus.INTERRUPTED)], [])
    )


@pytest.mark.parametrize("width", [80, 120])
def test_an_id_is_never_cut(width: int) -> None:
    name = "layer_norm_gelu/20260102T030405Z-0a1b2c"
    assert name in shown(runs_table([summary(id=name)], []), width)


ABSENT = {"stage": Stage.PTX, "variant": "compile", "workload": workload().key, "direction": Direction.FORWARD}
SAVED = {**ABSENT, "stage": Stage.OUTPUT_CODE}


def test_a_run_with_everything_it_holds() -> None:
    artifacts = [
        Artifact(**SAVED, path="graphs/a", size_bytes=2048),
        Artifact(**SAVED, path="graphs/b", size_bytes=1024),
        Artifact(**ABSENT, absent="CPU target: Inductor emits C++, not Triton"),
        Artifact(**{**ABSENT, "stage": Stage.TTIR}, absent="CPU target: Inductor emits C++, not Triton"),
    ]
    text = shown(run_view(metadata(artifacts=artifacts), CPU, a_run()))
    for expected in (
        "layer_norm_gelu/20260102T030405Z-0a1b2c  complete",
        "LayerNorm, then GELU",
        "took 3 min 12 s · preset quick · seed 0",
        "3.84x [3.80, 3.88]",
        "compile  4096x1024 f32 approximate=none  forward",
        "cpp_fused_native_layer_norm_gelu_0  native_layer_norm, gelu",
        f"  kernels/compile/{workload().key}/forward\n",
        "      cpp_fused_0/kernel.cpp  2.26 KiB  1 launch",
        "2 files, 3.00 KiB",
    ):
        assert expected in text, expected
    assert text.count("absent: CPU target") == 1
    assert "ptx, ttir" in text


def test_a_failed_run_says_why_and_an_odd_date_is_no_obstacle() -> None:
    failed = metadata(status=RunStatus.FAILED, error="StoreError: disk full\nhint", finished_at="yesterday")
    text = shown(run_view(failed, CPU, []))
    assert "StoreError: disk full" in text
    assert "took" not in text
    assert "nothing was measured" in text


def test_ten_thousand_kernels_are_shown_in_part() -> None:
    text = shown(run_view(metadata(kernels=[kernel(name=f"k{n}") for n in range(10_000)]), CPU, a_run()))
    assert "and 9900 more: metadata.json has all of them" in text
    assert text.count("kernel.cpp") == 100


def test_a_stage_of_megabytes_is_shown_whole_and_not_highlighted() -> None:
    """Highlighting takes 3 s for a megabyte."""
    text = ".version 8.4\n" + "  mov.u32 %r1, %ctaid.x;\n" * 80_000
    view = kernel_view(kernel(registers=40), text)
    assert view.plain.endswith(text)
    assert view.spans == []


def test_hostile_text_in_a_run_is_shown_and_not_obeyed() -> None:
    hostile = metadata(
        id=HOSTILE, description=HOSTILE, error=HOSTILE, command=[HOSTILE], target=HOSTILE, preset=HOSTILE,
        kernels=[kernel(name=HOSTILE, operations=[HOSTILE], file_path=HOSTILE, variant=HOSTILE)],
        artifacts=[Artifact(**{**ABSENT, "variant": HOSTILE}, absent=HOSTILE)],
    )  # fmt: skip
    rows = runs_table(
        [summary(id=HOSTILE, device=HOSTILE, error=HOSTILE, notes=[HOSTILE], status=RunStatus.FAILED)],
        [Rejected(path=HOSTILE, reason=HOSTILE)],
    )
    source = kernel_view(kernel(name=HOSTILE, operations=[HOSTILE], source_lines=[HOSTILE]), f"int x;\n// {HOSTILE}\n")
    for view in (run_view(hostile, CPU, a_run()), rows, source):
        text = shown(view, 200)
        assert not set(text) & set("\x1b\r\u202e")
        assert "[red]x[/]" in text


@pytest.mark.parametrize(
    ("text", "highlighted", "mark"),
    [
        ("import triton\n\n@triton.jit\ndef f(x):\n    pass\n", True, "#"),
        ('#include "x.h"\nextern "C" void f() {}\n', True, "//"),
        (".version 8.4\n.target sm_90a\n", True, "//"),
        ("; ModuleID = 'x'\ntarget triple = \"nvptx64\"\n", True, ";"),
        ("module {\n  tt.func public @f() attributes {noinline = false}\n}\n", False, "//"),
    ],
)
def test_a_kernel_is_highlighted_and_stays_source(text: str, highlighted: bool, mark: str) -> None:
    view = kernel_view(kernel(registers=40, source_lines=["model.py:12"]), text)
    assert (len(view.spans) > 1) is highlighted
    plain = [line.rstrip() for line in view.plain.splitlines()]
    assert plain[0] == f"{mark} cpp_fused_native_layer_norm_gelu_0"
    assert f"{mark} computes aten.native_layer_norm.default, aten.gelu.default" in plain
    assert f"{mark} from model.py:12" in plain
    assert f"{mark} 1 launch, 40 registers" in plain
    assert plain[5 : 5 + len(text.splitlines())] == [line.rstrip() for line in text.splitlines()]


@dataclass(frozen=True)
class Outcome:
    path: Path
    metadata: RunMetadata
    environment: Environment
    measurements: list[Measurement]


def test_the_document_is_records_and_whether_they_are_correct() -> None:
    cells = [*a_run(), cell("nan", median_ns=float("nan"))]
    document = run_document([Outcome(Path("runs/x"), metadata(), CPU, cells)])
    text = json.dumps(document, allow_nan=False)
    (run,) = json.loads(text)["runs"]
    assert document["schema_version"] == 1
    assert run["path"] == "runs/x"
    assert msgspec.convert(run["metadata"], RunMetadata) == metadata()
    assert msgspec.convert(run["environment"], Environment) == CPU
    assert [m.pop("correct") for m in run["measurements"]] == [c.correct for c in cells]
    assert {True, False, None} == {c.correct for c in cells}
    assert msgspec.convert(run["measurements"][:-1], list[Measurement]) == cells[:-1]
    assert run["measurements"][-1]["median_ns"] is None
    assert run["measurements"][0]["samples"] == [{"round": 0, "position": 0, "duration_ns": 12341700.0, "calls": 1}]


def test_a_long_line_of_a_kernel_is_not_cut() -> None:
    line = f"x = {' + '.join(str(n) for n in range(200))}"
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(kernel_view(kernel(file_path="kernels/a/b/c/d/kernel.py"), f"{line}\n"), soft_wrap=True)
    assert line in console.export_text().splitlines()
