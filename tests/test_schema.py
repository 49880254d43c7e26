"""docs/schema.json: written from the records, up to date, and true of what the records write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fuselab import device
from fuselab.records import (
    Artifact,
    Ceiling,
    Comparison,
    Conditions,
    Correctness,
    Direction,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Sample,
    Stage,
    Status,
    TensorCheck,
    Traffic,
    Verdict,
    Workload,
    json_schema,
)

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = Path(__file__).parents[1] / "docs" / "schema.json"

WORKLOAD = Workload(shape=(64, 256), dtype="bf16", options={"casting": "llama", "eps": 1e-6}, seed=7)
EXAMPLES = [
    Measurement(
        experiment="rms_norm",
        variant="compile",
        workload=WORKLOAD,
        direction=Direction.BACKWARD,
        status=Status.OK,
        device="NVIDIA H200",
        correctness=Correctness(
            correct=True, tensors=[TensorCheck(name="grad x", correct=True, rms_error=1e-3, allowed_rms_error=2e-3)]
        ),
        samples=[Sample(round=0, position=1, duration_ns=1234.5, calls=8)],
        median_ns=1234.5,
        comparison=Comparison(baseline="eager", verdict=Verdict.FASTER, speedup=1.5, low=1.4, high=1.6, rounds=60),
        traffic=Traffic(bytes_read=10, bytes_written=20),
        ceiling=Ceiling(bytes_per_s=4.2e12, duration_ns=1000.0, share=0.81, method="triton stream 2:1"),
        conditions=[Conditions(round=0, sm_clock_mhz=1980)],
    ),
    RunMetadata(
        id="rms_norm/20261122T201500Z-1f2e3d4c",
        experiment="rms_norm",
        description="RMSNorm",
        status=RunStatus.COMPLETE,
        created_at="2026-11-22T20:15:00Z",
        plan=[WORKLOAD],
        directions=[Direction.FORWARD],
        kernels=[
            Kernel(
                kernel_id="compile/w/forward/k",
                name="triton_per_fused_0",
                backend="triton",
                variant="compile",
                workload=WORKLOAD.key,
                direction=Direction.FORWARD,
                file_path="kernels/k/kernel.py",
                size_bytes=10,
                created_at="2026-11-22T20:15:01Z",
                operations=["aten.rsqrt.default"],
            )
        ],
        artifacts=[
            Artifact(
                stage=Stage.PTX,
                variant="compile",
                workload=WORKLOAD.key,
                direction=Direction.FORWARD,
                absent="no GPU: Inductor's C++ backend makes no PTX",
            )
        ],
        summary={"ok": 4},
    ),
]


def _encoded(record: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(record))


def _validate(document: Any, record: str) -> None:
    """Hold a document against one record's definition in the published schema."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{record}", "$defs": schema["$defs"]}).validate(document)


def test_the_file_is_what_the_records_say() -> None:
    assert SCHEMA.read_text() == json.dumps(json_schema(), indent=2) + "\n", "run `make schema`"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_examples_validate(record: msgspec.Struct) -> None:
    _validate(_encoded(record), type(record).__name__)


def test_this_machines_environment_validates() -> None:
    _validate(_encoded(device.environment("cpu")), "Environment")


@pytest.mark.parametrize(
    ("example", "field", "value"),
    [
        (0, "status", "splendid"),
        (0, "samples", [{"round": "first", "position": 0, "duration_ns": 1}]),
        (0, "workload", {"shape": "64x256"}),
        (1, "kernels", [{"name": "without an id"}]),
        (1, "id", None),
    ],
)
def test_a_broken_document_does_not_validate(example: int, field: str, value: Any) -> None:
    record = EXAMPLES[example]
    with pytest.raises(jsonschema.ValidationError):
        _validate(_encoded(record) | {field: value}, type(record).__name__)


@pytest.mark.parametrize(("example", "field"), [(0, "status"), (0, "workload"), (1, "id"), (1, "created_at")])
def test_a_required_field_may_not_be_absent(example: int, field: str) -> None:
    document = _encoded(EXAMPLES[example])
    del document[field]
    with pytest.raises(jsonschema.ValidationError, match=f"'{field}' is a required property"):
        _validate(document, type(EXAMPLES[example]).__name__)
