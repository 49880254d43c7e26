"""What autotuning timed while a capture was open: every configuration of every kernel with its time, chosen or not."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

from fuselab.capture import internals
from fuselab.card.graph import TimedConfiguration

__all__ = ["recorded_timings"]


@contextlib.contextmanager
def recorded_timings(found: dict[str, TimedConfiguration]) -> Iterator[None]:
    """Note every configuration that is timed in this process in ``found``, by hash; put back on exit."""
    autotuner = internals.autotuner()
    bench = getattr(autotuner, "bench", None)
    if autotuner is None or bench is None:
        yield
        return

    @functools.wraps(bench)
    def recorded(self: Any, launcher: Any, *args: Any, **kwargs: Any) -> Any:
        milliseconds = bench(self, launcher, *args, **kwargs)
        _note(found, launcher, milliseconds)
        return milliseconds

    autotuner.bench = recorded
    try:
        yield
    finally:
        if autotuner.bench is recorded:
            autotuner.bench = bench


def _note(found: dict[str, TimedConfiguration], launcher: Any, milliseconds: Any) -> None:
    name = str(getattr(launcher, "cache_hash", "") or "")
    if not name:
        return
    timed = isinstance(milliseconds, int | float) and math.isfinite(milliseconds)
    time_us = milliseconds * 1e3 if timed else None
    before = found.get(name)
    if before is not None and before.time_us is not None and (time_us is None or before.time_us <= time_us):
        return
    config = getattr(launcher, "config", None)
    settings = dict(getattr(config, "kwargs", None) or {})
    for key in ("num_warps", "num_stages"):
        if (value := getattr(config, key, None)) is not None:
            settings[key] = value
    found[name] = TimedConfiguration(
        name, time_us, settings, _whole(getattr(launcher, "n_regs", None)), _whole(getattr(launcher, "n_spills", None))
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
