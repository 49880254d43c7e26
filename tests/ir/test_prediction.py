"""The predicted time: its limits, its scaling, and that the committed figures are those of the committed constants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fuselab.ir.prediction import CALIBRATIONS, Work, predict_time, work_of
from fuselab.targets import find

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "benchmarks" / "results" / "h200-limiters.json"
TABLE = ROOT / "benchmarks" / "results" / "h200-prediction.json"

COPY = Work(
    programs=65536,
    num_warps=4,
    resident=16,
    fewest_bytes=1 << 28,
    moved_bytes=1 << 28,
    instructions=40,
    classes={"global load": 1, "global store": 1, "integer": 20},
    accesses={"LDG.128": 1, "STG.128": 1},
)


def us(work: Work, target: str = "h200") -> float:
    return predict_time(work, find(target)).time_us


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        ({"fewest_bytes": 1 << 29, "moved_bytes": 1 << 29}, 1.5, 2.1),  # twice the bytes
        ({"instructions": 4000.0}, 8, 40),  # a hundred times the instructions
        ({"resident": 1, "instructions": 200.0}, 1.5, 10),  # nothing overlaps
        ({"programs": 1 << 20}, 5, 16),  # the device starts programs one after the other
        ({"fewest_bytes": 1 << 10, "moved_bytes": 1 << 28}, 0.3, 1.0),  # from the cache
    ],
)
def test_each_resource_can_decide(change: dict[str, float], low: float, high: float) -> None:
    assert low < us(replace(COPY, **change)) / us(COPY) < high


def test_nothing_is_faster_than_the_slowest_resource_and_one_program_adds_them() -> None:
    for resident in (1, 2, 4, 16, 64):
        found = predict_time(replace(COPY, resident=resident), find("h200"))
        alone = [found.parts_us[name] for name in ("memory", "instructions", "dispatch")]
        assert max(alone) + found.parts_us["launch"] - 1e-3 <= found.time_us
        assert found.time_us <= sum(found.parts_us.values()) + 1e-3
    one = predict_time(replace(COPY, resident=1), find("h200"))
    assert one.time_us == pytest.approx(sum(one.parts_us.values()), abs=1e-3)


def test_another_device_is_scaled_by_its_figures_and_has_a_wider_bar() -> None:
    here, there = predict_time(COPY, find("h200")), predict_time(COPY, find("l4"))
    ratio = find("h200").bandwidth_bytes_per_s / find("l4").bandwidth_bytes_per_s
    assert there.time_us / here.time_us == pytest.approx(ratio, rel=0.15)
    assert there.high_us / there.time_us > here.high_us / here.time_us > 1
    assert there.low_us / there.time_us < here.low_us / here.time_us < 1
    assert "nothing was measured" in there.basis
    assert "nothing was measured" not in here.basis
    assert all("predicted, not measured" in found.basis for found in (here, there))


def test_without_machine_code_it_is_the_least_and_says_so() -> None:
    found = predict_time(replace(COPY, instructions=None), find("mi300x"))
    assert found.only_memory
    assert found.low_us == found.time_us < found.high_us
    assert "least" in found.basis
    assert found.time_us > COPY.fewest_bytes / find("mi300x").bandwidth_bytes_per_s * 1e6


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({}, "no launch"),
        ({"launch": {"programs": 4}, "traffic": {"absent": "there is no TTIR"}}, "no traffic: there is no TTIR"),
        ({"launch": {"programs": None}, "traffic": {"fewest_bytes": 1}, "num_warps": 4}, "grid"),
        ({"launch": {"programs": 4}, "traffic": {"fewest_bytes": 1}}, "warps"),
    ],
)
def test_a_card_that_lacks_something_says_what(card: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        work_of(card)


def test_a_device_whose_clock_is_unknown_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="clock of NVIDIA H200 is not described"):
        predict_time(COPY, msgspec.structs.replace(find("h200"), f32_flops=None))


def test_the_constants_predict_the_measured_kernels_as_well_as_is_claimed() -> None:
    """The committed errors are of kernels left out; the constants themselves, fitted to all, cannot be worse."""
    rows = json.loads(MEASURED.read_text())["kernels"]
    off = sorted(
        abs(us(work_of(row["card"])) / row["measured"]["figures_us"]["time_us"] - 1)
        for row in rows
        if row["measured"]["judged"]["limiter"] == "memory"
    )
    claimed = CALIBRATIONS["h200"].error
    assert len(off) == CALIBRATIONS["h200"].memory_bound == 14
    assert off[len(off) // 2] <= claimed.memory_median + 0.01 <= 0.10 + 0.01
    assert off[-1] <= claimed.memory_worst <= 0.30
    assert off[-1] > 0  # a prediction, not a recollection


def test_the_committed_table_is_of_the_committed_constants() -> None:
    table, constants = json.loads(TABLE.read_text()), CALIBRATIONS["h200"]
    assert msgspec.convert(table["constants"], type(constants)) == constants
    measured = {
        (r["card"]["name"], r["workload"]): r["measured"]["figures_us"]["time_us"]
        for r in json.loads(MEASURED.read_text())["kernels"]
    }
    assert {(r["kernel"], r["workload"]): r["measured_us"] for r in table["kernels"]} == measured
    for name in ("without_the_kernel", "without_its_experiment"):
        assert 0.01 < table[name]["median"] <= 0.10
        assert 0.01 < table[name]["worst"] <= 0.30
