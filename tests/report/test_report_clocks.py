"""The clocks side by side, and what the run knows the truth of."""

from __future__ import annotations

import io

import pytest
from report_factory import cell
from rich.console import Console

from fuselab.records import Clock, Comparison, Direction, Parts, Sample, Status, Verdict
from fuselab.report.certificate import certificate_line
from fuselab.report.clocks import clocks_view


def samples(us):
    return [Sample(round=0, position=0, duration_ns=us * 1e3)]


def known(speedup, verdict):
    return Comparison(baseline="eager", verdict=verdict, speedup=speedup, low=speedup - 0.001, high=speedup + 0.001)


def test_every_clock_has_a_column_of_its_own():
    others = {Clock.HOST.value: samples(7), Clock.CUDA_EVENTS.value: samples(31), Clock.KERNEL.value: samples(11.9)}
    step = Parts(forward=samples(10), backward=samples(20), both=samples(29.4), gap=-0.02, low=-0.03, high=-0.01)
    cells = [
        cell("eager", clock=Clock.CUDA_GRAPH, other_clocks=others),
        cell("eager", 20.0, clock=Clock.CUDA_GRAPH, direction=Direction.BACKWARD, parts=step),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(clocks_view(cells))
    text = " ".join(console.export_text().split())
    assert "graph replay kernels (CUPTI) eager loop host call both to parts" in text
    assert "forward eager 12.0 us 11.9 us 31.0 us 7.00 us" in text
    assert "backward eager 20.0 us - - - 29.4 us -2.0%" in text


def test_nothing_timed_has_no_clocks():
    assert clocks_view([cell(status=Status.WRONG, samples=[])]) is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([cell()], None),
        (
            [
                cell(self_comparison=known(1.003, Verdict.EQUIVALENT), control_comparison=known(0.981, Verdict.SLOWER)),
                cell(self_comparison=known(0.998, Verdict.EQUIVALENT), control_comparison=known(0.979, Verdict.SLOWER)),
            ],
            "self-certification: 2 copies of a baseline within 0.3% of it; 2 controls of exactly 2% more found as "
            "1.9% to 2.1%",
        ),
        ([cell(control_comparison=known(0.98, Verdict.SLOWER))], "1 control of exactly 2% more found as 2.0%"),
    ],
)
def test_what_is_known_is_said_in_a_line(cells, said):
    line = certificate_line(cells)
    assert (line is None) if said is None else said in line.plain
