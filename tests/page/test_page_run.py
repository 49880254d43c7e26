"""A run ends with its report; a notebook shows what a run returns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from page_runs import SMALL, cell, empty_run, environment

from fuselab import runner
from fuselab.errors import StoreError
from fuselab.records import Direction


class Watching:
    """Hears what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def started(self, run: Any, plan: Any) -> None:
        """Nothing to keep."""

    def working(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)

    def finished_cells(self, measurements: Any) -> None:
        """Nothing to keep."""


@pytest.fixture
def carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that carries out runs whose cells are given instead of measured."""

    class Given:
        def __init__(self, run: Any, *_: Any) -> None:
            self.run = run

        def carry_out(self) -> None:
            cells = [cell(v, SMALL, d, t) for d in Direction for v, t in (("eager", 100.0), ("compile", 50.0))]
            self.run.append(cells)

    monkeypatch.setattr(runner, "Execution", Given)

    def start(*names: str) -> tuple[runner.Outcomes, Watching]:
        work: list[Any] = [(empty_run(tmp_path, experiment=name), SimpleNamespace()) for name in names]
        watching = Watching()
        return runner.carry_out(work, environment(), SimpleNamespace(), runner.Settings(), watching), watching

    return start


def test_every_run_has_a_report_and_several_have_one_together(tmp_path: Path, carried_out: Any) -> None:
    outcomes, _ = carried_out("one", "two")
    for outcome in outcomes:
        text = (outcome.path / "report.html").read_text(encoding="utf-8")
        assert "compile is faster than eager in 2 of 2 comparisons" in text
        assert '<p class="badge state">' not in text  # complete when its page was made
    together = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "compile is faster than eager in 4 of 4 comparisons" in together


def test_one_run_has_one_report(tmp_path: Path, carried_out: Any) -> None:
    (outcome,), _ = carried_out("one")
    assert (outcome.path / "report.html").is_file()
    assert not (tmp_path / "report.html").exists()


def test_a_disk_that_refuses_the_report_takes_nothing_else(carried_out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fuselab.page import build

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("cannot write report.html: no space left on device")

    monkeypatch.setattr(build, "write_atomically", full)
    (outcome,), watching = carried_out("one")
    assert len(outcome.measurements) == 4
    assert not (outcome.path / "report.html").exists()
    assert "the report was not written: cannot write report.html: no space left on device" in watching.said


def test_a_notebook_shows_one_run_or_all_of_an_invocation(carried_out: Any) -> None:
    outcomes, _ = carried_out("one", "two")
    several, one = outcomes._repr_mimebundle_(), outcomes[0]._repr_mimebundle_()
    assert "Report: one, two" in several["text/html"]
    assert "Report: one&quot;" not in several["text/html"]
    assert 'title="Report: one"' in one["text/html"]
    assert one["image/svg+xml"].startswith("<svg")
    assert runner.Outcomes()._repr_mimebundle_() == {"text/plain": "[]"}
