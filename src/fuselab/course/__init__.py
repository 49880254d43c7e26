"""The course: exercises that check themselves, for the notebooks in ``notes/triton-gpu-optimization``.

>>> from fuselab.course import hint
>>> hint("vector_add").of
3
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "check": "fuselab.course.checking",
    "check_all": "fuselab.course.checking",
    "hint": "fuselab.course.checking",
}
"""Where each name is from, imported when first used."""

__all__ = ["check", "check_all", "hint"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fuselab.course' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(_HOMES[name]), name)
