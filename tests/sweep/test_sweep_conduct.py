"""A sweep over workers that answer from a table: what is refused, lost, late, given up, and what the store then holds.

Row 29 of FAULTS, without a process; the same with real ones is in ``test_sweep_kills``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading

import msgspec
import pytest
from rich.console import Console
from table_workers import A100, H200, PLAN, Answer, Workers, cells, right

from fuselab.cli import main
from fuselab.errors import StoreError, UsageError, WorkerError
from fuselab.experiment import load_registry
from fuselab.records import RunStatus, Status
from fuselab.store import list_runs, open_run
from fuselab.sweep import conduct, dispatch
from fuselab.sweep.cluster import Cluster, Where
from fuselab.sweep.messages import UnitResult, encode
from fuselab.sweep.plan import read_plan
from fuselab.sweep.record import create_sweep, list_sweeps, open_sweep
from fuselab.sweep.results import load_results
from fuselab.sweep.watch import SweepWatcher


@pytest.fixture
def carry_out(tmp_path, monkeypatch):
    """Carry the plan out, or resume it, with workers from a table."""
    monkeypatch.setattr(dispatch, "PATIENCE_S", 0.5)
    monkeypatch.setattr(dispatch.Dispatch.__init__, "__kwdefaults__", {"patience_s": 0.5})
    monkeypatch.setattr(dispatch, "MEMBERS_EVERY_S", 0.0)
    monkeypatch.setattr(dispatch, "POLL_S", 0.01)
    heard = []

    class Watcher(SweepWatcher):
        def note(self, text):
            heard.append(text)

    def run(workers, extra="", resume=None):
        @contextlib.contextmanager
        def opened(where, device):
            yield Cluster(workers, "inproc://table")

        monkeypatch.setattr(conduct, "opened", opened)
        watcher = Watcher(Console(quiet=True))
        if resume is not None:
            return conduct.resume(open_sweep(resume, tmp_path), Where(), watcher)
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.format(extra=extra))
        return conduct.begin(read_plan(path, load_registry(entry_points=())), Where(), tmp_path, watcher, ["fuselab"])

    run.heard = heard
    run.root = tmp_path
    return run


def statuses(sweep):
    return {(m.workload.shape[0], m.variant): m.status for m in load_results(sweep).cells}


def test_every_cell_once_over_several_workers(carry_out):
    workers = Workers({"a": right, "b": right})
    sweep = carry_out(workers)
    assert sweep.record().status is RunStatus.COMPLETE
    assert len(statuses(sweep)) == 12
    assert set(statuses(sweep).values()) == {Status.OK}
    assert sorted(rows for _, rows in workers.asked) == [1, 2, 3, 4, 5, 6]
    assert {address for address, _ in workers.asked} == {"a", "b"}
    assert len(sweep.units()) == 6
    (summary,), rejected = list_runs(carry_out.root)
    assert (summary.status, summary.planned_cells, rejected) == (RunStatus.COMPLETE, 12, [])


def test_fault_29_a_worker_that_vanishes_is_replaced_within_the_retries(carry_out):
    def vanishes(request):
        del workers.table["a"]
        workers.table["b"] = right
        return Answer(status="pending")

    workers = Workers({"a": vanishes})
    sweep = carry_out(workers)
    assert set(statuses(sweep).values()) == {Status.OK}
    assert sorted(rows for _, rows in workers.asked) == [1, 1, 2, 3, 4, 5, 6]
    assert any("begun again" in note for note in sweep.record().notes)


def test_fault_29_a_unit_that_kills_every_worker_is_given_up_and_the_others_stand(carry_out):
    def fails(request):
        if request.workload.shape[0] == 3:
            return Answer(error=OSError("connection lost"), status="error")
        return right(request)

    workers = Workers({"a": fails})
    sweep = carry_out(workers, extra="budget.retries = 2")
    found = statuses(sweep)
    assert {rows for (rows, _), status in found.items() if status is Status.CRASHED} == {3}
    assert sum(rows == 3 for _, rows in workers.asked) == 3
    assert sweep.record().status is RunStatus.COMPLETE
    assert "lost 3 times" in next(m.reason for m in load_results(sweep).cells if m.status is Status.CRASHED)


def test_fault_29_a_result_that_comes_twice_counts_once(carry_out):
    def twice(request):
        return Answer(encode(UnitResult(measurements=cells(request) * 2, seconds=1.0)))

    sweep = carry_out(Workers({"a": twice}))
    (summary,), _ = list_runs(carry_out.root)
    lines = (open_run(summary.id, carry_out.root).path / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert len(statuses(sweep)) == 12


def test_fault_29_a_late_result_of_a_unit_that_was_given_away_is_left_out(carry_out):
    late = []

    def slow(request):
        future = Answer(encode(UnitResult(measurements=cells(request, Status.WRONG))), status="pending")
        future.add_done_callback = late.append
        del workers.table["a"]
        workers.table["b"] = then_late
        return future

    def then_late(request):
        for callback in late:
            workers.futures[1].status = "finished"
            callback(workers.futures[1])
        return right(request)

    workers = Workers({"a": slow})
    sweep = carry_out(workers)
    assert late
    assert set(statuses(sweep).values()) == {Status.OK}


def test_fault_29_results_of_another_model_are_never_pooled(carry_out):
    workers = Workers({"a": lambda request: right(request, A100)}, models={"a": H200})
    sweep = carry_out(workers)
    assert set(statuses(sweep).values()) == {Status.ERROR}
    assert all(m.device == H200 for m in load_results(sweep).cells)


def test_fault_29_mixed_models_need_a_word_of_the_plan(carry_out):
    table = {"a": lambda request: right(request, H200), "b": lambda request: right(request, A100)}
    models = {"a": H200, "b": A100}
    with pytest.raises(UsageError, match=f"several models of device: {H200}, {A100}"):
        carry_out(Workers(table, models))
    assert list_sweeps(carry_out.root) == []

    one = carry_out(Workers(table, models), extra=f'placement.models = ["{H200}"]')
    assert [entry.model for entry in one.record().runs] == [H200]
    assert {m.device for m in load_results(one).cells} == {H200}
    assert any(A100 in note and "takes no part" in note for note in one.record().notes)

    each = carry_out(Workers(table, models), extra='placement.models = "*"')
    by_run = [{m.device for m in outcome.measurements} for outcome in load_results(each).outcomes]
    assert by_run == [{H200}, {A100}]
    assert all(len(outcome.measurements) == 12 for outcome in load_results(each).outcomes)


def test_fault_14_a_kill_between_the_runs_of_two_models_does_not_lose_the_second(carry_out, monkeypatch):
    table = {"a": lambda request: right(request, H200), "b": lambda request: right(request, A100)}
    workers = Workers(table, {"a": H200, "b": A100})
    prepare, made = conduct.prepare, []

    def killed(plans, environment, out, command):
        if made:
            raise SystemExit("killed")
        made.append(environment.device)
        return prepare(plans, environment, out, command)

    monkeypatch.setattr(conduct, "prepare", killed)
    with pytest.raises(SystemExit, match="killed"):
        carry_out(workers, extra='placement.models = "*"')
    with pytest.raises(UsageError, match="stopped before its runs were made"):
        carry_out(workers, resume="latest")


def test_fault_17_a_sweep_of_a_newer_version_is_named_and_the_rest_list(carry_out, capfd):
    fine, newer, torn = (carry_out(Workers({"a": right})) for _ in range(3))
    (newer.path / "sweep.json").write_text('{"schema_version": 2, "status": {"of": "another kind"}}')
    (torn.path / "sweep.json").write_text('{"id": "sm')
    with pytest.raises(StoreError, match="was written by a newer fuselab"):
        newer.record()
    with pytest.raises(StoreError, match="is not JSON") as error:
        torn.record()
    assert "list-runs" in error.value.hint
    assert main(["list-sweeps", "--out", str(carry_out.root), "--json"]) == 0
    captured = capfd.readouterr()
    assert [record["id"] for record in json.loads(captured.out)] == [fine.path.name]
    said = captured.err.replace("\n", "")
    assert said.count("set aside") == 2
    assert newer.path.name in said
    assert torn.path.name in said


def test_fault_21_a_device_that_stays_stuck_is_taken_out_and_its_unit_done_elsewhere(carry_out):
    def stuck(request):
        lost = "a fresh process cannot use it: CUDA error: unknown error"
        done = cells(request, Status.TIMED_OUT, variants=["compile"])
        return Answer(encode(UnitResult(measurements=done, seconds=1.0, device_lost=lost)))

    workers = Workers({"a": stuck, "b": right})
    sweep = carry_out(workers)
    found = statuses(sweep)
    assert len(found) == 12
    assert [key for key, status in found.items() if status is Status.TIMED_OUT] == [(1, "compile")]
    assert sum(address == "a" for address, _ in workers.asked) == 1
    assert any("is out of the sweep" in note and "unknown error" in note for note in sweep.record().notes)


def test_a_worker_with_another_file_is_refused_and_nothing_of_it_counts(carry_out):
    other = UnitResult(refused="silu is another file on this worker: sha256 1, the sweep's is 2")
    workers = Workers({"a": lambda request: Answer(encode(other)), "b": right})
    sweep = carry_out(workers)
    assert set(statuses(sweep).values()) == {Status.OK}
    assert sum(address == "a" for address, _ in workers.asked) == 1


def test_a_worker_with_other_versions_takes_no_part(carry_out):
    workers = Workers({"a": right, "b": right}, versions={"b": {"torch": "2.11"}})
    sweep = carry_out(workers)
    assert {address for address, _ in workers.asked} == {"a"}
    assert any("it has torch 2.11, the sweep 2.13" in note for note in sweep.record().notes)


def test_when_nobody_is_left_the_sweep_stops_keeps_what_it_has_and_is_resumed(carry_out):
    def dies_at_four(request):
        if request.workload.shape[0] == 4:
            workers.table.clear()
            return Answer(status="pending")
        return right(request)

    workers = Workers({"a": dies_at_four})
    with pytest.raises(WorkerError, match="no worker is left"):
        carry_out(workers)
    (sweep,) = list_sweeps(carry_out.root)
    assert sweep.record().status is RunStatus.INTERRUPTED
    assert {rows for rows, _ in statuses(sweep)} == {1, 2, 3}
    again = Workers({"c": right})
    carry_out(again, resume="latest")
    assert sorted(rows for _, rows in again.asked) == [4, 5, 6]
    assert sweep.record().status is RunStatus.COMPLETE
    with pytest.raises(UsageError, match="is complete"):
        carry_out(again, resume="latest")


def test_a_unit_that_brought_half_of_its_cells_is_resumed_for_the_other_half(carry_out):
    def half_then_nobody(request):
        workers.table.clear()
        half = cells(request, variants=["eager"])
        return Answer(encode(UnitResult(measurements=half, seconds=1.0, device_lost="gone")))

    workers = Workers({"a": half_then_nobody})
    with pytest.raises(WorkerError):
        carry_out(workers)
    asked = []
    carry_out(Workers({"b": lambda request: (asked.append(request.finished), right(request))[1]}), resume="latest")
    assert [finished for finished in asked if finished] == [[("eager", "forward")]]
    assert len(statuses(open_sweep("latest", carry_out.root))) == 12


def test_the_scheduler_is_gone(carry_out, monkeypatch):
    monkeypatch.setattr(dispatch, "SCHEDULER_GRACE_S", 0.05)

    def then_no_scheduler(request):
        workers.status = "connecting"
        return Answer(status="pending")

    workers = Workers({"a": then_no_scheduler})
    with pytest.raises(WorkerError, match="scheduler at inproc://table is gone") as gone:
        carry_out(workers)
    assert "--resume" in gone.value.hint
    assert open_sweep("latest", carry_out.root).record().status is RunStatus.INTERRUPTED


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_fault_15_a_full_disk_stops_the_sweep_and_keeps_what_is_there(carry_out, monkeypatch, error):
    real = os.write

    def fills_up(request):
        if request.workload.shape[0] == 4:
            monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(error, os.strerror(error))))
        return right(request)

    with pytest.raises(StoreError, match=r"measurements\.jsonl"):
        carry_out(Workers({"a": fills_up}))
    monkeypatch.setattr(os, "write", real)
    sweep = open_sweep("latest", carry_out.root)
    assert {rows for rows, _ in statuses(sweep)} == {1, 2, 3}
    assert sweep.record().status in (RunStatus.FAILED, RunStatus.INTERRUPTED)
    again = Workers({"a": right})
    carry_out(again, resume="latest")
    assert sorted(rows for _, rows in again.asked) == [4, 5, 6]


def test_workloads_beyond_the_memory_of_the_budget_say_so(carry_out):
    workers = Workers({"a": right})
    sweep = carry_out(workers, extra="budget.memory_gb = 0.00002")
    found = {rows: status for (rows, _), status in statuses(sweep).items()}
    assert Status.UNAVAILABLE in found.values()
    assert found[1] is Status.OK
    assert sorted(rows for _, rows in workers.asked) == [rows for rows, s in sorted(found.items()) if s is Status.OK]


def test_the_budgets_hours_end_a_sweep_that_can_be_resumed(carry_out, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(conduct.time, "monotonic", lambda: clock[0])

    def an_hour(request):
        clock[0] += 3600
        return right(request)

    monkeypatch.setattr(dispatch.time, "monotonic", lambda: clock[0])
    sweep = carry_out(Workers({"a": an_hour}), extra="budget.hours = 2.5")
    assert sweep.record().status is RunStatus.INTERRUPTED
    assert "hours are over" in sweep.record().error
    assert {rows for rows, _ in statuses(sweep)} == {1, 2, 3}


def test_fault_16_sixteen_sweeps_at_once(tmp_path, carry_out):
    """Directories, records and runs of sixteen sweeps that start in the same moment are all their own."""
    first = carry_out(Workers({"a": right}))
    record = msgspec.structs.replace(first.record(), runs=[])
    made, start = [], threading.Barrier(16)

    def make():
        start.wait()
        made.append(create_sweep(tmp_path, record))

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({sweep.path for sweep in made}) == 16
    assert len(list_sweeps(tmp_path)) == 17
    assert all(sweep.record().id == sweep.path.name for sweep in made)


def test_a_sweep_that_is_carried_out_is_not_taken_up_by_another(carry_out):
    def asks_meanwhile(request):
        with pytest.raises(StoreError, match="carried out by another process"):
            conduct.resume(open_sweep("latest", carry_out.root), Where(), SweepWatcher(Console(quiet=True)))
        return right(request)

    carry_out(Workers({"a": asks_meanwhile}))


def test_an_experiment_that_changed_is_not_resumed(carry_out, monkeypatch):
    workers = Workers({"a": lambda request: (workers.table.clear(), right(request))[1]})
    with pytest.raises(WorkerError):
        carry_out(workers)
    monkeypatch.setattr(conduct, "code_sha256", lambda _experiment: "f" * 64)
    with pytest.raises(UsageError, match="is not the code that run"):
        carry_out(Workers({"a": right}), resume="latest")
