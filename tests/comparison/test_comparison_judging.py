"""What is said of a cell for every way in which a side can be without a figure, and what breaks whatever its speed."""

from __future__ import annotations

import comparison_factory as factory
import msgspec
import numpy as np
import pytest

from fuselab.comparison.judging import compare_cells
from fuselab.comparison.records import Judgement, Pairing
from fuselab.comparison.surroundings import differences, same_software
from fuselab.measure import verdicts
from fuselab.records import Clock, Conditions, Correctness, Direction, Sample, Status

WRONG = {
    "status": Status.WRONG,
    "correctness": Correctness(correct=False, reason="grad x: rms error 0.3"),
    "samples": [],
}


def cells(rng=None, **times):
    return factory.group(
        times or {"eager": 10, "compile": 8}, rng or np.random.default_rng(1), noise=0.001, drift=0.001
    )


def judged(base, new, *, environment=factory.CPU, **fields):
    sides = factory.side("A", base), factory.side("B", new, environment=environment)
    settings = {"threshold": 0.02, "margin": 0.01, "same_software": True} | fields
    return {c.new.variant if c.new else c.base.variant: c for c in compare_cells(*sides, **settings)}


def failed(status, reason="boom"):
    return {"status": status, "reason": reason, "samples": [], "median_ns": None, "comparison": None}


FAILURES = [Status.ERROR, Status.EXITED, Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY]


@pytest.mark.parametrize("status", FAILURES)
def test_a_cell_that_was_measured_and_fails_is_broken(status):
    cell = judged(cells(), factory.changed(cells(), "compile", **failed(status)))["compile"]
    assert (cell.judgement, cell.fails, cell.pairing, cell.change) == (Judgement.BROKEN, True, Pairing.NONE, None)
    assert "boom" in cell.reason


def test_a_cell_that_was_correct_and_is_wrong_is_broken_though_it_is_faster():
    faster = cells(eager=10, compile=4)
    for how in (WRONG, {**WRONG, "status": Status.OK, "samples": faster[1].samples}):
        cell = judged(cells(), factory.changed(faster, "compile", **how))["compile"]
        assert cell.judgement is Judgement.BROKEN
        assert cell.change is None, "a wrong answer is never a speedup"
        assert "grad x: rms error 0.3" in cell.reason


def test_a_timed_output_that_is_wrong_now_is_broken():
    warning = f"{verdicts.TIMED_OUTPUT_WRONG}: output differs"
    new = factory.changed(cells(), "compile", warnings=[warning])
    assert judged(cells(), new)["compile"].judgement is Judgement.BROKEN
    assert judged(new, new)["compile"].judgement is Judgement.NOT_JUDGED, "it was so before"


@pytest.mark.parametrize("how", [WRONG, failed(Status.CRASHED)])
def test_what_failed_and_is_right_now_is_mended(how):
    assert judged(factory.changed(cells(), "compile", **how), cells())["compile"].judgement is Judgement.MENDED


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (failed(Status.UNAVAILABLE, "liger-kernel is not installed"), "liger-kernel is not installed"),
        (failed(Status.CHECKED), "not timed on purpose"),
        ({"warnings": [f"{verdicts.ABOVE_CEILING}: 130%"]}, "above the measured ceiling"),
        ({"warnings": [f"{verdicts.SELF_CERTIFICATION_FAILED}: A/A"]}, "self-certification failed"),
        ({"samples": [Sample(round=0, position=0, duration_ns=9.0)]}, "1 round"),
        ({"samples": []}, "0 rounds"),
        ({"samples": [Sample(round=n, position=0, duration_ns=0.0) for n in range(9)]}, "duration 0.0"),
        ({"samples": [Sample(round=n, position=0, duration_ns=float("nan")) for n in range(9)]}, "duration nan"),
    ],
)
def test_a_side_without_a_figure_to_trust_is_not_judged_and_says_why(how, words):
    for base, new in ((cells(), factory.changed(cells(), "compile", **how)),
                      (factory.changed(cells(), "compile", **how), cells())):  # fmt: skip
        cell = judged(base, new)["compile"]
        assert (cell.judgement, cell.fails) == (Judgement.NOT_JUDGED, False)
        assert words in cell.reason


def test_wrong_on_both_sides_is_not_judged():
    wrong = factory.changed(cells(), "compile", **WRONG)
    assert judged(wrong, wrong)["compile"].judgement is Judgement.NOT_JUDGED


def test_figures_of_two_devices_are_not_comparable_and_a_cell_that_broke_is_broken_all_the_same():
    new = factory.group({"eager": 10, "compile": 80}, np.random.default_rng(1), device="NVIDIA H200")
    for environment, word in (
        (factory.H200, "never pooled"),
        (msgspec.structs.replace(factory.CPU, device="CPU other"), "CPU other"),
    ):
        found = judged(cells(), new, environment=environment)
        assert {c.judgement for c in found.values()} == {Judgement.NOT_COMPARABLE}
        assert all(word in c.reason and c.change is None for c in found.values())
    broken = judged(cells(), factory.changed(new, "compile", **WRONG), environment=factory.H200)
    assert broken["compile"].judgement is Judgement.BROKEN


def test_warm_and_cold_caches_are_not_comparable():
    assert judged(cells(), factory.changed(cells(), "compile", cold=False))["compile"].judgement is (
        Judgement.NOT_COMPARABLE
    )


def test_another_clock_is_used_where_the_first_is_not_shared_and_is_told():
    base, new = cells(), cells()
    events = [msgspec.structs.replace(s, duration_ns=s.duration_ns * 2) for s in base[1].samples]
    base = factory.changed(base, "compile", clock=Clock.CUDA_GRAPH, other_clocks={"cuda_events": events})
    new = factory.changed(new, "compile", clock=Clock.CUDA_EVENTS, samples=events)
    cell = judged(base, new)["compile"]
    assert cell.change.change == pytest.approx(0.0, abs=1e-9)
    assert "CUDA events" in cell.reason
    none = factory.changed(new, "compile", clock=Clock.HOST)
    assert judged(base, none)["compile"].judgement is Judgement.NOT_COMPARABLE


def test_loops_after_the_rounds_are_not_paired_with_the_rounds_whose_numbers_they_have():
    """One variant was timed by events in the rounds, the other in five eager loops after them, numbered from 0 too."""
    group = cells(eager=10, compile=8, triton=9)
    loops = [msgspec.structs.replace(s, duration_ns=20e3 + s.round) for s in group[1].samples[:5]]
    group = factory.changed(group, "compile", clock=Clock.CUDA_GRAPH, other_clocks={"cuda_events": loops})
    group = factory.changed(group, "triton", clock=Clock.CUDA_EVENTS)
    run = "silu/20260101T000000Z-aaaaaa"
    sides = (factory.side(label, group, variant=v, id=run) for label, v in (("A", "compile"), ("B", "triton")))
    (cell,) = compare_cells(*sides, threshold=0.02, margin=0.01, same_software=True)
    assert cell.pairing is Pairing.APART


def test_cells_and_variants_of_one_side_only_are_listed_and_never_fail():
    other = factory.group({"eager": 10}, np.random.default_rng(2), where=factory.workload(128))
    found = compare_cells(
        factory.side("A", [*cells(eager=10, compile=8, triton=7), *other]),
        factory.side("B", cells()),
        threshold=0.02,
        margin=0.01,
        same_software=True,
    )
    missing = {(c.workload, c.base.variant) for c in found if c.judgement is Judgement.ONLY_BASE}
    assert missing == {("64x256 f32", "triton"), ("128x256 f32", "eager")}
    assert not any(c.fails for c in found)


def test_workloads_match_whatever_the_seed_of_their_inputs():
    rng = np.random.default_rng(3)
    new = factory.group({"eager": 10}, rng, where=factory.workload(seed=5), direction=Direction.FORWARD)
    assert judged(cells(eager=10), new)["eager"].pairing is Pairing.APART


@pytest.mark.parametrize(("slower", "said"), [(1.015, Judgement.SLOWER), (1.05, Judgement.REGRESSION)])
def test_slower_is_a_regression_past_the_threshold_only(slower, said):
    pair = cells(eager=10, compile=10 * slower)
    run = "silu/20260101T000000Z-aaaaaa"
    sides = (factory.side(label, pair, variant=v, id=run) for label, v in (("A", "eager"), ("B", "compile")))
    (cell,) = compare_cells(*sides, threshold=0.02, margin=0.01, same_software=True)
    assert (cell.judgement, cell.pairing) == (said, Pairing.TOGETHER)


def test_the_surroundings_that_differ_are_told_the_decisive_ones_first():
    rounds = {
        m: [Conditions(round=n, sm_clock_mhz=m, throttle_reasons=["sw_power_cap"]) for n in range(3)]
        for m in (1500, 1980)
    }
    sides = [
        factory.side(
            label,
            factory.changed(
                factory.changed(cells(), "eager", conditions=rounds[mhz]), "compile", conditions=rounds[mhz]
            ),
            environment=msgspec.structs.replace(factory.H200, driver=driver, variables=variables, python=python),
        )
        for label, driver, mhz, variables, python in (
            ("A", "580.1", 1980, {}, "3.11"),
            ("B", "585.2", 1500, {"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}, "3.12"),
        )
    ]
    found = {d.name: d for d in differences(sides)}
    assert found["driver"].values == ["580.1", "585.2"]
    assert found["SM clock"].values == ["1980 MHz", "1500 MHz"]
    assert found["TORCHINDUCTOR_MAX_AUTOTUNE"].values == ["", "1"]
    assert "throttled rounds" not in found, "the same number in both"
    assert not found["python"].decisive
    assert [d.decisive for d in found.values()] == sorted((d.decisive for d in found.values()), reverse=True)
    assert not same_software(*sides)
    assert same_software(sides[0], sides[0])
