"""Starting: what a compiled function costs before it is fast, and after how many calls that has paid.

Every way of starting is a process of its own, measured from the moment it is spawned to its first result and beyond:
``eager`` (nothing is compiled), ``cold`` (empty caches), ``warm`` (the disk caches of an earlier process),
``artifacts`` (empty caches filled from ``torch.compiler.save_cache_artifacts``), ``aoti`` (a package of AOTInductor's).

The doors are :func:`compile_cost` and :func:`load_compile_cost`. ``records`` is what they return, ``timeline`` makes
phases of spans, ``break_even`` makes calls of costs, ``journal`` keeps every line as it comes; ``__main__`` and what it
calls run in the measured process, everything else in one that never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuselab.startup.cost import compile_cost
    from fuselab.startup.journal import load_compile_cost
    from fuselab.startup.records import CompileCost

__all__ = ["CompileCost", "compile_cost", "load_compile_cost"]

_HOMES = {"CompileCost": "records", "compile_cost": "cost", "load_compile_cost": "journal"}
"""Looked up when first used: the measured process imports this package too, and pays for what it imports."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fuselab.startup.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fuselab.startup' has no attribute {name!r}")
