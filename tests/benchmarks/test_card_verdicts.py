"""What docs/kernel-cards.md counts is what the committed verdicts say, and a row is what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import card_verdicts as verdicts
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CARD = {
    "kernel_id": "compile/4x4_f32/forward/fused_0",
    "name": "fused_0",
    "workload": "4x4_f32",
    "variant": "compile",
    "direction": "forward",
}
ALONE = {("silu", CARD["kernel_id"]): "memory"}


@pytest.fixture(scope="module")
def recorded():
    return json.loads((RESULTS / "h200-card-verdicts.json").read_text(encoding="utf-8"))


def test_the_page_counts_what_was_recorded(recorded):
    page = " ".join((ROOT / "docs" / "kernel-cards.md").read_text(encoding="utf-8").split())
    found = verdicts.counts(recorded["kernels"])
    open_ones = found["predicted"] - found["decided"]
    assert f"have {found['predicted']} kernels with a prediction: {found['decided']} decided" in page
    assert f"decided, {found['confirmed']} as predicted; the {open_ones} others were timed together" in page
    assert f"Of the {found['alone']} decided ones that the measurement below has too, all {found['alone_same']}" in page
    assert all(
        row["reason"].startswith("one of several kernels that were timed together")
        for row in recorded["kernels"]
        if row["predicted"] and not row["judged"]
    )


def test_the_verdicts_are_of_the_runs_that_are_recorded_whole(recorded):
    whole = json.loads((RESULTS / "h200-quick.json").read_text(encoding="utf-8"))["runs"]
    assert {run["id"] for run in recorded["runs"]} == {run["metadata"]["id"] for run in whole}
    assert len(recorded["kernels"]) == sum(len(run["metadata"]["kernels"]) for run in whole)


@pytest.mark.parametrize(
    ("limiter", "expected"),
    [
        (
            {"predicted": "latency", "measured": {"limiter": "memory", "verdict": "corrected", "reason": "83%"}},
            ("latency", "memory", "corrected", "83%"),
        ),
        (
            {
                "predicted": "memory",
                "measured": {"limiter": None, "verdict": "not decided", "reason": "of several"},
            },
            ("memory", None, "not decided", "of several"),
        ),
        ({"predicted": "memory", "measured": None}, ("memory", None, None, "its cell was not timed")),
        ({"absent": "the model is of described GPUs"}, (None, None, None, "the model is of described GPUs")),
    ],
    ids=["corrected", "open", "not timed", "not predicted"],
)
def test_a_row_is_what_its_card_says(limiter, expected):
    row = verdicts.row({**CARD, "limiter": limiter}, "silu", ALONE)
    assert tuple(row[key] for key in ("predicted", "judged", "verdict", "reason")) == expected
    assert row["alone"] == "memory"


def test_only_kernels_with_a_prediction_are_counted():
    kernels = [
        {"predicted": "memory", "judged": "memory", "alone": "memory"},
        {"predicted": "latency", "judged": "memory", "alone": "latency"},
        {"predicted": "memory", "judged": None, "alone": "memory"},
        {"predicted": None, "judged": None, "alone": None},
    ]
    assert verdicts.counts(kernels) == {"predicted": 3, "decided": 2, "confirmed": 1, "alone": 2, "alone_same": 1}


def test_the_limiters_measured_alone_are_those_of_the_page():
    """The kernel whose verdict changed with the rule is judged anew: latency, as the table has it."""
    found = verdicts.measured_alone(json.loads((RESULTS / "h200-limiters.json").read_text(encoding="utf-8")))
    backward = "triton_per_fused_gelu_gelu_backward_native_layer_norm_native_layer_norm_backward_1"
    assert [limiter for (_, kernel), limiter in found.items() if kernel.endswith(backward)] == ["latency"]
