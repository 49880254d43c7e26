"""Break-even counts: against brute force, "never" included, with intervals that cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from startup_factory import CONFIGURATION, measured, start_record

from fuselab.startup.break_even import break_even, break_even_of_starts, costs_of, crossing, totals
from fuselab.startup.records import Start, Unit


def brute(way, against, most=4000):
    """The first number of calls from which on the totals stay below, counted one by one."""
    calls = np.arange(1, most + 1, dtype=float)
    behind = np.flatnonzero(totals(way, calls) > totals(against, calls) + 1e-6)
    if not behind.size:
        return 1.0
    return float("inf") if behind[-1] == most - 1 else float(calls[behind[-1]] + 1)


@pytest.mark.parametrize(
    ("way", "against", "expected"),
    [
        ([500, 4, 2], [100, 10, 10], 51),  # slower start, faster calls
        ([500, 4, 10], [100, 10, 10], float("inf")),  # slower start, calls as fast
        ([500, 4, 11], [100, 10, 10], float("inf")),  # slower in both
        ([50, 4, 2], [100, 10, 10], 1),  # faster in both
        ([50, 4, 11], [100, 10, 10], float("inf")),  # ahead at first, behind in the end
        ([100, 10, 10], [100, 10, 10], 1),  # the same
        ([100, 50, 30, 1], [100, 10, 10, 10], 9),  # slow early calls
    ],
)
def test_crossings(way, against, expected):
    assert crossing(np.array(way, float), np.array(against, float)) == expected


@given(
    st.lists(st.integers(1, 300), min_size=4, max_size=4),
    st.lists(st.integers(1, 300), min_size=4, max_size=4),
)
def test_a_crossing_is_what_counting_call_by_call_finds(way, against):
    way, against = np.array(way, float), np.array(against, float)
    assert crossing(way, against) == brute(way, against)


def test_compiling_pays_after_the_calls_that_its_start_costs():
    found = {(b.start, b.against): b for b in measured().break_even}
    cold = found[Start.COLD, Start.EAGER]
    # 10 s dearer up to the end of the first call; each of the following 2000 gives back 5 ms.
    assert cold.count == 2001
    assert cold.unit is Unit.CALLS
    assert cold.low <= 2001 <= cold.high
    assert cold.high - cold.low < 100
    assert cold.never == 0
    assert found[Start.WARM, Start.EAGER].count == 401


def test_never_is_an_answer_and_so_is_an_end_of_an_interval():
    eager = [start_record(Start.EAGER, n, steady=0.010) for n in range(3)]
    slower = [start_record(Start.COLD, n, before=9, steady=0.012) for n in range(3)]
    found = break_even(slower, eager, CONFIGURATION, seed=0)
    assert (found.count, found.low, found.high, found.never) == (None, None, None, 1.0)
    unsure = [start_record(Start.COLD, n, before=9, steady=s) for n, s in enumerate((0.008, 0.0105, 0.0095))]
    found = break_even(unsure, eager, CONFIGURATION, seed=0)
    assert found.count is not None
    assert found.low < found.count
    assert found.high is None
    assert 0.02 < found.never < 0.5


def test_one_process_has_no_interval():
    found = break_even([start_record(Start.COLD, before=9, steady=0.005)], [start_record(Start.EAGER)], CONFIGURATION,
                       seed=0)  # fmt: skip
    assert found.count == 1603  # its two early calls save nothing
    assert (found.low, found.high, found.never) == (None, None, None)


def test_a_process_that_never_became_steady_is_left_out():
    broken = start_record(Start.COLD, steady=0.005)
    import msgspec

    broken = msgspec.structs.replace(broken, steady_ns=None)
    assert costs_of([broken]) is None
    assert break_even([broken], [start_record(Start.EAGER)], CONFIGURATION, seed=0) is None


def test_preparing_pays_after_so_many_starts():
    cold = [start_record(Start.COLD, n, before=10.0 + 0.1 * n) for n in range(3)]
    warm = [start_record(Start.WARM, n, before=2.0 + 0.1 * n) for n in range(3)]
    found = break_even_of_starts(warm, cold, 30e9, CONFIGURATION, seed=0)
    assert (found.unit, found.count, found.against) == (Unit.STARTS, 4, Start.COLD)
    assert break_even_of_starts(cold, warm, 30e9, CONFIGURATION, seed=0).count is None


@pytest.mark.parametrize("processes", [3, 5])
def test_intervals_cover_the_true_count_about_as_often_as_they_say(processes):
    generator = np.random.default_rng(processes)
    true = crossing(np.array([11.0, 0.005, 0.005]), np.array([1.0, 0.010, 0.010]))
    covered = 0
    trials = 150
    for trial in range(trials):

        def drawn(start, before, steady):
            return [
                start_record(start, n, before=before + generator.normal(0, 0.05 * before), first=0.01,
                             early=(), steady=steady * (1 + generator.normal(0, 0.03)))
                for n in range(processes)
            ]  # fmt: skip

        found = break_even(drawn(Start.COLD, 11.0, 0.005), drawn(Start.EAGER, 1.0, 0.010), CONFIGURATION, seed=trial)
        high = float("inf") if found.high is None else found.high
        low = float("inf") if found.low is None else found.low
        covered += low <= true <= high
    # Binomial: 95% of 150 within three standard errors; a bootstrap with replacement covers 60% of three processes.
    assert covered / trials >= 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5


def test_the_same_seed_gives_the_same_interval():
    first, second = measured().break_even[0], measured().break_even[0]
    assert (first.low, first.high) == (second.low, second.high)
