"""The journal: nothing measured is lost, what cannot be written says so before anything is measured."""

from __future__ import annotations

import pytest
from startup_factory import CONFIGURATION, header, start_record

from fuselab.errors import SetupError, StoreError
from fuselab.records import Status
from fuselab.startup.journal import LINES, Journal, Line, StreamHeader, load_compile_cost
from fuselab.startup.records import Preparation, Start
from fuselab.startup.shape_records import CallRecord, Strategy, StreamRecord
from fuselab.store import list_runs


def test_every_line_is_read_back_with_what_follows_from_it(tmp_path):
    journal = Journal.create(tmp_path / "runs", header())
    starts = [start_record(Start.EAGER, n) for n in range(2)]
    starts += [start_record(Start.COLD, n, before=9, steady=0.005) for n in range(2)]
    for start in starts:
        journal.append(Line(start=start))
    preparation = Preparation(
        start=Start.AOTI,
        configuration=CONFIGURATION,
        duration_ns=None,
        status=Status.ERROR,
        reason="no",
        place="a.py:3",
    )
    journal.append(Line(preparation=preparation))
    journal.append(Line(stream_header=StreamHeader(stream=[{"": (8, 512)}])))
    stream = StreamRecord(strategy=Strategy.EAGER, round=0, calls=[CallRecord(duration_ns=7)])
    journal.append(Line(stream=stream))
    cost = load_compile_cost(journal.path)
    assert cost.starts == starts
    assert cost.preparations == [preparation]
    assert cost.stream.records == [stream]
    assert cost.stream.cheapest is Strategy.EAGER
    assert [b.count for b in cost.break_even] == [1603]
    assert cost.path == str(journal.path)


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path):
    journal = Journal.create(tmp_path / "runs", header())
    journal.append(Line(start=start_record(Start.EAGER)))
    with (journal.path / LINES).open("ab") as file:
        file.write(b'{"start": {"start": "co')
    assert len(load_compile_cost(journal.path).starts) == 1
    journal.append(Line(start=start_record(Start.COLD)))
    assert len(load_compile_cost(journal.path).starts) == 2


def test_what_is_no_journal_is_refused_with_its_path(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        load_compile_cost(tmp_path / "nowhere")
    journal = Journal.create(tmp_path / "runs", header())
    with (journal.path / LINES).open("ab") as file:
        file.write(b'{"start": 3}\n')
    with pytest.raises(StoreError, match="line 2"):
        load_compile_cost(journal.path)


def test_secrets_in_what_the_users_code_said_are_masked(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value-of-mine")
    journal = Journal.create(tmp_path / "runs", header())
    failed = start_record(Start.EAGER, status=Status.ERROR, reason='ValueError: "s3cr3t-value-of-mine" is refused')
    journal.append(Line(start=failed))
    assert "s3cr3t" not in (journal.path / LINES).read_text()
    (read,) = load_compile_cost(journal.path).starts
    assert read.reason.startswith("ValueError")
    assert read.reason.endswith("is refused")


def test_it_is_no_run_to_the_store(tmp_path):
    Journal.create(tmp_path / "runs", header())
    assert list_runs(tmp_path / "runs") == ([], [])


@pytest.mark.parametrize("place", ["/proc/fuselab-caches", "file/caches"])
def test_caches_that_cannot_be_written_are_named_before_anything_starts(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    from pathlib import Path

    with pytest.raises(SetupError) as caught:
        Journal.create(tmp_path / "runs", header(), Path(place))
    assert place in caught.value.message
    assert "--caches" in caught.value.hint


def test_caches_are_removed_and_those_of_others_are_not(tmp_path):
    (tmp_path / "shared" / "kept").mkdir(parents=True)
    journal = Journal.create(tmp_path / "runs", header(), tmp_path / "shared")
    own = journal.caches("measured")
    (own / "file").touch()
    assert own.is_relative_to(tmp_path / "shared")
    journal.remove_caches()
    assert [p.name for p in (tmp_path / "shared").iterdir()] == ["kept"]
