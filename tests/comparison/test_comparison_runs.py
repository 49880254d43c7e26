"""Runs compared from a store: which sides there are, what is refused, and the whole with a real timing."""

from __future__ import annotations

import json
import time

import comparison_factory as factory
import msgspec
import numpy as np
import pytest

from fuselab.comparison import compare_runs, parse_share
from fuselab.comparison.records import Judgement, Pairing
from fuselab.errors import StoreError, UnknownNameError, UsageError
from fuselab.records import Correctness, Direction, Measurement, RunStatus, Status, Workload


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


def made(root, seed=1, times=None, **fields):
    cells = factory.group(
        times or {"eager": 10, "compile": 8, "triton": 7}, np.random.default_rng(seed), noise=0.001, drift=0.001
    )
    return factory.stored(root, cells, **fields).metadata().id


def test_a_run_compared_with_itself_has_no_regression(root):
    name = made(root)
    found = compare_runs([name, name], root, fail_over=0.0)
    (one,) = found.comparisons
    assert [c.pairing for c in one.cells] == [Pairing.SAME] * 3
    assert {c.judgement for c in one.cells} == {Judgement.EQUIVALENT}
    assert all((c.change.change, c.change.low, c.change.high) == (0.0, 0.0, 0.0) for c in one.cells)
    assert found.failures == []
    assert found.environment == []
    assert "one run" in one.caveats[0]


def test_variants_of_one_run_are_paired_and_the_two_spellings_are_one(root):
    name = made(root)
    by_option = compare_runs([name], root, variants=["compile", "triton", "eager"], fail_over=0.02)
    spelled = compare_runs([f"{name}@{v}" for v in ("compile", "triton", "eager")], root, fail_over=0.02)
    assert by_option == spelled
    triton, eager = (one.cells[0] for one in by_option.comparisons)
    assert (triton.pairing, triton.judgement) == (Pairing.TOGETHER, Judgement.FASTER)
    assert (eager.pairing, eager.judgement) == (Pairing.TOGETHER, Judgement.REGRESSION)
    assert triton.change.change == pytest.approx(7 / 8 - 1, abs=0.005)


def test_each_run_is_compared_with_the_first(root):
    names = [made(root, seed, {"eager": 10, "compile": time}) for seed, time in ((1, 8), (2, 8), (3, 9))]
    found = compare_runs(names, root, fail_over=0.02)
    assert [(one.base, one.new) for one in found.comparisons] == [("A", "B"), ("A", "C")]
    assert [sum(c.fails for c in one.cells) for one in found.comparisons] == [0, 1]
    assert {c.pairing for one in found.comparisons for c in one.cells} == {Pairing.APART}
    assert "compile forward 64x256 f32: +12" in found.comparisons[1].headlines[0]


def test_a_run_without_a_variant_takes_the_bases(root):
    one, other = made(root), made(root, 2)
    found = compare_runs([f"{one}@compile", other], root)
    assert [run.variant for run in found.runs] == ["compile", "compile"]
    assert [(c.base.variant, c.new.variant) for c in found.comparisons[0].cells] == [("compile", "compile")]


def test_what_cannot_be_compared_is_refused_with_the_way_out(root):
    one = made(root)
    other = made(root, experiment="rms_norm")
    shape = factory.stored(
        root, factory.group({"eager": 1}, np.random.default_rng(1), where=factory.workload(128, dtype="bf16"))
    )
    for names, variants, error, words in (
        ([one], (), UsageError, "nothing to compare"),
        ([], (), UsageError, "nothing to compare"),
        ([one, other], (), UsageError, "different experiments: silu and rms_norm"),
        ([one, str(shape.path)], (), UsageError, "no workload in common"),
        ([one, f"{one}@compile"], (), UsageError, "names a variant and the base"),
        ([f"{one}@compil", one], (), UnknownNameError, "did you mean 'compile'"),
        ([one, one], ("eager", "compile"), UsageError, "--variants compares variants of one run"),
        (["silu/2030", one], (), UnknownNameError, "unknown run"),
        ([one] * 27, (), UsageError, "27 runs"),
    ):
        with pytest.raises(error, match=words):
            compare_runs(names, root, variants=variants)
    with pytest.raises(UsageError, match=r"past -0\.1"):
        compare_runs([one, one], root, fail_over=-0.1)


@pytest.mark.parametrize(
    ("text", "share"), [("2%", 0.02), ("0.5 %", 0.005), ("0.02", 0.02), ("0", 0.0), ("", None), ("150%", 1.5)]
)
def test_a_share_is_read(text, share):
    assert parse_share(text) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("text", ["two", "2", "-2%", "2%%", "nan", "1e-2"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="fail-over"):
        parse_share(text)


def test_an_interrupted_run_is_compared_as_far_as_it_came_and_says_so(root):
    whole = made(root)
    cells = factory.group({"eager": 10}, np.random.default_rng(4), noise=0.001, drift=0.001)
    part = factory.stored(root, cells, status=RunStatus.INTERRUPTED, variants=["eager", "compile", "triton"])
    found = compare_runs([whole, str(part.path)], root, fail_over=0.02)
    said = {(c.base or c.new).variant: c.judgement for c in found.comparisons[0].cells}
    assert said == {"eager": Judgement.EQUIVALENT, "compile": Judgement.ONLY_BASE, "triton": Judgement.ONLY_BASE}
    assert found.runs[1].notes == ["the run is interrupted"]
    assert any("B: the run is interrupted" in caveat for caveat in found.comparisons[0].caveats)


def test_a_run_without_cells_is_compared_and_nothing_is_judged(root):
    whole = made(root)
    empty = factory.stored(root, [], plan=[factory.workload()], variants=["eager"], status=RunStatus.FAILED)
    found = compare_runs([whole, str(empty.path)], root, fail_over=0.02)
    assert found.judged == 0
    assert found.failures == []
    assert "nothing was measured" in found.runs[1].notes


def test_an_older_schema_is_brought_forward_and_a_newer_one_is_named(root, tmp_path):
    name = made(root)
    path = factory.stored(root, factory.group({"eager": 10}, np.random.default_rng(1))).path / "metadata.json"
    document = json.loads(path.read_text())
    for field in ("cold", "margin", "target_sha256"):
        document.pop(field, None)  # as a release wrote it that did not have them
    path.write_text(json.dumps(document))
    assert compare_runs([name, str(path.parent)], root).runs[1].experiment == "silu"
    path.write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(StoreError, match="newer fuselab"):
        compare_runs([name, str(path.parent)], root)


def test_a_torn_file_of_measurements_is_told(root):
    name = made(root)
    other = factory.stored(root, factory.group({"eager": 10}, np.random.default_rng(1)))
    with (other.path / "measurements.jsonl").open("ab") as file:
        file.write(b'{"experiment":"silu","vari')
    found = compare_runs([name, str(other.path)], root)
    assert any("cut off" in note for note in found.runs[1].notes)


def test_the_record_is_json_and_back(root):
    found = compare_runs([made(root), made(root, 2)], root, fail_over=0.02)
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def spin(microseconds):
    """Takes a given time of the clock, whatever the machine."""

    def call(x):
        until = time.perf_counter_ns() + microseconds * 1000
        y = x * 2
        while time.perf_counter_ns() < until:
            pass
        return y

    return call


def timed_by_the_engine():
    """Cells of a function, the same again, and one that takes 5% longer, timed by the engine of this machine's CPU."""
    import torch

    from fuselab.experiment import Inputs
    from fuselab.measure.group import Arm, time_group

    def inputs(index):
        return Inputs((torch.randn(32, 64, generator=torch.Generator().manual_seed(index)),), names=("x",))

    where = Workload(shape=(32, 64))
    timings = time_group(
        [Arm("eager", spin(2000), inputs), Arm("again", spin(2000), inputs), Arm("slower", spin(2100), inputs)],
        workload=where,
        direction=Direction.FORWARD,
        device_type="cpu",
        baseline="eager",
        traffic=None,
        seed=3,
        budget_s=20,
        max_rounds=60,
        stop_early=False,
        observe=False,
    )
    return [
        Measurement(
            experiment="silu", variant=t.name, workload=where, direction=Direction.FORWARD, status=Status.OK,
            correctness=Correctness(correct=True), clock=t.clock, cold=t.cold, samples=t.samples, median_ns=t.median_ns,
            comparison=t.comparison, conditions=t.conditions, order_seed=t.order_seed, device=factory.CPU.device,
        )
        for t in timings.values()
    ]  # fmt: skip


@pytest.mark.slow
def test_a_planted_five_per_cent_timed_by_the_engine_is_found_and_the_same_again_is_not(root):
    for _ in range(3):
        run = factory.stored(root, timed_by_the_engine())
        found = compare_runs([str(run.path)], root, variants=["eager", "slower", "again"], fail_over=0.02)
        slower, again = (one.cells[0] for one in found.comparisons)
        assert slower.pairing is Pairing.TOGETHER
        if slower.change.high - slower.change.low < 0.06:
            break
    else:
        pytest.skip(f"this machine is too busy to tell 5%: {slower.change.low:+.1%} to {slower.change.high:+.1%}")
    assert slower.judgement is Judgement.REGRESSION, slower.change
    assert slower.change.change == pytest.approx(0.05, abs=0.03)
    assert not again.fails, again.change
    assert compare_runs([str(run.path)] * 2, root, fail_over=0.02).failures == []
