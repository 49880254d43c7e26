"""Processes of our own, both sides: spawned with a request, listened to, given a deadline, never left behind.

A child answers over a pipe of its own, so that whatever the user's code prints cannot be taken for an answer; what it
prints goes to a log whose last lines are quoted when it dies. It leads a process group: killing the group takes the
compiler's helpers along. It asks the kernel to kill it when its parent dies (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

__all__ = [
    "REAPED_WITHIN_S",
    "die_with_parent",
    "ended",
    "environment_of_child",
    "how_it_died",
    "kill_group",
    "lines",
    "reap",
    "spawned",
    "tail",
    "write",
]

LOG_TAIL = 2000
"""Characters of a dead child's output that are quoted."""

ENDS_WITHIN_S = 10.0
"""Seconds that a process which has nothing more to say may take to end, for a thread of the user's."""

REAPED_WITHIN_S = 20.0
"""Seconds that a killed process is waited for; one that a driver holds is left to it, and its device is suspect."""

_PARENT = "FUSELAB_PARENT"
_PR_SET_PDEATHSIG = 1


def environment_of_child(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that a child of ours gets: this process's, where fuselab is imported from, who its parent is.

    Args:
        environment: variables on top.
    """
    # Also from a source tree that was put on ``sys.path``.
    source = str(Path(__file__).parents[1])
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, _PARENT: str(os.getpid()), **(environment or {})}


@contextlib.contextmanager
def spawned(
    module: str,
    request: Callable[[], bytes],
    environment: Mapping[str, str],
    log: IO[bytes],
    begun: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process ``python -m MODULE PIPE`` with a request on its stdin, and the pipe that its answers come from.

    Whatever of its group is alive when the context is left is killed.

    Args:
        module: what to run.
        request: gives the request once the process runs.
        environment: variables on top of this process's own.
        log: file for what it prints.
        begun: told of the process before it is given its request.
    """
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(writer)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(writer,),
            start_new_session=True,
            env=environment_of_child(environment),
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    try:
        begun(process)
        assert process.stdin is not None  # noqa: S101 - Popen was given PIPE
        with contextlib.suppress(BrokenPipeError):  # it died at once: the death is the answer
            process.stdin.write(request())
            process.stdin.close()
        yield process, reader
    finally:
        kill_group(process)
        reap(process)
        os.close(reader)


def lines(
    pipe: int, deadline: float, meanwhile: Callable[[], None] | None = None, every_s: float = math.inf
) -> Iterator[bytes]:
    """Whole lines as they arrive, until the pipe closes or the deadline passes.

    Args:
        pipe: what to read.
        deadline: when to stop, by ``time.monotonic``.
        meanwhile: called before every wait.
        every_s: longest time between two such calls.
    """
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if meanwhile is not None:
                meanwhile()
            if not selector.select(timeout=min(left, every_s)):
                continue
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                return
            *whole, buffer = (buffer + chunk).split(b"\n")
            yield from whole


def how_it_died(code: int) -> str:
    """The signal that ended a process, in words.

    Args:
        code: the negative exit code.

    Example:
        >>> how_it_died(-11)
        'died by SIGSEGV'
        >>> how_it_died(-9)
        "died by SIGKILL; the kernel's out-of-memory killer ends processes so"
    """
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    note = "; the kernel's out-of-memory killer ends processes so" if -code == signal.SIGKILL else ""
    return f"died by {name}{note}"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and what it started; its helpers can outlive it, so also once it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def reap(process: subprocess.Popen[bytes]) -> int | None:
    """Exit code of a killed child; None when it is held in the kernel, where no signal reaches it."""
    try:
        return process.wait(timeout=REAPED_WITHIN_S)
    except subprocess.TimeoutExpired:
        return None


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child that has answered, or has closed its pipe, ends by itself; one that does not is killed."""
    try:
        process.wait(timeout=ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        kill_group(process)
        reap(process)
        return False
    return True


def tail(log: IO[bytes]) -> str:
    """The last of what a child printed."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - LOG_TAIL))
    return log.read().decode(errors="replace").strip()


def die_with_parent() -> None:
    """The child's first step: ask the kernel for SIGKILL when the parent dies; end at once if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.environ.pop(_PARENT, "")
    if parent and os.getppid() != int(parent):
        os._exit(1)


def write(descriptor: int, line: bytes) -> None:
    """All of a line, however little of it a pipe takes at a time."""
    left = memoryview(line)
    while left:
        left = left[os.write(descriptor, left) :]
