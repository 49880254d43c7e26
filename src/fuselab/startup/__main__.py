"""The measured process: read one request from stdin, carry it out, answer over the pipe whose number is the argument.

Its first statement reads the clock: what came before it is the interpreter's start.
"""

# ruff: noqa: E402 - the clock is read before anything else is imported
from __future__ import annotations

import time

BEGUN_NS = time.monotonic_ns()

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from fuselab import child

if TYPE_CHECKING:
    from fuselab.startup.messages import Answer, Request


def main() -> None:
    """Answer one request; exceptions and exits are answers as well."""
    child.die_with_parent()
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    from fuselab.startup.internals import Observer

    observer = Observer()
    with observer.event("phase:import", since_ns=BEGUN_NS):
        observer.watch_imports()
        from fuselab.records import Status
        from fuselab.startup.messages import Failed, Progress, decode_request, encode
        from fuselab.startup.outcome import failed

        request = decode_request(sys.stdin.buffer.readline())

    def say(answer: Answer) -> None:
        child.write(pipe, encode(answer))

    try:
        answer = carry_out(request, observer, lambda text: say(Progress(text=text)))
    except SystemExit as error:
        answer = Failed(status=Status.EXITED, reason=f"it called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is the answer
        answer = failed(error, traceback.format_exc(), _user_file(request))
    say(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the user's code and the compiler's helpers are not waited for: everything has been answered.
    os._exit(0)


def carry_out(request: Request, observer: object, say: object) -> Answer:
    """The answer to a request."""
    from fuselab.startup.internals import Observer
    from fuselab.startup.messages import Described, DescribeRequest, PrepareRequest, StartRequest

    assert isinstance(observer, Observer)  # noqa: S101 - for the type checker
    assert callable(say)  # noqa: S101
    if isinstance(request, DescribeRequest):
        from fuselab import device

        return Described(environment=device.environment(device.resolve(request.device)))
    if isinstance(request, StartRequest):
        from fuselab.startup.start import measure_start

        caches = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent
        return measure_start(request, observer, BEGUN_NS, caches, say)
    if isinstance(request, PrepareRequest):
        from fuselab.startup.packages import make_package

        return make_package(request)
    from fuselab.startup.stream import call_through

    return call_through(request, observer, say)


def _user_file(request: Request) -> str:
    from fuselab.startup.messages import DescribeRequest

    return "" if isinstance(request, DescribeRequest) else request.subject.target.rpartition(":")[0]


if __name__ == "__main__":
    main()
