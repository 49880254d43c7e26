"""What limits a kernel: predicted from facts, judged by measurements."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fuselab.card.limiter import LAUNCH_US, Facts, judge, predict
from fuselab.ir.addresses import Dim, Index
from fuselab.ir.instructions import InstructionMix
from fuselab.ir.occupancy import occupancy
from fuselab.ir.traffic import Access, measure_traffic
from fuselab.targets import find


def facts(programs: int, elements: int, *, instructions: int = 100, special: int = 0, warps: int = 4, rounds: int = 1):
    """A kernel that copies float32 on an H200, with so many instructions a warp."""
    program, lane = Dim("program", programs), Dim("lane", elements // programs)
    address = Index.of(program) * lane.extent + Index.of(lane)
    traffic = measure_traffic(
        [Access("x", "load", 4, (program, lane), address), Access("y", "store", 4, (program, lane), address)]
    )
    mix = InstructionMix(total=instructions, classes=Counter({"float": instructions - special, "special": special}))
    return Facts(find("h200"), traffic, mix, occupancy(find("h200"), 32, 0, warps, programs), programs, warps, rounds)


@pytest.mark.parametrize(
    ("kernel", "limiter"),
    [
        (facts(65536, 1 << 26), "memory"),
        (facts(65536, 1 << 26, instructions=2000), "instructions"),
        (facts(65536, 1 << 26, instructions=1000, special=300), "instructions"),
        (facts(8, 8192), "latency"),
        (facts(8, 8192, rounds=0), "launch"),
        (facts(8, 1 << 20, rounds=64), "latency"),
    ],
)
def test_predictions(kernel, limiter):
    found = predict(kernel)
    assert found.limiter == limiter
    assert found.summary()["measured"] is None
    if limiter != "launch":
        assert max(found.times_us, key=found.times_us.get) == limiter
    else:
        assert max(t for n, t in found.times_us.items() if n != "launch") < LAUNCH_US


@pytest.mark.parametrize(
    ("programs", "instructions", "limiter"),
    [
        (2048, 500, "memory"),
        (2048, 1000, "latency"),  # memory takes 59% of what both take
        (2048, 3000, "latency"),  # and here the instructions 68%
        (2048, 14000, "instructions"),
        (4096, 500, "memory"),  # the work of the second, but some load while others compute
    ],
)
def test_programs_that_begin_together_take_turns_at_memory_and_multiprocessors(programs, instructions, limiter):
    found = predict(facts(programs, 1 << 23, instructions=instructions))
    assert found.limiter == limiter
    assert ("take turns" in found.reasons[0]) == (limiter == "latency")
    assert max(found.times_us["memory"], found.times_us["instructions"]) > found.times_us["latency"]


def test_predicted_memory_time_is_bytes_over_bandwidth():
    found = predict(facts(65536, 1 << 26))
    assert found.times_us["memory"] == pytest.approx((2 * 4 << 26) / 4.8e12 / 0.9 * 1e6, rel=1e-3)


def test_special_functions_take_eight_times_a_float_instruction():
    # 16 a clock and multiprocessor against 128.
    plain, special = (
        predict(facts(65536, 1 << 26, instructions=4000, special=s)).times_us["instructions"] for s in (0, 4000)
    )
    assert special / plain == pytest.approx(8)


@pytest.mark.parametrize(
    ("figures", "measured"),
    [
        ((1.0, 0.75, 0.9, 0.9), "launch"),
        ((40.0, 0.75, 18.0, 35.0), "memory"),
        ((40.0, 0.75, 39.0, 77.0), "instructions"),
        ((40.0, 0.75, 39.0, 45.0), "latency"),
    ],
)
def test_measured_limiters(figures, measured):
    names = ("time_us", "empty_us", "cached_us", "cached_twice_us")
    judged = judge("memory", dict(zip(names, figures, strict=True)))
    assert judged["limiter"] == measured
    assert judged["verdict"] == ("confirmed" if measured == "memory" else "corrected")
    assert judge(None, dict(zip(names, figures, strict=True)))["verdict"] == "not predicted"


def test_loads_that_wait_for_each_other_add_up_and_wait_less_for_the_cache():
    """Sums over rows in one wave of programs, their turns unrolled with barriers between: RMSNorm's weight gradient."""
    together, apart = (predict(facts(2048, 1 << 23, rounds=rounds)) for rounds in (1, 33))
    assert (together.limiter, apart.limiter) == ("memory", "latency")
    assert apart.times_us["latency"] - together.times_us["latency"] == pytest.approx(32 * 0.8, rel=0.01)
    # Two passes over what stays in the cache: half of the loads wait for it only.
    small = facts(2048, 1 << 20, rounds=33)
    program, lane = Dim("program", 2048), Dim("lane", 512)
    address = Index.of(program) * lane.extent + Index.of(lane)
    once = [Access("x", "load", 4, (program, lane), address), Access("y", "store", 4, (program, lane), address)]
    again = predict(replace(small, traffic=measure_traffic([once[0], *once])))
    assert predict(small).times_us["latency"] - again.times_us["latency"] == pytest.approx(33 * 0.25, rel=0.01)
