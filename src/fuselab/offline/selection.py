"""What to inspect, from words: an experiment or the user's own code, its workloads, its variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import Experiment, VariantKind, load_registry
from fuselab.experiments.arguments import parse_argument, parse_dtype, parse_shape
from fuselab.experiments.user import experiment_from
from fuselab.records import Direction, Scalar, Workload

__all__ = ["Chosen", "choose"]

DIRECTIONS = {
    "forward": (Direction.FORWARD,),
    "backward": (Direction.BACKWARD,),
    "both": (Direction.FORWARD, Direction.BACKWARD),
}


@dataclass(frozen=True)
class Chosen:
    """One experiment, what it is called on, and which variant."""

    experiment: Experiment
    workloads: tuple[Workload, ...]
    variant: str
    directions: tuple[Direction, ...]
    arguments: tuple[str, ...]
    """Texts of ``--arg``."""


def choose(
    what: str,
    arguments: Sequence[str] = (),
    *,
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    options: Sequence[str] = (),
    variant: str = "compile",
    direction: str = "both",
    seed: int = 0,
) -> Chosen:
    """Read and validate what was asked for, without torch.

    A registered experiment without a shape or dtype is inspected on the first workload of its quick preset on a GPU.

    Raises:
        UnknownNameError: no such experiment, variant, option or direction; names the nearest match.
        UsageError: options that do not go together, or a variant that generates nothing.
        ArgumentSpecError: a malformed shape, dtype or ``--arg``.
    """
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", direction, DIRECTIONS)
    own = ":" in what or what.endswith(".py")
    if own and (shapes or dtypes or options):
        raise UsageError(
            f"--shape, --dtype and --option are for registered experiments, and {what} is your own code",
            hint="write shape and dtype into --arg 'x=bf16[4096,1024]'",
        )
    if arguments and not own:
        raise UsageError(
            f"--arg describes the arguments of your own function, and {what} is none",
            hint="fuselab inspect FILE.py:NAME --arg 'x=bf16[4096,1024]'; for an experiment use --shape and --dtype",
        )
    if own:
        experiment = experiment_from(what, arguments, seed=seed)
        workloads = tuple(experiment.workloads("quick", "cuda"))
    else:
        registry = load_registry()
        if what not in registry:
            raise UnknownNameError("experiment", what, registry)
        experiment = registry[what]
        workloads = _workloads(experiment, shapes, dtypes, options, seed)
    kind = experiment.variant(variant).kind
    if kind not in (VariantKind.COMPILED, VariantKind.TRITON):
        shown = [v.name for v in experiment.variants if v.kind in (VariantKind.COMPILED, VariantKind.TRITON)]
        raise UsageError(
            f"{variant} of {experiment.name} generates no kernels to inspect", hint=f"variants: {', '.join(shown)}"
        )
    return Chosen(experiment, workloads, variant, DIRECTIONS[direction], tuple(arguments))


def _workloads(
    experiment: Experiment, shapes: Sequence[str], dtypes: Sequence[str], options: Sequence[str], seed: int
) -> tuple[Workload, ...]:
    first = experiment.workloads("quick", "cuda")[0]
    values: dict[str, Scalar] = dict(first.options)
    for text in options:
        spec = parse_argument(text)
        if not isinstance(spec.value, bool | int | float | str):
            raise UsageError(f"--option {text!r} is not NAME=VALUE", hint="for example --option approximate=tanh")
        values[spec.name] = spec.value
    if not (shapes or dtypes or options):
        return (msgspec.structs.replace(first, seed=seed),)
    return tuple(
        experiment.workload(shape, dtype, seed, values)
        for shape in ([parse_shape(text) for text in shapes] or [first.shape])
        for dtype in ([parse_dtype(text) for text in dtypes] or [first.dtype])
    )
