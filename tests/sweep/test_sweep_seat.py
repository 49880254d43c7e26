"""The worker's side, in this process: who it says it is, what it refuses, what it does to its environment."""

from __future__ import annotations

import os

import pytest

from fuselab import __version__
from fuselab.experiment import load_registry
from fuselab.records import Correctness, Direction, Environment, Measurement, Status
from fuselab.sweep import seat
from fuselab.sweep.code import code_sha256
from fuselab.sweep.messages import Introduction, IntroductionRequest, UnitRequest, UnitResult, decode, encode
from fuselab.worker.messages import (
    CheckRequest,
    CheckResult,
    DescribeRequest,
    DescribeResult,
    ExperimentReference,
    Failure,
    Progress,
    TimeResult,
)

SILU = load_registry(entry_points=())["silu"]


class Crew:
    """Answers from a table; says what it was asked."""

    concurrent = True
    device_id = ""
    device_type = "cpu"
    check = CheckResult(status=Status.OK, correctness={Direction.FORWARD: Correctness(correct=True)})
    exercised = ()

    def __init__(self):
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        pass

    def call(self, request, *, deadline_s, environment_variables=None, on_progress=lambda _: None):
        if isinstance(request, DescribeRequest):
            if request.exercise and self.exercised:
                return self.exercised.pop(0)
            return DescribeResult(environment=Environment(device="stub", device_type=self.device_type, cpu_cores=1))
        if isinstance(request, CheckRequest):
            return self.check if request.variant == "compile" else Crew.check
        cells = [
            Measurement(
                experiment="silu", variant=name, workload=request.workload, direction=d, status=Status.OK, median_ns=1.0
            )
            for d, names in request.groups.items()
            for name in names
        ]  # fmt: skip
        on_progress(Progress(text="timed", measurements=cells))
        return TimeResult()


@pytest.fixture
def crew(monkeypatch):
    """Use a crew with some answers changed."""
    monkeypatch.setattr(seat, "_crew", Crew)
    monkeypatch.setattr(seat, "_here", [])

    def change(**answers):
        monkeypatch.setattr(seat, "_crew", type("Changed", (Crew,), answers))

    return change


def request(**changes):
    return encode(
        UnitRequest(
            **{
                "experiment": ExperimentReference(name="silu"),
                "code_sha256": code_sha256(SILU),
                "workload": SILU.workload((8, 64), "f32"),
                "variants": ["eager", "compile"],
                "directions": [Direction.FORWARD],
                "baseline": "eager",
                "device_type": "cpu",
                "device_id": "",
                "seed": 0,
                "margin": 0.01,
                "cold": True,
                **changes,
            }
        )
    )


def carried_out(**changes):
    return decode(seat.carry_out(request(**changes)), UnitResult)


def test_a_worker_says_what_it_measures_on(crew):
    here = decode(seat.introduce(encode(IntroductionRequest(device="cpu", fuselab=__version__))), Introduction)
    assert here.refused == ""
    assert here.environment.device == "stub"


def test_a_worker_of_another_version_is_refused(crew):
    here = decode(seat.introduce(encode(IntroductionRequest(device="cpu", fuselab="0.0.1"))), Introduction)
    assert "0.0.1" in here.refused
    assert __version__ in here.refused


def test_the_nannys_one_thread_a_process_is_taken_back(crew, monkeypatch):
    dask = pytest.importorskip("dask")
    before = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    pytest.importorskip("distributed")
    before = dask.config.get("distributed.nanny.pre-spawn-environ")
    assert str(before["OMP_NUM_THREADS"]) == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    seat.introduce(encode(IntroductionRequest(device="cpu", fuselab=__version__)))
    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["MKL_NUM_THREADS"] == "7"


def test_a_unit_is_checked_and_timed_and_leaves_nothing(crew, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = carried_out()
    assert [(m.variant, m.status, m.device) for m in result.measurements] == [
        ("eager", Status.OK, "stub"),
        ("compile", Status.OK, "stub"),
    ]
    assert result.seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_cells_that_are_in_the_store_are_not_repeated(crew):
    result = carried_out(finished=[("compile", Direction.FORWARD)])
    assert [m.variant for m in result.measurements] == ["eager"]


def test_an_experiment_of_another_hash_is_refused_and_nothing_is_measured(crew):
    result = carried_out(code_sha256="0" * 64)
    assert result.measurements == []
    assert "another file on this worker" in result.refused
    assert "code does not travel" in result.refused


def test_a_users_file_of_another_hash_is_refused_and_not_executed(crew, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\ndef f(x):\n    return x\n")
    reference = ExperimentReference(target=f"{path}:f", arguments=["x=f32[4]"])
    result = carried_out(experiment=reference, code_sha256="0" * 64)
    assert "another file on this worker" in result.refused
    assert not (tmp_path / "executed").exists()


def test_a_users_file_that_is_missing_is_refused(crew, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = ExperimentReference(target="/nowhere/own.py:f", arguments=["x=f32[4]"])
    assert "has no /nowhere/own.py" in carried_out(experiment=reference).refused


def test_a_users_file_may_lie_in_the_workers_own_directory(crew, tmp_path, monkeypatch):
    from fuselab.experiments.user import experiment_from

    (tmp_path / "own.py").write_text("def f(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    experiment = experiment_from(f"{tmp_path / 'own.py'}:f", ["x=f32[4]"])
    result = carried_out(
        experiment=ExperimentReference(target="/elsewhere/own.py:f", arguments=["x=f32[4]"]),
        code_sha256=code_sha256(experiment),
        workload=experiment.workloads("quick", "cpu")[0],
    )
    assert result.refused == ""
    assert {m.variant for m in result.measurements} == {"eager", "compile"}


def test_fault_21_a_device_that_does_not_answer_is_lost_and_one_that_does_is_not(crew):
    crashed = Failure(status=Status.CRASHED, reason="the process died by SIGSEGV")
    stuck = Failure(status=Status.TIMED_OUT, reason="no answer within 60 s")
    for answers, lost in [([], ""), ([stuck], ""), ([stuck, stuck], "no answer within 60 s")]:
        crew(device_type="cuda", check=crashed, exercised=list(answers))
        result = carried_out(device_type="cuda")
        assert {m.variant: m.status for m in result.measurements} == {"compile": Status.CRASHED, "eager": Status.OK}
        assert lost in result.device_lost
        assert bool(result.device_lost) == bool(lost)


def test_what_an_experiment_itself_raises_fails_its_cells(crew):
    def explodes(self, request, **_):
        if isinstance(request, CheckRequest):
            raise ValueError("password=hunter22 in the message")
        return DescribeResult(environment=Environment(device="stub", device_type="cpu"))

    crew(call=explodes)
    result = carried_out()
    assert {m.status for m in result.measurements} == {Status.ERROR}
    assert all("ValueError" in m.reason and "hunter22" not in m.reason for m in result.measurements)
