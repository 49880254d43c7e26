"""What stands in the table of timers follows from their samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import engine_rules as rules
import engines
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
    st.lists(st.integers(0, 30), min_size=8, max_size=60),
)
def test_the_rank_test_is_scipys(a, b):
    stats = pytest.importorskip("scipy.stats")
    if len({*a, *b}) == 1:
        assert rules.mann_whitney(a, b) == 1.0
        return
    expected = stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue
    assert rules.mann_whitney(a, b) == pytest.approx(expected, rel=1e-9)


def timed(centre, spread=0.0, n=100, summary="mean", **more):
    samples = tuple(centre * np.exp(spread * np.random.default_rng(int(centre)).standard_normal(n)))
    return rules.Timed(float(rules.SUMMARIES[summary](samples)), samples, **more)


def test_rules_that_people_use():
    same, slower, little = timed(1000), timed(1020), timed(1005)
    for rule in ("default", "medians"):
        assert rules.decide(rule, same, slower) == rules.Decision(pytest.approx(1000 / 1020), None, True)
        assert not rules.decide(rule, same, little).different
    assert rules.decide("Mann-Whitney", same, slower).different
    found = rules.decide("Mann-Whitney", same, little)
    assert found.raw
    assert not found.different  # seen, and within the margin
    assert not rules.decide("Mann-Whitney", timed(1000, 0.05), timed(1001, 0.05)).raw


def test_figures_are_compared_as_printed():
    a, b = timed(20410.0, figures=3), timed(20440.0, figures=2)
    assert not rules.decide("figures", a, b).raw  # both print as 2.0e4
    assert rules.printed(20540.0, 3) == 20500.0
    assert rules.decide("figures", timed(20460.0, figures=3), timed(20990.0, figures=3)).different
    close = rules.decide("figures", timed(20460.0, figures=5), timed(20480.0, figures=5))
    assert close.raw
    assert not close.different


@pytest.mark.parametrize(
    ("answer", "summary", "expected"),
    [
        (rules.Timed(5.0), "min", ["default"]),
        (timed(5.0), "mean", ["default", "medians", "Mann-Whitney"]),
        (timed(5.0, figures=3), "median", ["default", "Mann-Whitney", "figures"]),
    ],
)
def test_rules_that_an_answer_allows(answer, summary, expected):
    assert rules.rules_of(answer, summary) == expected


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="no rule 'best of three'"):
        rules.decide("best of three", timed(1.0), timed(1.0))


def decision(rule, kind, ratio, different, raw=None):
    return {"rule": rule, "kind": kind, "ratio": ratio, "raw": raw, "different": different}


def part(ours, theirs, ratio):
    """A process: ``ours`` and ``theirs`` say whether the A/A pair and the control are called different."""

    def answer(found, rule, raw):
        made = [decision(rule, "A/A", 1.03, found[0], raw), decision(rule, "2% more", 0.98, found[1], raw)]
        return {"clock": "a clock", "seconds": 0.5, "decisions": made}

    again = {"clock": "a clock", "seconds": 0.5}
    return {
        "environment": {"device": "NVIDIA Test", "versions": {"torch": "2.11.0"}},
        "groups": [
            {
                "case": "silu",
                "answers": {
                    "theirs": answer(theirs, "default", None),
                    "fuselab": answer(ours, "verdict", True),
                    "broken": {"clock": "a clock", "seconds": None, "decisions": [], "failure": "no such timer"},
                },
            }
        ],
        "repeated": [
            {
                "case": "silu against softmax",
                "answers": {
                    "theirs": again | {"decisions": [decision("default", "repeated", 1.0, False)]},
                    "fuselab": again | {"decisions": [decision("verdict", "repeated", ratio, False, False)]},
                    "broken": again | {"decisions": [], "failure": "no such timer"},
                },
            }
        ],
    }


def document():
    found = engines.summarised([part((False, True), (True, True), 1.00), part((False, False), (False, True), 1.02)])
    return found | {"seconds": 3.0, "failures": []}


def test_rows_count_what_was_called_different():
    rows = {row["engine"]: row for row in document()["rows"]}
    assert next(iter(rows)) == "fuselab"
    ours, theirs = rows["fuselab"], rows["theirs"]
    assert ours["called"]["A/A"] == {"pairs": 2, "raw": 2, "raw_slower": 0, "different": 0, "slower": 0}
    assert ours["called"]["2% more"]["slower"] == 1
    assert theirs["called"]["A/A"]["different"] == 1
    assert theirs["called"]["A/A"]["raw"] is None
    assert theirs["called"]["2% more"]["slower"] == 2
    assert ours["half_range"] == pytest.approx(0.01 / 1.01)
    assert theirs["half_range"] == 0.0
    assert ours["seconds"] == 0.5
    assert rows["broken"]["failure"] == "no such timer"


def test_whoever_wins_is_named():
    best = document()["best"]
    assert best[0] == "fewest A/A pairs called different: fuselab (verdict)"
    assert "2% found most often: theirs (default)" in best
    assert "most repeatable ratio: theirs (default)" in best
    assert not any("broken" in line for line in best)


def test_the_table_has_a_line_for_what_failed(capsys):
    engines.show(document())
    shown = capsys.readouterr().out
    assert "not measured: no such timer" in shown
    assert "NVIDIA Test, torch 2.11.0, 3 s" in shown
    assert "1 of 2 (50%)" in shown
    lines = rules.markdown(document()["rows"]).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_every_engine_that_works_on_a_cpu_is_measured(tmp_path):
    out = tmp_path / "engines.json"
    command = [
        sys.executable, ROOT / "benchmarks" / "engines.py", "--device", "cpu", "--processes", "1", "--groups", "1",
        "--budget-s", "0.02", "--sizes", "100x64", "--out", out,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    rows = {row["engine"]: row for row in found["rows"]}
    assert rows["fuselab"]["called"]["A/A"]["pairs"] == 3
    assert rows["fuselab"]["called"]["1% more"]["pairs"] == 2
    assert rows["torch.utils.benchmark.Timer"]["seconds"] > 0
    assert not rows["torch._inductor benchmarker"]["failure"]
    assert "GPU" in rows["triton.testing.do_bench"]["failure"]
    assert found["environment"]["device"].startswith("CPU")
    printed = subprocess.run(
        [*command[:2], "--markdown", out], check=True, capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert printed.stdout.strip() == rules.markdown(found["rows"])
