"""A ``@triton.jit`` function of the user's own, compiled for the described device from its argument descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fuselab.errors import UsageError
from fuselab.experiments.arguments import TensorSpec, parse_argument
from fuselab.experiments.user_arguments import bind
from fuselab.offline import internals
from fuselab.offline.binaries import resources
from fuselab.offline.messages import Candidate
from fuselab.records import DTYPES

__all__ = ["compile_from_arguments", "hand_written"]


def hand_written(target: Any) -> Any:
    """The ``@triton.jit`` function that an object is, or that its decorators wrap; None for anything else."""
    if not internals.has_triton():
        return None
    from triton.runtime.jit import JITFunction, KernelInterface

    found = target
    while isinstance(found, KernelInterface) and not isinstance(found, JITFunction):
        found = getattr(found, "fn", None)  # autotune, heuristics
    return found if isinstance(found, JITFunction) else None


def compile_from_arguments(
    target: Any, name: str, arguments: Sequence[str], mode: Any, most_shared: int
) -> list[Candidate]:
    """Compile a kernel for the argument descriptions of ``--arg``, once for each configuration that it is tuned over.

    Args:
        target: the function, or what ``triton.autotune`` made of it.
        name: of it, in errors.
        arguments: texts of ``--arg``.
        mode: in which tensors are made without storage.
        most_shared: bytes of shared memory that a block may have on the device.

    Raises:
        ArgumentSpecError: an argument is missing, or there is no parameter for one.
        UsageError: a ``tl.constexpr`` parameter was given a tensor.
    """
    import torch

    kernel = hand_written(target)
    configurations = list(getattr(target, "configs", None) or [])
    tuned = {parameter for c in configurations for parameter in c.kwargs}
    specs = [parse_argument(text) for text in arguments]
    for spec in specs:
        if isinstance(spec.value, TensorSpec) and spec.name in {p.name for p in kernel.params if p.is_constexpr}:
            raise UsageError(f"{name}: {spec.name} is a tl.constexpr and takes a number, not {spec.text}")

    def make(spec: TensorSpec) -> Any:
        with mode:
            return torch.empty(spec.shape, dtype=getattr(torch, DTYPES[spec.dtype]), device="cuda")

    given = {spec.name for spec in specs}
    missing = [p.name for p in kernel.params if p.name not in given | tuned and not p.has_default]
    if missing:
        bind(kernel.fn, specs, make, what=name)  # says which, with an example
    values = {s.name: make(s.value) if isinstance(s.value, TensorSpec) else s.value for s in specs}
    found: list[Candidate] = []
    for configuration in configurations or [None]:
        settings = configuration.all_kwargs() if configuration is not None else {}
        compiled = kernel.warmup(**{**values, **settings}, grid=(1,))
        metadata = compiled.metadata
        used = resources(compiled.kernel, metadata.name)
        found.append(
            Candidate(
                config=dict(configuration.kwargs) if configuration is not None else {},
                num_warps=metadata.num_warps,
                num_stages=metadata.num_stages,
                first=not found,
                registers=used.registers,
                spills=used.local_bytes // 4,
                shared_bytes=metadata.shared,
                triton_hash=str(compiled.hash),
                problem=_too_much(metadata.shared, most_shared),
            )
        )
    return found


def _too_much(shared: int, most: int) -> str:
    return f"takes {shared} bytes of shared memory, and a block may have {most} on this device" if shared > most else ""
