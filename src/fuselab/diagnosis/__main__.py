"""The observing process: ``python -m fuselab.diagnosis REQUEST.json EVENTS.jsonl``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from fuselab import child
from fuselab.diagnosis.events import AnyEvent, FailedEvent, ObserveRequest, encode
from fuselab.records import Status


def main(request_path: str, events_path: str) -> None:
    """Carry out the request; every event is one line in the file, written at once."""
    child.die_with_parent()
    request = msgspec.json.decode(Path(request_path).read_bytes(), type=ObserveRequest)
    descriptor = os.open(events_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(event: AnyEvent) -> None:
        child.write(descriptor, encode(event))

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


if __name__ == "__main__":
    main(*sys.argv[1:])
