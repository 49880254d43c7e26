"""Runs as one JSON document: what ``--json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fuselab.records import SCHEMA_VERSION
from fuselab.report.summary import Outcome

__all__ = ["run_document"]


def run_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """``{"schema_version", "runs": [{"path", "metadata", "environment", "measurements"}]}``, plain data.

    Every measurement is its record and ``correct``: true, false, or null if it never came to a check. A figure that is
    not a number is null, as JSON has it.

    Args:
        outcomes: the runs, verdicts settled.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [
            {
                "path": str(outcome.path),
                "metadata": _plain(outcome.metadata),
                "environment": _plain(outcome.environment),
                "measurements": [{**_plain(cell), "correct": cell.correct} for cell in outcome.measurements],
            }
            for outcome in outcomes
        ],
    }


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    """Plain data by way of JSON, which turns NaN into null where ``to_builtins`` would keep it."""
    return msgspec.json.decode(msgspec.json.encode(record), type=dict[str, Any])
