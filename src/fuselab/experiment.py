"""Experiment and Variant: what one pattern to study consists of, and the registry of them.

An experiment is data and a handful of functions; it is declared without importing torch, so that ``fuselab list`` stays
fast. Its functions import torch when they are called, which only workers do.
"""

from __future__ import annotations

import enum
import importlib
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import Direction, Scalar, Traffic, Workload

__all__ = [
    "BASELINE",
    "PRESETS",
    "CompileOptions",
    "Experiment",
    "Implementation",
    "Inputs",
    "Variant",
    "VariantKind",
    "load_registry",
]

BASELINE = "eager"
"""The variant that speedups are quoted against unless the user names another."""

PRESETS = ("smoke", "quick", "full")
"""Presets that every experiment has, from seconds to an hour."""

ENTRY_POINT_GROUP = "fuselab.experiments"

BUILT_IN = (
    "fuselab.experiments.layer_norm_gelu:EXPERIMENT",
    "fuselab.experiments.softmax_dropout:EXPERIMENT",
    "fuselab.experiments.rms_norm:EXPERIMENT",
    "fuselab.experiments.silu:EXPERIMENT",
)
"""The one list of experiments that ship with fuselab, in the order they are run and shown."""


class Implementation(Protocol):
    """Something callable on an experiment's inputs: a function, a module, or what ``torch.compile`` made of one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a tensor or a tuple of tensors."""


class VariantKind(enum.StrEnum):
    """What sort of implementation a variant is; decides who captures it and where it runs."""

    EAGER = "eager"
    COMPILED = "compiled"
    """``build`` returns the eager function; the worker compiles it with ``Variant.compile_options``."""
    TRITON = "triton"
    """Hand-written Triton: native on a GPU; on a CPU checked in Triton's interpreter and never timed."""
    PEER = "peer"


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call. Tensors that ``requires_grad`` are the ones whose gradients are compared."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Names of ``args`` by position, for messages."""

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Every tensor among the arguments with its name, in order."""
        names = self.names + tuple(f"args[{i}]" for i in range(len(self.names), len(self.args)))
        for name, value in [*zip(names, self.args, strict=False), *self.kwargs.items()]:
            if hasattr(value, "requires_grad"):
                yield name, value

    def differentiable(self) -> list[tuple[str, Any]]:
        """The tensors whose gradients are taken."""
        return [(name, tensor) for name, tensor in self.tensors() if tensor.requires_grad]

    def map(self, function: Callable[[Any], Any]) -> Inputs:
        """The same arguments with every tensor replaced by ``function(tensor)``."""

        def apply(value: Any) -> Any:
            return function(value) if hasattr(value, "requires_grad") else value

        return Inputs(
            tuple(apply(v) for v in self.args), {k: apply(v) for k, v in self.kwargs.items()}, names=self.names
        )


@dataclass(frozen=True)
class CompileOptions:
    """Arguments of ``torch.compile`` for a compiled variant."""

    mode: str | None = None
    dynamic: bool | None = False
    options: Mapping[str, Scalar] = field(default_factory=dict)


def _always(_workload: Workload, _device_type: str) -> str | None:
    return None


@dataclass(frozen=True)
class Variant:
    """One implementation of an experiment."""

    name: str
    description: str
    kind: VariantKind
    build: Callable[[Workload], Implementation]
    """Return the implementation for a workload; called in a worker, with torch imported by then."""
    unavailable: Callable[[Workload, str], str | None] = _always
    """Given a workload and a device type, the reason why this variant cannot run, or None. Must not import torch."""
    compile_options: CompileOptions | None = None


@dataclass(frozen=True)
class Experiment:
    """One pattern to study: a reference, variants, presets, bytes and operations moved."""

    name: str
    description: str
    variants: tuple[Variant, ...]
    make_inputs: Callable[[Workload, str], Inputs]
    """Build the inputs of a workload on a device type (``cpu``, ``cuda``), deterministically from its seed."""
    reference: Callable[[Workload], Implementation]
    """The correctness oracle: called on the inputs in float64, with the witness (below) as keyword arguments."""
    traffic: Callable[[Workload, Direction], Traffic | None]
    """The fewest bytes and operations of a cell; None where nobody can say."""
    workloads: Callable[[str, str], Sequence[Workload]]
    """The workloads of a preset (first argument) on a device type (second argument)."""
    options: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    """Allowed values of each option, the default first; an empty tuple allows any value."""
    witness: Callable[[Workload, Inputs, Any], Mapping[str, Any]] | None = None
    """For a random implementation: the randomness it drew, recovered from its output, for the reference to use."""
    check_witness: Callable[[Workload, Mapping[str, Any]], str] | None = None
    """A statistical check of the witness: what is wrong with it in words, or an empty string."""
    min_rank: int = 1
    """Fewest axes a shape may have."""
    target: str | None = None
    """``FILE.py:NAME`` for a user's own code; None for a registered experiment."""

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            UnknownNameError: there is none; the message has the nearest match.
        """
        for candidate in self.variants:
            if candidate.name == name:
                return candidate
        raise UnknownNameError("variant", name, [v.name for v in self.variants])

    def workload(
        self, shape: tuple[int, ...], dtype: str, seed: int = 0, options: Mapping[str, Scalar] | None = None
    ) -> Workload:
        """A workload of this experiment with every option filled in.

        Raises:
            UsageError: the shape has too few axes, or an option's value is not allowed.
            UnknownNameError: an option that this experiment does not have.
        """
        if len(shape) < self.min_rank:
            wanted = "x".join("4096" for _ in range(self.min_rank))
            raise UsageError(
                f"{self.name} needs a shape of at least {self.min_rank} axes, got {'x'.join(map(str, shape))!r}",
                hint=f"for example --shape {wanted}",
            )
        filled: dict[str, Scalar] = {name: allowed[0] for name, allowed in self.options.items() if allowed}
        for name, value in (options or {}).items():
            if name not in self.options:
                raise UnknownNameError(f"option of {self.name}", name, self.options, plural="options")
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{self.name} has no {name}={value}", hint=f"a finite number: --option {name}=0.5")
            allowed = self.options[name]
            if len(allowed) > 1 and value not in allowed:
                raise UsageError(
                    f"{self.name} has no {name}={value!r}", hint=f"allowed: {', '.join(map(repr, allowed))}"
                )
            filled[name] = value
        return Workload(shape=shape, dtype=dtype, options=filled, seed=seed)


def load_registry(entry_points: Sequence[importlib.metadata.EntryPoint] | None = None) -> dict[str, Experiment]:
    """Every experiment by name: those that ship with fuselab, then those of installed plugins.

    A plugin that fails to load is named in a warning and skipped.

    Raises:
        UsageError: two experiments have one name.
    """
    registry: dict[str, Experiment] = {}
    origin: dict[str, str] = {}

    def add(experiment: Experiment, source: str) -> None:
        if experiment.name in registry:
            raise UsageError(
                f"two experiments are named {experiment.name!r}: {origin[experiment.name]} and {source}",
                hint=f"rename the one in {source}, or uninstall it",
            )
        registry[experiment.name] = experiment
        origin[experiment.name] = source

    for reference in BUILT_IN:
        module, _, attribute = reference.partition(":")
        add(getattr(importlib.import_module(module), attribute), reference)
    if entry_points is None:
        entry_points = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    for entry_point in entry_points:
        try:
            experiment = entry_point.load()
            if not isinstance(experiment, Experiment):
                raise TypeError(f"{entry_point.value} is a {type(experiment).__name__}, not a fuselab Experiment")
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others must still load
            warnings.warn(
                f"experiment plugin {entry_point.name!r} ({entry_point.value}) was skipped: {error!r}", stacklevel=2
            )
            continue
        add(experiment, entry_point.value)
    return registry
