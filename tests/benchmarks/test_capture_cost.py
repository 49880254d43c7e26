"""The function that has as many operators as asked for, and the rows of the table."""

from __future__ import annotations

import capture_cost as cost
import pytest
import torch


@pytest.mark.parametrize("operators", [1, 9, 10, 34])
def test_the_large_function_has_that_many_operators(operators):
    function, args, kwargs = cost.subject(f"{cost.LARGE}:{operators}")
    graphs = []

    def backend(graph, _inputs):
        graphs.append([node for node in graph.graph.nodes if node.op in ("call_function", "call_method")])
        return graph.forward

    found = torch.compile(function, backend=backend, dynamic=False)(*args, **kwargs)
    assert [len(nodes) for nodes in graphs] == [operators]
    assert bool(torch.isfinite(found).all())
    assert not any("mm" in str(node.target) or "linear" in str(node.target) for node in graphs[0])


@pytest.mark.parametrize(
    ("subjects", "operators", "expected"),
    [
        ([], None, list(cost.SUBJECTS)),
        (["silu"], None, ["silu"]),
        ([], 500, ["operators:500"]),
        (["silu"], 500, ["silu", "operators:500"]),
    ],
)
def test_the_large_subject_is_measured_where_it_is_asked_for(subjects, operators, expected):
    assert cost.names(subjects, operators) == expected


def test_a_row_compares_pair_by_pair_and_leaves_out_what_was_not_measured(monkeypatch):
    figures = {False: {"wall_s": 2.0, "cpu_s": 4.0, "peak_mib": 400.0}, True: {"wall_s": 2.5, "cpu_s": 5.0}}
    figures[True]["peak_mib"] = 500.0
    monkeypatch.setattr(cost, "measured", lambda name, captured, headers: figures[captured])
    record = cost.compared("operators:500", 3, False, cost.random.Random(0))
    assert record["peak_mib_ratio"] == 1.25
    assert record["peak_mib_ratios"] == [1.25] * 3
    assert "call_after_us_ratio" not in record
    assert cost.line(record).split() == [
        "operators:500", "2.00s", "2.50s", "+25.0%", "+25.0%", "400MiB", "500MiB", "+25.0%", "-",
    ]  # fmt: skip
    assert len(cost.line(record)) == len(cost.HEADING)


def test_the_peak_is_in_mebibytes():
    """This process holds torch: more than 50 MiB, and fewer than 50 GiB."""
    assert 50 < cost._peak_mib() < 50 * 1024
