"""Capture: everything that ``torch.compile`` generates on the way from the user's line to the machine instruction.

The door is :func:`capture`, a context manager; :func:`cache_environment` is for processes that share its caches. The
package itself can be called, as ``fuselab.capture(into)``: its name is the function's as well as the room's.

Example::

    with fuselab.capture("out") as captured:
        torch.compile(function)(x).sum().backward()
    for kernel in captured.kernels:
        print(kernel.name, kernel.operations)
"""

from __future__ import annotations

import sys
import types
from contextlib import AbstractContextManager
from pathlib import Path

from fuselab.capture.caches import cache_environment
from fuselab.capture.session import Capture, capture

__all__ = ["Capture", "cache_environment", "capture"]


class _Door(types.ModuleType):
    """A package that can be called."""

    def __call__(
        self, into: str | Path, *, variant: str = "compile", workload: str = "own", caches: Path | None = None
    ) -> AbstractContextManager[Capture]:
        """See :func:`capture`."""
        return capture(Path(into), variant=variant, workload=workload, caches=caches)


sys.modules[__name__].__class__ = _Door
