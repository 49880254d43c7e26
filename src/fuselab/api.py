"""The Python interface: what the commands do, as functions that return records which display themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from fuselab import store
from fuselab.errors import StoreError, UnknownNameError, UsageError
from fuselab.execution import Settings, Workers
from fuselab.experiment import BASELINE, Experiment, VariantKind, load_registry
from fuselab.plan import Plan, Selection, select
from fuselab.records import Check, Environment, Kernel, RunStatus
from fuselab.runner import Outcome, carry_out, describe, load_outcome, prepare, reopen
from fuselab.store import Run
from fuselab.terminal import TerminalWatcher
from fuselab.worker.local import Local
from fuselab.worker.supervise import Crew

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuselab.measure.calibrate import Calibration
    from fuselab.report.chain import LineView

__all__ = [
    "carry_out_selection",
    "doctor",
    "kernel_card",
    "kernel_line",
    "kernel_text",
    "kernels_named",
    "load_run",
    "resume_runs",
    "run",
]


def run(
    *what: str | Callable[..., object],
    args: Sequence[str] = (),
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    options: Sequence[str] = (),
    variants: Sequence[str] = (),
    direction: str = "both",
    baseline: str = BASELINE,
    device: str = "auto",
    preset: str = "quick",
    margin: float = 0.01,
    caches: str = "cold",
    out: str | Path = "runs",
    seed: int = 0,
    budget_s: float | None = None,
    deadline_s: float = 600.0,
    isolate: bool = True,
) -> list[Outcome]:
    """Run experiments and return one outcome an experiment: ``fuselab run`` as a function.

    Args:
        what: names of experiments, ``FILE.py:NAME`` of your own code, or, with ``isolate=False``, a function of this
            process; nothing means all registered experiments.
        args: descriptions of your function's arguments, ``"x=bf16[4096,1024]:requires_grad"``.
        shapes, dtypes, options, variants, direction, baseline, device, preset, seed: as on the command line.
        margin: relative difference below which two variants count as equally fast.
        caches: ``cold`` rotates buffers beyond twice the last-level cache, ``warm`` uses the same ones again.
        out: directory that holds the runs.
        budget_s: seconds of timing for each variant and cell.
        deadline_s: seconds after which a variant's check is given up.
        isolate: whether every check and timing has a process of its own. Without, a crash takes this process along, and
            hand-written Triton cannot be checked on a CPU unless ``TRITON_INTERPRET=1`` was set before triton was
            imported.

    Raises:
        UsageError: what was asked for does not exist or cannot be read.
        SetupError: the machine lacks something that the job needs.

    Example:
        >>> outcomes = fuselab.run("rms_norm", shapes=["64x256"], dtypes=["f32"], device="cpu")  # doctest: +SKIP
        >>> outcomes[0].measurements[0].median_ns  # doctest: +SKIP
    """
    registry = load_registry()
    names = []
    own: dict[str, Experiment] = {}
    for item in what:
        if isinstance(item, str):
            names.append(item)
            continue
        if isolate:
            raise UsageError(
                f"{getattr(item, '__name__', item)!r} lives in this process, and isolated workers cannot see it",
                hint="pass isolate=False, or write it to a file and pass 'FILE.py:NAME'",
            )
        from fuselab.experiments.user import experiment_of_callable

        experiment = experiment_of_callable(item, args, seed=seed)
        own[experiment.name] = experiment
        names.append(experiment.name)
    selection = select(
        names,
        {**registry, **own},
        shapes=shapes,
        dtypes=dtypes,
        arguments=() if own else args,
        options=options,
        variants=variants,
        direction=direction,
        baseline=baseline,
        preset=preset,
        seed=seed,
        margin=margin,
        caches=caches,
    )
    settings = Settings(budget_s=budget_s, deadline_s=deadline_s)
    return carry_out_selection(
        selection,
        device,
        Path(out),
        settings,
        console=Console(stderr=True),
        command=["fuselab.run", *(n if isinstance(n, str) else repr(n) for n in what)],
        workers=None if isolate else Local(own),
    )


def doctor() -> list[Check]:
    """What is here, what works, what is missing and the command that mends it."""
    from fuselab.checks import checks

    return checks()


def load_run(name: str | Path, out: str | Path = "runs") -> Outcome:
    """A run by its path or id, the start of it, or ``latest``.

    Raises:
        UnknownNameError: there is none; names the nearest match.
        StoreError: it cannot be read or trusted.
    """
    return load_outcome(store.open_run(str(name), Path(out)))


def calibrated(
    device: str, pairs: int, *, seed: int, repeats: int, console: Console
) -> tuple[Environment, Calibration]:
    """Measure the engine's bars in this process; what the machine is, and what was found.

    Raises:
        SetupError: a GPU was asked for and there is none.
    """
    with Crew() as crew:
        environment = _environment(crew, device, console)
    from fuselab.checks import require_compiler
    from fuselab.measure.calibrate import calibrate

    require_compiler(environment.device_type)
    with console.status("calibrating") as status:

        def progress(what: str, done: int, planned: int) -> None:
            status.update(f"{what}: {done} of {planned}")

        found = calibrate(environment.device_type, pairs, seed=seed, repeats=repeats, progress=progress)
    return environment, found


def carry_out_selection(
    selection: Selection,
    device: str,
    out: Path,
    settings: Settings,
    *,
    console: Console,
    command: Sequence[str],
    workers: Local | None = None,
) -> list[Outcome]:
    """Look at the machine, create the runs, carry them out; in processes unless ``workers`` says otherwise."""
    with nullcontext(workers) if workers else Crew() as crew:
        environment = _environment(crew, device, console)
        plans = selection.plans(environment.device_type)
        _require_compiler(plans, environment, out)
        work = prepare(plans, environment, out, command)
        with TerminalWatcher(console, plans) as watcher:
            return carry_out(work, environment, crew, settings, watcher)


def resume_runs(
    names: Sequence[str], out: Path, registry: Mapping[str, Experiment], settings: Settings, *, console: Console
) -> list[Outcome]:
    """Go on with runs that did not finish; ``all`` means every such run below ``out``.

    Raises:
        UsageError: nothing is left to do, or what was measured has changed since.
    """
    if list(names) == ["all"]:
        summaries, _ = store.list_runs(out)
        names = [s.id for s in summaries if s.status is not RunStatus.COMPLETE]
        if not names:
            raise UsageError(f"no unfinished run below {out}", hint="fuselab list-runs shows what is there")
    work = [reopen(store.open_run(name, out), registry) for name in names]
    devices = {plan.device_type for _, plan in work}
    if len(devices) > 1:
        raise UsageError("these runs are of different devices", hint="resume them one at a time")
    with Crew() as crew:
        environment = _environment(crew, devices.pop(), console)
        for each, _ in work:
            _require_same_device(each, environment)
        _require_compiler([plan for _, plan in work], environment, work[0][0].path)
        finished = sum(len(each.finished_cells()) for each, _ in work)
        with TerminalWatcher(console, [plan for _, plan in work], finished) as watcher:
            return carry_out(work, environment, crew, settings, watcher)


def kernels_named(run: Run, name: str) -> list[Kernel]:
    """Kernels of a run by id or name, else those whose id has the name in it: one or more, in the order of the run.

    Raises:
        UnknownNameError: no such kernel; names the nearest match.
    """
    kernels = run.metadata().kernels
    found = [k for k in kernels if name in (k.kernel_id, k.name)] or [k for k in kernels if name in k.kernel_id]
    if not found:
        raise UnknownNameError("kernel", name, {k.name for k in kernels})
    return found


def kernel_text(run: Run, name: str, stage: str | None = None) -> tuple[Kernel, str]:
    """A kernel of a run by id or name, and the text of its source or of another stage.

    Raises:
        UnknownNameError: no such kernel, or no such stage; names the nearest match.
    """
    kernel = kernels_named(run, name)[0]
    if stage is None:
        return kernel, run.read_text(kernel.file_path)
    artifacts = {a.stage.value: a for a in run.metadata().artifacts if a.kernel_id == kernel.kernel_id}
    if stage not in artifacts:
        raise UnknownNameError("stage", stage, artifacts)
    artifact = artifacts[stage]
    if artifact.path is None:
        there = ", ".join(name for name, one in artifacts.items() if one.path is not None)
        hint = f"it has {there}" if there else "no stage of it was saved; without --stage it is the source"
        raise UsageError(f"{kernel.name} has no {stage}: {artifact.absent}", hint=hint)
    return kernel, run.read_text(artifact.path)


def kernel_card(run: Run, kernel: Kernel) -> dict[str, Any]:
    """The card of a kernel of a run; for one that cannot be read, the reason under ``absent``."""
    try:
        card = json.loads(run.read_text(f"kernels/{kernel.kernel_id}/card.json", limit=1 << 26))
    except (StoreError, ValueError) as error:
        return {"absent": f"its card could not be read: {error}"}
    return card if isinstance(card, dict) else {"absent": "its card is not a card"}


def kernel_line(run: Run, name: str, line: int, stage: str | None = None) -> LineView:
    """The chain of one line of a kernel: what it became, and the nodes, operators and user lines that it came from.

    Args:
        run: the run.
        name: a kernel by id or name.
        line: line of its source, or of ``stage``, from 1.
        stage: another stage than the source: ``ptx`` asks for the way back.

    Raises:
        UnknownNameError: no such kernel, or no such stage.
        UsageError: the run has no chain for it, or nothing is recorded for that line.
    """
    from fuselab.capture.chain import Chain
    from fuselab.report.chain import line_view

    kernel, text = kernel_text(run, name)
    place = "/".join(kernel.file_path.split("/")[1:4])  # both kinds of path: kind, variant, workload, direction
    try:
        encoded = run.read_text(f"graphs/{place}/chain.json", limit=1 << 30)
    except StoreError as error:
        raise UsageError(f"{kernel.name}: this run has no chain", hint="runs of fuselab 0.1.0 have none") from error
    found = msgspec.json.decode(encoded, type=Chain).kernel(kernel.kernel_id)
    if found is None or not found[1].lines:
        raise UsageError(f"{kernel.name} is a call of a library: there are no lines of it to follow")
    if stage is not None and kernel_text(run, name, stage)[1] == text:  # says which stages there are
        stage = None  # `cpp` or `triton`: the source by its other name
    texts = {"": text} | {s: kernel_text(run, name, s)[1] for s in found[1].came_from}
    return line_view(*found, line, stage, texts)


def _environment(crew: Workers, device: str, console: Console) -> Environment:
    with console.status("looking at this machine"):
        environment = describe(crew, device)
    console.print(
        f"{environment.device}, torch {environment.versions.get('torch', '?')}, "
        f"triton {environment.versions.get('triton', 'not installed')}",
        markup=False,
        highlight=False,
    )
    return environment


def _require_compiler(plans: Sequence[Plan], environment: Environment, runs: Path) -> None:
    """On a CPU only where something is compiled; on a GPU the memory's ceiling is a Triton kernel too."""
    from fuselab.checks import require_compiler

    compiled = (v.kind is VariantKind.COMPILED for p in plans for v in p.experiment.variants if v.name in p.variants)
    if environment.device_type != "cpu" or any(compiled):
        require_compiler(environment.device_type, runs)


def _require_same_device(run: Run, environment: Environment) -> None:
    """Figures of two devices are never pooled in one run."""
    before = run.environment()
    if before.device != environment.device:
        raise UsageError(
            f"run {run.metadata().id} was measured on {before.device}, and this is {environment.device}",
            hint="start a new run here; figures of two devices are never pooled",
        )
