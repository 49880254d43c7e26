"""What a call says beside its results: lines on stdout, warnings and log records of the user's own code."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

from fuselab.diagnosis import internals

__all__ = ["heard"]

_ONLY_HERE = re.compile(r"_fuselab_user_\w+|\b0x[0-9a-f]{6,}\b")
"""What differs from process to process: the name that a user's file is loaded under, addresses of objects."""

_MOST_PRINTED = 1 << 20
"""Characters of what one call prints that are compared."""

_COMPILERS = ("torch", "triton", "sympy", "fuselab")
"""Loggers that say something while compiling; what they say is no answer of the user's function."""


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Catch what is said while the context is open; the list is complete, and sorted, once it has been left.

    Sorted, since a line that is moved behind the computation is the same line.
    """
    said: list[str] = []
    printed = _Printed()
    folders = internals.library_folders()
    records = _Records()
    root = logging.getLogger()
    root.addHandler(records)
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        root.removeHandler(records)
    said += printed.getvalue().splitlines()
    said += [f"{w.category.__name__}: {w.message}" for w in caught if _is_answer(w, folders)]
    said += records.lines
    said[:] = sorted(_ONLY_HERE.sub("...", line) for line in said)


def _is_answer(warning: warnings.WarningMessage, libraries: tuple[str, ...]) -> bool:
    """Whether a warning is the doing of the call: a ResourceWarning comes whenever garbage happens to be collected."""
    return not issubclass(warning.category, ResourceWarning) and not warning.filename.startswith(libraries)


class _Printed(io.StringIO):
    """Keeps what is printed, up to a limit: a function that never ends may print all the while."""

    def write(self, text: str, /) -> int:
        """Keep the text, or pass over it once there is enough."""
        return super().write(text) if self.tell() < _MOST_PRINTED else len(text)


class _Records(logging.Handler):
    """Keeps log records as lines."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a record that cannot be formatted is kept unformatted, as ``logging`` lets it pass too."""
        if record.name.split(".")[0] in _COMPILERS:
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):
            text = str(record.msg)
        self.lines.append(f"{record.levelname} {record.name}: {text}")
