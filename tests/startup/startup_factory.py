"""Records as a measurement would make them, for tests that measure nothing."""

from __future__ import annotations

from fuselab.records import Environment, Workload
from fuselab.startup.records import (
    CacheUse,
    Calls,
    CompileCost,
    Configuration,
    Interval,
    Phase,
    PhaseTime,
    Start,
    StartRecord,
)
from fuselab.startup.summary import summarised

SECOND = 1_000_000_000
CONFIGURATION = Configuration()


def start_record(start, number=0, *, before=1.0, first=0.1, early=(0.01, 0.01), steady=0.01, caches=(), **fields):
    """A process: seconds before the first call, of the first call, of the calls after it."""
    total = round((before + first) * SECOND)
    phases = [
        PhaseTime(phase=Phase.IMPORT, duration_ns=round(before * SECOND)),
        PhaseTime(phase=Phase.FIRST_LAUNCH, duration_ns=round(0.99 * first * SECOND)),
    ]
    rest = total - sum(p.duration_ns for p in phases)
    return StartRecord(
        start=start,
        configuration=None if start is Start.EAGER else CONFIGURATION,
        round=number,
        first_result_ns=total,
        first_call_ns=round(first * SECOND),
        phases=phases,
        unattributed_ns=rest,
        intervals=[
            Interval(phase=Phase.IMPORT, begin_ns=0, end_ns=phases[0].duration_ns),
            Interval(phase=Phase.FIRST_LAUNCH, begin_ns=phases[0].duration_ns, end_ns=total - rest),
        ],
        early_ns=[round(s * SECOND) for s in early],
        steady_ns=steady * SECOND,
        steady_samples_ns=[steady * SECOND] * 5,
        caches=[CacheUse(cache=c, hits=h, misses=m) for c, h, m in caches],
        **fields,
    )


def header(**fields):
    return CompileCost(
        **{
            "experiment": "norm",
            "workload": Workload(shape=(8, 512), dtype="f32"),
            "calls": Calls.INFERENCE,
            "environment": Environment(device="CPU test, 2 cores", device_type="cpu", versions={"torch": "2.13.0"}),
            "seed": 0,
            "repeats": 3,
            **fields,
        }
    )


def measured(**fields):
    """Three rounds of eager, cold and warm: compiling takes 10 s more and saves 5 ms a call, from the caches 2 s."""
    jitter = (-0.02, 0.0, 0.03)
    starts = []
    for number, off in enumerate(jitter):
        starts += [
            start_record(Start.EAGER, number, before=1.0 + off),
            start_record(Start.COLD, number, before=2.0 + off, first=9.1, early=(0.005, 0.005), steady=0.005),
            start_record(Start.WARM, number, before=2.0 + off, first=1.1, early=(0.005, 0.005), steady=0.005),
        ]
    return summarised(header(**fields), starts, [])
