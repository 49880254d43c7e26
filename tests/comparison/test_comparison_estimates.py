"""The figures of a comparison: levels and power by simulation, and that they are the engine's own."""

from __future__ import annotations

import math

import comparison_factory as factory
import msgspec
import numpy as np
import pytest

from fuselab.comparison import estimates
from fuselab.comparison.judging import compare_cells
from fuselab.comparison.records import Judgement, Pairing
from fuselab.records import Sample, Verdict

SIMULATIONS = 400


def compared(base, new, **fields):
    settings = {"threshold": 0.02, "margin": 0.01, "same_software": True} | fields
    return compare_cells(base, new, **settings)


def variants(cells, base="eager", new="compile"):
    """One variant against another of the same run."""
    run = "silu/20260101T000000Z-aaaaaa"
    return factory.side("A", cells, variant=base, id=run), factory.side("B", cells, variant=new, id=run)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.003025])
def test_a_variant_against_the_baseline_has_the_interval_that_was_stored(share):
    cells = factory.group({"eager": 10, "compile": 8}, np.random.default_rng(1), share=share)
    known = cells[1].comparison
    (cell,) = compared(*variants(cells))
    assert cell.pairing is Pairing.TOGETHER
    assert cell.change.change == pytest.approx(1 / known.speedup - 1)
    assert (cell.change.low, cell.change.high) == pytest.approx((1 / known.high - 1, 1 / known.low - 1), rel=1e-6)
    assert cell.change.p_value == pytest.approx(known.p_value, rel=1e-6)


def test_what_was_spent_is_read_off_any_comparison_of_the_group_and_the_least_is_taken_without():
    cells = factory.group({"eager": 10, "compile": 8, "triton": 7}, np.random.default_rng(2), share=0.2)
    group = {cell.variant: cell for cell in cells}
    assert estimates.share_spent(group) == pytest.approx(0.2)
    none = {name: msgspec.structs.replace(cell, comparison=None) for name, cell in group.items()}
    assert 0 < estimates.share_spent(none) < 0.01


def test_paired_variants_that_are_equal_are_called_different_at_the_level():
    rng = np.random.default_rng(3)
    different = 0
    for _ in range(SIMULATIONS):
        cells = factory.group({"eager": 10, "compile": 10}, rng)
        change = estimates.paired(cells[0].samples, cells[1].samples, share=1.0, margin=1e-9)
        different += change.verdict in (Verdict.FASTER, Verdict.SLOWER)
    assert 0.02 <= different / SIMULATIONS <= 0.085


def test_the_interval_of_a_paired_change_covers_it():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(SIMULATIONS):
        cells = factory.group({"eager": 10, "compile": 10.5}, rng)
        change = estimates.paired(cells[0].samples, cells[1].samples, share=1.0, margin=0.01)
        covered += change.low <= 0.05 <= change.high
    assert 0.92 <= covered / SIMULATIONS <= 0.98


def groups(rng, times_us, cells=6, **fields):
    """Several workloads of one run."""
    return [
        cell
        for n in range(cells)
        for cell in factory.group(times_us, rng, where=factory.workload(64 * (n + 1)), **fields)
    ]


def test_false_regressions_of_variants_measured_together_stay_rare():
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(100):
        cells = groups(rng, {"eager": 10, "compile": 10}, noise=0.02)
        false += any(cell.fails for cell in compared(*variants(cells)))
    assert false <= 8, "the level is 5% of comparisons: 8 of 100 or fewer in 93% of trials"


def test_five_per_cent_measured_together_is_found():
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(50):
        cells = groups(rng, {"eager": 10, "compile": 10.5})
        found += sum(cell.judgement is Judgement.REGRESSION for cell in compared(*variants(cells)))
    assert found >= 0.98 * 300


def another(rng, factor=None, *, drift, walk=0.02, place=0.003):
    """A run beside another: what the whole machine moved by, what each variant's place in memory adds, the truth."""
    machine = math.exp(rng.normal(0, drift))
    times = {
        name: 10 * machine * math.exp(rng.normal(0, place)) * (factor or {}).get(name, 1.0)
        for name in ("eager", "compile", "triton")
    }
    return factory.group(times, rng, drift=walk, ceiling_us=5 * machine * math.exp(rng.normal(0, place)))


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.05], ids=["steady", "one per cent", "five per cent"])
def test_false_regressions_of_runs_measured_apart_stay_rare_whatever_the_machine_did(drift):
    rng = np.random.default_rng(7)
    false = cells = 0
    for _ in range(100):
        base, new = factory.side("A", another(rng, drift=0)), factory.side("B", another(rng, drift=drift))
        found = compared(base, new)
        assert {cell.pairing for cell in found} == {Pairing.APART}
        cells += len(found)
        false += sum(cell.fails for cell in found)
    assert false <= 0.01 * cells


def test_five_per_cent_measured_apart_is_found_where_the_machine_stood_still():
    rng = np.random.default_rng(8)
    found = others = 0
    for _ in range(100):
        before = another(rng, drift=0, walk=0.002)
        slower = another(rng, {"compile": 1.05}, drift=0.002, walk=0.002)
        cells = compared(factory.side("A", before), factory.side("B", slower))
        found += sum(c.fails for c in cells if c.new.variant == "compile")
        others += sum(c.fails for c in cells if c.new.variant != "compile")
    assert found >= 90
    assert others <= 2


def test_a_machine_that_moved_by_ten_per_cent_is_allowed_for_and_the_change_in_units_of_the_baseline_is_told():
    rng = np.random.default_rng(9)
    base = factory.group({"eager": 10, "compile": 10}, rng, drift=0.001)
    new = factory.group({"eager": 11, "compile": 11.55}, rng, drift=0.001)
    cells = compared(factory.side("A", base), factory.side("B", new))
    compile_ = next(cell for cell in cells if cell.new.variant == "compile")
    assert compile_.allowance == pytest.approx(1.1 * 1.01 - 1, abs=0.01)
    assert compile_.judgement is Judgement.REGRESSION, "15.5% against an allowance of 11.1%"
    assert compile_.relative.change == pytest.approx(0.05, abs=0.01)
    eager = next(cell for cell in cells if cell.new.variant == "eager")
    assert [y.name for y in eager.yardsticks] == ["ceiling"], "a baseline is no yardstick of itself"


def test_a_baseline_is_no_yardstick_when_the_software_changed():
    rng = np.random.default_rng(10)
    base, new = factory.group({"eager": 10, "compile": 8}, rng), factory.group({"eager": 7, "compile": 8}, rng)
    sides = factory.side("A", base), factory.side("B", new)
    for same, allowance in ((True, 0.42), (False, 0.01)):
        cell = compared(*sides, same_software=same)[1]
        assert cell.allowance == pytest.approx(allowance, abs=0.02)
        assert [y.used for y in cell.yardsticks] == [True, same]


def test_without_a_yardstick_nothing_is_said_of_cells_measured_apart():
    rng = np.random.default_rng(11)
    base = factory.side("A", factory.group({"eager": 10}, rng, ceiling_us=None))
    new = factory.side("B", factory.group({"eager": 15}, rng, ceiling_us=None))
    (cell,) = compared(base, new)
    assert cell.judgement is Judgement.UNRESOLVED
    assert cell.change.change == pytest.approx(0.5, abs=0.05)
    assert cell.change.low is None
    assert "yardstick" in cell.reason


def test_equal_runs_measured_apart_are_equivalent_within_what_runs_differ_by():
    rng = np.random.default_rng(12)
    sides = [
        factory.side(label, factory.group({"eager": 10, "compile": 8}, rng, noise=0.001, drift=0.001)) for label in "AB"
    ]
    assert {cell.judgement for cell in compared(*sides)} == {Judgement.EQUIVALENT}


@pytest.mark.parametrize(
    ("change", "together"),
    [
        ({}, True),
        ({"order_seed": 8}, False),
        ({"order_seed": None}, False),
        ({"conditions": []}, False),
        ({"workload": factory.workload(65)}, False),
    ],
)
def test_cells_were_timed_together_when_their_rounds_say_so(change, together):
    eager, compile_ = factory.group({"eager": 10, "compile": 8}, np.random.default_rng(13))
    assert estimates.timed_together(eager, msgspec.structs.replace(compile_, **change)) is together


def test_two_groups_of_one_seed_in_one_run_were_not_timed_together():
    rng = np.random.default_rng(14)
    first, second = (factory.group({"eager": 10, "compile": 8}, rng) for _ in range(2))
    assert not estimates.timed_together(first[0], second[1]), "a run that was taken up again"
    assert not estimates.timed_together(first[0], first[0]), "one place in the order twice"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_no_time_is_an_error(bad):
    good = [Sample(round=n, position=0, duration_ns=100.0) for n in range(5)]
    with pytest.raises(ValueError, match="round 4"):
        estimates.apart(
            good, [*good[:4], Sample(round=4, position=0, duration_ns=bad)], allowance=0, share=1, margin=0.01
        )
