"""Whatever the disk or a signal does: what was acknowledged is there, and the run can be read and gone on with."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factory import capture_into, cell, new_run

from fuselab.errors import StoreError
from fuselab.records import RunStatus, Status
from fuselab.store import Run, list_runs
from fuselab.store.files import append_batch, read_batches, write_atomically

# --- the disk refuses ---------------------------------------------------------------------------------------------


def _refusing(error: int, after_bytes: int = 0) -> Callable[[int, Any], int]:
    """An ``os.write`` of a disk that takes a few more bytes and then refuses."""
    real, left = os.write, [after_bytes]

    def write(descriptor: int, data: Any) -> int:
        if left[0] <= 0:
            raise OSError(error, os.strerror(error))
        written = real(descriptor, bytes(data)[: left[0]])
        left[0] -= written
        return written

    return write


@pytest.mark.parametrize("taken", [0, 1, 700])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_an_append_keeps_earlier_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, taken: int
) -> None:
    run = new_run(tmp_path)
    run.append([cell("eager")])
    before = (run.path / "measurements.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _refusing(error, taken))
        with pytest.raises(StoreError, match=r"measurements\.jsonl") as refusal:
            run.append([cell("compile"), cell("triton")])
    assert refusal.value.hint is not None
    assert (run.path / "measurements.jsonl").read_bytes() == before
    run.append([cell("compile")])
    assert [c.variant for c in run.measurements()] == ["eager", "compile"]


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:97]))
    run.append([cell("eager"), cell("compile")])
    run.update(seed=3)
    assert [c.variant for c in run.measurements()] == ["eager", "compile"]
    assert run.metadata().seed == 3


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_cannot_sync_has_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    run = new_run(tmp_path)

    def fsync(_descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match=r"cannot append to .*measurements\.jsonl"):
            run.append([cell("eager")])
        with pytest.raises(StoreError, match=r"cannot write .*metadata\.json"):
            run.update(seed=9)
    assert run.measurements() == []
    assert run.metadata().seed == 0


@pytest.mark.parametrize("taken", [0, 100])
def test_a_full_disk_leaves_the_old_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    run = new_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _refusing(errno.ENOSPC, taken))
        with pytest.raises(StoreError, match=r"No space left") as refusal:
            run.finish(RunStatus.COMPLETE, {})
    assert refusal.value.hint == "free some space, or choose a directory on another disk with --out"
    assert Run(run.path).metadata().seed == 0
    assert list(run.path.glob(".*.tmp")) == []


def test_a_run_that_cannot_be_created_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _refusing(errno.ENOSPC, 300))
        with pytest.raises(StoreError, match=r"environment\.json|metadata\.json"):
            new_run(tmp_path)
    assert list((tmp_path / "rms_norm").iterdir()) == []


def _append_until_refused(path: str) -> None:
    """In a child: the system itself refuses once a file is longer than 20 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    run = Run(Path(path))
    for number in range(1000):
        try:
            run.append([cell(f"v{number}", samples=20)])
        except StoreError as error:
            print(number, error.message)
            return


@pytest.mark.slow
def test_a_real_limit_on_file_sizes(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.lock():
        pass
    code = f"from test_store_faults import _append_until_refused; _append_until_refused({str(run.path)!r})"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parent, check=True
    )
    stored, _, message = child.stdout.partition(" ")
    assert "measurements.jsonl: File too large" in message
    assert int(stored) > 3
    assert [c.variant for c in run.measurements()] == [f"v{n}" for n in range(int(stored))]
    assert run.notes() == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [(errno.EROFS, "choose a directory that you can write to"), (errno.EACCES, "choose a directory that you can")],
)
def test_a_read_only_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, hint: str) -> None:
    def mkdir(*_arguments: Any, **_named: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(StoreError, match=str(tmp_path / "runs")) as refusal:
        new_run(tmp_path / "runs")
    assert hint in (refusal.value.hint or "")


def test_a_file_where_the_root_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreError, match="runs"):
        new_run(tmp_path / "runs")


# --- whom to trust ------------------------------------------------------------------------------------------------


def test_a_root_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(StoreError, match="written by everybody") as refusal:
        new_run(root)
    assert f"chmod o-w {root}" in (refusal.value.hint or "")
    root.chmod(0o1777)
    assert new_run(root).metadata().experiment == "rms_norm"


@pytest.mark.parametrize("part", ["runs", "runs/rms_norm"])
def test_a_linked_directory_is_refused(tmp_path: Path, part: str) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / part).parent.mkdir(exist_ok=True)
    (tmp_path / part).symlink_to(real)
    with pytest.raises(StoreError, match="is a symbolic link to") as refusal:
        new_run(tmp_path / "runs")
    assert str(real) in (refusal.value.hint or "")
    assert list(real.iterdir()) == []


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    run = new_run(root)
    with run.lock():
        pass
    real = Path.lstat

    def lstat(path: Path) -> Any:
        state = real(path)
        return SimpleNamespace(st_mode=state.st_mode, st_uid=os.geteuid() + 4711) if path == root else state

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(StoreError, match="belongs to another user"):
        new_run(root)
    assert Run(run.path).metadata().experiment == "rms_norm"


def test_modes_do_not_depend_on_a_careless_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = new_run(tmp_path / "runs")
    finally:
        os.umask(before)
    for path in (run.path, run.path.parent, run.path.parent.parent):
        assert not stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH
    assert new_run(tmp_path / "runs").path != run.path


# --- torn files ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=8).map(bytes.hex), min_size=1, max_size=3), max_size=4), st.data()
)
def test_a_file_cut_anywhere_holds_whole_batches_only(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], data: st.DataObject
) -> None:
    """Cut at any byte: a prefix of the batches is there, no part of one; appending goes on from there."""
    path = tmp_path_factory.mktemp("cut") / "lines.jsonl"
    lines = [[f'{{"x":"{text}"}}'.encode() for text in batch] for batch in batches]
    for batch in lines:
        append_batch(path, batch)
    whole = path.read_bytes() if path.exists() else b""
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    found, torn = read_batches(path)
    flat, kept = [line for batch in lines for line in batch], 0
    while kept < len(lines) and len([x for b in lines[: kept + 1] for x in b]) <= len(found):
        kept += 1
    assert [line.rstrip() for line in found] == [x for b in lines[:kept] for x in b] == flat[: len(found)]
    append_batch(path, [b'{"last":1}'])
    again, nothing = read_batches(path)
    assert again == [*found, b'{"last":1}']
    assert nothing == 0
    aside = path.with_name("lines.jsonl.torn")
    assert (aside.stat().st_size - 1 if aside.exists() else 0) == torn


def test_a_torn_group_is_left_out_whole_with_a_note(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.append([cell("eager"), cell("compile")])
    file = run.path / "measurements.jsonl"
    stored = file.read_bytes()
    run.append([cell("a"), cell("b"), cell("c")])
    file.write_bytes(file.read_bytes()[:-40])
    assert [c.variant for c in run.measurements()] == ["eager", "compile"]
    (note,) = run.notes()
    assert "cut off" in note
    run.append([cell("a")])
    assert [c.variant for c in run.measurements()] == ["eager", "compile", "a"]
    assert file.read_bytes().startswith(stored)
    assert (run.path / "measurements.jsonl.torn").read_bytes().startswith(b'{"experiment"')


def test_a_damaged_line_costs_its_own_cell_only(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for variant in ("a", "b", "c"):
        run.append([cell(variant)])
    file = run.path / "measurements.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:50] + b"\xff\n" + b'{"schema_version":99}\n' + lines[2])
    assert [c.variant for c in run.measurements()] == ["a", "c"]
    notes = run.notes()
    assert len(notes) == 2
    assert notes[0].startswith("measurements.jsonl line 2")
    assert "newer fuselab" in notes[1]


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# --- SIGKILL ------------------------------------------------------------------------------------------------------


def _work(root: str) -> None:
    """In a child, until it is killed: make runs, store, adopt, finish; say so after each step."""
    root_path = Path(root)
    for _ in range(10_000):
        run = new_run(root_path)
        identity = f"{run.path.parent.name}/{run.path.name}"
        with run.lock():
            print("created", identity, flush=True)
            for group in range(3):
                run.append([cell(f"{name}{group}", samples=200) for name in ("a", "b", "c")])
                print("appended", identity, group, flush=True)
                staging = run.staging("compile")
                run.adopt(staging, *capture_into(staging, text="x" * 5000))
                print("adopted", identity, flush=True)
            run.finish(RunStatus.COMPLETE, {})
        print("finished", identity, flush=True)


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    random_source = random.Random(11)
    for attempt in range(25):
        root = tmp_path / str(attempt)
        code = f"from test_store_faults import _work; _work({str(root)!r})"
        log = tmp_path / f"{attempt}.log"
        with log.open("w") as out:
            child = subprocess.Popen([sys.executable, "-c", code], stdout=out, cwd=Path(__file__).parent)
            until = time.monotonic() + 30
            while not log.stat().st_size and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(random_source.uniform(0, 0.25))
            child.send_signal(signal.SIGKILL)
            child.wait()
        _judge(root, log.read_text())


def _judge(root: Path, log: str) -> None:
    steps = [line.split() for line in log.splitlines() if line.endswith(tuple("0123456789abcdef"))]
    assert steps
    summaries, rejected = list_runs(root)
    assert rejected == []
    by_id = {s.id: s for s in summaries}
    for step, identity, *rest in steps:
        summary = by_id[identity]
        run = Run(Path(summary.path))
        if step == "appended":
            assert {f"{name}{rest[0]}" for name in "abc"} <= {c.variant for c in run.measurements()}
        elif step == "finished":
            assert summary.status is RunStatus.COMPLETE
    for summary in summaries:
        run = Run(Path(summary.path))
        assert summary.status in (RunStatus.COMPLETE, RunStatus.INTERRUPTED)
        assert summary.cells.get(Status.OK, 0) % 3 == 0  # a group is there whole or not at all
        found = run.metadata()
        for kernel in found.kernels:
            assert run.read_text(kernel.file_path) == "x" * 5000
        for artifact in found.artifacts:
            assert artifact.path is None or run.read_text(artifact.path) == "x" * 5000
        if summary.status is RunStatus.INTERRUPTED:
            with run.lock():
                run.append([cell("resumed")])
                staging = run.staging("compile")
                run.adopt(staging, *capture_into(staging, text="x" * 5000))
                run.finish(RunStatus.COMPLETE, {})
            assert run.measurements()[-1].variant == "resumed"
            assert run.metadata().status is RunStatus.COMPLETE
            assert len(run.metadata().kernels) == 1


@pytest.mark.parametrize("name", [".", "there"])
def test_a_directory_is_no_file_to_replace(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        write_atomically(Path(name), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
