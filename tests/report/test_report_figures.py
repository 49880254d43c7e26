"""No more digits than the interval supports; nothing that is no number is shown as one."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab.report import figures

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("median", "low", "high", "shown"),
    [
        (12_341.7, 12_290.0, 12_385.0, "12.34 ± 0.05 us"),
        (12_341.7, 12_341.6, 12_341.8, "12.342 ± 0.001 us"),
        (12_341.7, 12_341.7, 12_341.7, "12.342 ± 0.001 us"),
        (12_341.7, 2_000.0, 42_000.0, "12 us [2, 42]"),
        (1_340.0, 900.0, 5_300.0, "1.3 us [0.9, 5.3]"),
        (1_850.0, 1_700.0, 2_000.0, "1.85 ± 0.15 us"),
        (999.96, 999.0, 1001.0, "1000.0 ± 1.0 ns"),
        (3.2e6, None, None, "3.20 ms"),
        (3.2e6, NAN, 4e6, "3.20 ms"),
        (41.0, 40.0, 42.0, "41.0 ± 1.0 ns"),
        (2.5e9, 2.4e9, 2.6e9, "2.50 ± 0.10 s"),
        (0.0, 0.0, 0.0, "0 ± 1 ns"),
        (None, None, None, "-"),
        (NAN, 1.0, 2.0, "-"),
        (INF, 1.0, 2.0, "-"),
    ],
)
def test_durations(median: float | None, low: float | None, high: float | None, shown: str) -> None:
    assert figures.duration(median, low, high) == shown


@given(st.floats(1, 1e11), st.floats(0, 0.49))
def test_the_interval_shown_holds_the_one_computed(median: float, relative: float) -> None:
    shown = figures.duration(median, median * (1 - relative), median * (1 + relative))
    match = re.fullmatch(r"([\d.]+) ± ([\d.]+) (ns|us|ms|s)", shown)
    assert match
    scale = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}[match[3]]
    value, half = float(match[1]) * scale, float(match[2]) * scale
    assert half >= median * relative * (1 - 1e-6)
    assert half <= max(2.5 * median * relative, 10 ** (math.floor(math.log10(median)) - 4) * 1.001, 1)
    assert abs(value - median) <= half


@pytest.mark.parametrize(
    ("speedup", "low", "high", "shown"),
    [
        (1.8312, 1.7951, 1.8604, "1.83x [1.80, 1.86]"),
        (1.0041, 0.9981, 1.0101, "1.004x [0.998, 1.010]"),
        (12.31, 11.9, 12.7, "12.3x [11.9, 12.7]"),
        (1.5, 1.4999999, 1.5000001, "1.500x [1.500, 1.500]"),
        (0.51, 0.2, 3.0, "0.5x [0.2, 3.0]"),
        (151.2, 140.0, 160.0, "151x [140, 160]"),
        (0.00612, 0.0053, 0.0068, "0.0061x [0.0053, 0.0068]"),
        (2.0, None, None, "2.00x"),
        (0.85, None, 1.0, "0.85x"),
        (NAN, 1.0, 2.0, "-"),
        (None, None, None, "-"),
    ],
)
def test_speedups(speedup: float | None, low: float | None, high: float | None, shown: str) -> None:
    assert figures.ratio(speedup, low, high) == shown


def test_speedups_of_narrow_tables_have_two_decimals() -> None:
    assert figures.ratio(1.0041, 0.9981, 1.0101, most_decimals=2) == "1.00x [1.00, 1.01]"


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.934, "93%"),
        (1.04, "104%"),
        (0.004, "0.4%"),
        (0.0, "0%"),
        (None, "-"),
        (NAN, "-"),
        (0.0094, "0.9%"),
        (0.0001, "<0.1%"),
    ],
)
def test_shares(fraction: float | None, shown: str) -> None:
    assert figures.share(fraction) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (500 << 20, "500 MiB"), (3 << 40, "3.00 TiB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert figures.size(count) == shown


def test_rates_and_times() -> None:
    assert [figures.bandwidth(x) for x in (4.02e12, 17.3e9, 5e5, NAN, None)] == [
        "4.02 TB/s", "17.3 GB/s", "0.500 MB/s", "-", "-",
    ]  # fmt: skip
    assert [figures.elapsed(x) for x in (0.2, 59.6, 3599, 7500)] == ["0 s", "1 min 0 s", "59 min 59 s", "2 h 5 min"]
