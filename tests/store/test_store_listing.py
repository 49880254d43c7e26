"""Listing names what cannot be read and lists the rest; opening takes every short form of a name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from store_factory import cell, new_run

from fuselab.errors import StoreError, UnknownNameError, UsageError
from fuselab.records import Kernel, RunStatus, Status
from fuselab.store import Run, list_runs, open_run


def _edit(run: Run, **changes: object) -> None:
    path = run.path / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _truncate(run: Run) -> None:
    path = run.path / "metadata.json"
    path.write_bytes(path.read_bytes()[:200])


def _replace(text: str) -> Callable[[Run], object]:
    return lambda run: (run.path / "metadata.json").write_text(text)


def _link(run: Run) -> None:
    elsewhere = run.path.parent.parent.parent / "elsewhere.json"
    elsewhere.write_bytes((run.path / "metadata.json").read_bytes())
    (run.path / "metadata.json").unlink()
    (run.path / "metadata.json").symlink_to(elsewhere)


ESCAPING = {
    "kernel_id": "x", "name": "x", "backend": "cpp", "variant": "v", "workload": "w", "direction": "forward",
    "file_path": "../../../etc/passwd", "size_bytes": 1, "created_at": "",
}  # fmt: skip

DAMAGE: dict[str, tuple[Callable[[Run], object], str]] = {
    "truncated": (_truncate, "is not JSON"),
    "empty": (_replace(""), "is not JSON"),
    "binary": (lambda run: (run.path / "metadata.json").write_bytes(b"\x80\x04\xff"), "is not JSON"),
    "deep": (_replace("[" * 100_000), "is not JSON|is not a record"),
    "foreign": (_replace('{"model": "llama"}'), "has no schema_version"),
    "another type": (_replace("[1, 2]"), "is not a record of fuselab"),
    "newer": (lambda run: _edit(run, schema_version=99), r"newer fuselab \(schema 99; this one reads up to 1\)"),
    "unknown older": (lambda run: _edit(run, schema_version=0), "schema 0, which no release"),
    "field of a wrong type": (lambda run: _edit(run, seed="seven"), "is not a record of fuselab"),
    "path that leaves": (lambda run: _edit(run, kernels=[ESCAPING]), "was tampered with"),
    "another id": (lambda run: _edit(run, id="rms_norm/x"), "is that of another run"),
    "link": (_link, "symbolic link"),
    "no metadata": (lambda run: (run.path / "metadata.json").unlink(), "No such file"),
    "no environment": (lambda run: (run.path / "environment.json").unlink(), "environment.json"),
    "no measurements": (lambda run: (run.path / "measurements.jsonl").unlink(), "measurements.jsonl"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_named_and_the_rest_list(tmp_path: Path, damage: str) -> None:
    root = tmp_path / "runs"
    good, bad, other = new_run(root), new_run(root), new_run(root, experiment="silu")
    harm, reason = DAMAGE[damage]
    harm(bad)
    summaries, rejected = list_runs(root)
    assert {s.path for s in summaries} == {str(good.path), str(other.path)}
    ((path, why),) = [(r.path, r.reason) for r in rejected]
    assert path == str(bad.path)
    assert re.search(reason, why), why


def test_a_copied_run_is_not_counted_twice(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    shutil.copytree(run.path, run.path.with_name(f"{run.path.name}-backup"))
    summaries, rejected = list_runs(tmp_path)
    assert [s.path for s in summaries] == [str(run.path)]
    assert "is that of another run" in rejected[0].reason


def test_linked_runs_are_set_aside(tmp_path: Path) -> None:
    run = new_run(tmp_path / "there")
    experiment = tmp_path / "runs" / "rms_norm"
    experiment.mkdir(parents=True)
    (experiment / run.path.name).symlink_to(run.path)
    summaries, rejected = list_runs(tmp_path / "runs")
    assert summaries == []
    assert "symbolic link" in rejected[0].reason


def test_what_is_no_run_is_not_mentioned(tmp_path: Path) -> None:
    new_run(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "rms_norm" / ".hidden").mkdir()
    summaries, rejected = list_runs(tmp_path)
    assert (len(summaries), rejected) == (1, [])


def test_no_directory_is_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nothing") == ([], [])


def test_an_unreadable_experiment_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_run(tmp_path)
    closed = new_run(tmp_path, experiment="silu").path.parent
    real = os.scandir

    def scandir(path: object) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    summaries, rejected = list_runs(tmp_path)
    assert [s.experiment for s in summaries] == ["rms_norm"]
    assert rejected[0].path == str(closed)
    assert "Permission denied" in rejected[0].reason


def test_a_summary_says_how_far_a_run_came(tmp_path: Path) -> None:
    run = new_run(tmp_path, preset="quick")
    with run.lock():
        run.append([cell("eager"), cell("compile", status=Status.WRONG, reason="x")])
        run.update(kernels=[msgspec.convert({**ESCAPING, "file_path": "kernels/x"}, Kernel)])
        run.finish(RunStatus.FAILED, {}, error="disk full")
    ((summary,), _) = list_runs(tmp_path)
    assert (summary.id, summary.status, summary.error) == (run.metadata().id, RunStatus.FAILED, "disk full")
    assert (summary.planned_cells, summary.cells) == (4, {Status.OK: 1, Status.WRONG: 1})
    assert (summary.kernels, summary.preset, summary.device) == (1, "quick", "CPU test, 2 cores")


def test_the_newest_run_comes_first(tmp_path: Path) -> None:
    paths = [str(new_run(tmp_path, experiment=name).path) for name in ("silu", "rms_norm", "silu")]
    assert [s.path for s in list_runs(tmp_path)[0]] == paths[::-1]


def test_every_form_of_a_name_opens_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    silu = new_run(root, experiment="silu")
    run = new_run(root)
    identity = f"rms_norm/{run.path.name}"
    monkeypatch.chdir(tmp_path)
    for name in (run.path, f"runs/{identity}", identity, f"{identity}/", identity[:-3], "rms_norm/", "rms", "latest"):
        assert open_run(name, Path("runs")).path == run.path, name
    assert open_run("silu/latest", root).path == silu.path


def test_a_stamp_alone_is_enough_if_it_is_the_only_one(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert open_run(run.path.name[:-2], tmp_path).path == run.path
    new_run(tmp_path)
    with pytest.raises(UsageError, match="2 runs begin with '2'") as ambiguous:
        open_run("2", tmp_path)
    assert run.path.name in (ambiguous.value.hint or "")


@pytest.mark.parametrize("name", ["rms_nrom/latest", "nothing", "", "../..", "x\0y"])
def test_an_unknown_run_names_what_there_is(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as error:
        open_run(name, tmp_path / "runs")
    assert f"rms_norm/{run.path.name}" in (error.value.hint or "")


def test_where_there_is_no_run_the_directory_that_was_looked_in_is_named(tmp_path: Path) -> None:
    for name in ("latest", "rms_norm/latest", "2026"):
        with pytest.raises(UnknownNameError) as error:
            open_run(name, tmp_path / "runs")
        assert f"there is no run in {tmp_path / 'runs'}" in (error.value.hint or "")
        assert "fuselab run" in (error.value.hint or "")


def test_a_near_miss_is_suggested(tmp_path: Path) -> None:
    identity = f"rms_norm/{new_run(tmp_path).path.name}"
    with pytest.raises(UnknownNameError, match=f"did you mean '{identity}'"):
        open_run(f"rmsnorm/{identity.partition('/')[2]}", tmp_path)


def test_latest_skips_what_cannot_be_read(tmp_path: Path) -> None:
    good, bad = new_run(tmp_path), new_run(tmp_path)
    _truncate(bad)
    assert open_run("latest", tmp_path).path == good.path
    with pytest.raises(StoreError, match=f"{bad.path.name}/metadata.json: is not JSON"):
        open_run(bad.path, tmp_path)
