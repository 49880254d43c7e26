"""How long a kernel takes, predicted from its card. Pure. A prediction is no measurement, and says how wrong it was.

The model is a closed queueing network, solved by mean value analysis (Reiser and Lavenberg, "Mean-Value Analysis of
Closed Multichain Queuing Networks", JACM 27(2), 1980). The customers are the programs that are resident on one
multiprocessor (its occupancy). Each is served by

- *memory*: its share of the bytes at the multiprocessor's share of the bandwidth, or at that of the second-level cache,
  whichever takes longer (what is read again comes from the cache);
- *instructions*: the busiest pipe, or the schedulers;
- *dispatch*: a program is started, one after the other for the whole device;

and waits, without keeping others from anything, for the latency of its loads, at barriers, for shuffles, and for
instructions whose operands are not ready. One resident program uses one resource after the other, and its times add;
many overlap, and the slowest decides: that is occupancy's part. A launch comes on top.

Seven constants are fitted, two are measured directly (``prediction.toml``); ``benchmarks/prediction.py`` does both and
holds each kernel against a fit that never saw it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fuselab.ir.pipes import clock_hz, pipe_clocks
from fuselab.targets import Target

__all__ = ["CALIBRATIONS", "Calibration", "TimePrediction", "Work", "predict_time", "work_of"]

OTHER_DEVICE = 2.0
"""How much wider the error bar of a device is that was never measured: a convention, since nothing says how much."""


class Error(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relative errors of kernels that the fit had not seen."""

    memory_median: float
    """Of kernels that a measurement found to be limited by memory."""
    memory_worst: float
    all_median: float
    all_worst: float
    all_ninth: float
    """Nine of ten are within this factor, less one."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's constants for one device."""

    source: str
    """The measurements."""
    kernels: int
    """How many."""
    memory_bound: int
    """Of those, limited by memory."""
    memory_share: float
    """Part of the peak bandwidth that is reached."""
    cache_bytes_a_clock: float
    """Bytes of the second-level cache for a multiprocessor and clock."""
    issue_share: float
    """Part of the peak issue rate that is reached."""
    latency_us: float
    """From a load to its value, where other loads of the program do not hide it."""
    barrier_cycles: float
    exchange_cycles: float
    """Of a shuffle or an access to shared memory that is waited for."""
    parallel_in_a_warp: float
    """Independent instructions that a warp has in flight."""
    launch_us: float
    """An empty kernel of few programs."""
    dispatch_ns: float
    """What one more program adds to an empty kernel."""
    error: Error


CALIBRATIONS: dict[str, Calibration] = msgspec.toml.decode(
    Path(__file__).with_name("prediction.toml").read_bytes(), type=dict[str, Calibration]
)
"""By name of the target."""
_CALIBRATED = "h200"
_DEPENDENT_CYCLES = 4.0
"""From an arithmetic instruction to one that needs its result, since 7.0."""


@dataclass(frozen=True)
class Work:
    """What one launch does, as its card says it."""

    programs: int
    num_warps: int
    resident: int = 0
    """Programs that a multiprocessor holds; 0 where it is not known."""
    fewest_bytes: int = 0
    """Bytes that come from memory: each input once, each output once."""
    moved_bytes: int = 0
    """Bytes with what is read again, which comes from the cache."""
    instructions: float | None = None
    """Instructions of a warp; None where the machine code is not read (AMD)."""
    classes: Mapping[str, float] = field(default_factory=dict)
    accesses: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 1
    """Loads of one program that wait for each other."""
    reasons: tuple[str, ...] = ()
    """Why a figure is not exact."""


class TimePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A predicted time, with its error bar. Never a measurement."""

    time_us: float
    """Microseconds of one launch, data not in the cache."""
    low_us: float
    """Nine of ten kernels that the calibration had not seen were above this."""
    high_us: float
    """And below this."""
    parts_us: dict[str, float]
    """``memory``, ``instructions``, ``dispatch``, ``waiting``, ``launch``: each alone, all programs together."""
    basis: str
    """What it rests on, in words."""
    only_memory: bool = False
    """Whether nothing but bytes and the launch went into it: then it is the least that it can take."""


def work_of(card: Mapping[str, Any]) -> Work:
    """What a kernel's card (``card.json``) says of one launch.

    Raises:
        ValueError: a section that the prediction needs is absent; says which and why.
    """
    for name in ("launch", "traffic"):
        section = card.get(name)
        if not isinstance(section, Mapping) or "absent" in section:
            reason = section.get("absent") if isinstance(section, Mapping) else "it is not in the card"
            raise ValueError(f"no {name}: {reason}")
    programs, warps = card["launch"].get("programs"), card.get("num_warps")
    if not programs or not warps:
        raise ValueError("its grid is not known" if not programs else "its warps are not known")
    traffic, mix = card["traffic"], card.get("instructions") or {}
    known = "absent" not in mix and bool(mix)
    return Work(
        programs=int(programs),
        num_warps=int(warps),
        resident=int((card.get("occupancy") or {}).get("programs_per_multiprocessor") or 0),
        fewest_bytes=int(traffic["fewest_bytes"]),
        moved_bytes=int(traffic["read_bytes"]) + int(traffic["written_bytes"]),
        instructions=float(mix["per_warp"]) if known else None,
        classes=mix.get("classes", {}),
        accesses=mix.get("accesses", {}),
        rounds=_rounds(mix.get("loops", [])) if known else 1,
        reasons=(*traffic.get("reasons", ()), *(mix.get("reasons", ()) if known else ())),
    )


def predict_time(work: Work, target: Target, calibration: Calibration | None = None) -> TimePrediction:
    """The time of one launch on a device, its data not in the cache.

    Args:
        work: what the launch does.
        target: the device.
        calibration: the constants; by default the device's own, else those of the H200, scaled by what is described of
            the device (bandwidth, multiprocessors, clock), with an error bar that is twice as wide.

    Raises:
        ValueError: the device's clock is not described, and its instructions are known.

    Example:
        >>> from fuselab.targets import find
        >>> copy = Work(programs=65536, num_warps=4, resident=16, fewest_bytes=1 << 28, moved_bytes=1 << 28,
        ...             instructions=40, accesses={"LDG.128": 1, "STG.128": 1})
        >>> 60 < predict_time(copy, find("h200")).time_us < 75
        True
    """
    own = calibration is not None or target.name in CALIBRATIONS
    constants = calibration or CALIBRATIONS.get(target.name) or CALIBRATIONS[_CALIBRATED]
    only_memory = work.instructions is None or not work.resident
    if only_memory:
        bytes_us = work.fewest_bytes / (target.bandwidth_bytes_per_s * constants.memory_share) * 1e6
        parts = {"memory": bytes_us, "launch": constants.launch_us}
        time = bytes_us + constants.launch_us
    else:
        parts = _demands(work, target, constants)
        held = max(1, min(work.resident, math.ceil(work.programs / target.multiprocessors)))
        stations = [parts["memory"], parts["instructions"], parts["dispatch"]]
        time = parts["launch"] + _residence(stations, parts["waiting"], held)
    factor = 1 + constants.error.all_ninth * (1 if own and not only_memory else OTHER_DEVICE)
    return TimePrediction(
        time_us=round(time, 4),
        low_us=round(time if only_memory else time / factor, 4),
        high_us=round(time * factor, 4),
        parts_us={name: round(value, 4) for name, value in parts.items()},
        basis=_basis(target, constants, own=own, only_memory=only_memory),
        only_memory=only_memory,
    )


def _basis(target: Target, constants: Calibration, *, own: bool, only_memory: bool) -> str:
    device = "H200" if not own else target.device_name
    words = (
        f"predicted, not measured; calibrated on {constants.kernels} kernels of an {device}, of those left out of the "
        f"fit half were within {constants.error.all_median:.0%} and nine of ten within {constants.error.all_ninth:.0%}"
    )
    if not own:
        words += f"; scaled to {target.device_name} by its described figures, on which nothing was measured"
    if only_memory:
        words += "; from its bytes and the launch alone, the least it can take: its machine code is not counted here"
    return words


def _demands(work: Work, target: Target, constants: Calibration) -> dict[str, float]:
    """Microseconds that all programs of the busiest multiprocessor need of each resource, and wait."""
    each = math.ceil(work.programs / target.multiprocessors)
    clock = clock_hz(target) / 1e6
    share = each / work.programs
    memory = work.fewest_bytes * share * target.multiprocessors / target.bandwidth_bytes_per_s / constants.memory_share
    cache = work.moved_bytes * share / (constants.cache_bytes_a_clock * clock)
    total = work.instructions or 0.0
    busiest = max(pipe_clocks(target, total, work.classes, work.accesses).values())
    instructions = busiest * work.num_warps / clock / constants.issue_share
    chain = total * _DEPENDENT_CYCLES / constants.parallel_in_a_warp / clock
    counted = {name: work.classes.get(name, 0) for name in ("barrier", "exchange", "shared")}
    waiting = counted["barrier"] * constants.barrier_cycles
    waiting += (counted["exchange"] + counted["shared"] / 2) * constants.exchange_cycles
    alone = work.rounds * constants.latency_us + waiting / clock + max(0.0, chain - instructions)
    return {
        "memory": max(memory * 1e6, cache),
        "instructions": instructions * each,
        "dispatch": constants.dispatch_ns * 1e-3 * target.multiprocessors * each,
        "waiting": alone * each,
        "launch": constants.launch_us,
    }


def _residence(demands: Sequence[float], waiting: float, customers: int) -> float:
    """Time of the whole work: ``demands`` at stations with a queue, ``waiting`` without, for ``customers`` at a time.

    With one customer the times add; with many the largest demand is what is left:

        >>> _residence([2.0, 1.0], 0.5, 1)
        3.5
        >>> round(_residence([2.0, 1.0], 0.5, 64), 3)
        2.0
    """
    queues = [0.0] * len(demands)
    rate = 0.0
    for count in range(1, customers + 1):
        times = [demand * (1 + queue) for demand, queue in zip(demands, queues, strict=True)]
        rate = count / (sum(times) + waiting)
        queues = [rate * time for time in times]
    return 1 / rate


def _rounds(loops: Sequence[Mapping[str, Any]]) -> int:
    """Loads that wait for each other: one, and one more for each turn of an outermost loop."""
    outermost = [
        loop
        for loop in loops
        if not any(o is not loop and o["first"] <= loop["first"] and loop["last"] <= o["last"] for o in loops)
    ]
    return 1 + sum(max(0, int(loop["trips"]) - 1) for loop in outermost if loop["trips"] is not None)
