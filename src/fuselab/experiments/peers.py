"""Other people's fused kernels as variants: Liger-Kernel and QuACK, where they are installed.

A peer that has no fused kernel for a pattern, or computes something else under the same name, is listed with that
reason and never approximated by a composition that its users would not write.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from fuselab.errors import SetupError
from fuselab.experiment import Implementation, Variant, VariantKind
from fuselab.records import Workload

__all__ = ["LIGER", "QUACK", "Package", "lacking", "peer"]


@dataclass(frozen=True)
class Package:
    """A Python package of fused kernels."""

    variant: str
    """Name of the variant."""
    module: str
    """Name it is imported by."""
    distribution: str
    """Name it is installed by."""
    title: str
    """Its own name."""
    dtypes: tuple[str, ...]
    """Short names of the dtypes that it takes."""


LIGER = Package("liger", "liger_kernel", "liger-kernel", "Liger-Kernel", ("bf16", "f16", "f32"))
QUACK = Package("quack", "quack", "quack-kernels", "QuACK", ("bf16", "f16", "f32"))


def peer(
    package: Package,
    description: str,
    build: Callable[[Workload], Implementation],
    lacks: Callable[[Workload], str | None] = lambda _: None,
) -> Variant:
    """A peer's implementation, unavailable with the reason where it cannot run.

    Args:
        package: whose it is.
        description: which of its functions is called.
        build: imports the package and returns the implementation.
        lacks: why the package cannot do a workload at all, or None.
    """

    def unavailable(workload: Workload, device_type: str) -> str | None:
        reason = lacks(workload)
        if reason is not None:
            return reason
        if workload.dtype not in package.dtypes:
            return f"{package.title} takes {', '.join(package.dtypes)}, not {workload.dtype}"
        if device_type != "cuda":
            return f"{package.title}'s kernels need a GPU"
        if importlib.util.find_spec(package.module) is None:
            return f"{package.title} is not installed: pip install {package.distribution}"
        return None

    return Variant(package.variant, description, VariantKind.PEER, build, unavailable)


def lacking(package: Package, what: str) -> Variant:
    """A peer that has no fused kernel for a pattern; ``what`` says which it lacks."""
    reason = f"{package.title} has no {what}"

    def build(_workload: Workload) -> Implementation:
        raise SetupError(reason, hint="leave this variant out")

    return peer(package, f"not there: {reason}", build, lambda _: reason)
