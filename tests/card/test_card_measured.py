"""What limited a kernel, from the time of its cell: the rule, its bounds, and kernels measured on an H200."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuselab.card.limiter import SUSTAINED, judge, launch_us
from fuselab.card.measured import judge_alone, judge_cell
from fuselab.records import Ceiling, Clock, Direction, Measurement, Status, Workload
from fuselab.report.card import card_lines
from fuselab.targets import find

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "h200-limiters.json"
CEILING = 4.0e12


def card(name="k", fewest=400_000_000, instructions=20.0, predicted="memory", programs=4096, launches=1):
    return {
        "kernel_id": name,
        "launches": launches,
        "launch": {"programs": programs},
        "traffic": {"fewest_bytes": fewest},
        "limiter": {
            "device": "NVIDIA H200",
            "predicted": predicted,
            "times_us": {"memory": 1.0, "instructions": instructions, "latency": 1.0, "launch": 0.75},
            "reasons": ["memory takes 1.00 us, instructions 1.00 us"],
            "measured": None,
        },
    }


def cell(time_us=110.0, **changes):
    return Measurement(
        **{
            "experiment": "e",
            "variant": "compile",
            "workload": Workload(shape=[4, 4], dtype="bf16"),
            "direction": Direction.FORWARD,
            "status": Status.OK,
            "clock": Clock.CUDA_GRAPH,
            "cold": True,
            "median_ns": time_us * 1e3,
            "kernels_launched": 1,
            "ceiling": Ceiling(bytes_per_s=CEILING, duration_ns=1.0, share=1.0, method="stream"),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("time_us", "changes", "limiter"),
    [
        (110.0, {}, "memory"),  # streams in 100 us
        (142.0, {}, "memory"),  # 70%
        (144.0, {}, "latency"),
        (144.0, {"instructions": 130.0}, "instructions"),
        (110.0, {"instructions": 105.0}, "instructions"),
        (110.0, {"instructions": 95.0}, "memory"),
        (1.1, {"fewest": 400, "programs": 16}, "launch"),
        (1.2, {"fewest": 400, "programs": 16, "instructions": 0.1}, "latency"),
        (50.0, {"fewest": 400, "programs": 65536}, "launch"),
    ],
)
def test_a_kernel_alone_in_its_cell(time_us, changes, limiter):
    found = judge_cell([card(**changes)], cell(time_us))["k"]
    assert found["limiter"] == limiter
    assert found["verdict"] == ("confirmed" if limiter == "memory" else "corrected")
    assert found["figures"]["time_us"] == pytest.approx(time_us)


def test_of_several_kernels_only_what_the_bounds_say_is_said():
    large, small = card("large", 400_000_000), card("small", 40_000_000)
    # They stream in 100 and 10 us: whatever the 5 us left over are spent on, the large one reaches 95%.
    found = judge_cell([large, small], cell(115.0, kernels_launched=2))
    assert found["large"]["limiter"] == "memory"
    assert found["large"]["figures"]["most_us"] == pytest.approx(105.0)
    assert found["small"]["limiter"] is None
    assert found["small"]["verdict"] == "not decided"
    assert "10.00 to 15.00 us" in found["small"]["reason"]
    # Nothing is left over: both streamed.
    assert {f["limiter"] for f in judge_cell([large, small], cell(110.0, kernels_launched=2)).values()} == {"memory"}
    tiny = [card(str(i), 400, programs=16) for i in range(2)]
    assert {f["limiter"] for f in judge_cell(tiny, cell(1.0, kernels_launched=2)).values()} == {"launch"}


def test_a_kernel_that_is_launched_twice_is_one_of_several():
    found = judge_cell([card(launches=2)], cell(210.0, kernels_launched=2))["k"]
    assert found["limiter"] == "memory"
    assert found["figures"]["most_us"] == pytest.approx(105.0)


def test_what_the_driver_launches_beside_the_kernel_leaves_its_time_open():
    """Four launches of which one kernel is known, as in a backward that zeroes its buffers first."""
    found = judge_cell([card()], cell(144.0, kernels_launched=4))["k"]
    assert found["verdict"] == "not decided"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clock": Clock.CUDA_EVENTS}, "not timed in a CUDA graph"),
        ({"clock": Clock.CPU_MONOTONIC}, "not timed in a CUDA graph"),
        ({"cold": False}, "data in the cache"),
        ({"ceiling": None}, "plain streaming was not timed"),
        ({"median_ns": None}, "plain streaming was not timed"),
    ],
)
def test_a_time_that_does_not_tell_is_said_to_be(changes, reason):
    found = judge_cell([card()], cell(**changes))["k"]
    assert (found["limiter"], found["verdict"]) == (None, "not decided")
    assert reason in found["reason"]
    shown = [line for line in card_lines({"limiter": {**card()["limiter"], "measured": found}}) if "measured" in line]
    assert shown == [f"limiter: measured, not decided: {found['reason']}"]


def test_what_was_not_timed_or_not_predicted_is_left_alone():
    assert judge_cell([card()], cell(status=Status.WRONG)) == {}
    assert judge_cell([{"kernel_id": "k", "limiter": {"absent": "the model is of described GPUs"}}], cell()) == {}
    unknown = judge_cell([card(), {"kernel_id": "extern", "limiter": {"absent": "a library's"}}], cell(150.0))
    assert unknown["k"]["verdict"] == "not decided"


def test_the_rule_agrees_with_taking_one_resource_away_at_a_time():
    """The kernels of the four experiments on an H200. The two it differs in are at the border of a launch."""
    bandwidth = find("h200").bandwidth_bytes_per_s * SUSTAINED["memory"]
    kernels = json.loads(RECORDED.read_text())["kernels"]
    apart = []
    for row in kernels:
        figures, recorded = row["measured"]["figures_us"], row["card"]
        streaming = recorded["traffic"]["fewest_bytes"] / bandwidth * 1e6
        by_time = judge_alone(recorded, figures["time_us"], streaming)
        by_taking_away = judge(None, {**figures, "memory_share": streaming / figures["time_us"]})
        if by_time["limiter"] != by_taking_away["limiter"]:
            assert {by_time["limiter"], by_taking_away["limiter"]} == {"launch", "latency"}
            assert figures["time_us"] < 2 * figures["empty_us"]
            apart.append(recorded["kernel_id"])
    assert len(kernels) >= 20
    assert len(apart) <= len(kernels) // 10


def test_empty_kernels_take_what_the_model_says():
    for row in json.loads(RECORDED.read_text())["kernels"]:
        modelled = launch_us(find("h200"), row["card"]["launch"]["programs"])
        assert modelled == pytest.approx(row["measured"]["figures_us"]["empty_us"], rel=0.15)
