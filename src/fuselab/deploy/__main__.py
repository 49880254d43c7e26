"""A child's side: read a request, carry it out, write the answer: ``python -m fuselab.deploy REQUEST ANSWER``."""

from __future__ import annotations

import time

STARTED_NS = time.perf_counter_ns()

import os  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402

import msgspec  # noqa: E402

from fuselab import child  # noqa: E402
from fuselab.deploy.messages import (  # noqa: E402
    Answer,
    AotiRequest,
    BuildRequest,
    DescribeRequest,
    DescribeResult,
    Failure,
    Request,
)
from fuselab.errors import FuselabError  # noqa: E402


def main() -> None:
    """Answer one request; whatever is raised is an answer as well."""
    child.die_with_parent()
    question, answer = Path(sys.argv[1]), Path(sys.argv[2])
    request: Request = msgspec.json.decode(question.read_bytes(), type=Request)
    try:
        found = carry_out(request)
    except FuselabError as error:
        found = Failure(error=type(error).__name__, message=error.message, hint=error.hint)
    except SystemExit as error:
        found = Failure(error="SystemExit", message=f"the model's code called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001 - whatever the user's model raises is the answer
        found = Failure(error=type(error).__name__, message=str(error)[:4000], traceback=traceback.format_exc()[-8000:])
    temporary = answer.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(found))
    temporary.replace(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads and exit handlers of the user's code are not waited for


def carry_out(request: Request) -> Answer:
    """The answer to a request."""
    if isinstance(request, DescribeRequest):
        from fuselab.deploy.machine import machine_here

        return DescribeResult(machine=machine_here(request.device_type))
    if isinstance(request, BuildRequest):
        from fuselab.deploy.build import build

        return build(request)
    if isinstance(request, AotiRequest):
        from fuselab.deploy.aoti import build_aoti

        return build_aoti(request)
    from fuselab.deploy.prove import prove

    return prove(request, STARTED_NS)


if __name__ == "__main__":
    main()
