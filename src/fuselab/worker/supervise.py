"""Processes of our own: started with a request, listened to, given a deadline, and never left behind.

What a worker is to its parent is said in ``fuselab.child``; here is who is alive, and what a death is called.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import IO

import msgspec

from fuselab import child
from fuselab.records import Status
from fuselab.worker.messages import Answer, Failure, Progress, Request, decode_answer, encode

__all__ = ["Crew"]


class Crew:
    """All workers that are alive; leaving the context kills every one of them.

    Raises:
        KeyboardInterrupt: from ``call`` in every thread once ``stop`` was called.
    """

    concurrent = True
    """Whether calls may be made from several threads at a time."""

    module: str = "fuselab.worker"
    """What the processes run."""

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
            child.kill_group(process)

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
                child.kill_group(process)
                result = Failure(
                    status=Status.TIMED_OUT,
                    reason=f"no answer within {deadline_s:.0f} s ({last.text or 'starting'})",
                    traceback=child.tail(log),
                    arm=last.arm,
                )
            by_itself = child.ended(process)
            if self._stopped.is_set():
                raise KeyboardInterrupt
            code = process.returncode
            if code is None:
                return _immortal(last, child.tail(log))
            if result is None and not by_itself:
                return _speechless(last, child.tail(log))
            return result if result is not None else _death(code, last, child.tail(log))

    @contextlib.contextmanager
    def _start(
        self, request: Request, environment: Mapping[str, str], log: IO[bytes]
    ) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        begun: list[subprocess.Popen[bytes]] = []

        def count(process: subprocess.Popen[bytes]) -> None:
            begun.append(process)
            with self._lock:
                self._alive.add(process)
            if self._stopped.is_set():  # stop() may have run between the check in call() and the line above
                child.kill_group(process)

        try:
            with child.spawned(self.module, lambda: encode(request), environment, log, count) as started:
                yield started
        finally:
            with self._lock:
                self._alive.difference_update(begun)


def _answers(pipe: int, deadline: float) -> Iterator[Answer]:
    """Answers as they arrive, until the pipe closes or the deadline passes."""
    for line in child.lines(pipe, deadline):
        try:
            yield decode_answer(line)
        except msgspec.DecodeError as error:
            yield Failure(status=Status.ERROR, reason=f"the worker answered with something unreadable: {error}")


def _death(code: int, last: Progress, output: str) -> Failure:
    where = f" ({last.text})" if last.text else ""
    if code < 0:
        reason = f"the process {child.how_it_died(code)}{where}"
        return Failure(status=Status.CRASHED, reason=reason, traceback=output, arm=last.arm)
    return Failure(
        status=Status.EXITED,
        reason=f"the process ended with exit code {code} before it answered{where}",
        traceback=output,
        arm=last.arm,
    )


def _immortal(last: Progress, output: str) -> Failure:
    where = f" ({last.text})" if last.text else ""
    within = f"{child.REAPED_WITHIN_S:.0f} s"
    return Failure(
        status=Status.TIMED_OUT,
        reason=f"the process did not end within {within} of being killed{where}: the driver holds it",
        traceback=output,
        arm=last.arm,
    )


def _speechless(last: Progress, output: str) -> Failure:
    where = f" ({last.text})" if last.text else ""
    return Failure(
        status=Status.TIMED_OUT,
        reason=f"the process closed its pipe and did not end{where}",
        traceback=output,
        arm=last.arm,
    )
