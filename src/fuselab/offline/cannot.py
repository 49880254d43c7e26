"""What Triton's interpreter cannot do with a kernel, or does otherwise than a device, by its source. Pure."""

from __future__ import annotations

import re

from fuselab.versions import installed, release

__all__ = ["cannot", "why_it_stopped"]

_FP8 = re.compile(r"\*?fp8\w*|float8\w*")
_LIMITS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"inline_asm_elementwise"), "inline assembly: it cannot be interpreted"),
    (
        re.compile(r"make_tensor_descriptor|tensor_descriptor|experimental_descriptor"),
        "TMA: the interpreter copies with plain loads and stores",
    ),
    (
        re.compile(r"tl\.atomic_"),
        "atomics: applied in the order of the programs; a device has none, and rounds otherwise",
    ),
    (
        re.compile(r"tl\.rand|rand4x|randint64|rand_eager"),
        "random numbers: the device's Philox, from seeds drawn on the CPU",
    ),
    (re.compile(r"x_grid_barrier"), "a barrier of all programs: they run one after the other, and it never opens"),
    (
        re.compile(r"decoupled_lookback"),
        "programs that wait for each other's results: in order they never have to, which hides a wrong wait",
    ),
    (re.compile(r"libdevice\.\w+"), "libdevice: the CPU's functions of the same names, which round otherwise"),
    (re.compile(r"tl\.dot\("), "matrix products: in float32, not in the tensor cores' formats (TF32)"),
)
LOOPS = "Triton before 3.7 does not interpret loops with a bound of the run where numpy is 2.4 or newer"


def cannot(source: str) -> list[str]:
    """What is not, or not fully, checked when a kernel is interpreted.

    Example:
        >>> cannot("tmp = tl.atomic_add(p, v)")
        ['atomics: applied in the order of the programs; a device has none, and rounds otherwise']
    """
    found = [words for pattern, words in _LIMITS if pattern.search(source)]
    if "tl.dot(" in source and _FP8.search(source):
        found.append("tl.dot of fp8: the interpreter has no such product")
    return found


def why_it_stopped(kernel: str, error: Exception) -> str:
    """An error of the interpreter in words, with the known limit where it is that one."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = f"{type(cause).__name__}: {' '.join(lines[:3])[:300]}"
    where = f"{kernel}: " if kernel else ""
    return f"{where}{text}" + (f" ({LOOPS})" if _loops_fail() and isinstance(cause, TypeError) else "")


def _loops_fail() -> bool:
    numpy, triton = installed("numpy"), installed("triton")
    return bool(numpy and triton) and release(numpy or "") >= (2, 4) and release(triton or "") < (3, 7)
