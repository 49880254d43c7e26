"""What limits a kernel: predicted from its card, confirmed or corrected by a measurement.

Pure. A kernel takes as long as the slowest of four things:

- *memory*: its bytes over the device's bandwidth. What is read again counts as memory only where it cannot have stayed
  in the L2 cache in between.
- *instructions*: its warps' instructions over what the multiprocessors can issue, each class at the rate of its pipe.
- *latency*: a program waits for memory, for the instruction before and at barriers; programs that do not fit on the
  device at once wait for those before them. Programs that all fit begin together, load together and compute together:
  memory and multiprocessors take turns, and neither is what limits unless it has by far the greater part.
- *launch*: the device is busy with starting and ending the kernel, and with handing out its programs.

The figures of the model are the constants below, with their sources; docs/kernel-cards.md has them beside measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fuselab.ir.instructions import InstructionMix
from fuselab.ir.occupancy import Occupancy
from fuselab.ir.pipes import SCHEDULERS, clock_hz, pipe_clocks
from fuselab.ir.traffic import Traffic
from fuselab.targets import Target

__all__ = ["LIMITERS", "Facts", "Prediction", "judge", "launch_us", "limiter_of", "predict", "verdict"]

LIMITERS = ("memory", "instructions", "latency", "launch")

LAUNCH_US = 0.75
"""What an empty kernel of a few programs takes in a CUDA graph on an H200 (0.72 to 0.74 us in
benchmarks/results/h200-limiters.json)."""
PROGRAMS_A_CLOCK = 0.8
"""Programs that a device hands to its multiprocessors in a clock: empty kernels of 1,024 to 65,536 programs took 0.61
to 0.69 ns more for each on an H200 (same file), 1.2 to 1.4 of its clocks."""
MEMORY_LATENCY_US = 0.8
"""From a load to its value when it comes from memory that is kept busy, on the generations since 8.0."""
CACHE_LATENCY_US = 0.3
"""The same from the L2 cache: some 270 cycles, more when it is busy."""
DEPENDENT_CYCLES = 4.0
"""Cycles from an arithmetic instruction to one that needs its result, since 7.0."""
PARALLEL_IN_A_WARP = 2.0
"""Independent instructions that a warp has in flight on average, in generated element-wise code."""
BARRIER_CYCLES = 40.0
"""Cycles that a block spends at one barrier of its warps."""
EXCHANGE_CYCLES = 24.0
"""Cycles from a shuffle or a shared-memory access to its value."""
CACHE_SHARE = 0.5
"""Part of the L2 cache in which what is read again may be found: the rest holds what streams through."""
SUSTAINED = {"memory": 0.90, "instructions": 0.75}
"""Part of the peak that good kernels reach."""

LAUNCH_FACTOR = 1.5
"""Measured: a kernel that takes less than this many times an empty one of the same grid is limited by its launch."""
MEMORY_FACTOR = 0.8
"""Measured: a kernel waits for memory if, with its data in the cache, it takes less than this part of its time."""
LIMITING_SHARE = 0.7
"""A resource limits a kernel that uses this part or more of what good kernels reach of it. With less of the
bandwidth, memory's latency is what a kernel waits for: more bandwidth would not make it faster."""
SCALING_FACTOR = 1.6
"""Measured: twice the programs that take this many times as long keep the multiprocessors busy."""


@dataclass(frozen=True)
class Facts:
    """What a prediction is made from."""

    target: Target
    traffic: Traffic
    mix: InstructionMix
    occupancy: Occupancy
    programs: int
    num_warps: int
    rounds: int = 1
    """How often a program's loads wait for those before: ``InstructionMix.load_rounds``."""


@dataclass(frozen=True)
class Prediction:
    """What limits a kernel, by the model."""

    limiter: str
    times_us: dict[str, float]
    """``memory``, ``instructions``, ``latency`` and ``launch``, each alone."""
    reasons: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """As written to the kernel's card."""
        return {"predicted": self.limiter, "times_us": self.times_us, "reasons": list(self.reasons), "measured": None}


def launch_us(target: Target | None, programs: int) -> float:
    """Microseconds that an empty kernel of so many programs takes in a CUDA graph.

    Example:
        >>> from fuselab.targets import find
        >>> [round(launch_us(find("h200"), programs), 2) for programs in (16, 65536)]
        [0.76, 42.07]
    """
    handed_out = 0.0 if target is None else programs / PROGRAMS_A_CLOCK / clock_hz(target) * 1e6
    return LAUNCH_US + handed_out


def verdict(predicted: str | None, measured: str) -> str:
    """``confirmed``, ``corrected``, or ``not predicted``."""
    return "not predicted" if predicted is None else "confirmed" if predicted == measured else "corrected"


def predict(facts: Facts) -> Prediction:
    """Which of the four takes longest.

    Raises:
        ValueError: the target has no figure for the clock.
    """
    memory, memory_words = _memory(facts)
    instructions, instruction_words = _instructions(facts)
    latency, latency_words = _latency(facts)
    launch = launch_us(facts.target, facts.programs)
    times = {"memory": memory, "instructions": instructions, "latency": latency, "launch": launch}
    resident = facts.occupancy.blocks * facts.target.multiprocessors
    limiter = limiter_of(times, at_once=facts.programs <= resident)
    own = {name: time for name, time in times.items() if name != "launch"}
    longest, second = sorted(own, key=lambda name: -own[name])[:2]
    if limiter == "launch":
        words = f"its own work takes {own[longest]:.2f} us ({longest}), less than the {launch:.2f} us of a launch"
    elif limiter != longest:
        words = (
            f"all programs begin at once: memory ({memory:.2f} us) and instructions ({instructions:.2f} us) take turns"
        )
    else:
        words = f"{longest} takes {own[longest]:.2f} us, {second} {own[second]:.2f} us"
    return Prediction(
        limiter,
        {name: round(value, 4) for name, value in times.items()},
        (words, memory_words, instruction_words, latency_words),
    )


def limiter_of(times_us: Mapping[str, float], *, at_once: bool) -> str:
    """Which of the four limits.

    Args:
        times_us: what ``memory``, ``instructions``, ``latency`` and ``launch`` take, each alone.
        at_once: all programs fit on the device. Then none computes while those before or after it load: memory and
            multiprocessors take turns, and neither limits unless it has by far the greater part.

    Example:
        >>> times = {"memory": 15.7, "instructions": 8.4, "latency": 3.2, "launch": 2.1}
        >>> limiter_of(times, at_once=False), limiter_of(times, at_once=True)
        ('memory', 'latency')
    """
    own = {name: times_us[name] for name in ("memory", "instructions", "latency")}
    longest = max(own, key=lambda name: own[name])
    if own[longest] < times_us["launch"]:
        return "launch"
    if at_once and longest != "latency" and own[longest] < LIMITING_SHARE * (own["memory"] + own["instructions"]):
        return "latency"
    return longest


def judge(predicted: str | None, measurement: Mapping[str, float]) -> dict[str, Any]:
    """What limits a kernel by measurement, and whether the prediction was right.

    Each resource is taken away in turn and the kernel timed again:

    Args:
        predicted: ``limiter.predicted`` of the card; None where there is none.
        measurement: microseconds of ``time_us`` (as it is, inputs not in the cache), ``empty_us`` (a kernel of the same
            grid that does nothing), ``cached_us`` (the same instructions on data that stays in the cache) and
            ``cached_twice_us`` (that with twice as many programs). ``memory_share``, where it is known: the bandwidth
            that it reached as a part of what good kernels reach, which tells bandwidth from memory's latency.

    Raises:
        KeyError: one of the four is missing.

    Example:
        >>> judge("memory", {"time_us": 40, "empty_us": 2, "cached_us": 18, "cached_twice_us": 34})["verdict"]
        'confirmed'
    """
    time, empty = measurement["time_us"], measurement["empty_us"]
    cached, twice = measurement["cached_us"], measurement["cached_twice_us"]
    if time < LAUNCH_FACTOR * empty:
        measured, why = "launch", f"it takes {time / empty:.2f} times an empty kernel of the same grid"
    elif cached < MEMORY_FACTOR * time:
        share = measurement.get("memory_share", 1.0)
        measured = "memory" if share >= LIMITING_SHARE else "latency"
        why = f"with its data in the cache it takes {cached / time:.0%} of its time"
        if measured == "latency":
            why += f", and it reaches {share:.0%} of the bandwidth that it could: it waits for memory"
    elif twice >= SCALING_FACTOR * cached:
        measured = "instructions"
        why = f"data in the cache saves {1 - cached / time:.0%}, and twice the programs take {twice / cached:.2f} times"
    else:
        measured = "latency"
        why = (
            f"data in the cache saves {1 - cached / time:.0%}, twice the programs only take {twice / cached:.2f} times"
        )
    return {
        "limiter": measured,
        "verdict": verdict(predicted, measured),
        "reason": why,
        "figures_us": {name: value for name, value in measurement.items() if name.endswith("_us")},
    }


def _memory(facts: Facts) -> tuple[float, str]:
    fewest, again, from_cache = facts.traffic.total("fewest_bytes"), _again(facts), _stays_in_cache(facts)
    total = fewest + (0 if from_cache else again)
    words = f"{total:,} bytes at {facts.target.bandwidth_bytes_per_s / 1e12:.2f} TB/s"
    if again:
        words += f"; {again:,} more are read again, {'from the cache' if from_cache else 'from memory'}"
    return total / facts.target.bandwidth_bytes_per_s / SUSTAINED["memory"] * 1e6, words


def _again(facts: Facts) -> int:
    """Bytes that are moved more than once."""
    moved = facts.traffic.total("read_bytes") + facts.traffic.total("written_bytes")
    return max(0, moved - facts.traffic.total("fewest_bytes"))


def _stays_in_cache(facts: Facts) -> bool:
    """Whether what a program reads again is still in the L2 cache: what all resident ones touch fits into a part."""
    resident = min(facts.programs, facts.occupancy.blocks * facts.target.multiprocessors)
    between = facts.traffic.total("fewest_bytes") * resident / max(1, facts.programs)
    return between <= CACHE_SHARE * facts.target.l2_bytes


def _instructions(facts: Facts) -> tuple[float, str]:
    clocks = pipe_clocks(facts.target, facts.mix.total, facts.mix.classes, facts.mix.accesses)
    pipe = max(clocks, key=lambda name: clocks[name])
    # The busiest multiprocessor has one program more than the others; few warps cannot use all schedulers.
    programs = math.ceil(facts.programs / facts.target.multiprocessors)
    warps = programs * facts.num_warps
    a_warp = clocks[pipe] * (SCHEDULERS / min(SCHEDULERS, max(1, facts.occupancy.warps)) if pipe == "issue" else 1)
    total = warps * a_warp / clock_hz(facts.target) / SUSTAINED["instructions"] * 1e6
    words = f"{facts.mix.total:.0f} instructions a warp, {warps} warps on a multiprocessor; the busiest pipe is {pipe}"
    return total, words


def _latency(facts: Facts) -> tuple[float, str]:
    clock = clock_hz(facts.target)
    waiting = facts.mix.classes["barrier"] * BARRIER_CYCLES
    waiting += (facts.mix.classes["exchange"] + facts.mix.classes["shared"] / 2) * EXCHANGE_CYCLES
    chain = facts.mix.total * DEPENDENT_CYCLES / PARALLEL_IN_A_WARP
    read, again = facts.traffic.total("read_bytes"), _again(facts)
    cached = again / read if read and _stays_in_cache(facts) else 0.0
    a_load = (1 - cached) * MEMORY_LATENCY_US + cached * CACHE_LATENCY_US
    program_us = facts.rounds * a_load + (chain + waiting) / clock * 1e6
    # A program's place is taken by the next as soon as it ends: full waves, and a last one as long as a program.
    waves = max(1.0, facts.programs / (facts.occupancy.blocks * facts.target.multiprocessors))
    words = f"a program waits {program_us:.2f} us, {facts.rounds} times for memory; {waves:.1f} waves of them"
    return waves * program_us, words
