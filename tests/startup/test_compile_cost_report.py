"""What is shown of a measurement: tables, waterfall, plot, JSON; words from elsewhere are shown, not obeyed."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET

import msgspec
import pytest
from rich.console import Console
from startup_factory import CONFIGURATION, header, measured, start_record

from fuselab.records import Status
from fuselab.report.break_even import break_even_svg, sentence
from fuselab.report.compile_cost import compile_cost_document, compile_cost_view
from fuselab.report.waterfall import waterfall, waterfall_svg
from fuselab.startup.records import (
    BreakEven,
    CacheName,
    KeyChange,
    Lookup,
    Phase,
    Preparation,
    Start,
    Unit,
)
from fuselab.startup.shape_records import CallRecord, Strategy, StreamRecord
from fuselab.startup.summary import summarised


def shown(cost):
    console = Console(width=120, record=True, file=io.StringIO(), color_system=None)
    console.print(compile_cost_view(cost, 120))
    return console.export_text()


def test_the_view_has_starts_phases_caches_and_break_even():
    text = shown(measured())
    for words in ("eager", "cold", "warm", "imports", "not attributed", "pays for itself", "2,001 calls", "401 calls"):
        assert words in text
    assert "3 rounds, seed 0" in text


def test_failures_and_reasons_are_shown_with_their_lines():
    lookup = Lookup(
        cache=CacheName.FX_GRAPH,
        state="miss",
        changed=[KeyChange(component="inductor_config[cpp.threads]", before="1", after="2")],
    )
    starts = [
        start_record(Start.EAGER),
        start_record(Start.WARM, lookups=[lookup]),
        start_record(Start.COLD, status=Status.ERROR, reason="ValueError: \x1b[2J[red]no[/]", place="mine.py:7"),
    ]
    preparation = Preparation(
        start=Start.AOTI,
        configuration=CONFIGURATION,
        duration_ns=None,
        status=Status.ERROR,
        reason="GuardOnDataDependentSymNode: could not guard",
        place="mine.py:5",
    )
    text = " ".join(shown(summarised(header(), starts, [preparation])).split())
    assert "no aoti start at mine.py:5: GuardOnDataDependentSymNode" in text
    assert "mine.py:7: ValueError: \\x1b[2J[red]no[/]" in text
    assert "\x1b" not in text
    assert "FX graph missed: inductor_config[cpp.threads] is 2, was 1" in text


def test_bars_are_as_long_as_their_times_and_every_column_is_some_phase():
    cost = measured()
    lines = waterfall(cost, CONFIGURATION, width=100).plain.splitlines()
    bars = {line.split()[0]: line.split()[1] for line in lines[:3]}
    assert set("".join(bars.values())) <= set("abcdefghijklm?")
    total = {start.value: cost.measured(start)[0].first_result_ns for start in (Start.EAGER, Start.COLD, Start.WARM)}
    scale = len(bars["cold"]) / total["cold"]
    for name, bar in bars.items():
        assert abs(len(bar) - total[name] * scale) <= 1.5
    letters = {phase: "abcdefghijklm"[n] for n, phase in enumerate(Phase)}
    assert bars["cold"].count(letters[Phase.IMPORT]) < bars["cold"].count(letters[Phase.FIRST_LAUNCH])


def test_pictures_are_well_formed_and_escape_names():
    cost = msgspec.structs.replace(measured(), experiment="<script>&\x1b")
    for picture in (waterfall_svg(cost), break_even_svg(cost)):
        root = ET.fromstring(picture)
        assert root.tag.endswith("svg")
        assert "<script>" not in picture
    lines = ET.fromstring(break_even_svg(cost)).findall(".//{*}polyline")
    assert len(lines) == 3
    bars = [r for r in ET.fromstring(waterfall_svg(cost)).findall(".//{*}rect") if r.find("{*}title") is not None]
    widths = {}
    for bar in bars:
        widths.setdefault(bar.get("y"), []).append(float(bar.get("width")))
    eager, cold, warm = (sum(row) for row in widths.values())
    assert eager < warm < cold
    assert cold / eager == pytest.approx(11.1 / 1.1, rel=0.03)


def test_nothing_measured_is_said_and_drawn():
    cost = header()
    assert "nothing was measured" in waterfall_svg(cost)
    assert "steady state" in break_even_svg(cost)
    assert waterfall(cost, CONFIGURATION).plain == "nothing was measured"


def test_the_document_is_json_with_states_and_sentences():
    document = json.loads(msgspec.json.encode(compile_cost_document(measured())))
    first = document["starts"][0]
    assert first["phases"][0]["phase"] == "import"
    assert 0 <= first["unattributed_share"] < 0.05
    parts = sum(p["duration_ns"] for p in first["phases"]) + first["unattributed_ns"]
    assert parts == first["first_result_ns"]
    assert document["break_even"][0]["sentence"].startswith("2,001 calls")


def test_sentences_say_never_and_from_the_first_call():
    def made(**fields):
        return sentence(
            BreakEven(start=Start.WARM, configuration=CONFIGURATION, against=Start.EAGER, unit=Unit.CALLS, **fields)
        )

    assert made(count=None, never=1.0) == "never"
    assert made(count=1, low=1, high=1, never=0.0) == "from the first call on"
    assert made(count=None, low=300, never=0.6) == "never [300, never], never in 60% of the resamples"
    assert made(count=5, never=None) == "5 calls (one process: no interval)"


def test_a_stream_shows_who_compiled_when_and_why():
    calls = [
        CallRecord(duration_ns=2_000_000_000, compilations=1, compile_ns=1_900_000_000),
        CallRecord(duration_ns=1_000_000_000, compilations=1, compile_ns=900_000_000, reasons=["0/0: size 8, not 16"]),
    ]
    records = [
        StreamRecord(strategy=Strategy.STATIC, round=0, calls=calls),
        StreamRecord(strategy=Strategy.EAGER, round=0, calls=[CallRecord(duration_ns=9)] * 2),
    ]
    cost = summarised(header(), [], [], [{"": (8, 512)}, {"": (16, 512)}], records)
    text = " ".join(shown(cost).split())
    assert "2 calls, 2 shapes: 8x512, 16x512" in text
    assert "static 3.00 s 2.80 s 2 1, 2 1" in text
    assert "cheapest for this stream: eager; of those that compile, static (one process each: no interval)" in text
    assert "static: 0/0: size 8, not 16" in text


def test_a_notebook_gets_both_pictures():
    assert measured()._repr_html_().count("<svg") == 2
