"""What the course uses of triton beyond its documentation, each looked for before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["count_launches", "failed_line"]


def count_launches(namespace: dict[str, Any], launched: Callable[[], None]) -> bool:
    """Have every launch of the kernels in a namespace noted; False when these kernels do not let themselves be watched.

    ``kernel[grid](...)`` calls ``kernel.run`` with the grid, for kernels compiled, interpreted and autotuned.
    """
    kernels = [v for v in namespace.values() if hasattr(v, "fn") and hasattr(v, "run") and hasattr(v, "__getitem__")]
    for kernel in kernels:
        kernel.run = _noting(kernel.run, launched)
    return True


def _noting(run: Callable[..., Any], launched: Callable[[], None]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        launched()
        return run(*arguments, **options)

    return noted


def failed_line(error: BaseException) -> str:
    """The line of a kernel that did not compile, as triton's error has it; empty when it says nothing of a line."""
    node, source = getattr(error, "node", None), getattr(error, "src", None)
    number = getattr(node, "lineno", None)
    if not isinstance(source, str) or not isinstance(number, int):
        return ""
    lines = source.splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""
