"""Exceptions become the status that names them."""

from __future__ import annotations

import pytest

from fuselab.errors import SetupError
from fuselab.records import Status
from fuselab.worker.outcome import failure_of


class OutOfMemoryError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("p"), Status.ERROR, "ValueError: p"),
        (KeyError(), Status.ERROR, "KeyError"),
        (MemoryError(), Status.OUT_OF_MEMORY, "MemoryError"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), Status.OUT_OF_MEMORY, "CUDA out of memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Status.CRASHED, "illegal memory"),
        (RuntimeError("CUDA error: misaligned address"), Status.CRASHED, "misaligned"),
        (SetupError("no g++", hint="apt-get install g++"), Status.ERROR, "apt-get install g++"),
        (ValueError("x" * 10_000), Status.ERROR, "..."),
    ],
)
def test_statuses(error, status, reason):
    failure = failure_of(error, "trace", arm="compile")
    assert failure.status is status
    assert reason in failure.reason
    assert len(failure.reason) <= 500
    assert failure.arm == "compile"
