"""The observing process: ``python -m fuselab.diagnosis REQUEST.json EVENTS.jsonl``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import msgspec

from fuselab.diagnosis.events import AnyEvent, FailedEvent, ObserveRequest, encode
from fuselab.records import Status

PR_SET_PDEATHSIG = 1


def main(request_path: str, events_path: str) -> None:
    """Carry out the request; every event is one line in the file, written at once."""
    _die_with_parent()
    request = msgspec.json.decode(Path(request_path).read_bytes(), type=ObserveRequest)
    descriptor = os.open(events_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(event: AnyEvent) -> None:
        line = memoryview(encode(event))
        while line:
            line = line[os.write(descriptor, line) :]

    from fuselab.diagnosis.observe import observe

    try:
        observe(request, say)
    except SystemExit as error:
        say(FailedEvent(status=Status.EXITED, reason=f"it called sys.exit({error.code!r})"))
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is an answer
        say(FailedEvent(status=Status.ERROR, reason=f"{type(error).__name__}: {error}"))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and atexit handlers of the user's code may hang; everything has been said


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; end at once if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.environ.pop("FUSELAB_PARENT", "")
    if parent and os.getppid() != int(parent):
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
