"""Reading a record of whatever version: older ones are brought forward a step at a time, newer ones are named.

A step is a function from a document of one version to the next, listed under the version it starts from. It gets the
name of the record (``RunMetadata``, ``Measurement``, ``Environment``) and the document as plain data. No step exists
while ``SCHEMA_VERSION`` is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fuselab.errors import StoreError
from fuselab.records import SCHEMA_VERSION

__all__ = ["STEPS", "Step", "UnreadableError", "read_record"]

T = TypeVar("T")

Step = Callable[[str, dict[str, Any]], dict[str, Any]]

STEPS: Mapping[int, Step] = {}
"""Steps of the product, by the version that each starts from."""


class UnreadableError(StoreError):
    """A file of a run that cannot be read; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class _Version(msgspec.Struct):
    schema_version: int | None = None


def read_record(
    data: bytes, kind: type[T], path: Path, *, steps: Mapping[int, Step] = STEPS, current: int = SCHEMA_VERSION
) -> T:
    """A record from its JSON, of this version or an older one.

    Args:
        data: the JSON document.
        kind: class of the record.
        path: where the data comes from, for messages.
        steps: migrations by the version that each starts from.
        current: version of ``kind``.

    Raises:
        UnreadableError: it is not JSON, not such a record, or of a newer version.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version is None or version < 0:
            raise UnreadableError(path, "is not a record of fuselab: it has no schema_version")
        if version > current:
            raise UnreadableError(
                path,
                f"was written by a newer fuselab (schema {version}; this one reads up to {current})",
                hint="upgrade fuselab to read it",
            )
        if version == current:
            return msgspec.json.decode(data, type=kind)
        document = msgspec.json.decode(data, type=dict[str, Any])
        for start in range(version, current):
            if start not in steps:
                raise UnreadableError(path, f"has schema {version}, which no release of fuselab has written")
            document = steps[start](kind.__name__, document)
        return msgspec.convert({**document, "schema_version": current}, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = "is not JSON" if not isinstance(error, msgspec.ValidationError) else "is not a record of fuselab"
        raise UnreadableError(path, f"{what}: {error}") from error
