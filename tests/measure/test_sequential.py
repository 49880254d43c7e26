"""Looking early keeps the error rate; verdicts follow intervals; a run lets stand what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab.measure import verdicts as v
from fuselab.measure.distributions import student_quantile
from fuselab.measure.sequential import MIN_ROUNDS, Looks, Monitor, plan_looks
from fuselab.measure.statistics import trimmed_estimates
from fuselab.records import Comparison, Correctness, Direction, Measurement, Status, Verdict, Workload


@given(st.integers(4, 60), st.integers(0, 500))
def test_looks_grow_and_spend_all_of_the_error_rate(least, more):
    looks = plan_looks(least, least + more)
    assert looks.rounds[0] == least
    assert looks.last == least + more
    assert list(looks.rounds) == sorted(set(looks.rounds))
    assert sum(looks.shares) == pytest.approx(1.0)
    assert all(share > 0 for share in looks.shares)
    assert looks.share_left(0) == pytest.approx(1.0)


def test_looks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="looks at"):
        Looks((11, 11), (0.5, 0.5))
    with pytest.raises(ValueError, match="looks at"):
        Looks((11, 20), (0.5, 0.9))


def _simulate(noise, truth, looks, margin, alpha=0.05):
    """Verdict of many comparisons, each stopped as ``time_group`` stops: share of each verdict, and of intervals that
    miss."""
    comparisons = noise.shape[0]
    open_ = np.ones(comparisons, dtype=bool)
    low, high = np.empty(comparisons), np.empty(comparisons)
    bound = math.log1p(margin)
    for rounds, share in zip(looks.rounds, looks.shares, strict=True):
        centre, error, degrees = trimmed_estimates(noise[:, :rounds] + truth)
        half = student_quantile(alpha * share, degrees) * error
        strict = student_quantile(alpha * share / 10, degrees) * error
        low, high = np.where(open_, centre - half, low), np.where(open_, centre + half, high)
        settled = ((centre - half >= -bound) & (centre + half <= bound)) | (np.abs(centre) > strict)
        open_ &= ~settled
    equivalent = (low >= -bound) & (high <= bound)
    different = ~equivalent & ((low > 0) | (high < 0))
    return equivalent.mean(), different.mean(), ((low > truth) | (high < truth)).mean()


@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.05])
@pytest.mark.parametrize("heavy", [False, True])
def test_looking_early_keeps_the_error_rate(sigma, heavy):
    generator = np.random.default_rng(int(sigma * 1e4) + heavy)
    shape = (3000, 200)
    noise = sigma * (generator.standard_t(2.5, shape) if heavy else generator.standard_normal(shape))
    looks = plan_looks(MIN_ROUNDS, 200)
    for truth in (0.0, 0.004, math.log(1.02)):
        equivalent, different, missed = _simulate(noise, truth, looks, margin=0.01)
        assert missed <= 0.055
        if truth == 0.0:
            assert different <= 0.05
        elif truth > 0.01:
            assert equivalent <= 0.03
            assert sigma > 0.01 or different >= 0.95


def test_false_verdicts_after_margin_and_control_are_rare():
    """A/A pairs of 40 cells a run: at most 0.5% called different, at the noise of a GPU and at ten times it."""
    generator = np.random.default_rng(5)
    workload = Workload(shape=(1, 1))
    wrong = 0
    for run in range(25):
        cells = []
        for cell in range(40):
            monitor = Monitor(margin=0.01)
            looks = plan_looks(MIN_ROUNDS, 60)
            noise = (0.03 if run % 2 else 0.004) * generator.standard_normal(60)
            for rounds, share in zip(looks.rounds, looks.shares, strict=True):
                monitor.look(noise[:rounds], share)
                if monitor.settled:
                    break
            cells.append(_measured(f"v{cell}", workload, monitor.comparison("eager")))
        wrong += sum(m.comparison.verdict in (Verdict.FASTER, Verdict.SLOWER) for m in v.settle(cells))
    assert wrong <= 5


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.02, 0.03, Verdict.FASTER),
        (-0.03, -0.02, Verdict.SLOWER),
        (-0.005, 0.005, Verdict.EQUIVALENT),
        (0.001, 0.004, Verdict.EQUIVALENT),
        (0.004, 0.02, Verdict.FASTER),
        (-0.002, 0.02, Verdict.UNRESOLVED),
        (-0.5, 0.5, Verdict.UNRESOLVED),
        (0.0, 0.5, Verdict.UNRESOLVED),
    ],
)
def test_verdict_of_an_interval(low, high, verdict):
    assert v.verdict_of(low, high, 0.01) is verdict


def test_a_wider_margin_never_makes_a_difference():
    for low, high in ((0.02, 0.03), (-0.02, 0.01), (0.001, 0.002)):
        assert v.verdict_of(low, high, 0.5) is Verdict.EQUIVALENT


def test_monitor_says_what_it_saw():
    monitor = Monitor(margin=0.01)
    assert not monitor.settled
    with pytest.raises(ValueError, match="no look"):
        monitor.comparison("eager")
    with pytest.raises(ValueError, match="share"):
        monitor.look([0.0] * 11, 0.0)
    monitor.look(np.log(2.0) + 0.01 * np.random.default_rng(0).standard_normal(15), 0.1)
    comparison = monitor.comparison("eager")
    assert monitor.settled
    assert comparison.verdict is Verdict.FASTER
    assert comparison.low < 2.0 < comparison.high
    assert comparison.speedup == pytest.approx(2.0, rel=0.01)
    assert comparison.rounds == 15
    assert comparison.p_value < 1e-6


def _measured(variant, workload, comparison, status=Status.OK, warnings=(), correct=True, seed=0):
    return Measurement(
        experiment="e",
        variant=variant,
        workload=workload,
        direction=Direction.FORWARD,
        status=status,
        correctness=Correctness(correct=correct, reason="" if correct else "zeros"),
        comparison=comparison,
        warnings=list(warnings),
    )


W = Workload(shape=(2, 3))


def _compared(p_value, verdict=Verdict.FASTER):
    return Comparison(baseline="eager", verdict=verdict, speedup=1.1, low=1.05, high=1.2, rounds=20, p_value=p_value)


BASE = _measured("eager", W, Comparison(baseline="eager", verdict=Verdict.BASELINE, speedup=1.0, rounds=20))


def test_control_over_a_run_takes_back_lone_surprises():
    cells = [BASE, *[_measured(f"n{i}", W, _compared(0.5, Verdict.UNRESOLVED)) for i in range(18)]]
    lucky = _measured("lucky", W, _compared(0.02))
    clear = _measured("clear", W, _compared(1e-6))
    settled = {m.variant: m.comparison for m in v.settle([*cells, lucky, clear])}
    assert settled["lucky"].verdict is Verdict.UNRESOLVED
    assert settled["lucky"].speedup == 1.1  # what was measured stays
    assert settled["clear"].verdict is Verdict.FASTER
    assert settled["eager"].verdict is Verdict.BASELINE
    assert v.settle([BASE, lucky])[1].comparison.verdict is Verdict.FASTER


def test_many_equivalent_cells_do_not_make_room_for_false_differences():
    """30 cells that differ by 0.3%, measured well, and ten noisy ones that are equally fast: of what is called
    different, 5% may be false on average over runs. With the former counted as discoveries it was 35%."""
    generator = np.random.default_rng(1)

    def cell(name, truth, noise):
        monitor = Monitor(margin=0.01)
        monitor.look(generator.normal(truth, noise, 33), share=1.0)
        return _measured(name, W, monitor.comparison("eager"))

    false = []
    for _ in range(150):
        cells = [cell(f"near {i}", 0.003, 0.002) for i in range(30)] + [cell(f"same {i}", 0.0, 0.05) for i in range(10)]
        called = [m for m in v.settle(cells) if m.comparison.verdict in (Verdict.FASTER, Verdict.SLOWER)]
        false.append(sum(m.variant.startswith("same") for m in called) / max(len(called), 1))
    assert sum(false) / len(false) <= 0.08


def test_cells_whose_baseline_is_withheld_are_not_among_those_compared():
    spoilt = [_measured(f"x{i}", W, _compared(1e-9)) for i in range(20)]
    elsewhere = Workload(shape=(4, 3))
    beside = [_measured(f"n{i}", elsewhere, _compared(0.5, Verdict.UNRESOLVED)) for i in range(3)]
    cells = [
        _measured("eager", W, BASE.comparison, warnings=[f"{v.ABOVE_CEILING}: 2.0"]), *spoilt,
        _measured("lucky", elsewhere, _compared(0.03)), *beside,
    ]  # fmt: skip
    once = v.settle(cells)
    assert [m.comparison.verdict for m in once if m.variant == "lucky"] == [Verdict.UNRESOLVED]
    assert v.settle(once) == once


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.WRONG},
        {"correct": False},
        *({"warnings": [f"{prefix}: 1.3"]} for prefix in v.WITHHOLDING),
    ],
    ids=str,
)
def test_what_is_not_to_be_trusted_shows_no_speedup(change):
    (cell,) = [m for m in v.settle([BASE, _measured("x", W, _compared(1e-9), **change)]) if m.variant == "x"]
    assert cell.comparison.verdict is Verdict.WITHHELD
    assert cell.comparison.speedup is None
    assert cell.comparison.p_value is None


def test_no_speedup_against_a_baseline_that_is_withheld():
    spoilt = _measured("eager", W, BASE.comparison, warnings=[f"{v.ABOVE_CEILING}: 2.0"])
    settled = v.settle([spoilt, _measured("x", W, _compared(1e-9))])
    assert [m.comparison.verdict for m in settled] == [Verdict.WITHHELD, Verdict.WITHHELD]
    elsewhere = _measured("x", Workload(shape=(4, 3)), _compared(1e-9))
    assert v.settle([spoilt, elsewhere])[1].comparison.verdict is Verdict.FASTER


def test_settling_twice_changes_nothing_and_touches_no_record():
    cells = [BASE, _measured("a", W, _compared(0.04)), _measured("b", W, _compared(0.9)), _measured("c", W, None)]
    before = list(cells)
    once = v.settle(cells)
    assert v.settle(once) == once
    assert cells == before
    assert v.settle([]) == []
