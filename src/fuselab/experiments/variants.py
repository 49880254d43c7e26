"""The variants that every experiment has, made from the functions that build them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from fuselab.experiment import CompileOptions, Implementation, Variant, VariantKind
from fuselab.records import Workload

__all__ = ["Build", "compiled", "eager", "max_autotune", "triton"]

TRITON_DTYPES = ("bf16", "f16", "f32")
"""What fuselab.ops takes."""

Build = Callable[[Workload], Implementation]
Unavailable = Callable[[Workload, str], str | None]


def _always(_workload: Workload, _device_type: str) -> str | None:
    return None


def eager(build: Build, description: str, *, name: str = "eager", unavailable: Unavailable = _always) -> Variant:
    """PyTorch as written, one kernel an operator."""
    return Variant(name, description, VariantKind.EAGER, build, unavailable)


def compiled(
    build: Build,
    *,
    name: str = "compile",
    description: str = "torch.compile with its defaults, static shapes",
    unavailable: Unavailable = _always,
) -> Variant:
    """``torch.compile`` of the eager function with its defaults."""
    return Variant(name, description, VariantKind.COMPILED, build, unavailable, CompileOptions())


def max_autotune(build: Build) -> Variant:
    """``torch.compile`` of the eager function, searching further than its defaults do.

    CUDA graphs stay out: how kernels are launched is for whoever measures to choose, the same for all variants.
    Coordinate descent is the part of the search that reaches the reductions and pointwise kernels of these patterns.
    """
    return Variant(
        "compile-max-autotune",
        "torch.compile, mode max-autotune-no-cudagraphs with coordinate descent tuning",
        VariantKind.COMPILED,
        build,
        _tuned_on_gpu_only,
        CompileOptions(mode="max-autotune-no-cudagraphs", options={"coordinate_descent_tuning": True}),
    )


def triton(build: Build, description: str = "fuselab's own Triton kernels") -> Variant:
    """Our own operator."""
    return Variant("triton", description, VariantKind.TRITON, build, _triton_missing)


def _tuned_on_gpu_only(_workload: Workload, device_type: str) -> str | None:
    if device_type == "cpu":
        return "needs a GPU: on a CPU Inductor's autotuning only reaches matrix multiplications and convolutions"
    return None


def _triton_missing(workload: Workload, _device_type: str) -> str | None:
    if workload.dtype not in TRITON_DTYPES:
        return f"fuselab.ops takes {', '.join(TRITON_DTYPES)}, not {workload.dtype}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton (it is built for Linux only)"
    return None
