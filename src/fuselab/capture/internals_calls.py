"""Private names of Inductor, used to see which compiled graphs run. Feature-detected."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterator
from typing import Any

from fuselab.capture.internals import _module

__all__ = ["compiled_graph_calls", "digest"]


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


@contextlib.contextmanager
def compiled_graph_calls(called: dict[str, str], roots: tuple[str, ...]) -> Iterator[None]:
    """Note every graph of Inductor's that runs: digest of its output code to the user's line that called it."""
    graph_class: Any = getattr(_module("torch._inductor.output_code"), "CompiledFxGraph", None)
    call = vars(graph_class).get("__call__") if graph_class is not None else None
    if graph_class is None or call is None:
        yield
        return
    known: set[int] = set()

    @functools.wraps(call)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in known:
            known.add(id(self))
            text = getattr(self, "source_code", None)
            if isinstance(text, str) and text:
                called.setdefault(digest(text), _calling_line(roots))
        return call(self, *args, **kwargs)

    graph_class.__call__ = noted
    try:
        yield
    finally:
        graph_class.__call__ = call


def _calling_line(roots: tuple[str, ...]) -> str:
    """The innermost frame that is the user's; Dynamo's own code for a function keeps the function's file and lines."""
    frame = sys._getframe(2)
    others = (*roots, "<frozen", "<eval_with_key", "<torch")  # "<stdin>" is the user
    while frame is not None and frame.f_back is not None and frame.f_code.co_filename.startswith(others):
        frame = frame.f_back
    return f"{frame.f_code.co_name} at {frame.f_code.co_filename}:{frame.f_code.co_firstlineno}"
