"""Children of our own: one request, one answer, a deadline, fresh caches, counted compilers.

A child compiles or runs the user's model, so that the command line's process stays free of torch and survives what the
model does. Requests and answers are JSON files in a directory of the call's own.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from fuselab import errors, probe
from fuselab.child import environment_of_child
from fuselab.deploy.messages import (
    Answer,
    AotiRequest,
    BuildRequest,
    DescribeRequest,
    Failure,
    Request,
    StartRequest,
)
from fuselab.errors import FuselabError, SetupError, WorkerError

__all__ = ["ask", "compile_commands", "compiler_shims", "fresh_caches"]

A = TypeVar("A")

COMPILERS = (
    *("cc", "gcc", "clang", "c++", "g++", "clang++", "icx", "icpx", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-g++"),
    *("nvcc", "ptxas", "hipcc"),
)
"""Programs that a compilation may start; those found on PATH get a shim that notes every start."""

_VERBS: dict[type, str] = {
    DescribeRequest: "look at the machine",
    BuildRequest: "compile",
    AotiRequest: "export",
    StartRequest: "start",
}

_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".cu", ".h", ".hpp", ".i", ".ii", ".s", ".S", ".o", ".ptx", ".ll")

_SHIM = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> '{log}'
exec '{program}' "$@"
"""

_REFUSING_SHIM = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> '{log}'
echo "no compiler on this machine" >&2
exit 127
"""


def ask(
    request: Request,
    expected: type[A],
    *,
    directory: Path,
    deadline_s: float,
    environment: Mapping[str, str],
) -> A:
    """Carry out a request in a child and return its answer.

    Args:
        request: what to do.
        expected: class of the answer.
        directory: for the two files; the caller's, private and empty.
        deadline_s: seconds after which the child is killed.
        environment: variables on top of this process's own.

    Raises:
        FuselabError: what the child raised, of the same class where it is one of ours.
        WorkerError: the child died or passed its deadline.
    """
    question, answer = directory / "request.json", directory / "answer.json"
    question.write_bytes(msgspec.json.encode(request))
    finished = probe.run(
        # faulthandler: a child that dies in C++ says in which line of Python it was
        [sys.executable, "-X", "faulthandler", "-m", "fuselab.deploy", str(question), str(answer)],
        deadline_s=deadline_s,
        environment=environment_of_child(environment),
    )
    try:
        found: Answer = msgspec.json.decode(answer.read_bytes(), type=Answer)
    except FileNotFoundError:
        said = (finished.errors or finished.output).strip()
        crashed = said.rfind("Current thread")  # faulthandler lists every thread; the one that died is the current one
        said = said[-2000:] if crashed < 0 else said[crashed:][:2000]
        raise WorkerError(
            f"the process that was to {_VERBS[type(request)]} died: "
            f"{finished.problem or 'it ended without an answer'}" + (f"\n{said}" if said else ""),
            hint="run it again with --debug; a process that is killed has often run out of memory",
        ) from None
    if isinstance(found, Failure):
        raise _raised(found)
    if not isinstance(found, expected):
        raise WorkerError(f"a child answered with a {type(found).__name__}", hint="this is a fault of fuselab's")
    return found


def _raised(failure: Failure) -> FuselabError:
    kind = getattr(errors, failure.error, None)
    if failure.error == "ForeignPackageError":
        kind = SetupError
    if isinstance(kind, type) and issubclass(kind, FuselabError) and kind is not errors.UnknownNameError:
        return kind(failure.message, hint=failure.hint)
    if kind is errors.UnknownNameError:
        return errors.UsageError(failure.message, hint=failure.hint)
    error = WorkerError(f"{failure.error}: {failure.message}", hint=failure.hint)
    error.add_note(failure.traceback)
    return error


def fresh_caches(directory: Path) -> dict[str, str]:
    """Variables that give a process empty compiler caches below a directory."""
    for name in ("inductor", "triton"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(directory / "inductor"),
        "TRITON_CACHE_DIR": str(directory / "triton"),
    }


def compiler_shims(directory: Path, log: Path, *, refuse: bool = False) -> dict[str, str]:
    """Programs that stand before the compilers on PATH and note every start; the variables that put them there.

    A shim is on PATH for the whole tree of processes, so a compiler that one of Inductor's helpers starts counts, too.

    Args:
        directory: where to put them; must not be on a file system without execution.
        log: file that they append to.
        refuse: hide the compilers altogether, and everything else on PATH: a machine without any.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log.touch()
    variables: dict[str, str] = {}
    named = {name: os.environ[name] for name in ("CC", "CXX") if os.environ.get(name)}
    for program in dict.fromkeys((*COMPILERS, *named.values())):
        real = shutil.which(program)
        if real is None and not refuse:
            continue
        shim = directory / Path(program).name
        if refuse:
            shim.write_text(_REFUSING_SHIM.format(log=log))
        else:
            shim.write_text(_SHIM.format(log=log, program=real))
        shim.chmod(stat.S_IRWXU)
    for name, program in named.items():
        # A bare name is found on PATH, at the shim, and stays: CXX is in Inductor's configuration, which is in the keys
        # of its caches. So does a CXX with a path, whose starts are then not seen; CC is in no key.
        if Path(program).name != program and (name == "CC" or refuse):
            variables[name] = str(directory / Path(program).name)
    variables["PATH"] = str(directory) if refuse else os.pathsep.join((str(directory), os.environ.get("PATH", "")))
    return variables


def compile_commands(log: Path) -> list[str]:
    """The starts that a log notes of a compiler on a source or an object: questions for a version do not count.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     log = Path(directory) / "log"
        ...     _ = log.write_text("g++ --version\\ng++ /tmp/x.main.cpp -O3 -o /tmp/x.so\\n")
        ...     compile_commands(log)
        ['g++ /tmp/x.main.cpp -O3 -o /tmp/x.so']
    """
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [line for line in lines if any(word.endswith(_SOURCES) for word in line.split()[1:])]
