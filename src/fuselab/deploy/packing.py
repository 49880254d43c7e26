"""``pack``: build in a child with empty caches, write the package beside the old one, exchange them in one step."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fuselab import __version__, compiler
from fuselab.deploy.archive import Replacement, describe_files, now
from fuselab.deploy.manifest import Aoti, Manifest, Reference
from fuselab.deploy.messages import AotiRequest, AotiResult, BuildRequest, BuildResult
from fuselab.deploy.process import ask, fresh_caches
from fuselab.errors import UnknownNameError, UsageError, WorkerError
from fuselab.records import Workload
from fuselab.store.files import naming

__all__ = ["DIRECTIONS", "Packed", "pack"]

DIRECTIONS = ("forward", "backward", "both")

SOURCE = "model/source.py"


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """A package that was written."""

    path: str
    """Where it is."""
    size: int
    """Bytes."""
    sha256: str
    """Hash of the file, to ship along and to load it with."""
    manifest: Manifest
    """What is inside."""
    warnings: list[str]
    """What it does not have, and why."""


def pack(
    reference: Reference,
    workloads: Sequence[Workload],
    output: Path | str,
    *,
    device_type: str = "cpu",
    direction: str = "forward",
    variant: str = "compile",
    aoti: bool = True,
    deadline_s: float = 3600.0,
    say: Callable[[str], None] = lambda _: None,
) -> Packed:
    """Make a warm-start package of a model.

    Args:
        reference: a registered experiment, or a user's ``FILE.py:NAME`` with the file's path.
        workloads: the calls that it is to be ready for.
        output: the file to write; an older package there stays until the new one is whole.
        device_type: ``cpu`` or ``cuda``.
        direction: ``forward`` (inference), ``backward`` (a training step) or ``both``.
        variant: the compiled variant.
        aoti: whether to make an AOTInductor package of each forward, too.
        deadline_s: seconds that building may take.
        say: told what is being done.

    Raises:
        UsageError: something cannot be packed, or ``output`` is something else than a package.
        StoreError: the disk refused; the old package stands.
        CheckFailedError: the compiled model does not answer as eager does.
        WorkerError: the model or the compiler failed.
    """
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", direction, DIRECTIONS)
    if not workloads:
        raise UsageError("nothing to pack: no call was declared", hint="give the arguments with --arg")
    output = Path(output)
    with (
        Replacement(output) as replacement,
        naming("make a directory below", Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="fuselab-pack-") as directory,
    ):
        work = Path(directory)
        staging = work / "staging"
        staging.mkdir()
        deadline = time.monotonic() + deadline_s
        say("compiling")
        built = ask(
            BuildRequest(
                reference=reference,
                variant=variant,
                workloads=list(workloads),
                device_type=device_type,
                directions=["forward", "backward"] if direction == "both" else [direction],
                staging=str(staging),
            ),
            BuildResult,
            directory=work,
            deadline_s=deadline_s,
            environment=fresh_caches(work / "caches"),
        )
        if aoti and direction != "backward":
            say("exporting")
            built = _with_aoti(built, reference, variant, work, deadline)
        files = {name: staging / name for name in built.files}
        model = reference
        if reference.target:
            path, _, name = reference.target.rpartition(":")
            source = Path(path)
            files[SOURCE] = source
            model = msgspec.structs.replace(reference, target=f"{source.name}:{name}", source=SOURCE)
        say("writing")
        manifest = Manifest(
            fuselab=__version__,
            created_at=now(),
            machine=built.machine,
            model=model,
            compilation=built.compilation,
            calls=built.calls,
            files=describe_files(files),
            artifacts=built.artifacts,
            artifact_counts=built.artifact_counts,
            libraries=built.libraries,
            triton_libraries=built.triton_libraries,
            seconds=built.seconds,
            variant=variant,
            warnings=built.warnings,
        )
        size, sha256 = replacement.commit(manifest, files)
    return Packed(path=str(output), size=size, sha256=sha256, manifest=manifest, warnings=built.warnings)


def _with_aoti(built: BuildResult, reference: Reference, variant: str, work: Path, deadline: float) -> BuildResult:
    """What was built, with an AOTInductor package of each call's forward or the reason why there is none.

    One process a call: one that dies costs the package this half of this call.
    """
    calls, files, warnings, seconds = [], list(built.files), list(built.warnings), 0.0
    for index, call in enumerate(built.calls):
        if call.forward is None:
            calls.append(call)
            continue
        asked = AotiRequest(
            reference=reference,
            variant=variant,
            device_type=built.machine.device_type,
            call=call,
            staging=str(work / "staging"),
            file=f"aoti/{index}.pt2",
        )
        directory = work / f"aoti-{index}"
        directory.mkdir()
        try:
            result = ask(
                asked,
                AotiResult,
                directory=directory,
                deadline_s=max(1.0, deadline - time.monotonic()),
                environment=fresh_caches(work / "caches"),
            )
            aoti, seconds = result.aoti, seconds + result.seconds
        except WorkerError as error:
            aoti = Aoti(reason=_death(error.message))
        if aoti.file:
            files.append(aoti.file)
        else:
            warnings.append(f"{call.label}: no AOTInductor package: {aoti.reason}")
        calls.append(msgspec.structs.replace(call, aoti=aoti))
    return msgspec.structs.replace(
        built, calls=calls, files=files, warnings=warnings, seconds={**built.seconds, "aoti": round(seconds, 3)}
    )


def _death(message: str) -> str:
    """How a child died, in which function, where it could still say so; the way out where the C++ compiler did it."""
    first = message.splitlines()[0].replace(sys.executable, "the process")
    frame = re.search(r'File "([^"]+)", line (\d+) in (\S+)', message)
    words = f"{first} ({frame[3]}, {Path(frame[1]).name}, line {frame[2]})" if frame else first
    if "SIGSEGV" in first and compiler.links_own_runtime(program := compiler.cpp_program()):
        words += (
            f"; {Path(program).name} links a C++ library of its own into what it builds, which AOTInductor's loader "
            "dies of: set CXX to a compiler that does not add -static-libstdc++"
        )
    return words
