"""Private names of Triton, used to see kernels that are launched from the user's own code. Feature-detected.

Inductor's kernels do not come by here: they are launched by its own launchers.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fuselab.capture.internals import _module

__all__ = ["JitKernel", "jit_launches"]

_HEAD = re.compile(r"^\s*def\s")
_MOST_CALLERS = 32
_MOST_KERNELS = 2000


@dataclass
class JitKernel:
    """One compiled configuration of a Triton kernel that the user's code launched."""

    hash: str
    name: str
    source: str
    """Its function, without decorators."""
    file: str
    """Where that stands."""
    above: int
    """How many lines of that file stand above the function's head."""
    stages: dict[str, str | bytes]
    """Triton's name of a stage to its content."""
    metadata: dict[str, Any]
    backward: bool
    """Whether autograd launched it in a backward pass."""
    launches: int = 0
    tuned: int = 0
    """Launches that only timed it."""
    callers: Counter[str] = field(default_factory=Counter)
    """Lines of the user's code that launched it, ``file:line``."""


_tuning = threading.local()


@contextlib.contextmanager
def jit_launches(seen: dict[tuple[str, bool], JitKernel], library_roots: tuple[str, ...]) -> Iterator[None]:
    """Enter every launch of a ``triton.jit`` function into ``seen`` while the context is open; put back on exit."""
    jit = getattr(_module("triton.runtime.jit"), "JITFunction", None)
    autotuner: Any = getattr(_module("triton.runtime.autotuner"), "Autotuner", None)
    if jit is None or "run" not in vars(jit):
        yield
        return
    roots = (*library_roots, *_package_roots())
    run = jit.run
    jit.run = functools.wraps(run)(_recording(run, seen, roots))
    bench = vars(autotuner).get("_bench") if autotuner is not None else None
    if bench is not None:
        autotuner._bench = functools.wraps(bench)(_tuned(bench))
    try:
        yield
    finally:
        jit.run = run
        if bench is not None:
            autotuner._bench = bench


def _recording(
    run: Callable[..., Any], seen: dict[tuple[str, bool], JitKernel], roots: tuple[str, ...]
) -> Callable[..., Any]:
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = run(self, *args, **kwargs)
        result = getattr(kernel, "result", None)
        compiled = result() if callable(result) and not hasattr(kernel, "asm") else kernel  # compiled in the background
        if compiled is not None and hasattr(compiled, "asm"):
            _enter(seen, self, compiled, bool(kwargs.get("warmup")), roots)
        return kernel

    return recorded


def _tuned(bench: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        before = getattr(_tuning, "now", False)
        _tuning.now = True
        try:
            return bench(*args, **kwargs)
        finally:
            _tuning.now = before

    return timed


def _enter(
    seen: dict[tuple[str, bool], JitKernel], function: Any, compiled: Any, warmup: bool, roots: tuple[str, ...]
) -> None:
    backward = _in_backward()
    key = (str(compiled.hash), backward)
    known = seen.get(key)
    if known is None:
        if len(seen) >= _MOST_KERNELS:
            return
        known = seen[key] = _described(function, compiled, backward)
    if getattr(_tuning, "now", False):
        known.tuned += 1
        return
    known.launches += not warmup
    if len(known.callers) < _MOST_CALLERS:
        known.callers[_caller(roots)] += 1


def _described(function: Any, compiled: Any, backward: bool) -> JitKernel:
    raw = list(getattr(function, "raw_src", ()))
    head = next((number for number, line in enumerate(raw) if _HEAD.match(line)), 0)
    metadata = getattr(compiled, "metadata", None)
    as_dict = getattr(metadata, "_asdict", None)
    fields = dict(as_dict()) if callable(as_dict) else {}
    return JitKernel(
        hash=str(compiled.hash),
        name=str(getattr(compiled, "name", "") or getattr(function, "__name__", "kernel")),
        source=str(getattr(function, "src", "")),
        file=str(function.fn.__code__.co_filename),
        above=int(getattr(function, "starting_line_number", 1)) + head - 1,
        stages={str(k): v for k, v in dict(compiled.asm).items() if isinstance(v, str | bytes)},
        metadata=fields,
        backward=backward,
    )


def _in_backward() -> bool:
    """Whether this thread is in autograd's engine."""
    torch = sys.modules.get("torch")
    current = getattr(getattr(torch, "_C", None), "_current_graph_task_id", None)
    return current is not None and current() != -1


def _caller(roots: tuple[str, ...]) -> str:
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(roots) and not file.startswith("<frozen"):
            return f"{file}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "unknown:0"


def _package_roots() -> tuple[str, ...]:
    """Where Triton and this package lie: their frames are not the user's."""
    packages = [sys.modules.get(name) for name in ("triton", "fuselab")]
    return tuple(f"{path}/" for package in packages for path in getattr(package, "__path__", ()))
