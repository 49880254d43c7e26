"""What the course uses of triton beyond its documentation, each looked for before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NO_DRIVER", "count_launches", "failed_line"]

NO_DRIVER = "0 active drivers"
"""What triton says, among other words, when something has to be timed and there is no GPU."""


def count_launches(namespace: dict[str, Any], launched: Callable[[], None]) -> None:
    """Have every launch of the kernels in a namespace noted.

    ``kernel[grid](...)`` calls ``kernel.run`` with the grid, for kernels compiled, interpreted and autotuned.
    """
    kernels = [v for v in namespace.values() if hasattr(v, "fn") and hasattr(v, "run") and hasattr(v, "__getitem__")]
    for kernel in kernels:
        kernel.run = _noting(kernel.run, launched)


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
