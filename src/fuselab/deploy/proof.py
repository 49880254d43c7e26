"""``verify-pack``: the proof that a package starts without compiling and answers as eager does, and how fast.

Every start is a fresh process with caches of its own, empty at first; the ways (cold, artifacts, aoti) are drawn in
random order within each repetition, so that a machine that slows down does so for all of them. Nothing runs beside.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fuselab.deploy.archive import Package
from fuselab.deploy.machine import require_same_machine
from fuselab.deploy.manifest import Machine, Manifest
from fuselab.deploy.messages import Counts, DescribeRequest, DescribeResult, StartRequest, StartResult
from fuselab.deploy.process import ask, compiler_shims, fresh_caches
from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import TensorCheck

__all__ = ["FIGURE", "Proof", "StartFigures", "verify"]

FIGURE = (
    "wall time from the model and its inputs in memory to the first answer, in a fresh process with empty caches that "
    "has imported torch and not its compiler; the package is read, checked and unpacked within it; median of the starts"
)
"""What ``start_s`` is, in words, for tables and JSON."""


class StartFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One way to start in one direction, over its repetitions."""

    way: str
    """``cold``, ``artifacts`` or ``aoti``."""
    direction: str
    """``forward`` or ``backward``."""
    start_s: list[float]
    """Each start: from the model in memory to the first answer, in seconds."""
    process_s: list[float]
    """The same from the start of the process."""
    all_calls_s: list[float]
    """Until every declared call was answered."""
    unpack_s: list[float]
    """What the package costs: checksums, unpacking, loading."""
    steady_s: list[float]
    """The first call again."""
    counts: Counts
    """What was compiled: the most of all repetitions."""
    checks: dict[str, list[TensorCheck]]
    """Judgement of the last repetition that was wrong, or of the last."""
    equal: bool
    """Whether every answer of every repetition was right."""
    speedup: float | None = None
    """Median of cold over the median of this; None for cold itself."""
    speedup_lowest: float | None = None
    """The shortest cold start over the longest of this: what no repetition fell below."""
    notes: list[str] = []

    @property
    def proven(self) -> bool:
        """Whether a warm start compiled nothing and answered right."""
        return self.equal and self.counts.compilations == 0


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What ``verify-pack`` found."""

    package: str
    sha256: str
    manifest: Manifest
    machine: Machine
    starts: list[StartFigures]
    figure: str = FIGURE
    """What ``start_s`` is."""
    without_compiler: bool = False
    """Whether the warm starts had no compiler, nor anything else, on PATH."""
    failures: list[str] = []
    """Why the proof failed; empty where it holds."""

    @property
    def holds(self) -> bool:
        """Whether every warm start compiled nothing and answered right, and the cold ones were seen to compile."""
        return not self.failures


def verify(
    path: Path | str,
    *,
    target: str = "",
    sha256: str | None = None,
    repeats: int = 3,
    ways: Sequence[str] = (),
    directions: Sequence[str] = (),
    without_compiler: bool = False,
    cold: bool = True,
    at_least: float | None = None,
    seed: int = 0,
    deadline_s: float = 1800.0,
    say: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Prove a package in fresh processes.

    Args:
        path: the package. It is trusted: its code is run.
        target: ``FILE.py:NAME`` to use instead of the packed copy of the user's file.
        sha256: what the file must hash to.
        repeats: starts of each way.
        ways: ``artifacts``, ``aoti``; all that the package has unless given.
        directions: ``forward``, ``backward``; all that it has unless given.
        without_compiler: hide every program on PATH from the warm starts.
        cold: measure cold starts beside the warm ones; without them there is no speedup and no control.
        at_least: how many times faster than cold the best way of each direction has to start.
        seed: of the order.
        deadline_s: seconds that one start may take.
        say: told what is being done.

    Raises:
        StoreError: the package is damaged or not to be trusted.
        ForeignPackageError: it was made for other hardware or versions.
        UsageError: it has not what was asked for.
        WorkerError: a start failed.
    """
    if repeats < 1:
        raise UsageError(f"--repeats {repeats} proves nothing", hint="1 or more")
    with Package(path, sha256=sha256) as package:
        package.check_all()
        manifest, found_sha256 = package.manifest, package.sha256()
        plan = _plan(manifest, ways, directions, cold=cold)
        with tempfile.TemporaryDirectory(prefix="fuselab-verify-") as directory:
            work = Path(directory)
            say("looking at this machine")
            machine = _machine(work, manifest)
            require_same_machine(manifest.machine, machine, str(package.path))
            source = ""
            if manifest.model.source and not target:
                extracted = package.extract(manifest.model.source, work / "source")
                named = extracted.with_name(manifest.model.target.rpartition(":")[0])
                extracted.rename(named)
                source = str(named.parent)
            results: dict[tuple[str, str], list[StartResult]] = {key: [] for key in plan}
            order = random.Random(seed)  # noqa: S311 - the order of measurements
            for repetition in range(repeats):
                for way, direction in order.sample(plan, len(plan)):
                    say(f"start {repetition + 1} of {repeats}: {way}, {direction}")
                    results[way, direction].append(
                        _start(
                            work / f"{repetition}-{way}-{direction}",
                            StartRequest(
                                package=str(Path(path).absolute()),
                                sha256=found_sha256,
                                way=way,
                                direction=direction,
                                source=source,
                                target=target,
                                compiler_log="",
                                triton_dump="",
                            ),
                            refuse=without_compiler and way != "cold",
                            deadline_s=deadline_s,
                        )
                    )
    starts = _figures(results)
    return Proof(
        package=str(path),
        sha256=found_sha256,
        manifest=manifest,
        machine=machine,
        starts=starts,
        without_compiler=without_compiler,
        failures=_failures(starts, at_least),
    )


def _plan(manifest: Manifest, ways: Sequence[str], directions: Sequence[str], *, cold: bool) -> list[tuple[str, str]]:
    has = {
        "artifacts": {d for d in manifest.directions if manifest.artifacts},
        "aoti": {"forward"} if manifest.has_aoti and "forward" in manifest.directions else set(),
    }
    for way in ways:
        if way not in has:
            raise UnknownNameError("way to start", way, has)
        if not has[way]:
            reason = next((c.aoti.reason for c in manifest.calls if c.aoti.reason), "") if way == "aoti" else ""
            raise UsageError(
                f"the package cannot start by {way}" + (f": {reason}" if reason else ""),
                hint=f"it has {', '.join(w for w, found in has.items() if found) or 'nothing to start from'}",
            )
    for direction in directions:
        if direction not in manifest.directions:
            raise UsageError(
                f"the package has no {direction}",
                hint=f"it has {', '.join(manifest.directions)}; pack --direction both",
            )
    wanted = [d for d in manifest.directions if not directions or d in directions]
    plan = [(way, d) for way in has for d in wanted if d in has[way] and (not ways or way in ways)]
    if not plan:
        raise UsageError("the package has nothing that a process could start from", hint="pack again; see its warnings")
    return ([("cold", d) for d in wanted] if cold else []) + plan


def _machine(work: Path, manifest: Manifest) -> Machine:
    directory = work / "describe"
    directory.mkdir()
    request = DescribeRequest(device_type=manifest.machine.device_type)
    return ask(request, DescribeResult, directory=directory, deadline_s=300.0, environment={}).machine


def _start(directory: Path, request: StartRequest, *, refuse: bool, deadline_s: float) -> StartResult:
    directory.mkdir()
    log, dump = directory / "compilers.log", directory / "dump"
    environment = {**fresh_caches(directory / "caches"), **compiler_shims(directory / "bin", log, refuse=refuse)}
    if request.way != "cold":
        # Triton writes a file for every kernel that it really compiles; a warm start writes none and is not slowed.
        environment |= {"TRITON_KERNEL_DUMP": "1", "TRITON_DUMP_DIR": str(dump)}
    request = msgspec.structs.replace(
        request, compiler_log=str(log), triton_dump=str(dump) if request.way != "cold" else ""
    )
    return ask(request, StartResult, directory=directory, deadline_s=deadline_s, environment=environment)


def _figures(results: dict[tuple[str, str], list[StartResult]]) -> list[StartFigures]:
    found = []
    for (way, direction), starts in results.items():
        wrong = [s for s in starts if not _right(s)]
        cold = [s.start_ns for s in results.get(("cold", direction), [])]
        own = [s.start_ns for s in starts]
        compare = way != "cold" and bool(cold)
        found.append(
            StartFigures(
                way=way,
                direction=direction,
                start_s=_seconds(own),
                process_s=_seconds(s.process_ns for s in starts),
                all_calls_s=_seconds(s.all_calls_ns for s in starts),
                unpack_s=_seconds(s.unpack_ns for s in starts),
                steady_s=_seconds(s.steady_ns for s in starts),
                counts=max((s.counts for s in starts), key=lambda c: c.compilations),
                checks=(wrong or starts)[-1].checks,
                equal=not wrong,
                speedup=statistics.median(cold) / statistics.median(own) if compare else None,
                speedup_lowest=min(cold) / max(own) if compare else None,
                notes=list(dict.fromkeys(note for s in starts for note in s.notes)),
            )
        )
    return found


def _seconds(values: object) -> list[float]:
    return [round(v / 1e9, 6) for v in values]  # type: ignore[attr-defined]


def _right(start: StartResult) -> bool:
    """Every call was judged, by at least one tensor, and every tensor is right."""
    return bool(start.checks) and all(c and all(t.correct for t in c) for c in start.checks.values())


def _failures(starts: list[StartFigures], at_least: float | None) -> list[str]:
    failures = []
    for start in starts:
        where = f"{start.way}, {start.direction}"
        if not start.equal:
            failures.append(f"{where}: {_first_wrong(start)}")
        counts = start.counts
        if start.way != "cold" and counts.compilations:
            failures.append(
                f"{where}: it compiled {counts.inductor_graphs} graphs (Inductor), {counts.cpp} files (C++), "
                f"{counts.triton} kernels (Triton)"
            )
        if start.way == "cold" and not counts.inductor_graphs:
            failures.append(f"{where}: no compilation was seen in a cold start, so that a count of 0 proves nothing")
    for direction in dict.fromkeys(s.direction for s in starts):
        best = max((s.speedup or 0.0 for s in starts if s.direction == direction), default=0.0)
        if at_least is not None and best < at_least:
            failures.append(f"{direction}: the best way starts {best:.1f} times faster than cold, not {at_least:g}")
    return failures


def _first_wrong(start: StartFigures) -> str:
    for label, checks in start.checks.items():
        if not checks:
            return f"{label}: nothing was compared"
        for check in checks:
            if not check.correct:
                return f"{label}: {check.name}: {check.reason}"
    return "nothing was answered"
