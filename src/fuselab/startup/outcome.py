"""From an exception in a measured process to an answer that names it, with the user's line where one is known."""

from __future__ import annotations

from fuselab.errors import FuselabError
from fuselab.records import Status
from fuselab.startup.messages import Failed
from fuselab.startup.subject import place_of

__all__ = ["failed"]

REASON_LENGTH = 500
"""Characters of an exception's text that are kept as the reason; the traceback has the rest."""

TRACEBACK_LENGTH = 4000

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "DefaultCPUAllocator: not enough memory")


def failed(error: BaseException, traceback: str, file: str = "") -> Failed:
    """What happened.

    Args:
        error: the exception.
        traceback: its traceback as text.
        file: the user's file, to find the line in.

    Example:
        >>> failed(ValueError("p has to be in [0, 1]"), "").reason
        'ValueError: p has to be in [0, 1]'
    """
    text = str(error).strip()
    if isinstance(error, FuselabError):
        reason = text
    else:
        first = text.split("\nfrom user code:")[0].strip() or text
        reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    memory = isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)
    return Failed(
        status=Status.OUT_OF_MEMORY if memory else Status.ERROR,
        reason=reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 1] + "…",
        place=place_of(error, file),
        traceback=traceback[-TRACEBACK_LENGTH:],
    )
