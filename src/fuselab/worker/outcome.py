"""From an exception to the status that names it."""

from __future__ import annotations

from fuselab.errors import FuselabError
from fuselab.records import Status
from fuselab.worker.messages import Failure

__all__ = ["failure_of"]

REASON_LENGTH = 500
"""Characters of an exception's text that are kept as the reason; the traceback has the rest."""

FATAL_DEVICE_ERRORS = (
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "illegal instruction",
    "device-side assert",
    "an illegal instruction was encountered",
    "CUDA error: unknown error",
)
"""What the driver says after which a CUDA context is lost, and with it the process."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")


def failure_of(error: BaseException, traceback: str, arm: str = "") -> Failure:
    """What happened, in the terms of ``Status``.

    Example:
        >>> failure_of(MemoryError(), "").status
        <Status.OUT_OF_MEMORY: 'out_of_memory'>
        >>> failure_of(ValueError("p has to be in [0, 1]"), "").reason
        'ValueError: p has to be in [0, 1]'
    """
    text = str(error)
    if isinstance(error, FuselabError):
        return Failure(status=Status.ERROR, reason=str(error), traceback=traceback, arm=arm)
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    status = Status.ERROR
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        status = Status.OUT_OF_MEMORY
    elif any(words in text for words in FATAL_DEVICE_ERRORS):
        status = Status.CRASHED
    return Failure(status=status, reason=_shortened(reason), traceback=traceback, arm=arm)


def _shortened(reason: str) -> str:
    reason = reason.strip()
    return reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 3] + "..."
