"""Cards of a run learn what its measurements say of their limiters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from store_factory import capture_into, cell, new_run

from fuselab.errors import StoreError
from fuselab.records import Ceiling, Clock
from fuselab.store import Run
from fuselab.store.limiters import judge_limiters

LIMITER = {"device": "NVIDIA H200", "predicted": "instructions", "times_us": {"instructions": 20.0}, "measured": None}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with one captured kernel that moves 400 MB, its limiter predicted."""
    run = new_run(tmp_path)
    staging = run.staging("compile")
    artifacts, kernels = capture_into(staging)
    card = {
        "kernel_id": kernels[0].kernel_id,
        "launches": 1,
        "launch": {"programs": 4096},
        "traffic": {"fewest_bytes": 400_000_000},
        "limiter": LIMITER,
        "other": 3,
    }
    (staging / "kernels/forward/fused_0/card.json").write_text(json.dumps(card))
    run.adopt(staging, artifacts, kernels)
    return run


def card_of(run: Run) -> tuple[Path, dict[str, Any]]:
    path = run.path / "kernels" / run.metadata().kernels[0].kernel_id / "card.json"
    return path, json.loads(path.read_text())


def timed(microseconds: float) -> Any:
    ceiling = Ceiling(bytes_per_s=4.0e12, duration_ns=1e5, share=0.9, method="stream")
    return cell("compile", clock=Clock.CUDA_GRAPH, cold=True, median_ns=microseconds * 1e3, ceiling=ceiling)


def test_a_timed_cell_corrects_the_prediction_of_its_kernel_and_keeps_the_rest_of_the_card(run: Run) -> None:
    run.append([timed(110.0)])
    judged = judge_limiters(run)
    path, card = card_of(run)
    assert card["limiter"]["measured"] == judged[card["kernel_id"]]
    assert (card["limiter"]["measured"]["limiter"], card["limiter"]["measured"]["verdict"]) == ("memory", "corrected")
    assert {**card, "limiter": {**card["limiter"], "measured": None}} == {**card, "limiter": LIMITER}
    assert card["other"] == 3
    before = path.stat().st_mtime_ns
    assert judge_limiters(run) == judged
    assert path.stat().st_mtime_ns == before


def test_a_kernel_whose_cell_was_not_timed_keeps_its_prediction_alone(run: Run) -> None:
    run.append([cell("eager", clock=Clock.CUDA_GRAPH, cold=True)])
    assert judge_limiters(run) == {}
    assert card_of(run)[1]["limiter"] == LIMITER


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kernel_id": "another"}', "\0"])
def test_a_card_that_cannot_be_read_is_left_as_it_is(run: Run, text: str) -> None:
    run.append([timed(110.0)])
    path, _ = card_of(run)
    path.write_text(text)
    assert judge_limiters(run) == {}
    assert path.read_text() == text


def test_a_card_is_written_only_where_one_is(run: Run) -> None:
    for name in ("nowhere", "../../../elsewhere"):
        with pytest.raises(StoreError):
            run.write_card(name, {})
