"""Runs whose truth is known: synthetic groups of cells, in memory as sides and in a store as runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fuselab.comparison.sides import Side
from fuselab.measure.sequential import Monitor
from fuselab.measure.statistics import draw_order
from fuselab.records import (
    Ceiling,
    Clock,
    Comparison,
    Conditions,
    Correctness,
    Direction,
    Environment,
    Measurement,
    RunMetadata,
    RunStatus,
    Sample,
    Status,
    Verdict,
    Workload,
)
from fuselab.store import Run, create_run

CPU = Environment(
    device="CPU test, 2 cores",
    device_type="cpu",
    compiler="g++ 13",
    versions={"torch": "2.13.0", "triton": "3.7.1", "fuselab": "0.1.0"},
)
H200 = Environment(
    device="NVIDIA H200",
    device_type="cuda",
    driver="580.1",
    versions={"torch": "2.11.0", "triton": "3.6.0", "fuselab": "0.1.0"},
)
MARGIN = 0.01


def workload(rows: int = 64, **fields: Any) -> Workload:
    return Workload(**{"shape": (rows, 256), "dtype": "f32", **fields})


def group(
    times_us: Mapping[str, float],
    rng: np.random.Generator,
    *,
    rounds: int = 30,
    noise: float = 0.005,
    drift: float = 0.02,
    share: float = 1.0,
    ceiling_us: float | None = 5.0,
    where: Workload | None = None,
    direction: Direction = Direction.FORWARD,
    seed: int = 7,
    device: str = CPU.device,
) -> list[Measurement]:
    """One group as the engine stores it: every variant once a round, a drift that the rounds share, t-tailed noise.

    Args:
        times_us: true time by variant, the first the baseline.
        rng: of all that is random.
        rounds, noise, drift: number of rounds; scale of the noise of one sample; size of the walk that all share.
        share: of the error rate that the last look spent.
        ceiling_us: median time of plain streaming; None for no ceiling.
    """
    where = where or workload()
    names = list(times_us)
    common = np.cumsum(rng.normal(0, drift / math.sqrt(rounds), rounds))
    logs = {n: common + math.log(t * 1e3) + noise * rng.standard_t(4, rounds) for n, t in times_us.items()}
    places = [{n: i for i, n in enumerate(draw_order(names, seed, r))} for r in range(rounds)]
    streaming = None if ceiling_us is None else ceiling_us * 1e3 * math.exp(float(np.median(common)))
    conditions = [Conditions(round=r, load_average=float(round(rng.uniform(0, 2), 6))) for r in range(rounds)]
    cells = []
    for name in names:
        comparison = Comparison(baseline=names[0], verdict=Verdict.BASELINE, speedup=1.0, rounds=rounds)
        if name != names[0] and rounds >= 4:
            monitor = Monitor(margin=MARGIN)
            monitor.look(logs[names[0]] - logs[name], share)
            comparison = monitor.comparison(names[0])
        durations = np.exp(logs[name])
        median = float(np.median(durations))
        cells.append(
            Measurement(
                experiment="silu",
                variant=name,
                workload=where,
                direction=direction,
                status=Status.OK,
                device=device,
                correctness=Correctness(correct=True),
                clock=Clock.CPU_MONOTONIC,
                cold=True,
                samples=[
                    Sample(round=r, position=places[r][name], duration_ns=float(durations[r])) for r in range(rounds)
                ],
                median_ns=median,
                low_ns=median * (1 - noise),
                high_ns=median * (1 + noise),
                comparison=comparison,
                ceiling=None
                if streaming is None
                else Ceiling(bytes_per_s=1e9, duration_ns=streaming, share=0.5, method="torch.copy_, 2 threads"),
                conditions=conditions,
                order_seed=seed,
                kernels_launched=1,
            )
        )
    return cells


def changed(cells: Sequence[Measurement], variant: str, **fields: Any) -> list[Measurement]:
    """The cells with fields of one variant replaced."""
    return [msgspec.structs.replace(c, **fields) if c.variant == variant else c for c in cells]


def metadata(cells: Sequence[Measurement], **fields: Any) -> RunMetadata:
    defaults: dict[str, Any] = {
        "id": "silu/20260101T000000Z-aaaaaa",
        "experiment": "silu",
        "description": "SiLU",
        "status": RunStatus.COMPLETE,
        "created_at": "2026-01-01T00:00:00Z",
        "plan": list({c.workload.key: c.workload for c in cells}.values()),
        "variants": list(dict.fromkeys(c.variant for c in cells)),
        "directions": list(dict.fromkeys(c.direction for c in cells)),
        "margin": MARGIN,
        "device_type": "cpu",
    }
    return RunMetadata(**{**defaults, **fields})


def side(
    label: str,
    cells: Sequence[Measurement],
    *,
    environment: Environment = CPU,
    variant: str | None = None,
    **fields: Any,
) -> Side:
    """A side in memory; each label is a run of its own unless ``id`` says otherwise."""
    known = metadata(cells, **{"id": f"silu/20260101T000000Z-{label * 6}", **fields})
    return Side(label, Run(Path("/nonexistent") / label), known, environment, tuple(cells), variant)


def stored(root: Path, cells: Sequence[Measurement], *, environment: Environment = CPU, **fields: Any) -> Run:
    """A run in a store."""
    status = fields.pop("status", RunStatus.COMPLETE)
    known = metadata(cells, **fields)
    run = create_run(root, msgspec.structs.replace(known, status=RunStatus.RUNNING), environment)
    run.append(list(cells))
    run.finish(status, {})
    run._lock.release()
    return run
