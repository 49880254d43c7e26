"""One plan carried out by workers that answer from a table: what is stored, retried, left out, never repeated."""

from __future__ import annotations

import threading

import msgspec
import pytest

from fuselab.execution import Execution, Settings
from fuselab.experiment import load_registry
from fuselab.plan import select
from fuselab.records import Correctness, Direction, Environment, Measurement, RunMetadata, RunStatus, Status
from fuselab.store import create_run
from fuselab.worker.messages import CheckRequest, CheckResult, Failure, Progress, TimeRequest, TimeResult

FORWARD, BACKWARD = Direction
RIGHT = {FORWARD: Correctness(correct=True), BACKWARD: Correctness(correct=True)}
HALF = {FORWARD: Correctness(correct=True), BACKWARD: Correctness(correct=False, reason="grad x: all zeros")}
ENVIRONMENT = Environment(device="CPU planted", device_type="cpu", cpu_cores=2)


class Table:
    """Workers that answer from a table, and remember what they were asked."""

    concurrent = True

    def __init__(self, checks=None, deaths=()):
        self.checks = checks or {}
        self.deaths = list(deaths)
        self.checked: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.timed: list[dict] = []

    def call(self, request, *, deadline_s, environment_variables=None, on_progress=lambda _: None):
        if isinstance(request, CheckRequest):
            self.checked.append(request.variant)
            self.threads.add(threading.current_thread())
            return self.checks.get(request.variant, CheckResult(status=Status.OK, correctness=RIGHT))
        assert isinstance(request, TimeRequest)
        self.timed.append({d.value: list(names) for d, names in request.groups.items()})
        for direction, names in request.groups.items():
            death = next((d for d in self.deaths if d[0] is direction and d[1] in names), None)
            if death is not None:
                return Failure(status=Status.CRASHED, reason="the process died by SIGSEGV", arm=death[1])
            cells = [
                Measurement(
                    experiment="silu",
                    variant=name,
                    workload=request.workload,
                    direction=direction,
                    status=Status.OK,
                    median_ns=1.0,
                )
                for name in names
            ]
            on_progress(Progress(text="timed", measurements=cells))
        return TimeResult()

    def stop(self):
        pass


class Silent:
    def started(self, run, plan):
        pass

    def working(self, text):
        pass

    def finished_cells(self, measurements):
        pass


@pytest.fixture
def carried_out(tmp_path):
    """Carry the smoke preset of ``silu`` out with the variants eager, compile and triton."""
    registry = load_registry(entry_points=())
    (plan,) = select(["silu"], registry, preset="smoke", variants=["eager", "compile", "triton"]).plans("cpu")
    run = create_run(
        tmp_path,
        RunMetadata(id="", experiment="silu", description="", status=RunStatus.RUNNING, created_at=""),
        ENVIRONMENT,
    )

    def carry_out(workers):
        with run.lock():
            Execution(run, plan, ENVIRONMENT, workers, Settings(), Silent()).carry_out()
        return {(m.variant, m.direction): m for m in run.measurements()}

    return carry_out


def interpreted(correctness, status=Status.CHECKED):
    return CheckResult(status=status, correctness=correctness)


@pytest.mark.parametrize("concurrent", [True, False])
def test_workers_that_are_this_process_are_called_in_its_own_thread(carried_out, concurrent):
    workers = Table()
    workers.concurrent = concurrent
    cells = carried_out(workers)
    assert len(cells) == 6
    assert sorted(workers.checked[:3]) == ["compile", "eager", "triton"]
    assert (workers.threads == {threading.current_thread()}) is not concurrent


def test_the_interpreters_variant_is_checked_and_never_timed(carried_out):
    workers = Table({"triton": interpreted(RIGHT)})
    cells = carried_out(workers)
    assert workers.timed == [{"forward": ["eager", "compile"], "backward": ["eager", "compile"]}]
    assert {cells["triton", d].status for d in Direction} == {Status.CHECKED}
    assert all(cells[name, d].status is Status.OK for name in ("eager", "compile") for d in Direction)


def test_the_right_half_of_a_wrong_interpreted_variant_is_not_timed_either(carried_out):
    workers = Table({"triton": interpreted(HALF, Status.WRONG)})
    cells = carried_out(workers)
    assert all("triton" not in names for groups in workers.timed for names in groups.values())
    assert cells["triton", FORWARD].status is Status.CHECKED
    assert cells["triton", BACKWARD].status is Status.WRONG
    assert cells["triton", BACKWARD].reason == "grad x: all zeros"


def test_the_right_half_of_a_wrong_variant_is_timed(carried_out):
    workers = Table({"triton": interpreted(RIGHT), "compile": CheckResult(status=Status.WRONG, correctness=HALF)})
    cells = carried_out(workers)
    assert workers.timed == [{"forward": ["eager", "compile"], "backward": ["eager"]}]
    assert cells["compile", FORWARD].status is Status.OK
    assert cells["compile", BACKWARD].status is Status.WRONG


def test_a_variant_that_kills_the_timing_is_left_out_and_the_rest_timed_again(carried_out):
    workers = Table({"triton": interpreted(RIGHT)}, deaths=[(BACKWARD, "compile")])
    cells = carried_out(workers)
    assert workers.timed == [
        {"forward": ["eager", "compile"], "backward": ["eager", "compile"]},
        {"backward": ["eager"]},
    ]
    assert cells["compile", FORWARD].status is Status.OK
    assert cells["compile", BACKWARD].status is Status.CRASHED
    assert "SIGSEGV" in cells["compile", BACKWARD].reason
    assert cells["eager", BACKWARD].status is Status.OK


def test_a_workload_without_gradients_has_no_backward(carried_out):
    only = {FORWARD: Correctness(correct=True)}
    workers = Table({n: CheckResult(status=Status.OK, correctness=only) for n in ("eager", "compile", "triton")})
    cells = carried_out(workers)
    assert workers.timed == [{"forward": ["eager", "compile"]}]
    assert cells["eager", BACKWARD].status is Status.UNAVAILABLE
    assert cells["eager", BACKWARD].reason == "no input requires a gradient"


def test_a_second_time_nothing_is_repeated(carried_out):
    first = carried_out(Table({"triton": interpreted(RIGHT)}))
    workers = Table()
    assert carried_out(workers) == first
    assert workers.checked == []
    assert workers.timed == []


@pytest.mark.parametrize(
    ("jobs", "cores", "memory", "expected"),
    [(None, 1, None, 2), (None, 2, None, 2), (None, 8, None, 7), (None, 64, None, 16), (None, 16, 24 * 10**9, 2),
     (None, 16, 8 * 10**9, 1), (3, 64, 8 * 10**9, 3), (0, 2, None, 1)],
)  # fmt: skip
def test_checks_at_a_time_follow_cores_and_device_memory(jobs, cores, memory, expected):
    environment = msgspec.structs.replace(ENVIRONMENT, cpu_cores=cores, device_memory_bytes=memory)
    assert Settings(jobs=jobs).concurrent_checks(environment) == expected
