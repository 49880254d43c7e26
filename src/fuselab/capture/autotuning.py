"""Two things about Inductor's Triton kernels that are wrong unless somebody steps in while they are made.

Autotuning times configurations, and a check that runs beside it on the same GPU disturbs that: ``exclusive_autotuning``
takes a lock for as long as a kernel is tuned. And a kernel that reduces along both axes at once (Inductor's mix-order
reduction, which backward passes of norms become) is generated without being entered into Inductor's own provenance
table: ``mix_order_provenance`` enters it, from the same scheduler nodes that every other kernel is entered from.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fuselab.capture import internals

__all__ = ["DeviceLock", "exclusive_autotuning", "mix_order_provenance"]


class DeviceLock:
    """A lock among processes: many may share the device, or one has it to itself.

    Two files, since ``flock`` alone lets a stream of sharers starve whoever waits for all of it: everybody passes the
    gate first, and whoever wants the device alone keeps the gate shut while waiting.

    Args:
        path: the lock's file; a second one is made beside it.
    """

    def __init__(self, path: Path) -> None:
        self._room, self._gate = path, path.with_name(path.name + ".gate")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside others."""
        with _locked(self._gate, fcntl.LOCK_EX):
            room = _lock(self._room, fcntl.LOCK_SH)
        try:
            yield
        finally:
            os.close(room)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the device alone."""
        with _locked(self._gate, fcntl.LOCK_EX), _locked(self._room, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def exclusive_autotuning(alone: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter ``alone()`` around the tuning of every Triton kernel in this process; put back on exit."""
    autotuner = internals.autotuner()
    names = [name for name in ("autotune_to_one_config", "coordinate_descent_tuning") if hasattr(autotuner, name)]
    before = {name: getattr(autotuner, name) for name in names}
    for name, method in before.items():
        setattr(autotuner, name, _entering(alone, method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(autotuner, name, method)


@contextlib.contextmanager
def mix_order_provenance() -> Iterator[None]:
    """Enter mix-order reductions into Inductor's provenance table as they are defined; put back on exit."""
    scheduling = internals.triton_scheduling()
    define = getattr(scheduling, "define_kernel", None)
    if define is None:
        yield
        return

    @functools.wraps(define)
    def recorded(self: Any, source: str, node_schedule: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        name = define(self, source, node_schedule, kernel, *args, **kwargs)
        if getattr(kernel, "mix_order_reduction", False):
            internals.record_origins(str(name), node_schedule)
        return name

    scheduling.define_kernel = recorded
    try:
        yield
    finally:
        scheduling.define_kernel = define


def _entering(alone: Callable[[], AbstractContextManager[None]], method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def entered(*args: Any, **kwargs: Any) -> Any:
        with alone():
            return method(*args, **kwargs)

    return entered


def _lock(path: Path, how: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    descriptor = _lock(path, how)
    try:
        yield
    finally:
        os.close(descriptor)
