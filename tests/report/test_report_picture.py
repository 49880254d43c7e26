"""Pictures: lengths are times, intervals are drawn, text from elsewhere stays text."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from report_factory import CPU, H200, a_run, cell, compared, failed, workload

from fuselab.records import Direction, Environment, Measurement, Status, Verdict
from fuselab.report.picture import picture, svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J\x00&amp;<![CDATA["


def _bars(measurements: list[Measurement], width: int = 100) -> dict[str, str]:
    return {
        line.split("█")[0].split()[-1]: line
        for line in picture(measurements, CPU, width).plain.splitlines()
        if "█" in line
    }


def test_bars_are_as_long_as_times() -> None:
    lines = _bars([cell("eager", 40.0), cell("compile", 10.0, comparison=compared(4.0))])
    eager, compiled = lines["eager"].count("█"), lines["compile"].count("█")
    assert eager > 30
    assert abs(compiled - eager / 4) <= 1
    assert lines["compile"].rstrip().endswith("4.00x faster")
    assert lines["compile"].index("┊") == max(lines["eager"].rindex(c) for c in "█▊▉" if c in lines["eager"])
    assert "┊" not in lines["eager"]


def test_a_wide_interval_has_whiskers() -> None:
    wide = cell("compile", 20.0, low_ns=15e3, high_ns=25e3, comparison=compared(1.5, 0.4))
    line = _bars([cell("eager", 30.0), wide])["compile"]
    whisker = re.search("├─+┤", line)
    assert whisker
    start = line.index("█")
    scale = (line.index("┊") + 1 - start) / 30
    assert abs(whisker.start() - start - 15 * scale) <= 1
    assert abs(whisker.end() - start - 25 * scale) <= 1
    assert "├" not in _bars([cell("eager", 30.0)])["eager"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_picture_keeps_to_its_width(width: int) -> None:
    assert max(len(line) for line in picture(a_run(), CPU, width).plain.splitlines()) <= max(width, 80)


def test_only_what_was_timed_and_right_is_drawn() -> None:
    text = picture([*a_run(), cell("nan", median_ns=float("nan"))], CPU).plain
    for name in ("triton ", "liger", "max-autotune", "nan"):
        assert name not in text.split("\n", 1)[1]
    assert text.startswith("CPU AMD EPYC 7R13, 2 cores · torch 2.13.0")
    assert "nothing was measured" in picture([], CPU).plain


def test_a_withheld_speedup_has_no_figure() -> None:
    line = _bars([cell("eager", 30.0), cell("fast", 20.0, comparison=compared(77.0, verdict=Verdict.WITHHELD))])["fast"]
    assert "77" not in line
    assert line.endswith("withheld")


def test_hostile_names_in_bars() -> None:
    text = picture([cell(HOSTILE, experiment=HOSTILE)], CPU).plain
    assert "\x1b" not in text
    assert "\x00" not in text


def _circles(text: str) -> list[float]:
    return [float(c.attrib["cx"]) for c in ElementTree.fromstring(text).iter(f"{SVG}circle")]


def test_the_svg_is_whole_and_fetches_nothing() -> None:
    text = svg(a_run(), CPU)
    root = ElementTree.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "rect", "text", "tspan", "g", "line", "circle",
    }  # fmt: skip
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "url(" not in text
    assert "prefers-color-scheme:dark" in text
    words = "".join(root.itertext())
    for expected in (
        "Speedup over eager",
        "CPU AMD EPYC",
        "95% intervals",
        "3.84x [3.80, 3.88] faster",
        "wrong",
        "crashed",
    ):
        assert expected in words


def test_points_lie_on_a_logarithmic_axis() -> None:
    cells = [cell(), *(cell(f"v{s}", comparison=compared(s)) for s in (1.0, 2.0, 4.0))]
    one, two, four = _circles(svg(cells, CPU))
    assert two - one == pytest.approx(four - two, abs=0.2)
    assert 200 < one < four < 700


def test_intervals_reach_where_they_say() -> None:
    text = svg([cell(), cell("a", comparison=compared(2.0, 1.0)), cell("b", comparison=compared(1.0, 0.01))], CPU)
    lines = [line for line in ElementTree.fromstring(text).iter(f"{SVG}line") if "class" not in line.attrib]
    (one, three), _ = [(float(line.attrib["x1"]), float(line.attrib["x2"])) for line in lines]
    middle, base = _circles(text)
    assert one == pytest.approx(base, abs=0.2)
    assert (middle - one) / (three - one) == pytest.approx(math.log(2) / math.log(3), abs=0.01)


def test_every_drawn_thing_is_within_the_picture() -> None:
    extremes = [0.001, 0.3, 1.0, 1.01, 37.0, 5000.0]
    text = svg([cell(), *(cell(f"v{s}", comparison=compared(s, s * 0.1)) for s in extremes)], H200)
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.attrib.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.attrib.get(name, 0)) <= height
    assert len(_circles(text)) == len(extremes)


def test_wrong_withheld_and_no_number_have_no_point() -> None:
    cells = [
        cell(),
        failed("wrong", Status.WRONG, "x", comparison=compared(77.0)),
        cell("withheld", comparison=compared(77.0, verdict=Verdict.WITHHELD)),
        cell("nan", comparison=compared(float("nan"), verdict=Verdict.UNRESOLVED)),
        cell("zero", comparison=compared(0.0, verdict=Verdict.SLOWER)),
    ]
    text = svg(cells, CPU)
    assert _circles(text) == []
    words = [e.text or "" for e in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert {"wrong", "withheld"} <= set(words)
    assert not [word for word in words if "77" in word]


def test_nothing_to_compare() -> None:
    for cells in ([], [cell()], [failed("liger", Status.UNAVAILABLE, "x")]):
        assert "nothing to compare" in "".join(ElementTree.fromstring(svg(cells, CPU)).itertext())


def test_hostile_text_in_the_svg_is_text() -> None:
    environment = Environment(device=HOSTILE, device_type="cuda", versions={"torch": HOSTILE})
    hostile = cell(HOSTILE, experiment=HOSTILE, workload=workload(layout=HOSTILE), comparison=compared(2.0))
    root = ElementTree.fromstring(svg([cell(), hostile], environment))
    assert not [e for e in root.iter() if e.tag.removeprefix(SVG) in ("script", "img", "image", "foreignObject")]
    assert "onerror" in "".join(root.itertext())


def test_forward_comes_before_backward() -> None:
    back = cell("compile", direction=Direction.BACKWARD, comparison=compared(2.0))
    texts = [
        t.text
        for t in ElementTree.fromstring(svg([back, cell("compile", comparison=compared(3.0))], CPU)).iter(f"{SVG}text")
    ]
    assert texts.index("forward") < texts.index("backward")


@pytest.mark.parametrize("extreme", [1.0, 1.3, 2.0, 5.0, 20.0, 80.0, 300.0, 3e3, 1e5])
@pytest.mark.parametrize("slower", [False, True])
def test_ticks_stay_apart(extreme: float, slower: bool) -> None:
    text = svg([cell(), cell("v", comparison=compared(1 / extreme if slower else extreme, 1e-6))], CPU)
    texts = ElementTree.fromstring(text).iter(f"{SVG}text")
    ticks = [(float(t.attrib["x"]), t.text or "") for t in texts if t.attrib.get("text-anchor") == "middle"]
    assert len(ticks) >= 2
    assert "1x" in [label for _, label in ticks]
    for (left, one), (right, other) in itertools.pairwise(ticks):
        assert right - left > 3.8 * (len(one) + len(other)) + 2
