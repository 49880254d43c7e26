"""What cards need to know of the graph that their kernels were generated for: text and tables, nothing of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuselab.card.fusion import FusedGroup

__all__ = ["GraphFacts", "TimedConfiguration"]


@dataclass(frozen=True)
class TimedConfiguration:
    """One configuration of a kernel that Inductor timed."""

    triton_hash: str
    """Hash of its compilation: the name of its directory in Triton's cache."""
    time_us: float | None
    """Microseconds, the least it was seen to take; None where it was turned down without being timed (spills)."""
    config: dict[str, Any] = field(default_factory=dict)
    """Block sizes, ``num_warps`` and ``num_stages``."""
    registers: int | None = None
    spills: int | None = None


@dataclass(frozen=True)
class GraphFacts:
    """One graph that Inductor generated code for, as far as its kernels' cards need it."""

    code: str
    """Text of the output module."""
    nodes_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Every kernel that the module launches, with the graph nodes that it computes."""
    schedule: Sequence[FusedGroup] | None = None
    """The scheduler's groups after fusion; None where the graph was taken from Inductor's cache."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Why nodes were not fused, in the scheduler's words, with how often each was said."""
    buffers: Mapping[str, str] = field(default_factory=dict)
    """Buffer of the output module to the graph node whose value it holds, where Inductor says it."""
    post_grad: str = ""
    """Text of the post-grad graph; empty where it was not captured."""
    timings: Mapping[str, TimedConfiguration] = field(default_factory=dict)
    """What autotuning timed, by hash of the configuration."""
