"""A process of an inspection's own: started in isolation, ended with its time, its end put in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from fuselab import child

__all__ = ["run_process"]

_ISOLATED = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # a pool of processes would know nothing of the description
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "TRITON_INTERPRET": "0",
}


def run_process(
    module: str, request: bytes, log: IO[bytes], deadline_s: float, variables: Mapping[str, str] | None = None
) -> str:
    """Run ``python -m module`` to its end, the request on its stdin; what went wrong, in words.

    Args:
        module: of fuselab; its first step is ``child.die_with_parent``.
        request: what it reads.
        log: takes what it prints.
        deadline_s: seconds after which it is ended.
        variables: added to those that every such process has.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=child.environment_of_child({**_ISOLATED, **(variables or {})}),
    )
    try:
        process.communicate(request, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        return f"no answer within {deadline_s:.0f} s"
    finally:
        child.kill_group(process)
        child.reap(process)
    if process.returncode < 0:
        return f"the process {child.how_it_died(process.returncode)}"
    return f"the process ended with exit code {process.returncode}" if process.returncode else ""
