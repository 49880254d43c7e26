"""A measured process from its parent's side: spawned with a request, listened to, given a deadline, never left behind.

With a clock reading from just before the spawn, which is where a start begins.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from fuselab import child
from fuselab.records import Status
from fuselab.startup.messages import Answer, Failed, Progress, Request, Started, StartRequest, decode_answer, encode

__all__ = ["ask"]

SAMPLE_S = 0.25
"""Between two looks at the memory of a process's helpers; one costs a millisecond of the parent's time."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def ask(
    request: Request,
    *,
    deadline_s: float,
    environment: Mapping[str, str] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Carry out one request in a process of its own; a death or a passed deadline is an answer (``Failed``)."""
    with tempfile.TemporaryFile() as log, _spawned(request, environment or {}, log) as (process, pipe):
        last = "starting"
        result: Answer | None = None
        deadline = time.monotonic() + deadline_s
        helpers = _Helpers(process.pid)
        for answer in _answers(pipe, deadline, helpers.sample):
            if isinstance(answer, Progress):
                last = answer.text
                on_progress(answer.text)
            else:
                result = answer
                break
        if result is None and time.monotonic() >= deadline:
            return Failed(
                status=Status.TIMED_OUT,
                reason=f"no answer within {deadline_s:.0f} s (it was at: {last})",
                traceback=child.tail(log),
            )
        if isinstance(result, Started):
            memory = msgspec.structs.replace(result.record.memory, helpers_bytes=helpers.peak_bytes)
            return msgspec.structs.replace(result, record=msgspec.structs.replace(result.record, memory=memory))
        if result is not None:
            return result
        if not child.ended(process):
            return Failed(
                status=Status.TIMED_OUT,
                reason=f"the process closed its pipe and did not end (it was at: {last})",
                traceback=child.tail(log),
            )
        return _death(process.returncode, last, child.tail(log))


@contextlib.contextmanager
def _spawned(
    request: Request, environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    spawned_ns = time.monotonic_ns()

    def asked() -> bytes:
        if isinstance(request, StartRequest):
            return encode(msgspec.structs.replace(request, spawned_ns=spawned_ns))
        return encode(request)

    # A process that has answered ends by itself; how soon is no part of what was measured.
    with child.spawned("fuselab.startup", asked, environment, log) as started:
        yield started


class _Helpers:
    """The processes that a measured one has started (compilers, most of all): their memory, looked at now and then.

    Not ``RUSAGE_CHILDREN``: what it calls a child's peak is at least its parent's at the time of the fork.
    """

    def __init__(self, group: int) -> None:
        self._group = group
        self.peak_bytes: int | None = None

    def sample(self) -> None:
        """Add up the resident memory of the group without its leader."""
        total = 0
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                # The name in brackets may hold spaces: what follows it is state, parent, process group.
                if int((directory / "stat").read_text().rpartition(")")[2].split()[2]) != self._group:
                    continue
                if int(directory.name) != self._group:
                    total += int((directory / "statm").read_text().split()[1]) * _PAGE_BYTES
        if total:
            self.peak_bytes = max(self.peak_bytes or 0, total)


def _answers(pipe: int, deadline: float, meanwhile: Callable[[], None]) -> Iterator[Answer]:
    """Answers as they arrive, until the pipe closes or the deadline passes; ``meanwhile`` is called between them."""
    for line in child.lines(pipe, deadline, meanwhile, SAMPLE_S):
        try:
            yield decode_answer(line)
        except msgspec.DecodeError as error:
            yield Failed(status=Status.ERROR, reason=f"the process answered with something unreadable: {error}")


def _death(code: int, last: str, output: str) -> Failed:
    if code < 0:
        reason = f"the process {child.how_it_died(code)} (it was at: {last})"
        return Failed(status=Status.CRASHED, reason=reason, traceback=output)
    return Failed(
        status=Status.EXITED,
        reason=f"the process ended with exit code {code} before it answered (it was at: {last})",
        traceback=output,
    )
