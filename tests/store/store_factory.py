"""Records and runs for the store's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuselab.records import (
    Artifact,
    Direction,
    Environment,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Sample,
    Stage,
    Status,
    Workload,
)
from fuselab.store import Run, create_run

ENVIRONMENT = Environment(device="CPU test, 2 cores", device_type="cpu", versions={"torch": "2.13.0"})


def workload(rows: int = 64, **fields: Any) -> Workload:
    return Workload(**{"shape": (rows, 256), "dtype": "f32", **fields})


def metadata(**fields: Any) -> RunMetadata:
    return RunMetadata(
        **{
            "id": "",
            "experiment": "rms_norm",
            "description": "RMSNorm",
            "status": RunStatus.RUNNING,
            "created_at": "",
            "plan": [workload()],
            "variants": ["eager", "compile"],
            "directions": list(Direction),
            **fields,
        }
    )


def new_run(root: Path, **fields: Any) -> Run:
    return create_run(root, metadata(**fields), ENVIRONMENT)


def cell(variant: str = "eager", samples: int = 3, **fields: Any) -> Measurement:
    return Measurement(
        **{
            "experiment": "rms_norm",
            "variant": variant,
            "workload": workload(),
            "direction": Direction.FORWARD,
            "status": Status.OK,
            "samples": [Sample(round=n, position=0, duration_ns=1000.0 + n) for n in range(samples)],
            **fields,
        }
    )


def capture_into(
    staging: Path, variant: str = "compile", text: str = "int f();\n"
) -> tuple[list[Artifact], list[Kernel]]:
    """Lay out what a capture leaves: a graph and a kernel with its card, and one absent stage."""
    key = workload().key
    owner = {"variant": variant, "workload": key, "direction": Direction.FORWARD}
    graph = staging / "graphs/forward/output_code.py"
    source = staging / "kernels/forward/fused_0/kernel.cpp"
    for path in (graph, source):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    kernel = Kernel(
        **owner,
        kernel_id=f"{variant}/{key}/forward/fused_0",
        name="fused_0",
        backend="cpp",
        file_path="kernels/forward/fused_0/kernel.cpp",
        size_bytes=0,
        created_at="2026-01-01T00:00:00Z",
    )
    card = '{"name": "fused_0", "file_path": "kernels/forward/fused_0/kernel.cpp", '
    card += '"output_code": "graphs/forward/output_code.py", "other": 3}'
    (source.parent / "card.json").write_text(card)
    artifacts = [
        Artifact(**owner, stage=Stage.OUTPUT_CODE, path="graphs/forward/output_code.py"),
        Artifact(**owner, stage=Stage.PTX, absent="CPU target"),
    ]
    return artifacts, [kernel]
