"""Two legs of one plan are compared by their time, their cells and their devices; legs that were killed add up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import two_gpus
from rich.console import Console

from fuselab.experiment import load_registry
from fuselab.sweep.plan import read_plan

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "benchmarks" / "two_gpus.py"
sys.path.insert(0, str(HERE.parent / "sweep"))

from sweep_place import Place, until  # noqa: E402 - the sweep's tests lie beside these


def cell(low=None, high=None, verdict=None, status="ok", label="silu 8x64", variant="compile"):
    middle = None if low is None else (low + high) / 2
    return {
        "experiment": "silu", "label": label, "variant": variant, "direction": "forward", "status": status,
        "median_ns": 10.0, "speedup": middle, "speedup_low": low, "speedup_high": high, "verdict": verdict,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "two", "expected", "gap"),
    [
        (cell(1.50, 1.52, "faster"), cell(1.51, 1.53, "faster"), "overlap", 0.0),
        (cell(1.005, 1.02, "unresolved"), cell(1.015, 1.03, "faster"), "overlap", 0.0),
        (cell(1.50, 1.52, "faster"), cell(1.53, 1.55, "faster"), "within the margin", 1.53 / 1.52 - 1),
        (cell(0.998, 1.002, "equivalent"), cell(1.011, 1.02, "faster"), "within the margin", 1.011 / 1.002 - 1),
        (cell(1.50, 1.52, "faster"), cell(1.70, 1.72, "faster"), "apart", 1.70 / 1.52 - 1),
        (cell(1.50, 1.52, "faster"), cell(1.00, 1.20, "unresolved"), "apart", 1.50 / 1.20 - 1),
        (cell(1.50, 1.52, "faster"), cell(0.998, 1.002, "equivalent"), "differ", 1.50 / 1.002 - 1),
        (cell(1.011, 1.02, "faster"), cell(0.98, 0.989, "slower"), "opposite", 1.011 / 0.989 - 1),
        (cell(), cell(status="crashed"), "other status", None),
        (cell(1.5, 1.6, "faster"), None, "missing", None),
        (cell(status="unavailable"), cell(status="unavailable"), "unjudged", None),
        (cell(1.0, 1.0, "baseline"), cell(1.0, 1.0, "baseline"), "unjudged", None),
    ],
)
def test_how_two_measurements_of_a_cell_agree(one, two, expected, gap):
    for pair in ((one, two), (two, one)):
        assert two_gpus.agree(*pair, 0.01) == (expected, None if gap is None else pytest.approx(gap))


def unit(device, begun, ended):
    return {"device": device, "begun": begun, "ended": ended}


def test_time_is_counted_without_the_start_up_of_any_attempt():
    # The first attempt begins at 0 and is killed at 30 with a workload in hand; the second begins at 100.
    units = [unit("GPU-a", 5, 20), unit("GPU-a", 20, 28), unit("GPU-a", 107, 117)]
    found = two_gpus.spent([0, 100], units)
    assert found["wall_s"] == pytest.approx((28 - 5) + (117 - 107))
    assert found["busy_s"] == pytest.approx(33)
    assert found["at_once"] == pytest.approx(1.0)
    assert (found["attempts"], found["workloads"], found["devices"], found["shared"]) == (2, 3, [1, 1], 0)


def test_two_devices_work_at_once_and_none_is_shared():
    units = [unit("GPU-a", 5, 15), unit("GPU-b", 5, 14), unit("GPU-a", 15, 25), unit("GPU-b", 14, 24)]
    found = two_gpus.spent([0], units)
    assert (found["wall_s"], found["devices"], found["shared"]) == (20, [2], 0)
    assert found["at_once"] == pytest.approx(39 / 20, abs=1e-3)
    assert two_gpus.spent([0], [unit("GPU-a", 5, 15), unit("GPU-a", 12, 25)])["shared"] == 1


def test_an_attempt_that_brought_nothing_takes_no_time():
    found = two_gpus.spent([0, 50, 100], [unit("GPU-a", 105, 110)])
    assert (found["wall_s"], found["attempts"], found["devices"]) == (5, 3, [1])
    assert two_gpus.spent([0], []) == {
        "wall_s": 0, "attempts": 1, "workloads": 0, "busy_s": 0, "at_once": None, "devices": [], "shared": 0,
    }  # fmt: skip


def test_compilation_is_counted_once_for_both_directions():
    cells = [
        {"experiment": "silu", "variant": v, "workload": {"shape": [8]}, "direction": d, "compile_ns": ns}
        for v, ns in (("eager", None), ("compile", 2_000_000_000), ("max", 3_000_000_000))
        for d in ("forward", "backward")
    ]
    assert two_gpus.compile_seconds([{"measurements": cells}]) == 5.0


def leg(wall_s, devices, shared=0, left=0):
    statuses = {"ok": 3}
    spent = {"wall_s": wall_s, "attempts": 1, "workloads": 4, "busy_s": 100.0, "at_once": 1.0}
    return {"left": left, "statuses": statuses, **spent, "devices": devices, "shared": shared, "compile_s": 50.0}


def environment(device="NVIDIA H200", torch="2.11.0"):
    return {"device": device, "device_type": "cuda", "driver": "580.1", "versions": {"torch": torch, "triton": "3.6"}}


def judged(one=None, two=None, wall_two=54.0, legs=(), environments=None):
    one = one or [cell(1.50, 1.52, "faster"), cell(variant="eager", low=1.0, high=1.0, verdict="baseline")]
    rows = [{two_gpus.identity(c): c for c in cells} for cells in (one, two or one)]
    made = dict(zip(("one", "two"), legs or (leg(100.0, [1]), leg(wall_two, [2])), strict=True))
    return two_gpus.judged(made, *rows, 0.01, environments or [environment(), environment()], "a plan")


def failed(document):
    return [bar["name"] for bar in document["bars"] if not bar["passed"]]


def test_what_is_asked_passes_and_fails():
    assert failed(judged()) == []
    assert failed(judged(wall_two=55.0)) == []
    assert failed(judged(wall_two=55.1)) == ["time of two GPUs to one's"]
    assert failed(judged(two=[cell(0.90, 0.92, "slower")])) == [
        "cells with another status, or in one leg only",
        "cells faster in one leg and slower in the other",
    ]
    differ = [cell(0.995, 1.002, "equivalent"), cell(variant="eager", low=1.0, high=1.0, verdict="baseline")]
    assert failed(judged(two=differ)) == ["other verdicts, intervals farther apart than the margin"]
    assert failed(judged(environments=[environment(), environment(torch="2.12.0")])) == [
        "kinds of hardware and versions"
    ]
    assert failed(judged(legs=(leg(100.0, [1]), leg(50.0, [2, 1])))) == ["GPUs of each attempt"]
    assert failed(judged(legs=(leg(100.0, [1]), leg(50.0, [2], shared=1)))) == ["workloads that shared a GPU in time"]
    assert failed(judged(legs=(leg(100.0, [1], left=2), leg(50.0, [2])))) == ["cells left in either leg"]
    assert "time of two GPUs to one's" in failed(judged(legs=(leg(0.0, []), leg(0.0, []))))


def test_a_result_is_shown_again(tmp_path):
    document = judged(two=[cell(0.90, 0.92, "slower"), cell(label="silu 16x64", low=1.1, high=1.2, verdict="faster")])
    path = tmp_path / "two.json"
    path.write_text(json.dumps(document))
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - nothing is written
    two_gpus.show(document, console)
    done = script("--from", path, COLUMNS="160")
    assert done.returncode == 1
    text = console.export_text()
    assert [line.rstrip() for line in done.stdout.splitlines()] == [line.rstrip() for line in text.splitlines()]
    assert "NVIDIA H200, driver 580.1, torch 2.11.0, triton 3.6" in text
    assert "1.500 to 1.520 faster" in text
    assert "FAILED" in text
    assert "0.540" in text


def test_the_plan_of_a_preset_is_one_that_a_sweep_reads(tmp_path, monkeypatch):
    command = ["two_gpus.py", "--into", "x", "--preset", "quick", "--timing-s", "0.3", "--limit-s", "540"]
    monkeypatch.setattr(sys, "argv", [*command, "--experiment", "silu", "--variant", "eager", "--variant", "triton"])
    path = tmp_path / "plan.toml"
    path.write_text(two_gpus.plan_text(two_gpus.parsed()))
    plan = read_plan(path, load_registry(entry_points=()))
    assert (plan.device, plan.budget.timing_s, plan.budget.hours) == ("cuda", 0.3, pytest.approx(0.15))
    (block,) = plan.blocks
    assert (block.experiment.name, block.preset, block.variants) == ("silu", "quick", ("eager", "triton"))
    monkeypatch.setattr(sys, "argv", command)
    path.write_text(two_gpus.plan_text(two_gpus.parsed()))
    assert len(read_plan(path, load_registry(entry_points=())).blocks) == 4


def script(*arguments, **variables):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "NO_COLOR": "1", **variables}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--into", "x", "--compare", "x"]])
def test_one_of_three_things_is_done(arguments):
    done = script(*arguments)
    assert done.returncode == 2
    assert "one of --into, --compare and --from is needed" in done.stderr


PLAN = """
name = "legs"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"
[[experiment]]
name = "silu"
shape = "{rows}x64"
axes.rows = {from = 1, to = 193, step = 8}
"""


@pytest.mark.slow
def test_a_leg_that_is_killed_is_resumed_and_both_are_compared(tmp_path):
    place = Place(tmp_path)
    place.plan(PLAN)
    legs = tmp_path / "legs"
    command = [sys.executable, SCRIPT, "--into", legs, "--plan", tmp_path / "plan.toml", "--leg"]
    try:
        done = script("--into", legs, "--compare", legs)
        assert done.returncode == 2
        assert "there is no leg one" in script("--compare", legs).stderr
        first = subprocess.Popen(
            [*command, "one"], env=place.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        place.processes.append(first)
        stored = lambda: [  # noqa: E731
            line for path in legs.glob("one/runs/silu/*/measurements.jsonl") for line in path.read_text().splitlines()
        ]
        until(lambda: len(stored()) >= 6 or first.poll() is not None, "six stored cells")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert 6 <= len(stored()) < 50
        for leg in ("one", "two"):
            done = script(*command[2:], leg, **place.environment)
            assert done.returncode == 0, done.stderr
        done = script("--compare", legs, "--out", tmp_path / "two.json")
    finally:
        place.close()
    document = json.loads((tmp_path / "two.json").read_text())
    assert document["legs"]["one"]["attempts"] == 2
    assert document["legs"]["two"]["attempts"] == 1
    assert [leg["workloads"] >= 25 for leg in document["legs"].values()] == [True, True]
    assert document["legs"]["one"]["statuses"] == {"ok": 50}
    assert len(document["cells"]) == 50
    assert document["agreement"] == {"unjudged": 50}  # the stubs say no speedups
    assert document["environment"]["device"] == "CPU stub"
    assert str(tmp_path) not in json.dumps(document)
    assert done.returncode == int(document["ratio"] > two_gpus.RATIO)
    assert "50 cells: 50 unjudged" in done.stdout
