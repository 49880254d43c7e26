"""A run is created whole, holds what was put into it, and says how far it came."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import msgspec
import pytest
from store_factory import ENVIRONMENT, capture_into, cell, metadata, new_run, workload

from fuselab.errors import StoreError, UsageError
from fuselab.records import Artifact, Direction, Measurement, Parts, RunStatus, Stage, Status
from fuselab.store import Run, create_run, list_runs


def test_a_new_run_has_its_files_and_is_held(tmp_path: Path) -> None:
    run = new_run(tmp_path / "new" / "runs")
    read = Run(run.path)
    assert run.path.parent == tmp_path / "new" / "runs" / "rms_norm"
    assert read.metadata().id == f"rms_norm/{run.path.name}"
    assert read.metadata().status is RunStatus.RUNNING
    assert read.environment() == ENVIRONMENT
    assert read.measurements() == []
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_status_follows_the_lock(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.lock():
        assert Run(run.path).metadata().status is RunStatus.RUNNING
    assert Run(run.path).metadata().status is RunStatus.INTERRUPTED
    with run.lock():
        assert Run(run.path).metadata().status is RunStatus.RUNNING
        run.finish(RunStatus.COMPLETE, {"cells": {"ok": 1}})
    finished = Run(run.path).metadata()
    assert finished.status is RunStatus.COMPLETE
    assert finished.summary == {"cells": {"ok": 1}}
    assert finished.finished_at is not None


def test_a_held_run_refuses_a_second_holder_and_names_it(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.lock():
        for act in (lambda r: r.append([cell()]), lambda r: r.update(seed=1), lambda r: r.lock().__enter__()):
            with pytest.raises(StoreError, match=rf"another process \({os.getpid()}\)"):
                act(Run(run.path))
    assert Run(run.path).measurements() == []
    with Run(run.path).lock():
        pass


def test_cells_come_back_as_they_were_stored(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    cells = [cell("eager"), cell("compile", status=Status.ERROR, reason="ValueError: x\n  at line 3")]
    run.append(cells)
    run.append([])
    assert run.measurements() == cells
    assert run.finished_cells() == {c.key for c in cells}
    assert run.notes() == []


def test_the_first_line_of_a_cell_counts(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.append([cell("eager", samples=3)])
    run.append([cell("eager", samples=5), cell("compile")])
    assert [(c.variant, len(c.samples)) for c in run.measurements()] == [("eager", 3), ("compile", 3)]


def test_a_figure_that_is_no_number_does_not_make_a_line_unreadable(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    odd = cell("eager", median_ns=float("nan"))
    odd.samples.append(msgspec.structs.replace(odd.samples[0], duration_ns=float("inf")))
    run.append([odd])
    (read,) = run.measurements()
    assert (read.median_ns, len(read.samples)) == (None, 3)
    assert read.warnings == ["1 sample was not a number and left out"]


@pytest.mark.parametrize("bad", ["gap", "low", "high", "sample"])
def test_parts_that_are_no_numbers_do_not_cost_the_cell(bad: str, tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fine = cell("eager")
    samples, figures = list(fine.samples), {"gap": 0.0, "low": -0.1, "high": 0.1}
    if bad == "sample":
        samples[0] = msgspec.structs.replace(samples[0], duration_ns=float("nan"))
    else:
        figures[bad] = float("nan")
    parts = Parts(forward=samples, backward=fine.samples, both=fine.samples, **figures)
    run.append([msgspec.structs.replace(fine, parts=parts), cell("compile")])
    (read, _) = run.measurements()
    assert read.parts is None
    assert read.warnings == ["forward, backward and both were not all numbers and left out"]


def test_update_replaces_fields_and_leaves_the_rest(tmp_path: Path) -> None:
    run = new_run(tmp_path, seed=7)
    before = run.metadata()
    run.update(pid=123)
    assert run.metadata() == msgspec.structs.replace(before, pid=123)
    assert [p.name for p in run.path.glob(".*.tmp")] == []


def test_adopted_files_move_and_their_records_follow(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    staging = run.staging("compile-check")
    artifacts, kernels = run.adopt(staging, *capture_into(staging))
    key = workload().key
    assert artifacts[0].path == f"graphs/compile/{key}/forward/output_code.py"
    assert (artifacts[1].path, artifacts[1].absent) == (None, "CPU target")
    assert kernels[0].file_path == f"kernels/compile/{key}/forward/fused_0/kernel.cpp"
    assert kernels[0].size_bytes == len("int f();\n")
    assert run.read_text(kernels[0].file_path) == "int f();\n"
    card = msgspec.json.decode(run.read_text(f"kernels/compile/{key}/forward/fused_0/card.json"))
    assert (card["file_path"], card["output_code"], card["other"]) == (kernels[0].file_path, artifacts[0].path, 3)
    assert run.metadata().kernels == kernels
    assert run.metadata().artifacts == artifacts
    assert not staging.exists()


def test_a_second_attempt_replaces_the_first_and_leaves_other_variants(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for variant, text in (("compile", "old"), ("other", "kept"), ("compile", "new")):
        staging = run.staging(variant)
        run.adopt(staging, *capture_into(staging, variant, text))
    found = {k.variant: run.read_text(k.file_path) for k in run.metadata().kernels}
    assert found == {"other": "kept", "compile": "new"}
    assert len(run.metadata().artifacts) == 4


def test_an_empty_capture_leaves_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    staging = run.staging("x")
    assert run.adopt(staging, [], []) == ([], [])
    assert not staging.exists()
    assert not (run.path / "graphs").exists()


@pytest.mark.parametrize(
    "path",
    ["../../../etc/passwd", "/etc/passwd", "graphs/backward/output_code.py", "graphs/forward/not_there.py", "", "x\0y"],
)
def test_a_record_of_a_file_that_was_not_captured_is_refused(tmp_path: Path, path: str) -> None:
    run = new_run(tmp_path)
    staging = run.staging("x")
    artifacts, kernels = capture_into(staging)
    with pytest.raises(StoreError, match=r"path|record"):
        run.adopt(staging, [msgspec.structs.replace(artifacts[0], path=path)], kernels)
    assert run.metadata().artifacts == []
    assert not (run.path / "graphs").exists()


def test_links_in_a_capture_are_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    staging = run.staging("x")
    captured = capture_into(staging)
    (staging / "kernels/forward/fused_0/ptx").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="neither a directory nor a plain file"):
        run.adopt(staging, *captured)


def test_a_staging_directory_elsewhere_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "runs")
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(StoreError, match="not a staging directory"):
        run.adopt(elsewhere, *capture_into(elsewhere))


def test_hostile_names_become_safe_directories(tmp_path: Path) -> None:
    run = new_run(tmp_path, experiment="../../evil\x1b[2J")
    assert run.path.parent.parent == tmp_path
    staging = run.staging("a/../../b")
    hostile = "v/../../../x"
    artifacts, _ = run.adopt(staging, *capture_into(staging, hostile))
    assert artifacts[0].variant == hostile
    assert artifacts[0].path is not None
    assert ".." not in artifacts[0].path
    assert run.caches(hostile, "w" * 300).is_relative_to(run.path / ".caches")
    assert len(list_runs(tmp_path)[0]) == 1


def test_finish_removes_what_only_the_making_needed(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (run.caches("compile", "w") / "kernel.so").write_bytes(b"\0")
    run.staging("x")
    run.finish(RunStatus.FAILED, {}, error="the disk is full")
    assert run.metadata().error == "the disk is full"
    assert not (run.path / ".caches").exists()
    assert not (run.path / ".staging").exists()


def test_taking_a_dead_run_up_again_keeps_caches_and_drops_half_done_work(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.lock():
        cached = run.caches("compile", "w") / "kernel.so"
        cached.write_bytes(b"\0")
        half = run.staging("x")
        (run.path / ".metadata.json.0123.tmp").write_text("{")
    with Run(run.path).lock():
        assert cached.exists()
        assert not half.exists()
        assert list(run.path.glob(".*.tmp")) == []


def test_a_run_that_is_taken_up_again_has_not_finished(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.finish(RunStatus.INTERRUPTED, {})
    assert run.metadata().finished_at is not None
    with run.lock():
        run.update(status=RunStatus.RUNNING)
        assert (run.metadata().status, run.metadata().finished_at) == (RunStatus.RUNNING, None)


def test_plots_are_written_below_plots_only(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.write_plot("speedup.svg", "<svg/>") == run.path / "plots" / "speedup.svg"
    with pytest.raises(StoreError, match="leaves"):
        run.write_plot("../metadata.json", "x")


def test_reading_text_is_cut_with_a_note(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.write_plot("big.txt", "x" * 100)
    text = run.read_text("plots/big.txt", limit=10)
    assert text.startswith("x" * 10 + "\n... 10 of 100 bytes shown")
    assert str(run.path / "plots/big.txt") in text


@pytest.mark.parametrize("name", ["model.pt", "state.pkl", "x.bin"])
def test_pickles_are_never_read(tmp_path: Path, name: str) -> None:
    run = new_run(tmp_path)
    (run.path / name).write_bytes(b"\x80\x04\x95\x10")
    with pytest.raises(StoreError, match="not text"):
        run.read_text(name)
    (run.path / "renamed.py").write_bytes(b"\x80\x04\x95\x10")
    with pytest.raises(StoreError, match="not text"):
        run.read_text("renamed.py")


def test_links_and_pipes_in_a_run_are_refused_on_reading(tmp_path: Path) -> None:
    run = new_run(tmp_path / "runs")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "kernel.cpp").write_text("secret")
    (run.path / "kernels").symlink_to(secret)
    with pytest.raises(StoreError, match="symbolic link"):
        run.read_text("kernels/kernel.cpp")
    with pytest.raises(StoreError, match="leaves"):
        run.read_text("../../../secret/kernel.cpp")
    os.mkfifo(run.path / "pipe")
    with pytest.raises(StoreError, match="not a plain file"):
        run.read_text("pipe")
    (run.path / "measurements.jsonl").unlink()
    (run.path / "measurements.jsonl").symlink_to(secret / "kernel.cpp")
    with pytest.raises(StoreError, match="symbolic link"):
        run.measurements()


def test_links_in_a_run_are_refused_on_writing(tmp_path: Path) -> None:
    run = new_run(tmp_path / "runs")
    outside = tmp_path / "outside"
    outside.mkdir()
    (run.path / "graphs").symlink_to(outside)
    staging = run.staging("x")
    with pytest.raises(StoreError, match="symbolic link"):
        run.adopt(staging, *capture_into(staging))
    (run.path / "plots").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        run.write_plot("x.svg", "")
    assert list(outside.iterdir()) == []


def test_a_secret_in_the_plan_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    plan = [workload(arguments={"name": "hf_0123456789abcdef"})]
    with pytest.raises(UsageError, match="looks like a secret"):
        create_run(tmp_path / "runs", metadata(plan=plan), ENVIRONMENT)
    assert not (tmp_path / "runs").exists()


def test_tensors_that_are_called_token_or_key_are_no_secrets(tmp_path: Path) -> None:
    arguments = {"tokens": "i64[8,512]<50257", "token": "bf16[8,64]", "key": "f32[8,64]:requires_grad"}
    run = create_run(tmp_path, metadata(plan=[workload(arguments=arguments)]), ENVIRONMENT)
    assert run.metadata().plan[0].arguments == arguments


def _create(root: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    run = new_run(Path(root))
    run.append([cell()])
    results.put(str(run.path))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_sixteen_processes_at_once_get_sixteen_runs(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    root = tmp_path / "runs"
    processes = [context.Process(target=_create, args=(str(root), start, results)) for _ in range(16)]
    for process in processes:
        process.start()
    start.set()
    paths = {results.get(timeout=20) for _ in processes}
    for process in processes:
        process.join()
    summaries, rejected = list_runs(root)
    assert {s.path for s in summaries} == paths
    assert len(paths) == 16
    assert rejected == []
    assert all(s.cells == {Status.OK: 1} for s in summaries)


def test_two_runs_with_one_random_name_are_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["aaaaaa", "00", "aaaaaa", "bbbbbb", *(f"{n:08x}" for n in range(100))])
    monkeypatch.setattr("fuselab.store.run.secrets.token_hex", lambda n: next(names) if n == 3 else os.urandom(n).hex())
    monkeypatch.setattr("fuselab.store.run.datetime", _Frozen)
    first = new_run(tmp_path)
    next(names)
    second = new_run(tmp_path)
    assert (first.path.name[-6:], second.path.name[-6:]) == ("aaaaaa", "bbbbbb")
    assert first.metadata().id != second.metadata().id


class _Frozen:
    @staticmethod
    def now(zone: object) -> object:
        from datetime import datetime

        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone)  # type: ignore[arg-type]


def test_a_measurement_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    broken = Measurement(
        experiment="rms_norm", variant="v", workload=workload(), direction=Direction.FORWARD, status="no such status"  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(StoreError, match="the measurement of 'v' cannot be stored"):
        run.append([broken])
    assert run.measurements() == []


def test_records_of_two_variants_are_not_adopted_together(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    staging = run.staging("x")
    artifacts, kernels = capture_into(staging)
    stranger = Artifact(
        stage=Stage.PTX, variant="other", workload=workload().key, direction=Direction.FORWARD, absent="x"
    )
    with pytest.raises(StoreError, match="several variants"):
        run.adopt(staging, [*artifacts, stranger], kernels)
