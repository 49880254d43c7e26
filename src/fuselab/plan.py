"""From what the user asked for to what will be done: experiments, workloads, variants and directions, all validated.

Pure: nothing is imported, compiled or run. A selection is checked before the machine is looked at, since that costs
seconds; the device then decides which workloads a preset means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import BASELINE, PRESETS, Experiment
from fuselab.records import Direction, RunMetadata, Scalar, Workload
from fuselab.worker.messages import ExperimentReference

__all__ = ["Plan", "Selection", "as_recorded", "parse_directions", "parse_options", "plan_of_run", "select"]

CACHES = ("cold", "warm")
FLOAT_DTYPES = ("bf16", "f16", "f32", "f64")


@dataclass(frozen=True)
class Plan:
    """One experiment to carry out once: becomes one run."""

    experiment: Experiment
    reference: ExperimentReference
    workloads: tuple[Workload, ...]
    variants: tuple[str, ...]
    directions: tuple[Direction, ...]
    baseline: str
    device_type: str
    seed: int
    preset: str | None = None
    margin: float = 0.01
    """Relative difference below which two variants count as equally fast."""
    cold: bool = True
    """Whether buffers rotate beyond twice the last-level cache."""

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.workloads) * len(self.variants) * len(self.directions)


@dataclass(frozen=True)
class Selection:
    """What the user asked for, validated, before the device is known."""

    experiments: tuple[tuple[Experiment, ExperimentReference], ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    options: Mapping[str, Scalar] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = (Direction.FORWARD, Direction.BACKWARD)
    baseline: str = BASELINE
    preset: str = "quick"
    seed: int = 0
    margin: float = 0.01
    cold: bool = True

    def plans(self, device_type: str) -> list[Plan]:
        """One plan an experiment, for this device type."""
        return [self._plan(experiment, reference, device_type) for experiment, reference in self.experiments]

    def _plan(self, experiment: Experiment, reference: ExperimentReference, device_type: str) -> Plan:
        from_preset = experiment.target is not None or not (self.shapes or self.dtypes or self.options)
        names = self.variants or tuple(v.name for v in experiment.variants)
        if self.baseline not in names:
            names = (self.baseline, *names)
        return Plan(
            experiment=experiment,
            reference=reference,
            workloads=self._workloads(experiment, device_type),
            variants=names,
            directions=self.directions,
            baseline=self.baseline,
            device_type=device_type,
            seed=self.seed,
            preset=self.preset if from_preset and experiment.target is None else None,
            margin=self.margin,
            cold=self.cold,
        )

    def _workloads(self, experiment: Experiment, device_type: str) -> tuple[Workload, ...]:
        preset = [_seeded(w, self.seed) for w in experiment.workloads(self.preset, device_type)]
        if experiment.target is not None or not (self.shapes or self.dtypes or self.options):
            return tuple(preset)
        # What is not named is taken from the preset's first workload, so that `--dtype bf16` alone means something.
        shapes = self.shapes or tuple(dict.fromkeys(w.shape for w in preset))
        dtypes = self.dtypes or (preset[0].dtype,)
        return tuple(experiment.workload(shape, dtype, self.seed, self.options) for shape in shapes for dtype in dtypes)


def select(
    names: Sequence[str],
    registry: Mapping[str, Experiment],
    *,
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    arguments: Sequence[str] = (),
    options: Sequence[str] = (),
    variants: Sequence[str] = (),
    direction: str = "both",
    baseline: str = BASELINE,
    preset: str = "quick",
    seed: int = 0,
    margin: float = 0.01,
    caches: str = "cold",
) -> Selection:
    """Read and validate everything that was asked for; no names means all registered experiments.

    Raises:
        UnknownNameError: an experiment, variant, preset, dtype or option that is not there; names the nearest match.
        UsageError: options that do not go together.
        ArgumentSpecError: a malformed shape or ``--arg``.
    """
    from fuselab.experiments.arguments import parse_dtype, parse_shape

    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    if caches not in CACHES:
        raise UsageError(f"caches are to be {caches!r}, which they cannot be", hint=f"--caches {' or '.join(CACHES)}")
    if not 0.0 < margin < 1.0:
        raise UsageError(f"a margin lies between 0 and 1, got {margin:g}", hint="--margin 0.01 is 1%")
    experiments = [_experiment(name, registry, arguments, seed) for name in (names or list(registry))]
    own_code = [e.name for e, _ in experiments if e.target is not None]
    if arguments and not own_code:
        raise UsageError(
            "--arg describes the arguments of your own function, and none was named",
            hint="fuselab run FILE.py:NAME --arg 'x=bf16[4096,1024]'; for an experiment use --shape and --dtype",
        )
    if own_code and (shapes or dtypes or options):
        raise UsageError(
            f"--shape, --dtype and --option are for registered experiments, and {own_code[0]} is your own code",
            hint="write shape and dtype into --arg 'x=bf16[4096,1024]'",
        )
    parsed_dtypes = [parse_dtype(text) for text in dtypes]
    for dtype in parsed_dtypes:
        if dtype not in FLOAT_DTYPES:
            raise UsageError(
                f"experiments have floating inputs, not {dtype}", hint=f"dtypes: {', '.join(FLOAT_DTYPES)}"
            )
    parsed_options = parse_options(options)
    for experiment, _ in experiments:
        for name in (*variants, baseline):
            experiment.variant(name)
    selection = Selection(
        experiments=tuple(experiments),
        shapes=tuple(parse_shape(text) for text in shapes),
        dtypes=tuple(parsed_dtypes),
        options=parsed_options,
        variants=tuple(dict.fromkeys(variants)),
        directions=parse_directions(direction),
        baseline=baseline,
        preset=preset,
        seed=seed,
        margin=margin,
        cold=caches == "cold",
    )
    selection.plans("cpu")  # shapes and options are judged by each experiment, before the machine is looked at
    return selection


def plan_of_run(metadata: RunMetadata, registry: Mapping[str, Experiment]) -> Plan:
    """The plan that an earlier run was carrying out, to go on with it.

    Raises:
        UsageError: the experiment is gone, or the user's file is not what it was.
    """
    if metadata.target is not None:
        if len(metadata.plan) > 1:
            raise UsageError(
                f"run {metadata.id} belongs to a sweep: its workloads have arguments of their own",
                hint="fuselab sweep --resume goes on with it",
            )
        arguments = [f"{name}={text}" for name, text in metadata.plan[0].arguments.items()]
        experiment, reference = _experiment(metadata.target, registry, arguments, metadata.seed)
        if file_hash(metadata.target) != metadata.target_sha256:
            raise UsageError(
                f"{metadata.target} is not the file that run {metadata.id} measured",
                hint="put the old file back, or start a new run",
            )
    else:
        experiment, reference = _experiment(metadata.experiment, registry, (), metadata.seed)
    return as_recorded(metadata, experiment, reference)


def as_recorded(metadata: RunMetadata, experiment: Experiment, reference: ExperimentReference) -> Plan:
    """The plan that a run was begun with.

    Args:
        metadata: of the run.
        experiment: what it measured, which the caller has found to be the same as then.
        reference: where a worker finds it.
    """
    return Plan(
        experiment=experiment,
        reference=reference,
        workloads=tuple(metadata.plan),
        variants=tuple(metadata.variants),
        directions=tuple(metadata.directions),
        baseline=metadata.baseline,
        device_type=metadata.device_type,
        seed=metadata.seed,
        preset=metadata.preset,
        margin=metadata.margin,
        cold=metadata.cold,
    )


def parse_directions(text: str) -> tuple[Direction, ...]:
    """``forward``, ``backward`` or ``both``."""
    if text == "both":
        return (Direction.FORWARD, Direction.BACKWARD)
    try:
        return (Direction(text),)
    except ValueError:
        raise UnknownNameError("direction", text, ["forward", "backward", "both"]) from None


def parse_options(texts: Sequence[str]) -> dict[str, Scalar]:
    """``NAME=VALUE`` texts; a value that reads as a number or a boolean becomes one.

    Example:
        >>> parse_options(["p=0.2", "approximate=tanh"])
        {'p': 0.2, 'approximate': 'tanh'}
    """
    options: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {text!r} is not NAME=VALUE", hint="for example --option approximate=tanh")
        options[name] = _scalar(value)
    return options


def file_hash(target: str) -> str:
    """SHA-256 of the file of ``FILE.py:NAME``."""
    import hashlib

    return hashlib.sha256(Path(target.rpartition(":")[0]).read_bytes()).hexdigest()


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _experiment(
    name: str, registry: Mapping[str, Experiment], arguments: Sequence[str], seed: int
) -> tuple[Experiment, ExperimentReference]:
    if ":" in name or name.endswith(".py"):
        from fuselab.experiments.user import experiment_from

        experiment = experiment_from(name, arguments, seed=seed)
        assert experiment.target is not None  # noqa: S101 - experiment_from always sets it
        return experiment, ExperimentReference(target=experiment.target, arguments=list(arguments), seed=seed)
    if name not in registry:
        error = UnknownNameError("experiment", name, registry)
        raise UsageError(
            error.message, hint=f"{error.hint}; your own code: fuselab run FILE.py:NAME --arg 'x=bf16[4096,1024]'"
        )
    return registry[name], ExperimentReference(name=name, seed=seed)


def _seeded(workload: Workload, seed: int) -> Workload:
    import msgspec

    return msgspec.structs.replace(workload, seed=seed)
