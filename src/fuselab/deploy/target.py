"""The model that a package is of, found again from its reference: in child processes, since the user's file runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fuselab.deploy.manifest import Call, Compilation, Reference
from fuselab.errors import UsageError
from fuselab.experiment import CompileOptions, Experiment, Implementation, Inputs, VariantKind, load_registry
from fuselab.experiments.user import experiment_from
from fuselab.records import Workload

__all__ = ["Target", "compiled", "constants_of", "experiment_of", "settled"]


@dataclass(frozen=True)
class Target:
    """What is packed: an experiment and its compiled variant."""

    experiment: Experiment
    variant: str

    @property
    def compilation(self) -> Compilation:
        """How the variant is compiled.

        Raises:
            UsageError: the variant is not a compiled one.
        """
        variant = self.experiment.variant(self.variant)
        if variant.kind is not VariantKind.COMPILED:
            names = [v.name for v in self.experiment.variants if v.kind is VariantKind.COMPILED]
            raise UsageError(f"{self.variant} is not compiled: nothing to pack", hint=f"variants: {', '.join(names)}")
        options = variant.compile_options or CompileOptions()
        settings: dict[str, Any] = dict(options.options)
        if options.mode and settings:  # torch.compile takes a mode or options, not both
            import torch._inductor

            settings = {**torch._inductor.list_mode_options(options.mode), **settings}
        return Compilation(mode=None if settings else options.mode, dynamic=options.dynamic, options=settings)

    def model(self, workload: Workload) -> Implementation:
        """A new one, as written: same seed, same parameters."""
        return self.experiment.variant(self.variant).build(workload)


def experiment_of(reference: Reference, directory: Path | None) -> Experiment:
    """The experiment of a reference.

    Args:
        reference: a registered name, or a user's file.
        directory: where the user's file is.
    """
    if reference.name:
        registry = load_registry()
        if reference.name not in registry:
            raise UsageError(
                f"the package is of the experiment {reference.name!r}, which is not installed here",
                hint=f"install the plugin that has it; here are {', '.join(registry)}",
            )
        return registry[reference.name]
    file, _, name = reference.target.rpartition(":")
    path = file if directory is None else str(directory / file)
    return experiment_from(f"{path}:{name}", reference.arguments, seed=reference.seed)


def compiled(model: Implementation, compilation: Compilation) -> Implementation:
    """``torch.compile`` of the model as the package has it."""
    function: Implementation = torch.compile(
        model,
        dynamic=compilation.dynamic,
        mode=compilation.mode,
        options=cast(Any, dict(compilation.options) or None),
    )
    return function


def settled(model: Implementation, *, training: bool) -> Implementation:
    """The model in train or eval mode, if it has modes."""
    if isinstance(model, torch.nn.Module):
        return model.train(training)
    return model


def constants_of(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers by name; nothing for a function."""
    if not isinstance(model, torch.nn.Module):
        return {}
    found: Mapping[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return dict(found)


def golden_inputs(call: Call, read: Any, device: str) -> Inputs:
    """The call's arguments as they were packed."""
    from fuselab.deploy.tensors import read_value

    return Inputs(
        tuple(read_value(v, read, device) for v in call.args),
        {k: read_value(v, read, device) for k, v in call.kwargs.items()},
        names=tuple(call.names),
    )
