"""A process of an inspection's own: started in isolation, ended with its time, its end put in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

__all__ = ["run_process"]


def run_process(
    module: str, request: bytes, log: IO[bytes], deadline_s: float, variables: Mapping[str, str] | None = None
) -> str:
    """Run ``python -m module`` to its end, the request on its stdin; what went wrong, in words.

    Args:
        module: of fuselab.
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
        env={**os.environ, **_variables(), **(variables or {})},
    )
    try:
        process.communicate(request, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        return f"no answer within {deadline_s:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode < 0:
        return f"the process died by {signal.Signals(-process.returncode).name}"
    return f"the process ended with exit code {process.returncode}" if process.returncode else ""


def _variables() -> Mapping[str, str]:
    source = str(Path(__file__).parents[2])
    known = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": os.pathsep.join(p for p in (source, known) if p),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # a pool of processes would know nothing of the description
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "",
        "TRITON_INTERPRET": "0",
    }
