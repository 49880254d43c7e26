"""A sweep's results read back from its runs: settled cells, and one flat row a cell for tables and charts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuselab.errors import StoreError, UsageError
from fuselab.records import Measurement
from fuselab.runner import Outcome, load_outcome
from fuselab.store import open_run
from fuselab.store.files import write_atomically
from fuselab.sweep.cluster import require_sweep_extra
from fuselab.sweep.record import Sweep, SweepRecord

__all__ = ["COLUMNS", "FORMATS", "Results", "export", "load_results", "row"]

FORMATS = (".jsonl", ".parquet")

COLUMNS: dict[str, str] = {
    "sweep": "string",
    "run": "string",
    "experiment": "string",
    "variant": "string",
    "direction": "string",
    "device": "string",
    "workload": "string",
    "label": "string",
    "shape": "string",
    "rows": "int64",
    "width": "int64",
    "dtype": "string",
    "options": "string",
    "arguments": "string",
    "seed": "int64",
    "status": "string",
    "reason": "string",
    "correct": "bool",
    "clock": "string",
    "median_ns": "double",
    "low_ns": "double",
    "high_ns": "double",
    "samples": "int64",
    "baseline": "string",
    "speedup": "double",
    "speedup_low": "double",
    "speedup_high": "double",
    "verdict": "string",
    "ceiling_share": "double",
    "bytes_moved": "int64",
    "peak_memory_bytes": "int64",
    "saved_bytes": "int64",
    "kernels_launched": "int64",
    "compile_ns": "int64",
    "warnings": "string",
    "created_at": "string",
}
"""Columns of a row and their types, as Arrow names them; each may be null."""


@dataclass(frozen=True)
class Results:
    """A sweep's record and what its runs hold by now."""

    sweep: Sweep
    record: SweepRecord
    outcomes: tuple[Outcome, ...]

    @property
    def cells(self) -> list[Measurement]:
        """Every cell of every run, verdicts settled within its run."""
        return [cell for outcome in self.outcomes for cell in outcome.measurements]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat row a cell."""
        for outcome in self.outcomes:
            for cell in outcome.measurements:
                yield {"sweep": self.record.id, "run": outcome.metadata.id, **row(cell)}


def load_results(sweep: Sweep) -> Results:
    """What a sweep holds, running or not.

    Raises:
        StoreError: a run cannot be read; the sweep names it.
    """
    record = sweep.record()
    root = sweep.path.parents[1]  # runs lie beside the sweeps
    return Results(sweep, record, tuple(load_outcome(open_run(entry.run, root)) for entry in record.runs))


def row(cell: Measurement) -> dict[str, Any]:
    """A cell as flat values."""
    workload, comparison = cell.workload, cell.comparison
    return {
        "experiment": cell.experiment,
        "variant": cell.variant,
        "direction": cell.direction.value,
        "device": cell.device,
        "workload": workload.key,
        "label": workload.label,
        "shape": "x".join(map(str, workload.shape)),
        "rows": workload.rows if workload.shape else None,
        "width": workload.shape[-1] if workload.shape else None,
        "dtype": workload.dtype,
        "options": " ".join(f"{name}={value}" for name, value in workload.options.items()),
        "arguments": " ".join(f"{name}={text}" for name, text in workload.arguments.items()),
        "seed": workload.seed,
        "status": cell.status.value,
        "reason": cell.reason,
        "correct": cell.correct,
        "clock": cell.clock.value if cell.clock else None,
        "median_ns": cell.median_ns,
        "low_ns": cell.low_ns,
        "high_ns": cell.high_ns,
        "samples": len(cell.samples),
        "baseline": comparison.baseline if comparison else None,
        "speedup": comparison.speedup if comparison else None,
        "speedup_low": comparison.low if comparison else None,
        "speedup_high": comparison.high if comparison else None,
        "verdict": comparison.verdict.value if comparison else None,
        "ceiling_share": cell.ceiling.share if cell.ceiling else None,
        "bytes_moved": cell.traffic.bytes_moved if cell.traffic else None,
        "peak_memory_bytes": cell.peak_memory_bytes,
        "saved_bytes": cell.saved_bytes,
        "kernels_launched": cell.kernels_launched,
        "compile_ns": cell.compile_ns,
        "warnings": "; ".join(cell.warnings),
        "created_at": cell.created_at,
    }


def export(results: Results, path: Path) -> int:
    """Write all rows as JSON Lines or Parquet, by the file's ending; the number of rows.

    pandas, polars and DuckDB read both. The file appears whole or not at all.

    Raises:
        UsageError: another ending.
        SetupError: Parquet, and pyarrow is not installed.
        StoreError: the disk refused.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"{path.name} ends in neither {' nor '.join(FORMATS)}", hint="cells.parquet or cells.jsonl")
    if path.suffix == ".jsonl":
        import msgspec

        lines = [msgspec.json.encode(found) for found in results.rows()]
        write_atomically(path, b"".join(line + b"\n" for line in lines))
        return len(lines)
    return _parquet(results, path)


def _parquet(results: Results, path: Path) -> int:
    require_sweep_extra("pyarrow")
    import importlib

    pa = importlib.import_module("pyarrow")
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist(list(results.rows()), schema=schema)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        importlib.import_module("pyarrow.parquet").write_table(table, temporary, compression="zstd")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error}", hint="choose another directory") from error
    return int(table.num_rows)
