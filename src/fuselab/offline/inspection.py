"""The parent's half: one process a target and workload, one run directory a target, one record that holds it all.

A run of a described device has the form of a measured one (graphs and kernels under ``compile/<workload>``), so that
whatever shows or compares runs takes it; its device type is ``described`` and it has no measurements.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fuselab import __version__, device
from fuselab.errors import SetupError, UsageError
from fuselab.offline import guard
from fuselab.offline.children import run_process
from fuselab.offline.interpreted import TemporaryFolder, interpreted
from fuselab.offline.messages import DESCRIBED, REWRITTEN, Answer, Request, Way
from fuselab.offline.process import ANSWER
from fuselab.offline.recorded import Recorded, with_recorded
from fuselab.offline.results import Inspection, TargetResult, WorkloadResult, workload_result
from fuselab.offline.selection import Chosen, choose
from fuselab.offline.tracing import DEVICE_DEPENDENT
from fuselab.records import Environment, RunMetadata, RunStatus, Workload
from fuselab.store import Run, create_run
from fuselab.targets import Target, find

__all__ = ["DEVICE_TYPE", "inspect"]

DEVICE_TYPE = "described"
NOTHING_MEASURED = "described, nothing was measured"
DEADLINE_S = 900.0

_CPU_TRACED = (
    "traced on the CPU and rewritten: operators that torch dispatches or decomposes by device "
    f"({', '.join(DEVICE_DEPENDENT)}) may differ from the device's"
)


def inspect(
    what: str,
    arguments: Sequence[str] = (),
    *,
    targets: Sequence[str | Target],
    shapes: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    options: Sequence[str] = (),
    variant: str = "compile",
    direction: str = "both",
    seed: int = 0,
    out: str | Path = "runs",
    jobs: int | None = None,
    deadline_s: float = DEADLINE_S,
    way: Way | None = None,
    check: bool = False,
    recorded: str | Path | None = None,
    command: Sequence[str] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Inspection:
    """What ``torch.compile`` would run on devices that need not be here; nothing is measured.

    Args:
        what: ``FILE.py:NAME`` of your own code, or a registered experiment.
        arguments: descriptions of your function's arguments, ``"x=bf16[4096,1024]:requires_grad"``.
        targets: names of described devices, or descriptions of your own.
        shapes, dtypes, options: of a registered experiment.
        variant: ``compile``, another compiled variant, or ``triton`` for an experiment's hand-written kernels.
        direction: ``forward``, ``backward`` or ``both``.
        seed: of module construction.
        out: directory that holds the runs; one is made a target.
        jobs: processes beside each other; as many as there are cores by default.
        deadline_s: seconds after which a process is given up.
        way: ``described`` or ``rewritten``; by default the first where it can be had (see ``tracing``).
        check: also run the kernels on the CPU, in Triton's interpreter, on small inputs, and compare with eager.
        recorded: a run on a device, by path or id: what it measured of a kernel of the same source is shown beside it.
        command: the command line, for the record.
        tell: is told what happens.

    Raises:
        UsageError: what was asked for does not exist or cannot be read.
        SetupError: there is no torch.

    Example:
        >>> found = inspect("rms_norm", targets=["h100", "mi300x"])  # doctest: +SKIP
        >>> [kernel.registers for kernel in found.targets[0].workloads[0].kernels]  # doctest: +SKIP
        [63, 32, 32, 77]
    """
    described = _unique([find(t) if isinstance(t, str) else t for t in targets])
    chosen = choose(
        what, arguments, shapes=shapes, dtypes=dtypes, options=options, variant=variant, direction=direction, seed=seed
    )
    measured = Recorded(str(recorded), Path(out)) if recorded is not None else None
    library, notes, way = _prepare(way, tell)
    host = device.environment("cpu")
    runs = [
        create_run(Path(out), _metadata(chosen, target, seed, command, host), _environment(target, host))
        for target in described
    ]
    work = [
        (target, run, workload) for target, run in zip(described, runs, strict=True) for workload in chosen.workloads
    ]

    def carry_out(target: Target, run: Run, workload: Workload) -> WorkloadResult:
        job = _Job(target, run, workload, chosen, library, way, deadline_s, tell)
        found = job.carry_out(notes)
        if not check:
            return found
        tell(f"{target.name}: {workload.label}: interpreting")
        return msgspec.structs.replace(found, interpreted=interpreted(job.checked, chosen, workload, found, deadline_s))

    with ThreadPoolExecutor(jobs or max(1, device.cpu_cores())) as pool:
        found = list(pool.map(lambda item: carry_out(*item), work))
    results = tuple(
        TargetResult(
            target=target.name,
            device=target.device_name,
            arch=target.arch,
            run=str(run.path),
            workloads=tuple(result for (_, owner, _), result in zip(work, found, strict=True) if owner is run),
        )
        for target, run in zip(described, runs, strict=True)
    )
    inspection = Inspection(
        what=what,
        experiment=chosen.experiment.name,
        variant=variant,
        note=NOTHING_MEASURED,
        versions=next((w.versions for r in results for w in r.workloads if w.versions), {}),
        targets=results,
    )
    if measured is not None:
        inspection = with_recorded(inspection, measured)
    for result, run in zip(inspection.targets, runs, strict=True):
        failed = [w for w in result.workloads if not w.ok]
        run.finish(
            RunStatus.FAILED if failed else RunStatus.COMPLETE,
            {"described": NOTHING_MEASURED, "inspection": msgspec.to_builtins(result)},
            error="; ".join(w.reason for w in failed) or None,
        )
    return inspection


def _unique(targets: Sequence[Target]) -> list[Target]:
    if not targets:
        raise UsageError("no target was named", hint="for example --target h100,mi300x")
    return list({target.name: target for target in targets}.values())


def _prepare(way: Way | None, tell: Callable[[str], None]) -> tuple[str, list[str], Way]:
    """The described device's library, what to note of it, and the way that is left."""
    if way == REWRITTEN:
        return "", [_CPU_TRACED], REWRITTEN
    try:
        return str(guard.build(say=tell)), [], DESCRIBED
    except SetupError as error:
        if way == DESCRIBED:
            raise
        return "", [f"{error.message}; {_CPU_TRACED}"], REWRITTEN


@dataclass(frozen=True)
class _Job:
    """One workload of one target."""

    target: Target
    run: Run
    workload: Workload
    chosen: Chosen
    library: str
    way: Way
    deadline_s: float
    tell: Callable[[str], None]

    def carry_out(self, notes: Sequence[str]) -> WorkloadResult:
        """Ask a process, and once more the other way where the program looks at values."""
        self.tell(f"{self.target.name}: {self.workload.label}")
        staging, answer = self._ask(self.way, self.library)
        way, said = self.way, list(notes)
        if answer.retry_rewritten:
            said += [f"the program looks at values ({answer.reason}); {_CPU_TRACED}"]
            way = REWRITTEN
            staging, answer = self._ask(REWRITTEN, "")
        answer = msgspec.structs.replace(answer, warnings=[*said, *answer.warnings])
        result = workload_result(self.workload, way, answer, staging, self.target)
        artifacts, kernels = self.run.adopt(staging, answer.artifacts, answer.kernels)
        return result.placed(artifacts, kernels)

    def checked(self, workload: Workload, arguments: Sequence[str]) -> tuple[Request, Answer, TemporaryFolder]:
        """The same program traced on other, smaller inputs, with what its graphs are called with."""
        folder: TemporaryFolder = tempfile.TemporaryDirectory(prefix="fuselab-interpreted-")
        request = msgspec.structs.replace(
            self._request(Path(folder.name), self.way, self.library),
            workload=workload,
            arguments=list(arguments),
            replay=True,
        )
        answer = self._answer(request)
        if answer.retry_rewritten:
            request = msgspec.structs.replace(request, way=REWRITTEN, library="")
            answer = self._answer(request)
        return request, answer, folder

    def _ask(self, way: Way, library: str) -> tuple[Path, Answer]:
        staging = self.run.staging(f"{self.target.name}-{self.workload.key}")
        return staging, self._answer(self._request(staging, way, library))

    def _request(self, into: Path, way: Way, library: str) -> Request:
        experiment = self.chosen.experiment
        return Request(
            target=self.target,
            into=str(into),
            workload=self.workload,
            directions=list(self.chosen.directions),
            experiment="" if experiment.target else experiment.name,
            file_target=experiment.target or "",
            arguments=list(self.chosen.arguments),
            seed=self.workload.seed,
            variant=self.chosen.variant,
            way=way,
            library=library,
        )

    def _answer(self, request: Request) -> Answer:
        with tempfile.TemporaryFile() as log:
            problem = run_process("fuselab.offline", msgspec.json.encode(request), log, self.deadline_s)
            path = Path(request.into) / ANSWER
            if not problem and path.is_file():
                answer = msgspec.json.decode(path.read_bytes(), type=Answer)
                path.unlink()
                return answer
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 2000))
            words = log.read().decode(errors="replace").strip().splitlines()
        said = f": {words[-1]}" if words else ""
        return Answer(ok=False, reason=f"{problem or 'the process gave no answer'}{said}")


def _environment(target: Target, host: Environment) -> Environment:
    capability = target.compute_capability
    return msgspec.structs.replace(
        host,
        device=f"{target.device_name} ({NOTHING_MEASURED})",
        device_type=DEVICE_TYPE,
        compute_capability="{}.{}".format(*capability) if capability else target.arch,
        device_memory_bytes=target.memory_bytes,
        multiprocessors=target.multiprocessors,
        l2_bytes=target.last_level_bytes,
    )


def _metadata(chosen: Chosen, target: Target, seed: int, command: Sequence[str], host: Environment) -> RunMetadata:
    experiment = chosen.experiment
    versions: dict[str, Any] = {n: v for n, v in host.versions.items() if n in ("torch", "triton")}
    return RunMetadata(
        id="",
        experiment=experiment.name,
        description=f"{experiment.description} ({target.name}: {NOTHING_MEASURED})",
        status=RunStatus.RUNNING,
        created_at="",
        command=list(command),
        seed=seed,
        device_type=DEVICE_TYPE,
        versions={**versions, "fuselab": __version__},
        target=experiment.target,
        plan=list(chosen.workloads),
        variants=[chosen.variant],
        directions=list(chosen.directions),
        baseline=chosen.variant,
        pid=os.getpid(),
    )
