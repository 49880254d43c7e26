"""The private names of torch that diagnosing uses beside those of ``fuselab.capture.internals``, and no others.

Each is feature-detected: without it the listener falls back to the text of the compiler's own record.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["current_break", "file_names", "graph_break_records", "guard_stacks", "library_folders", "uncompiled"]

_BREAK_LOGGER = ".__graph_breaks"
"""End of the names of the loggers that tell graph breaks; torch records a skipped function only while one is on."""


def current_break() -> tuple[str, list[traceback.FrameSummary]] | None:
    """Type and stack of the graph break that is being recorded; None where this torch does not show them.

    The exception is the one being handled; for a jump that depends on data it was never raised, and the recording
    method holds it.
    """
    error: Any = sys.exc_info()[1]
    if getattr(error, "real_stack", None) is None:
        error = None
        frame = sys._getframe(1)
        while frame is not None and error is None:
            if frame.f_code.co_name == "log_graph_break":
                error = frame.f_locals.get("exc")
            frame = frame.f_back  # type: ignore[assignment]
    stack = getattr(error, "real_stack", None)
    if stack is None:
        return None
    return str(getattr(error, "gb_type", None) or ""), list(stack)


def guard_stacks() -> dict[str, list[traceback.FrameSummary]]:
    """Where each guarded value of the graph being traced was first used in the user's code, by the value's source."""
    module = sys.modules.get("torch._guards")
    context: Any = getattr(module, "TracingContext", None)
    context = context.try_get() if context is not None else None
    found: dict[str, list[traceback.FrameSummary]] = {}
    for guard in getattr(getattr(context, "guards_context", None), "dynamo_guards", None) or ():
        name = getattr(guard, "name", "")
        name = str(name() if callable(name) else name)
        stack = getattr(guard, "user_stack", None)
        if name and stack and name not in found:
            found[name] = list(stack)
    return found


def file_names() -> dict[int, str]:
    """torch's table of file names in its trace, number to name; it only grows, and is written to the trace once."""
    table = getattr(sys.modules.get("torch._logging.structured"), "INTERN_TABLE", None) or {}
    return {number: str(name) for name, number in table.items()}


def library_folders() -> tuple[str, ...]:
    """Folders whose code is not the user's: Python's own, installed packages, torch, and fuselab."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | {str(Path(__file__).parents[1])}
    torch = sys.modules.get("torch")
    if torch is not None and torch.__file__:
        folders.add(str(Path(torch.__file__).parent))
    return tuple(
        sorted({str(Path(folder).resolve()) + "/" for folder in folders if folder} | {f"{f}/" for f in folders})
    )


def uncompiled(function: Any) -> Any:
    """The user's own function or module, where ``torch.compile`` is wrapped around it already."""
    inner = getattr(function, "_orig_mod", None)
    if inner is None:
        inner = getattr(function, "_torchdynamo_orig_callable", None)
    return function if inner is None else uncompiled(inner)


@contextlib.contextmanager
def graph_break_records() -> Iterator[None]:
    """Have torch record functions that it skips as well; its loggers are put back on exit and print nothing."""
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if name.endswith(_BREAK_LOGGER) and isinstance(logger, logging.Logger)
    ]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    silent = logging.NullHandler()
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(silent)
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(silent)
            logger.setLevel(level)
            logger.propagate = propagate
