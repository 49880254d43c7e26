"""What limited a kernel, from the times that a run took of its cells: its card's prediction confirmed or corrected.

Pure. A run times a cell, which is one kernel or several, beside plain streaming of the cell's own size and mix (the
ceiling). No new measurement is taken: what the cell's time leaves open stays open, and the card says so. Of a kernel
that is one of several only bounds are known: all of them together moved at least their fewest bytes, and no faster than
the ceiling; what is left of the cell's time may be any one's.

The rule, in its order:

1. *launch*: it takes less than ``LAUNCH_FACTOR`` times an empty kernel of the same grid (``launch_us``).
2. *memory* or *instructions*: it runs at ``LIMITING_SHARE`` or more of what good kernels reach of that resource. For
   memory that is the ceiling; for instructions ``SUSTAINED`` of the busiest pipe. The larger share counts.
3. *latency*: neither, so it waits.

benchmarks/limiters.py takes one resource away at a time instead, which needs kernels of its own. Of the 24 kernels of
benchmarks/results/h200-limiters.json both say the same of 22; the two others take 1.4 times an empty kernel, just below
what counts as a launch, where the empty kernel timed beside them was a little faster than ``launch_us`` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fuselab.card.limiter import LAUNCH_FACTOR, LIMITING_SHARE, launch_us, verdict
from fuselab.records import Clock, Measurement, Status
from fuselab.targets import match

__all__ = ["judge_alone", "judge_cell"]


def judge_cell(cards: Sequence[Mapping[str, Any]], cell: Measurement) -> dict[str, dict[str, Any]]:
    """What limited each kernel of a cell, by ``kernel_id``, as it stands under ``limiter.measured`` of its card.

    Only kernels with a prediction are among the answers. ``limiter`` is None and ``verdict`` ``not decided`` where the
    cell's time does not tell; ``reason`` says why.

    Args:
        cards: the cards of all kernels of the cell's variant, workload and direction.
        cell: its measurement.
    """
    predicted = [card for card in cards if isinstance(card.get("limiter"), Mapping) and "predicted" in card["limiter"]]
    if not predicted or cell.status is not Status.OK:
        return {}
    open_because = _unfit(cell)
    if open_because:
        return {card["kernel_id"]: _undecided(open_because) for card in predicted}
    time_us, ceiling = (cell.median_ns or 0.0) / 1e3, cell.ceiling.bytes_per_s if cell.ceiling else 0.0
    streaming = {card["kernel_id"]: _launches(card) * _fewest(card) / ceiling * 1e6 for card in predicted}
    together = len(cards) > 1 or (cell.kernels_launched or 1) > 1 or any(_launches(card) > 1 for card in predicted)
    slack = max(0.0, time_us - sum(streaming.values()))
    found = {}
    for card in predicted:
        launches, least = _launches(card), streaming[card["kernel_id"]]
        if together:
            found[card["kernel_id"]] = _one_of_several(card, least / launches, (least + slack) / launches)
        else:
            found[card["kernel_id"]] = judge_alone(card, time_us, least)
    return found


def judge_alone(card: Mapping[str, Any], time_us: float, streaming_us: float) -> dict[str, Any]:
    """What limited a kernel whose own time is known.

    Args:
        card: its card, with a prediction.
        time_us: what one launch takes, its data in memory and not in the cache.
        streaming_us: what moving its fewest bytes takes at the ceiling.
    """
    empty = _empty_us(card)
    shares = {"memory": streaming_us / time_us, "instructions": _instructions_us(card) / time_us}
    figures = {"time_us": time_us, "streaming_us": streaming_us, "empty_us": empty, **_rounded(shares)}
    words = f"{shares['memory']:.0%} of streaming's bandwidth, {shares['instructions']:.0%} of a good kernel's issue"
    highest = max(shares, key=lambda name: shares[name])
    if time_us < LAUNCH_FACTOR * empty:
        limiter, words = "launch", f"it takes {time_us / empty:.2f} times an empty kernel of the same grid"
    elif shares[highest] >= LIMITING_SHARE:
        limiter = highest
    else:
        limiter = "latency"
    return _decided(card, limiter, words, figures)


def _one_of_several(card: Mapping[str, Any], least_us: float, most_us: float) -> dict[str, Any]:
    """What the bounds of a launch's time allow to say; the most is what all others leave when they stream."""
    empty, share = _empty_us(card), least_us / most_us if most_us else 0.0
    figures = {
        "most_us": most_us,
        "streaming_us": least_us,
        "empty_us": empty,
        "memory_share_at_least": round(share, 4),
    }
    if most_us < LAUNCH_FACTOR * empty:
        words = f"it takes at most {most_us / empty:.2f} times an empty kernel of the same grid"
        return _decided(card, "launch", words, figures)
    if share >= LIMITING_SHARE:
        return _decided(card, "memory", f"it reaches at least {share:.0%} of streaming's bandwidth", figures)
    reason = (
        f"one of several kernels that were timed together: it takes {least_us:.2f} to {most_us:.2f} us, "
        f"at least {share:.0%} of streaming's bandwidth; repro.py times it alone"
    )
    return {**_undecided(reason), "figures": figures}


def _unfit(cell: Measurement) -> str:
    """Why a cell's time says nothing about its kernels; empty where it does."""
    if cell.clock is not Clock.CUDA_GRAPH:
        return "the cell was not timed in a CUDA graph, so that its time is not the device's alone"
    if not cell.cold:
        return "the cell was timed with its data in the cache"
    if not cell.median_ns or cell.ceiling is None or cell.ceiling.bytes_per_s <= 0:
        return "plain streaming was not timed beside the cell"
    return ""


def _undecided(reason: str) -> dict[str, Any]:
    return {"limiter": None, "verdict": "not decided", "reason": reason}


def _decided(card: Mapping[str, Any], limiter: str, reason: str, figures: Mapping[str, float]) -> dict[str, Any]:
    said = verdict(card["limiter"]["predicted"], limiter)
    return {"limiter": limiter, "verdict": said, "reason": reason, "figures": dict(figures)}


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_share": round(value, 4) for name, value in shares.items()}


def _launches(card: Mapping[str, Any]) -> int:
    return max(1, card.get("launches") or 1)


def _fewest(card: Mapping[str, Any]) -> int:
    traffic = card.get("traffic")
    return int(traffic.get("fewest_bytes") or 0) if isinstance(traffic, Mapping) else 0


def _instructions_us(card: Mapping[str, Any]) -> float:
    """What the kernel's instructions take at the rate that good kernels reach: the model's own figure."""
    return float((card["limiter"].get("times_us") or {}).get("instructions") or 0.0)


def _empty_us(card: Mapping[str, Any]) -> float:
    launch = card.get("launch")
    programs = launch.get("programs") if isinstance(launch, Mapping) else None
    return launch_us(match(str(card["limiter"].get("device") or "")), programs or 1)
