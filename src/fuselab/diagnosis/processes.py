"""A stream of calls observed in a process of its own: started, given a deadline, and never left behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from fuselab import probe
from fuselab.child import environment_of_child
from fuselab.diagnosis.events import AnyEvent, FailedEvent, ObserveRequest, StageEvent, SummaryEvent, decode_event
from fuselab.records import Status

__all__ = ["Observe", "observe_apart"]

Observe = Callable[[ObserveRequest], list[AnyEvent]]
"""Carries out a request and returns everything that was said, a failure last where there was one."""

LOG_TAIL = 300


def observe_apart(request: ObserveRequest, *, deadline_s: float) -> list[AnyEvent]:
    """Carry out one request in a process of its own; a death or a passed deadline is the last event.

    Args:
        request: what to do.
        deadline_s: seconds after which the process and its children are killed.
    """
    with tempfile.TemporaryDirectory(prefix="fuselab-diagnosis-") as folder:
        asked, said = Path(folder, "request.json"), Path(folder, "events.jsonl")
        asked.write_bytes(msgspec.json.encode(request))
        environment = {
            # Fresh caches: what an earlier process compiled would make the first pass look cheap.
            "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "inductor")),
            "TRITON_CACHE_DIR": str(Path(folder, "triton")),
        }
        finished = probe.run(
            [sys.executable, "-m", "fuselab.diagnosis", str(asked), str(said)],
            deadline_s=deadline_s,
            environment=environment_of_child(environment),
        )
        events = _read(said)
    if not any(isinstance(event, FailedEvent | SummaryEvent) for event in events):
        events.append(_death(finished, events, deadline_s))
    return events


def _read(path: Path) -> list[AnyEvent]:
    """The events in a file; a last line that was cut off by a kill is left out."""
    events: list[AnyEvent] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        try:
            events.append(decode_event(line))
        except msgspec.DecodeError:  # user code that found the file and wrote to it
            continue
    return events


def _death(finished: probe.Finished, events: list[AnyEvent], deadline_s: float) -> FailedEvent:
    stage = next((event.stage for event in reversed(events) if isinstance(event, StageEvent)), "starting")
    tail = finished.errors.strip()[-LOG_TAIL:]
    last = f": {tail.splitlines()[-1]}" if tail else ""
    code = finished.returncode
    if "did not end within" in finished.problem:
        return FailedEvent(status=Status.TIMED_OUT, reason=f"no end within {deadline_s:g} s ({stage})")
    if code is not None and code < 0:
        return FailedEvent(
            status=Status.CRASHED, reason=f"{finished.problem.replace(sys.executable, 'the process')} ({stage}){last}"
        )
    return FailedEvent(status=Status.EXITED, reason=f"the process ended with exit code {code} ({stage}){last}")
