"""The records: what every other room passes on and what a run directory holds.

Frozen, typed, JSON only. Each field has its own docstring; units stand in the names (``duration_ns``, ``bytes_read``).
Nothing here imports torch. An import within the room points down this list::

    schema                               the JSON Schema in docs/schema.json, from the definitions
    measurement | run | environment      what a cell measured | what a run is made of | where it took place
    cell                                 what names a cell: workload, direction, key
    record                               the base of all of them

An enum stands beside the record that has it as a field. Other rooms import from here, not from the files.
"""

from __future__ import annotations

from fuselab.records.cell import DTYPES, CellKey, Direction, Workload
from fuselab.records.environment import Check, CheckStatus, Environment
from fuselab.records.measurement import (
    Ceiling,
    Clock,
    Comparison,
    Conditions,
    Correctness,
    Measurement,
    Parts,
    Sample,
    Status,
    TensorCheck,
    Traffic,
    Verdict,
)
from fuselab.records.record import SCHEMA_VERSION, Scalar
from fuselab.records.run import Artifact, Kernel, RunMetadata, RunStatus, Stage
from fuselab.records.schema import json_schema

__all__ = [
    "DTYPES",
    "SCHEMA_VERSION",
    "Artifact",
    "Ceiling",
    "CellKey",
    "Check",
    "CheckStatus",
    "Clock",
    "Comparison",
    "Conditions",
    "Correctness",
    "Direction",
    "Environment",
    "Kernel",
    "Measurement",
    "Parts",
    "RunMetadata",
    "RunStatus",
    "Sample",
    "Scalar",
    "Stage",
    "Status",
    "TensorCheck",
    "Traffic",
    "Verdict",
    "Workload",
    "json_schema",
]
