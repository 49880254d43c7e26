"""What all records have in common: their base, the version of their files, the values that options take."""

from __future__ import annotations

import msgspec

SCHEMA_VERSION = 1
"""Version of every file that these records are written to; one migration function a step (see ``store``)."""

Scalar = bool | int | float | str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only; unknown fields of a newer minor version are ignored on reading."""
