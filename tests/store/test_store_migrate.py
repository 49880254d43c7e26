"""Older records are brought forward a step at a time, whatever the steps are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fuselab.records import SCHEMA_VERSION, Environment, Measurement, RunMetadata
from fuselab.store.migrate import STEPS, UnreadableError, read_record


class Figure(msgspec.Struct, frozen=True):
    """A record in its third version: ``duration_ns``, once ``ms``; ``unit`` is gone."""

    name: str
    duration_ns: float
    schema_version: int = 3


def _to_two(_kind: str, document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "us": document["ms"] * 1e3}


def _to_three(kind: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"{kind} {document['name']}", "duration_ns": document["us"] * 1e3}


TABLE = {1: _to_two, 2: _to_three}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"schema_version": 1, "name": "a", "ms": 2.0}, Figure("Figure a", 2e6)),
        ({"schema_version": 2, "name": "a", "us": 5.0}, Figure("Figure a", 5e3)),
        ({"schema_version": 3, "name": "a", "duration_ns": 7.0}, Figure("a", 7.0)),
        ({"schema_version": 3, "name": "a", "duration_ns": 7.0, "unknown": []}, Figure("a", 7.0)),
    ],
)
def test_every_version_reads_as_the_newest(document: dict[str, Any], expected: Figure) -> None:
    data = msgspec.json.encode(document)
    assert read_record(data, Figure, Path("x.json"), steps=TABLE, current=3) == expected


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"schema_version": 4}, r"newer fuselab \(schema 4; this one reads up to 3\)"),
        ({"schema_version": 0, "ms": 1}, "schema 0, which no release"),
        ({"schema_version": -1}, "has no schema_version"),
        ({"name": "a"}, "has no schema_version"),
        ({"schema_version": 2, "name": "a", "us": 5.0, "extra": 1}, None),
        ({"schema_version": "1"}, "is not a record"),
        ({"schema_version": 3, "name": 5, "duration_ns": 1.0}, "is not a record"),
    ],
)
def test_what_cannot_be_brought_forward_says_why(document: dict[str, Any], reason: str | None) -> None:
    data = msgspec.json.encode(document)
    if reason is None:
        assert read_record(data, Figure, Path("x.json"), steps=TABLE, current=3).name == "Figure a"
        return
    with pytest.raises(UnreadableError, match=reason) as error:
        read_record(data, Figure, Path("x.json"), steps=TABLE, current=3)
    assert error.value.path == Path("x.json")


def test_there_is_a_step_for_every_version_before_this_one() -> None:
    assert set(STEPS) == set(range(1, SCHEMA_VERSION))
    for kind in (RunMetadata, Measurement, Environment):
        defaults = {f.name: f.default for f in msgspec.structs.fields(kind)}
        assert defaults["schema_version"] == SCHEMA_VERSION
