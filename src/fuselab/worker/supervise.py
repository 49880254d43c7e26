"""Processes of our own: started with a request, listened to, given a deadline, and never left behind.

A worker answers over a pipe of its own, so that whatever the user's code prints cannot be taken for an answer; what it
prints goes to a log whose last lines are quoted when it dies. Every worker leads a process group: killing the group
takes the compiler's helpers along. A worker asks the kernel to kill it when its parent dies (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from fuselab.records import Status
from fuselab.worker.messages import Answer, Failure, Progress, Request, decode_answer, encode

__all__ = ["Crew"]

REPLACED_WITHIN_S = 20.0
"""Seconds that a killed process is waited for; one that a driver holds is left to it, and its device is suspect."""

LOG_TAIL = 2000
"""Characters of a dead worker's output that are quoted."""


class Crew:
    """All workers that are alive; leaving the context kills every one of them.

    Raises:
        KeyboardInterrupt: from ``call`` in every thread once ``stop`` was called.
    """

    concurrent = True
    """Whether calls may be made from several threads at a time."""

    device_id: str = ""
    """The device that the workers measure on, once it was described."""

    def __init__(self) -> None:
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Kill every worker; calls in flight end with KeyboardInterrupt."""
        self._stopped.set()
        with self._lock:
            alive = list(self._alive)
        for process in alive:
            _kill_group(process)

    def call(
        self,
        request: Request,
        *,
        deadline_s: float,
        environment_variables: Mapping[str, str] | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> Answer:
        """Carry out one request in a process of its own; a death or a passed deadline is an answer (``Failure``)."""
        if self._stopped.is_set():
            raise KeyboardInterrupt
        with tempfile.TemporaryFile() as log, self._start(request, environment_variables or {}, log) as (process, pipe):
            last = Progress(text="")
            deadline = time.monotonic() + deadline_s
            result: Answer | None = None
            for answer in _answers(pipe, deadline):
                if isinstance(answer, Progress):
                    last = answer
                    on_progress(answer)
                else:
                    result = answer
                    break
            if result is None and time.monotonic() >= deadline:
                _kill_group(process)
                result = Failure(
                    status=Status.TIMED_OUT,
                    reason=f"no answer within {deadline_s:.0f} s ({last.text or 'starting'})",
                    traceback=_tail(log),
                    arm=last.arm,
                )
            code = _wait(process)
            if self._stopped.is_set():
                raise KeyboardInterrupt
            if code is None:
                return _immortal(last, _tail(log))
            return result if result is not None else _death(code, last, _tail(log))

    @contextlib.contextmanager
    def _start(
        self, request: Request, environment: Mapping[str, str], log: IO[bytes]
    ) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "fuselab.worker", str(writer)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                start_new_session=True,
                env={**os.environ, **_source_path(), "FUSELAB_PARENT": str(os.getpid()), **environment},
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with self._lock:
            self._alive.add(process)
        if self._stopped.is_set():  # stop() may have run between the check in call() and the line above
            _kill_group(process)
        try:
            assert process.stdin is not None  # noqa: S101 - Popen was given PIPE
            with contextlib.suppress(BrokenPipeError):  # it died at once: the death is the answer
                process.stdin.write(encode(request))
                process.stdin.close()
            yield process, reader
        finally:
            _kill_group(process)
            _reap(process)
            os.close(reader)
            with self._lock:
                self._alive.discard(process)


def _answers(pipe: int, deadline: float) -> Iterator[Answer]:
    """Answers as they arrive, until the pipe closes or the deadline passes."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(timeout=left):
                return
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                try:
                    yield decode_answer(line)
                except msgspec.DecodeError as error:
                    yield Failure(status=Status.ERROR, reason=f"the worker answered with something unreadable: {error}")


def _death(code: int, last: Progress, output: str) -> Failure:
    where = f" ({last.text})" if last.text else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        note = "; the kernel's out-of-memory killer ends processes so" if -code == signal.SIGKILL else ""
        return Failure(
            status=Status.CRASHED, reason=f"the process died by {name}{where}{note}", traceback=output, arm=last.arm
        )
    return Failure(
        status=Status.EXITED,
        reason=f"the process ended with exit code {code} before it answered{where}",
        traceback=output,
        arm=last.arm,
    )


def _immortal(last: Progress, output: str) -> Failure:
    where = f" ({last.text})" if last.text else ""
    return Failure(
        status=Status.TIMED_OUT,
        reason=f"the process did not end within {REPLACED_WITHIN_S:.0f} s of being killed{where}: the driver holds it",
        traceback=output,
        arm=last.arm,
    )


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Exit code; a worker that has answered and does not end within 10 s (a thread of the user's) is killed."""
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return _reap(process)


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    """Exit code of a killed worker; None when it is held in the kernel, where no signal reaches it."""
    try:
        return process.wait(timeout=REPLACED_WITHIN_S)
    except subprocess.TimeoutExpired:
        return None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # The group can outlive its leader: the compiler's helpers are in it, so it is killed even after the leader ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - LOG_TAIL))
    return log.read().decode(errors="replace").strip()


def _source_path() -> dict[str, str]:
    """Where fuselab is imported from, so that it also runs from a source tree that was put on ``sys.path``."""
    source = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(p for p in (source, known) if p)}
