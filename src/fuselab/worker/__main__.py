"""The child's side: read one request from stdin, carry it out, answer over the pipe whose number is the argument."""

from __future__ import annotations

import os
import sys
import traceback

from fuselab import child
from fuselab.records import Status
from fuselab.worker.messages import (
    Answer,
    CheckRequest,
    DescribeRequest,
    DescribeResult,
    Failure,
    Progress,
    Request,
    TimeRequest,
    decode_request,
    encode,
)


def main() -> None:
    """Answer one request; exceptions, exits and missing memory are answers as well."""
    child.die_with_parent()
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    request = decode_request(sys.stdin.buffer.readline())
    arm = ""

    def say(answer: Answer) -> None:
        nonlocal arm
        if isinstance(answer, Progress):
            arm = answer.arm
        child.write(pipe, encode(answer))

    try:
        answer = carry_out(request, say)
    except SystemExit as error:
        answer = Failure(status=Status.EXITED, reason=f"it called sys.exit({error.code!r})", arm=arm)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is the answer
        from fuselab.worker.outcome import failure_of

        answer = failure_of(error, traceback.format_exc(), arm)
    say(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and atexit handlers of the user's code, and the tear-down of a device that faulted, can hang or crash;
    # everything has been answered, so nothing of it is waited for.
    os._exit(0)


def carry_out(request: Request, say: object) -> Answer:
    """The answer to a request."""
    progress = say if callable(say) else None
    if isinstance(request, DescribeRequest):
        from fuselab import device

        device_type = device.resolve(request.device)
        if request.exercise:
            device.exercise(device_type)
        return DescribeResult(environment=device.environment(device_type), device_id=device.device_id(device_type))
    if isinstance(request, CheckRequest):
        from fuselab.worker.check import check

        return check(request, progress=progress)
    assert isinstance(request, TimeRequest)  # noqa: S101 - the union has no other member
    from fuselab.worker.timing import time_variants

    return time_variants(request, progress=progress)


if __name__ == "__main__":
    main()
