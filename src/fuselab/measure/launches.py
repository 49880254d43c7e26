"""What one call launches: device kernels with their times as CUPTI has them, or operators on a CPU."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fuselab.experiment import Implementation

__all__ = ["DeviceProfile", "count_operators", "is_compiled", "profile_device", "trace_of"]

_DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Categories of a trace's events that occupy the device."""

_NO_WORK = frozenset({"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::detach"})
"""Operators that compute nothing and are no views."""


def is_compiled(implementation: Implementation) -> bool:
    """Whether ``torch.compile`` made it: its kernels are not seen as operators."""
    # Where Dynamo was never imported, nothing was compiled; importing it here would cost seconds.
    module = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", ())
    return isinstance(implementation, module) or hasattr(implementation, "_torchdynamo_orig_callable")


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.name().split(".")[0] not in _NO_WORK:
            self.count += 1
        return func(*args, **(kwargs or {}))


def count_operators(call: Callable[[], object]) -> int:
    """ATen operators that ``call`` executes, views and bare allocations left out. For eager code: a compiled one
    hides them.

    Example:
        >>> x = torch.ones(2, 3)
        >>> count_operators(lambda: (x * 2).view(-1).sum())
        2
    """
    mode = _Counting()
    with mode:
        call()
    return mode.count


@dataclass(frozen=True)
class DeviceProfile:
    """Device work of one call."""

    launches: int
    """Kernels, copies and fills."""
    duration_ns: float
    """Their times added up."""
    streams: int
    """Streams they ran on."""
    gaps_ns: float = 0.0
    """Time in which none of them ran, between the first and the last."""


def trace_of(
    call: Callable[[], object], activities: Sequence[torch.profiler.ProfilerActivity], *, memory: bool = False
) -> list[dict[str, Any]]:
    """Events of a profile of ``call``, from the exported trace: that is public, and has the category of every event."""
    with torch.profiler.profile(activities=activities, profile_memory=memory) as profiler:
        call()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return events


def profile_device(call: Callable[[], object], calls: int) -> DeviceProfile | None:
    """Profile ``call``, which makes ``calls`` calls; None where the profiler saw no device work (CUPTI is not allowed
    here)."""
    torch.cuda.synchronize()

    def finished() -> None:
        call()
        torch.cuda.synchronize()

    events = trace_of(finished, [torch.profiler.ProfilerActivity.CUDA])
    work = [e for e in events if e.get("cat") in _DEVICE_WORK and "dur" in e]
    if not work:
        return None
    starts = [float(e["ts"]) for e in work]
    ends = [float(e["ts"]) + float(e["dur"]) for e in work]
    idle, reached = 0.0, min(starts)
    for start, end in sorted(zip(starts, ends, strict=True)):
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return DeviceProfile(
        launches=round(len(work) / calls),
        duration_ns=sum(float(e["dur"]) for e in work) * 1e3 / calls,
        streams=len({e.get("args", {}).get("stream", e.get("tid")) for e in work}),
        gaps_ns=idle * 1e3 / calls,
    )
