"""The child's side: read one request from stdin, carry it out, answer over the pipe whose number is the argument."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

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

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer one request; exceptions, exits and missing memory are answers as well."""
    _die_with_parent()
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    request = decode_request(sys.stdin.buffer.readline())
    arm = ""

    def say(answer: Answer) -> None:
        nonlocal arm
        if isinstance(answer, Progress):
            arm = answer.arm
        line = memoryview(encode(answer))
        while line:
            line = line[os.write(pipe, line) :]

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
        return DescribeResult(environment=device.environment(device_type), device_id=device.device_id(device_type))
    if isinstance(request, CheckRequest):
        from fuselab.worker.check import check

        return check(request, progress=progress)
    assert isinstance(request, TimeRequest)  # noqa: S101 - the union has no other member
    from fuselab.worker.timing import time_variants

    return time_variants(request, progress=progress)


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; end at once if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = os.environ.pop("FUSELAB_PARENT", "")
    if parent and os.getppid() != int(parent):
        os._exit(1)


if __name__ == "__main__":
    main()
