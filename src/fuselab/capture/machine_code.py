"""From a cubin to readable machine code and to the resources it takes, with the tools that Triton ships."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ResourceUsage", "disassemble", "parse_resource_usage", "resource_usage"]

_FUNCTION = re.compile(r"Function (?P<name>\S+):\s*\n\s*(?P<figures>REG:[^\n]*)")
_FIGURE = re.compile(r"(?P<key>[A-Z]+)(?:\[\d+\])?:(?P<value>\d+)")
_DEADLINE_S = 60


@dataclass(frozen=True)
class ResourceUsage:
    """What one function of a cubin takes."""

    registers: int
    """Registers a thread."""
    stack_bytes: int
    """Stack a thread."""
    shared_bytes: int
    """Static shared memory a block; on sm_90 and later the driver's reserved KiB is in it."""
    local_bytes: int
    """Local memory a thread: where spilled registers go."""


def parse_resource_usage(text: str) -> dict[str, ResourceUsage]:
    """Function name to figures, from what ``cuobjdump -res-usage`` prints.

    Example:
        >>> parse_resource_usage("Function k:\\n  REG:24 STACK:0 SHARED:1024 LOCAL:8 CONSTANT[0]:568")["k"].registers
        24
    """
    usage = {}
    for match in _FUNCTION.finditer(text):
        figures = {m["key"]: int(m["value"]) for m in _FIGURE.finditer(match["figures"])}
        usage[match["name"]] = ResourceUsage(
            figures.get("REG", 0), figures.get("STACK", 0), figures.get("SHARED", 0), figures.get("LOCAL", 0)
        )
    return usage


def resource_usage(cubin: Path, cuobjdump: Path) -> dict[str, ResourceUsage]:
    """Resources of every function in a cubin.

    Raises:
        RuntimeError: the tool failed; the message has what it said.
    """
    return parse_resource_usage(_run([str(cuobjdump), "-res-usage", str(cubin)]))


def disassemble(cubin: Path, nvdisasm: Path) -> str:
    """The SASS of a cubin, with the lines of the source and of the PTX where the cubin carries them.

    The cubin's line table names the innermost place only; what was inlined from where stands in the PTX.

    Raises:
        RuntimeError: the tool failed; the message has what it said.
    """
    return _run([str(nvdisasm), "-c", "-g", "-gp", str(cubin)])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{Path(command[0]).name} did not run: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} exited with {done.returncode}: {done.stderr.strip()[:500]}")
    return done.stdout
