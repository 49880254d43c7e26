"""From records to the JSON that is written: secrets masked, nothing that could not be read back."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from fuselab.errors import StoreError, UsageError
from fuselab.records import Environment, Measurement, Parts, RunMetadata, Workload
from fuselab.store.redaction import MASK, names_secret, scrub, scrub_command

__all__ = ["encode_document", "encode_measurement", "require_no_secret"]

_STRUCTURE = frozenset(
    {
        *("id", "experiment", "variant", "variants", "baseline", "workload", "plan", "direction", "directions"),
        *("status", "stage", "stages", "verdict", "clock", "path", "file_path", "kernel_id", "operations"),
        *("created_at", "finished_at", "target_sha256", "host"),
    }
)
"""Fields that name things: masking would break what refers to them; ``require_no_secret`` guards what a user wrote."""

_NUMBERS = frozenset({"samples", "other_clocks", "conditions"})
"""Fields that hold thousands of numbers and nothing to mask."""


def encode_document(record: RunMetadata | Environment) -> bytes:
    """Indented JSON of a record, for a file that people look into."""
    return (
        msgspec.json.format(msgspec.json.encode(_scrubbed(msgspec.to_builtins(record), _secrets())), indent=2) + b"\n"
    )


def encode_measurement(measurement: Measurement) -> bytes:
    """One line of JSON without its newline. JSON has no NaN: figures that are none are left out, and a warning says so.

    Raises:
        StoreError: a value that no measurement can have.
    """
    line = msgspec.json.encode(_scrubbed(msgspec.to_builtins(_finite(measurement)), _secrets()))
    try:
        msgspec.json.decode(line, type=Measurement)
    except msgspec.ValidationError as error:
        raise StoreError(f"the measurement of {measurement.variant!r} cannot be stored: {error}") from error
    return line


def require_no_secret(workload: Workload) -> None:
    """Require that no argument or option of a workload looks like a secret: they become names of directories.

    Raises:
        UsageError: one does.
    """
    for name, value in [*workload.arguments.items(), *workload.options.items()]:
        if isinstance(value, str) and scrub(f"{name}={value}") != f"{name}={value}":
            raise UsageError(
                f"the value of {name!r} looks like a secret, and a run keeps its arguments",
                hint="let your function read it from an environment variable",
            )


def _finite(measurement: Measurement) -> Measurement:
    samples = [s for s in measurement.samples if math.isfinite(s.duration_ns)]
    others = {
        clock: [s for s in values if math.isfinite(s.duration_ns)] for clock, values in measurement.other_clocks.items()
    }
    ceiling = measurement.ceiling
    if ceiling is not None and not all(map(math.isfinite, (ceiling.bytes_per_s, ceiling.duration_ns, ceiling.share))):
        ceiling = None
    parts = measurement.parts
    if parts is not None and not _is_finite(parts):
        parts = None
    lost = len(measurement.samples) - len(samples)
    lost += sum(map(len, measurement.other_clocks.values())) - sum(map(len, others.values()))
    warnings = list(measurement.warnings)
    if lost:
        warnings.append(f"{lost} sample{'s were' if lost > 1 else ' was'} not a number and left out")
    if ceiling is not measurement.ceiling:
        warnings.append("the memory ceiling was not a number and left out")
    if parts is not measurement.parts:
        warnings.append("forward, backward and both were not all numbers and left out")
    if len(warnings) == len(measurement.warnings):
        return measurement
    return msgspec.structs.replace(
        measurement, samples=samples, other_clocks=others, ceiling=ceiling, parts=parts, warnings=warnings
    )


def _is_finite(parts: Parts) -> bool:
    samples = (*parts.forward, *parts.backward, *parts.both)
    return all(map(math.isfinite, (parts.gap, parts.low, parts.high, *(s.duration_ns for s in samples))))


def _secrets() -> dict[str, str]:
    """The secret variables, picked out once for the hundreds of texts of one record."""
    return {name: value for name, value in os.environ.items() if names_secret(name)}


def _scrubbed(document: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: value if name in _STRUCTURE or name in _NUMBERS else _scrubbed_field(name, value, secrets)
        for name, value in document.items()
    }


def _scrubbed_field(name: str, value: Any, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return MASK if names_secret(name) and name.isupper() else scrub(value, secrets)
    if isinstance(value, Mapping):
        return _scrubbed(value, secrets)
    if isinstance(value, list | tuple):
        words = name == "command" and all(isinstance(word, str) for word in value)
        return scrub_command(value, secrets) if words else [_scrubbed_field("", item, secrets) for item in value]
    return value
