"""Start from a package: put its caches and kernels where torch looks, or load its AOTInductor packages.

What is unpacked goes to a directory of this process's own, which is removed when it ends. torch's caches are used as
they are set up; where they cannot be written to, the process gets its own and a log line says so.
"""

from __future__ import annotations

import atexit
import gc
import getpass
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuselab.deploy import internals
from fuselab.deploy.archive import Package
from fuselab.deploy.machine import machine_here, require_same_machine
from fuselab.deploy.manifest import Call
from fuselab.deploy.target import constants_of
from fuselab.errors import StoreError, UsageError
from fuselab.store.files import naming

__all__ = ["Ahead", "ahead_of_time", "collector_paused", "load_caches", "require_fitting", "unpack_directory"]

log = logging.getLogger("fuselab.deploy")

_made = threading.Lock()
_directory: Path | None = None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's garbage collector off for a while.

    It spends a third of the import of Dynamo and Inductor on walking what stays anyway: 2.3 s of CPU against 1.5 s.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def require_fitting(package: Package) -> None:
    """Require that this machine can run what the package holds.

    Raises:
        ForeignPackageError: names what differs, both values, and the way out.
    """
    require_same_machine(
        package.manifest.machine, machine_here(package.manifest.machine.device_type), str(package.path)
    )


def load_caches(package: Package) -> None:
    """Put cache artifacts and built kernels where torch will look for them: ``torch.compile`` then compiles nothing.

    Raises:
        StoreError: there are none, they are damaged, or the disk refused.
    """
    manifest = package.manifest
    if not manifest.artifacts:
        raise StoreError(
            f"{package.path} has no cache artifacts: torch cached nothing of this model",
            hint="start from its AOTInductor package, if it has one",
        )
    into = unpack_directory() / secrets.token_hex(8)
    _writable_caches()
    internals.serve_libraries({lib.key: package.extract(lib.file, into) for lib in manifest.libraries})
    _place_triton_libraries(package)
    if torch.compiler.load_cache_artifacts(package.read(manifest.artifacts)) is None:
        raise StoreError(f"torch cannot read the cache artifacts of {package.path}", hint="pack again here")


class Ahead:
    """The forward of one declared call, compiled ahead of time; called with the call's arguments."""

    def __init__(self, runner: internals.AotiRunner, model: Any, constants: Mapping[str, str]) -> None:
        self._runner = runner
        if constants and model is not None:
            own = constants_of(model)
            missing = sorted(set(constants.values()) - set(own))
            if missing:
                raise UsageError(
                    f"the model has no parameter {missing[0]!r}, which the package was compiled with",
                    hint="give the model that was packed",
                )
            # The model's weights, not those of the day it was packed. The loader keeps their addresses, we keep them.
            self._weights = {inside: own[name].detach() for inside, name in constants.items()}
            self._runner.load_constants(self._weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call's outputs; arguments have to be those that were declared, which nothing here checks."""
        from torch.utils import _pytree as pytree

        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        return self._runner([_aligned(t) for t in tensors])


def ahead_of_time(package: Package, calls: Sequence[Call], models: Sequence[Any]) -> list[Ahead]:
    """The AOTInductor package of each call, loaded; no compiler, no Dynamo, no Inductor takes part.

    Args:
        package: the package.
        calls: of its manifest.
        models: for each call, the model whose weights are to be used; None for the packed ones.

    Raises:
        UsageError: the package has none; its reason is quoted.
        StoreError: one is damaged, or the disk refused.
    """
    into = unpack_directory() / secrets.token_hex(8)
    found = []
    for call, model in zip(calls, models, strict=True):
        if not call.aoti.file:
            raise UsageError(
                f"{package.path} has no AOTInductor package of {call.label}: {call.aoti.reason or 'not asked for'}",
                hint="start with its caches: way='artifacts'",
            )
        runner = internals.AotiRunner(package.extract(call.aoti.file, into), call.aoti.outputs)
        found.append(Ahead(runner, model, call.aoti.constants))
    return found


def unpack_directory() -> Path:
    """A directory of this process's own, readable by nobody else, removed when the process ends."""
    global _directory  # noqa: PLW0603 - one a process
    with _made:
        if _directory is None:
            with naming("make a directory below", Path(tempfile.gettempdir())):
                _directory = Path(tempfile.mkdtemp(prefix="fuselab-pack-"))
            atexit.register(_remove, _directory, os.getpid())
        return _directory


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not take its parent's libraries away
        shutil.rmtree(directory, ignore_errors=True)


def _writable_caches() -> None:
    """Give the process caches of its own where the ones that torch and Triton would use cannot be written to."""
    places = {
        "TORCHINDUCTOR_CACHE_DIR": _inductor_default(),
        "TRITON_CACHE_DIR": Path(os.environ.get("TRITON_HOME", Path("~").expanduser())) / ".triton" / "cache",
    }
    for variable, default in places.items():
        place = Path(os.environ.get(variable) or default)
        if _can_write(place):
            continue
        own = unpack_directory() / variable.lower()
        own.mkdir(exist_ok=True)
        os.environ[variable] = str(own)
        log.warning("%s cannot be written to; %s is %s until this process ends", place, variable, own)


def _inductor_default() -> Path:
    """Where Inductor keeps its caches unless told otherwise."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry
        user = str(os.getuid())
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"


def _can_write(place: Path) -> bool:
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place):
            return True
    return False


def _place_triton_libraries(package: Package) -> None:
    """Triton's own launchers and driver helpers, where it looks before it starts a C compiler."""
    if not package.manifest.triton_libraries:
        return
    if not os.environ.get("TRITON_CACHE_DIR"):
        # Where Inductor points Triton at its first kernel; Triton's driver may be asked before that.
        inductor = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or _inductor_default())
        os.environ["TRITON_CACHE_DIR"] = str(inductor / "triton" / str(torch.cuda.current_device()))
    cache = Path(os.environ["TRITON_CACHE_DIR"])
    into = unpack_directory() / "triton-libraries"
    for name in package.manifest.triton_libraries:
        _, key, file = name.split("/")
        place = cache / key / file
        if place.exists():
            continue
        unpacked = package.extract(name, into)
        with naming("write", place):
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
            shutil.copyfile(unpacked, temporary)
            temporary.replace(place)


def _aligned(tensor: Tensor) -> Tensor:
    """AOTInductor takes it that tensors begin where the allocator lets them begin; a view may not."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone(memory_format=torch.preserve_format)
