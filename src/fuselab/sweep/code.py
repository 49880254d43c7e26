"""Which code an experiment is: the file that it is in, by hash, on the client and on every worker."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from fuselab.errors import UsageError
from fuselab.experiment import Experiment

__all__ = ["code_sha256", "placed_target", "short"]


def code_sha256(experiment: Experiment) -> str:
    """SHA-256 of the user's file, or of the module that declares a registered experiment.

    Raises:
        UsageError: the file cannot be read.
    """
    if experiment.target is not None:
        return _hash(Path(experiment.target.rpartition(":")[0]))
    file = sys.modules[experiment.make_inputs.__module__].__file__
    if file is None:
        raise UsageError(f"{experiment.name} is in no file that could be compared", hint="declare it in a module")
    return _hash(Path(file))


def placed_target(target: str) -> str:
    """The target where this host has it: at the same path, or a file of that name in the working directory.

    Raises:
        UsageError: neither is there.
    """
    file, _, name = target.rpartition(":")
    for path in (Path(file), Path.cwd() / Path(file).name):
        if path.is_file():
            return f"{path}:{name}"
    raise UsageError(
        f"this worker has no {file}, and no {Path(file).name} in {Path.cwd()}",
        hint="put the same file there: code does not travel with a sweep",
    )


def short(digest: str) -> str:
    """The first digits of a hash, for a message."""
    return digest[:12]


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
