"""Loading a user's file: for workers only, since this executes it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from fuselab.errors import UsageError

__all__ = ["Loaded", "UserFile", "seeded"]


class Loaded:
    """What there is to call, and the file's functions that make its arguments, where there are any."""

    def __init__(self, target: Any, get_inputs: Any = None, get_init_inputs: Any = None) -> None:
        self.target = target
        self.get_inputs = get_inputs
        self.get_init_inputs = get_init_inputs


class UserFile:
    """A Python file, executed once, when something of it is first asked for."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._module: ModuleType | None = None

    def take(self, name: str) -> Loaded:
        """The object of that name, with ``get_inputs`` and ``get_init_inputs``.

        Raises:
            UsageError: running the file did not define the name.
            Exception: whatever the file raises.
        """
        module = self._load()
        if not hasattr(module, name):
            raise UsageError(
                f"{self._path.name} did not define {name!r} when it was run",
                hint="define it at the top level, whatever the environment",
            )
        return Loaded(
            getattr(module, name), getattr(module, "get_inputs", None), getattr(module, "get_init_inputs", None)
        )

    def _load(self) -> ModuleType:
        if self._module is None:
            # A module name of our own: the file's may be that of an installed package.
            digest = hashlib.sha256(str(self._path).encode()).hexdigest()[:12]
            name = f"_fuselab_user_{digest}_{id(self)}"
            spec = importlib.util.spec_from_file_location(name, self._path)
            if spec is None or spec.loader is None:
                raise UsageError(f"{self._path} cannot be imported", hint="it has to be a .py file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # where dataclasses and pickle look a class's module up
            try:
                with _on_path(self._path.parent), seeded(self._seed):
                    spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            weakref.finalize(self, sys.modules.pop, name, None)
            self._module = module
        return self._module


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from a seed, and as they were afterwards."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """The folder first on ``sys.path``, as when the file is run by itself."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have taken it out itself
            sys.path.remove(entry)
