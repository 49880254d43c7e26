"""What is made of a sweep's results: rows, Parquet and JSON Lines, heat maps, the Pareto view, the page."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import (
    Comparison,
    Correctness,
    Direction,
    Environment,
    Measurement,
    RunMetadata,
    RunStatus,
    Status,
    Verdict,
    Workload,
)
from fuselab.store import create_run
from fuselab.sweep.charts import axes_of, charts, heat_map, pareto, pareto_front
from fuselab.sweep.page import render, write_page
from fuselab.sweep.record import SweepRecord, SweepRun, create_sweep
from fuselab.sweep.results import COLUMNS, export, load_results, row

EVIL = "</script><img src=x onerror=alert(1)>"


def cell(rows=64, width=256, variant="compile", speedup=1.5, memory=1000, status=Status.OK, device="CPU a", **fields):
    verdict = Verdict.BASELINE if variant == "eager" else Verdict.FASTER
    timed = status is Status.OK
    return Measurement(
        **{
            "experiment": "rms_norm",
            "variant": variant,
            "workload": Workload(shape=(rows, width), dtype="f32", options={"casting": "none"}),
            "direction": Direction.FORWARD,
            "status": status,
            "device": device,
            "median_ns": 1000.0 / speedup if timed else None,
            "peak_memory_bytes": memory if timed else None,
            "correctness": Correctness(correct=status is not Status.WRONG),
            "comparison": Comparison(baseline="eager", verdict=verdict, speedup=speedup, low=speedup, high=speedup)
            if timed
            else None,
            **fields,
        }
    )


@pytest.fixture
def results(tmp_path):
    """The results of a sweep with these cells."""

    def of(*cells, notes=()):
        models = dict.fromkeys(m.device for m in cells)
        runs = []
        for model in models:
            own = [m for m in cells if m.device == model]
            metadata = RunMetadata(
                id="", experiment="rms_norm", description="", status=RunStatus.RUNNING, created_at="",
                plan=list({m.workload.key: m.workload for m in own}.values()), directions=[Direction.FORWARD],
                variants=list(dict.fromkeys(m.variant for m in own)),
            )  # fmt: skip
            run = create_run(tmp_path, metadata, Environment(device=model, device_type="cpu"))
            with run.lock():
                run.append(own)
                run.finish(RunStatus.COMPLETE, {})
            runs.append(SweepRun(run=run.metadata().id, model=model, code_sha256="0"))
        record = SweepRecord(
            id="", name="s", status=RunStatus.COMPLETE, created_at="", runs=runs, notes=list(notes), blocks=1
        )
        return load_results(create_sweep(tmp_path, record))

    return of


def test_rows_have_every_column_and_survive_json(results, tmp_path):
    found = results(cell(), cell(variant="eager", speedup=1.0), cell(rows=128, status=Status.CRASHED, reason="SIGSEGV"))
    assert export(found, tmp_path / "cells.jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert all(list(r) == list(COLUMNS) for r in rows)
    by_variant = {(r["rows"], r["variant"]): r for r in rows}
    assert by_variant[64, "compile"]["speedup"] == 1.5
    assert by_variant[64, "compile"]["shape"] == "64x256"
    assert by_variant[128, "compile"]["median_ns"] is None
    assert by_variant[128, "compile"]["reason"] == "SIGSEGV"


def test_parquet_has_the_same_rows_with_types(results, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = results(cell(), cell(variant="eager", speedup=1.0), cell(rows=128, status=Status.OUT_OF_MEMORY))
    assert export(found, tmp_path / "cells.parquet") == 3
    table = parquet.read_table(tmp_path / "cells.parquet")
    assert {name: str(table.schema.field(name).type) for name in ("rows", "speedup", "correct", "status")} == {
        "rows": "int64", "speedup": "double", "correct": "bool", "status": "string",
    }  # fmt: skip
    assert table.to_pylist() == list(found.rows())


def test_another_ending_is_refused(results, tmp_path):
    with pytest.raises(UsageError, match="csv"):
        export(results(cell()), tmp_path / "cells.csv")


def test_the_front_is_what_nobody_beats_in_both():
    fast, small = cell(variant="fast", speedup=3.0, memory=3000), cell(variant="small", speedup=1.0, memory=10)
    beaten, equal = cell(variant="beaten", speedup=2.0, memory=3000), cell(variant="equal", speedup=3.0, memory=3000)
    wrong = cell(variant="wrong", status=Status.WRONG)
    assert [m.variant for m in pareto_front([fast, small, beaten, equal, wrong])] == ["fast", "small", "equal"]


def test_axes_are_those_along_which_cells_differ():
    cells = [cell(rows=r, width=w) for r in (128, 64) for w in (256, 32)]
    assert axes_of(cells) == {"rows": [64, 128], "width": [32, 256]}


def withheld():
    comparison = Comparison(baseline="eager", verdict=Verdict.WITHHELD, speedup=9.87, low=9.87, high=9.87)
    return cell(rows=512, comparison=comparison)


def test_fault_20_what_failed_or_is_withheld_shows_no_speedup():
    right, wrong = cell(rows=64, speedup=1.25), cell(rows=256, status=Status.WRONG, reason="wrong")
    drawn = heat_map([right, wrong, withheld()], "rows", None, "speedups")
    assert "1.25" in drawn.svg
    assert "wrong" in drawn.svg
    assert "9.87" not in drawn.svg
    only = heat_map([wrong, withheld()], "rows", None, "speedups")
    assert only is None
    assert pareto([wrong, withheld()], "t") is None


def test_models_never_share_a_chart():
    cells = [
        cell(rows=r, variant=v, speedup=s, device=d)
        for d in ("CPU a", "CPU b")
        for v, s in (("eager", 1.0), ("compile", 2.0))
        for r in (64, 128)
    ]
    drawn, _ = charts(cells)
    assert len(drawn) == 4  # a heat map and a Pareto view for each
    assert all(("CPU a" in chart.title) != ("CPU b" in chart.title) for chart in drawn)


def test_an_axis_that_is_none_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'rows'"):
        charts([cell(), cell(rows=128)], x="row")


def test_fault_26_markup_is_shown_as_text_and_the_policy_lets_nothing_run(results):
    evil = [
        cell(variant=v, speedup=s, reason=EVIL, device=EVIL, workload=Workload(shape=(r, 8), options={"o": EVIL}))
        for v, s in (("eager", 1.0), (EVIL, 2.0))
        for r in (8, 16)
    ]
    failed = cell(variant=EVIL, status=Status.ERROR, reason=EVIL, device=EVIL)
    page = render(results(*evil, failed, notes=[EVIL]))
    assert "<img src=x" not in page
    assert "<script" not in page
    assert "&lt;img src=x" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") or "default-src &#39;none&#39;" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert not re.search(r'(?:src|href)="(?!data:image/svg)', page)


def test_the_page_is_written_whole_and_counts_what_failed(results, tmp_path):
    found = results(
        cell(variant="eager", speedup=1.0), cell(), cell(rows=128, variant="eager", speedup=1.0),
        cell(rows=128, status=Status.TIMED_OUT, reason="no answer within 600 s"),
    )  # fmt: skip
    write_page(found, tmp_path / "sweep.html")
    page = (tmp_path / "sweep.html").read_text()
    assert "1 failed" in page
    assert "no answer within 600 s" in page
    assert page.count("data:image/svg+xml;base64,") == 2


def test_a_row_is_of_plain_values():
    found = row(cell())
    assert found.keys() == COLUMNS.keys() - {"sweep", "run"}
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
