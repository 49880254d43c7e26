"""Compiler caches of the capture's own, so that a warm one hides nothing, and a later process starts warm from them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuselab.capture import internals

__all__ = ["cache_environment", "inductor_cache", "own_caches", "triton_cache"]


def inductor_cache(caches: Path) -> Path:
    """Where Inductor's cache lies below a cache directory."""
    return caches / "inductor"


def triton_cache(caches: Path) -> Path:
    """Where Triton's cache lies below a cache directory."""
    return caches / "triton"


def cache_environment(caches: Path) -> dict[str, str]:
    """The variables to start a process with that is to use these caches, and to hit what a capture left there.

    They carry the settings that a capture works with as well, because those are part of Inductor's cache key: a process
    started with them finds the graphs, the kernels and the autotuned configurations of an earlier one.

    Example:
        >>> sorted(cache_environment(Path("/run/caches")))[:2]
        ['INDUCTOR_PROVENANCE', 'TORCHINDUCTOR_AUTOGRAD_CACHE']
    """
    caches = caches.absolute()
    return {
        **_line_tables(),
        "TORCHINDUCTOR_CACHE_DIR": str(inductor_cache(caches)),
        "TRITON_CACHE_DIR": str(triton_cache(caches)),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        "INDUCTOR_PROVENANCE": "1",
    }


def _line_tables() -> dict[str, str]:
    """What makes a torch before 2.13 keep the line of the source beside a C++ kernel's instructions.

    A line table changes no instruction, but the compiler's command and with it the name in the cache: a process that
    times has to be started with the same.
    """
    return {} if internals.line_tables_by_default() else {"TORCHINDUCTOR_DEBUG_SYMBOL": "1"}


@contextlib.contextmanager
def own_caches(caches: Path | None) -> Iterator[Path]:
    """Point this process at ``caches``, or at a temporary directory that is removed; everything is put back on exit."""
    temporary = caches is None
    directory = Path(tempfile.mkdtemp(prefix="fuselab-caches-")) if caches is None else caches.absolute()
    places = {"TORCHINDUCTOR_CACHE_DIR": inductor_cache(directory), "TRITON_CACHE_DIR": triton_cache(directory)}
    tables = _line_tables()
    before = {name: os.environ.get(name) for name in (*places, *tables)}
    try:
        for name, place in places.items():
            place.mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(place)
        os.environ.update(tables)
        internals.clear_memory_caches()
        yield directory
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        # What was compiled in here must not be taken from memory later on: its files may be gone.
        internals.clear_memory_caches()
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)
