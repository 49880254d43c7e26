"""Versions of what is installed, compared as numbers, and which triton a torch asks for."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable

__all__ = ["TRITON_OF_TORCH", "installed", "release", "satisfies", "wanted_triton"]

TRITON_OF_TORCH: dict[tuple[int, ...], str] = {
    (2, 11): "==3.6.0",
    (2, 12): "==3.7.0",
    (2, 13): "==3.7.1",
    (2, 14): "~=3.8.0",
    (2, 15): "~=3.9.0",
}
"""What each release's CUDA build requires, for CPU builds, whose own metadata does not name triton."""


def installed(distribution: str) -> str | None:
    """Version of an installed distribution, from its metadata; None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: versions are never compared as strings.

    Example:
        >>> release("2.13.0+cpu") > release("2.9.1"), release("2.15.0a0+git1234")
        (True, (2, 15, 0))
    """
    numbers = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(n) for n in numbers[1].split(".")) if numbers else ()


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version keeps a requirement such as ``==3.7.1``, ``~=3.9.0`` or ``>=3.6,<4``.

    Example:
        >>> satisfies("3.10.0", ">=3.6"), satisfies("3.7.0", "==3.7.1"), satisfies("3.9.4", "~=3.9.0")
        (True, False, True)
    """
    have = release(version)
    for operator, text in re.findall(r"(==|~=|>=|<=|!=|<|>)\s*([^\s,]+)", specifier):
        want = release(text)
        width = len(want) if text.endswith(".*") else max(len(have), len(want))
        a, b = (tuple((*v, *[0] * width)[:width]) for v in (have, want))
        kept = {
            "==": a == b,
            "!=": a != b,
            ">=": a >= b,
            "<=": a <= b,
            "<": a < b,
            ">": a > b,
            "~=": a >= b and have[: len(want) - 1] == want[:-1],
        }[operator]
        if not kept:
            return False
    return True


def wanted_triton(torch_version: str, requirements: Iterable[str]) -> str:
    """The triton that a torch release asks for, as a specifier; empty where nobody says.

    Args:
        torch_version: version of the installed torch.
        requirements: its ``Requires-Dist`` lines; a CUDA build names triton there.

    Example:
        >>> wanted_triton("2.13.0+cpu", [])
        '==3.7.1'
        >>> wanted_triton("2.15.0", ["triton~=3.9.0; platform_system == 'Linux'"])
        '~=3.9.0'
    """
    for requirement in requirements:
        named = re.match(r"(?:pytorch-)?triton(?:-rocm)?\s*\(?\s*([=~<>!][^;)]*)", requirement)
        if named:
            return named[1].strip()
    return TRITON_OF_TORCH.get(release(torch_version)[:2], "")
