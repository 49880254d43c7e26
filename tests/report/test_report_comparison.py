"""A comparison on a terminal and as JUnit's XML."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import msgspec
import pytest
from rich.console import Console

from fuselab.comparison.records import Change, Judgement, Pairing
from fuselab.records import Status
from fuselab.report.comparison import ComparisonView, change_text, comparison_document, junit, sentence

sys.path.insert(0, str(Path(__file__).parents[1] / "comparison"))
from comparison_shown import comparison


def shown(found, width=120, encoding="utf-8"):
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding=encoding))  # noqa: SIM115, PTH123
    console.print(ComparisonView(found))
    return console.export_text()


def with_cells(found, **fields):
    one = found.comparisons[0]
    cells = [msgspec.structs.replace(c, **fields) for c in one.cells]
    return msgspec.structs.replace(found, comparisons=[msgspec.structs.replace(one, cells=cells)])


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_the_answer_is_there(width):
    lines = shown(comparison(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "B against A:" in " ".join(lines)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_what_is_said_of_a_cell_is_never_cut(width):
    found = comparison()
    one = found.comparisons[0]
    base = msgspec.structs.replace(one.cells[0].base, variant="compile-max-autotune")
    absent = msgspec.structs.replace(base, status=Status.UNAVAILABLE, median_ns=None)
    unknown = msgspec.structs.replace(
        one.cells[0], base=absent, new=absent, change=None, reason="needs a GPU", judgement=Judgement.NOT_JUDGED
    )
    wide = Change(change=133.966, low=60.868, high=293.432)
    regression = msgspec.structs.replace(
        one.cells[0], base=base, new=base, change=wide, judgement=Judgement.REGRESSION, reason="see below"
    )
    cells = [*one.cells, unknown, regression]
    text = shown(msgspec.structs.replace(found, comparisons=[msgspec.structs.replace(one, cells=cells)]), width)
    rows = [line for line in text.splitlines() if "compile-max-autotune" in line]
    assert ["not judged" in rows[0], "regression" in rows[1]] == [True, True]
    assert all(row.endswith("]") for row in rows), "the note's number stands at its end"
    assert "…" not in "".join(rows)


def test_the_table_says_what_a_reader_needs_first():
    text = shown(comparison())
    answer = text.index("B against A: 1 regression past 2% and 1 cell broken") if "B against A: 1 r" in text else -1
    assert text.index("around them") < max(answer, text.index("B against A:"))
    row = next(line for line in text.splitlines() if "compile" in line and "forward" in line)
    assert "regression" in row
    assert "apart" in row
    assert "registers 32 -> 40, instructions 100 -> 90" in text


def test_each_judgement_is_told_in_words_and_not_by_colour_alone():
    for judgement in Judgement:
        assert judgement.value in shown(with_cells(comparison(), judgement=judgement))


def test_words_from_elsewhere_reach_no_terminal_as_orders():
    text = shown(comparison("\x1b[2J\u202e[bold]x"))
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "[bold]x" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, "-"),
        (Change(change=float("nan")), "-"),
        (Change(change=0.05), "+5.0%"),
        (Change(change=0.0512, low=0.0482, high=0.0542), "+5.1% [+4.8, +5.4]"),
        (Change(change=0.0012, low=0.0011, high=0.0013), "+0.12% [+0.11, +0.13]"),
        (Change(change=-0.5, low=-0.51, high=-0.49), "2.00x [1.96, 2.04]"),
        (Change(change=1.5, low=1.4, high=1.6), "+150.0% [+140.0, +160.0]"),
    ],
)
def test_a_change_has_the_digits_that_its_interval_supports(change, text):
    assert change_text(change) == text


def test_junit_fails_regressions_and_what_broke_and_skips_what_was_not_judged():
    found = comparison()
    root = Xml.fromstring(junit(found))
    (suite,) = root.iterfind("testsuite")
    cells = found.comparisons[0].cells
    failing = [c for c in cells if c.fails]
    assert suite.get("tests") == str(len(cells))
    assert suite.get("failures") == str(len(failing)) == str(len(list(suite.iterfind("testcase/failure"))))
    assert {f.get("type") for f in suite.iterfind("testcase/failure")} == {"regression", "broken"}
    skipped = Xml.fromstring(junit(with_cells(found, judgement=Judgement.NOT_COMPARABLE, reason="other devices")))
    assert len(list(skipped.iterfind("testsuite/testcase/skipped"))) == len(cells)
    assert skipped.find("testsuite/testcase/skipped").get("message") == "not comparable: other devices"


def test_junit_of_hostile_words_is_still_xml():
    text = '<x attr="\x00\x1b]]>&\ud800'
    root = Xml.fromstring(junit(comparison(text)))
    assert "<x attr=" in next(root.iterfind("testsuite/testcase")).get("name")


def test_a_figure_that_is_no_number_is_null_in_json():
    document = comparison_document(with_cells(comparison(), change=Change(change=float("nan"))))
    assert document["comparisons"][0]["cells"][0]["change"]["change"] is None


def test_the_sentence_counts_everything():
    found = with_cells(comparison(), judgement=Judgement.EQUIVALENT, pairing=Pairing.TOGETHER)
    assert sentence(found, found.comparisons[0]) == "no regression past 2%; 4 equivalent"
