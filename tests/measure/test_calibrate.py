"""The calibration itself: its bars follow from recordings, and it runs."""

from __future__ import annotations

import numpy as np
import pytest

from fuselab.measure import calibrate as c
from fuselab.measure.bars import agreement_bars, pair_bars, repeatability_bar
from fuselab.measure.timing import Timing
from fuselab.records import Clock, Direction, Sample, Verdict


def recording(generator, noise, one=0.01, two=0.02, kernel=None, gaps=0.0):
    """Ten arms of 60 rounds: eight copies, and controls that take ``one`` and ``two`` longer."""
    names = [f"copy {i}" for i in range(8)] + ["1% more 0", "2% more 0"]
    more = [0.0] * 8 + [one, two]
    timings = {
        name: Timing(
            name=name,
            samples=[
                Sample(
                    round=r, position=0, duration_ns=1e5 * np.exp(np.log1p(extra) + noise * generator.standard_normal())
                )
                for r in range(60)
            ],
            median_ns=1e5,
            kernels_launched=1,
            other_clocks={
                Clock.KERNEL: [Sample(round=0, position=0, duration_ns=kernel)],
                Clock.GAPS: [Sample(round=0, position=0, duration_ns=gaps)],
            }
            if kernel
            else {},
        )
        for name, extra in zip(names, more, strict=True)
    }
    return c._Recording(c.cases("cpu")[0], timings, 0.2)


def bars(recordings, device_type="cuda"):
    found = pair_bars(c._pairs(recordings), device_type) + c._other_bars(recordings, device_type)
    found += agreement_bars(c._agreements(recordings)) if device_type == "cuda" else []
    return {bar.name: bar for bar in found}


def test_a_good_engine_passes_every_bar():
    generator = np.random.default_rng(0)
    found = bars([recording(generator, 0.004, kernel=0.99e5) for _ in range(100)])
    assert all(bar.passed for bar in found.values()), [bar for bar in found.values() if not bar.passed]
    assert 0.029 <= found["A/A pairs called different, raw at 95%"].value <= 0.071
    assert found["A/A pairs called different, margin and control"].value <= 0.005
    assert found["2% more rows found slower"].value == 1.0


def test_an_engine_that_sees_no_difference_fails():
    generator = np.random.default_rng(0)
    found = bars([recording(generator, 0.002, one=0.0, two=0.0) for _ in range(20)])
    assert found["2% more rows called equivalent"].passed is False
    assert found["2% more rows found slower"].passed is False
    assert found["1% more rows found slower"].passed is False


def test_an_engine_that_is_too_bold_or_too_shy_fails():
    generator = np.random.default_rng(0)
    recordings = [recording(generator, 0.004) for _ in range(100)]
    for r in recordings:  # every second copy is 3% slower, as if placement decided
        for i in range(1, 8, 2):
            slow = [
                Sample(round=s.round, position=0, duration_ns=s.duration_ns * 1.03)
                for s in r.timings[f"copy {i}"].samples
            ]
            r.timings[f"copy {i}"].samples[:] = slow
    found = bars(recordings)
    assert found["A/A pairs called different, raw at 95%"].passed is False
    assert found["A/A pairs called different, margin and control"].passed is False
    alike = [recording(generator, 1e-9) for _ in range(100)]
    for r in alike:
        for i in range(1, 8, 2):
            r.timings[f"copy {i}"].samples[:] = r.timings[f"copy {i - 1}"].samples
    assert bars(alike)["A/A pairs called different, raw at 95%"].passed is False


def test_disagreement_with_the_profiler_fails():
    found = bars([recording(np.random.default_rng(0), 0.004, kernel=0.9e5)])
    assert found["within 3% of CUPTI's kernel time"].passed is False
    assert found["within 3% of CUPTI's kernel time and gaps"].passed is False
    gapped = bars([recording(np.random.default_rng(0), 0.004, kernel=0.9e5, gaps=0.1e5)])
    assert gapped["within 3% of CUPTI's kernel time"].passed is False
    assert gapped["within 3% of CUPTI's kernel time and gaps"].passed
    nothing = bars([recording(np.random.default_rng(0), 0.004)])["within 3% of CUPTI's kernel time"]
    assert nothing.passed is None
    assert "no cell" in nothing.detail


def test_a_cpu_is_not_held_to_a_gpus_power():
    found = bars([recording(np.random.default_rng(0), 0.05) for _ in range(25)], "cpu")
    assert "2% more rows found slower" not in found
    assert found["2% more rows called equivalent"].passed
    assert "unresolved" in found["2% more rows called equivalent"].detail


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_controls_have_exactly_one_and_two_per_cent_more_rows(device_type):
    for case in c.cases(device_type):
        assert case.rows * 101 % 100 == 0
        assert case.traffic.reads == (1 if case.direction is Direction.FORWARD else 2)
    made = c.cases("cpu")[0].inputs("cpu", 2, 0)
    assert made.args[0].shape[0] * 100 == c.cases("cpu")[0].rows * 102


def test_what_was_recorded_before_an_interruption_is_judged(monkeypatch):
    generator = np.random.default_rng(0)

    def record(case, device_type, seed, *, observe):
        if seed == 3:
            raise KeyboardInterrupt
        return recording(generator, 0.004)

    monkeypatch.setattr(c, "_record", record)
    found = c.calibrate("cpu", pairs=100)
    assert found.interrupted
    assert len([pair for pair in found.pairs if pair.percent == 0]) == 3 * 4
    assert found.bars[0].detail == "of 12 pairs"


def test_a_pair_is_recorded_with_what_a_run_would_have_said():
    found = c._pairs([recording(np.random.default_rng(0), 0.001)])
    assert [pair.percent for pair in found] == [0, 0, 0, 0, 1, 2]
    assert found[5].verdict is Verdict.SLOWER
    assert found[5].rounds < 60
    assert found[5].speedup == pytest.approx(1 / 1.02, abs=0.002)
    assert found[0].case == "silu 400x512 float32 forward"


def test_speedups_that_wander_between_processes_fail():
    steady = {f"case {i}": [1.0, 1.004, 1.008] for i in range(9)}
    assert repeatability_bar({**steady, "one": [1.0, 1.1]}, "cuda", 3).passed
    assert not repeatability_bar({**steady, "one": [1.0, 1.1], "two": [1.0, 1.03]}, "cuda", 3).passed


@pytest.mark.slow
def test_calibration_runs(monkeypatch):
    monkeypatch.setattr(c, "_LONG_CASES", 1)
    monkeypatch.setattr(c, "_BLOCK_ROUNDS", 5)
    seen = []
    found = c.calibrate("cpu", pairs=4, repeats=0, progress=lambda *a: seen.append(a))
    assert found.bars[0].name.startswith("A/A pairs")
    assert all(bar.value is not None for bar in found.bars)
    assert seen[0] == ("A/A pairs and controls", 1, 1)
    assert found.seconds > 0
