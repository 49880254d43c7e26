"""The private names of torch and triton that this room touches, looked up where they may be absent."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["config_fields", "fresh_fields", "log_state", "nccl_is_loaded", "set_fields", "workers_are_running"]

_FRESH = "fuselab_fresh_configuration"


def config_fields(module: types.ModuleType) -> dict[str, Any] | None:
    """Every field of a configuration module of torch by its dotted name; None for another module."""
    entries = getattr(module, "_config", None)
    if not isinstance(entries, dict):
        return None
    fields = {}
    for name, entry in entries.items():
        if getattr(entry, "alias", None) is None:  # an alias is another module's field
            fields[name] = _get(module, name)
    return fields


def fresh_fields(module: str, changes: Mapping[str, str | None]) -> dict[str, Any]:
    """The fields that a configuration module would have if it were imported now, with some variables changed.

    The module's source is run under another name and thrown away; the module that is in use is not touched. That is
    exactly what the import does, so no rule of how a text becomes a value is repeated here.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    fresh_spec = importlib.util.spec_from_file_location(_FRESH, spec.origin)
    if fresh_spec is None or fresh_spec.loader is None:
        raise ModuleNotFoundError(module)
    fresh = importlib.util.module_from_spec(fresh_spec)
    before = {name: os.environ.get(name) for name in changes}
    sys.modules[_FRESH] = fresh  # torch's configuration modules look themselves up there
    try:
        _apply(changes)
        fresh_spec.loader.exec_module(fresh)
        return config_fields(fresh) or _knobs(fresh)
    finally:
        sys.modules.pop(_FRESH, None)
        _apply(before)


def set_fields(module: types.ModuleType, values: Mapping[str, Any]) -> Callable[[], None]:
    """Set fields of a configuration module or of triton's knobs; the function returned puts them back."""
    before = {name: _get(module, name) for name in values}
    own = {name: name.rpartition(".")[2] in vars(_owner(module, name)) for name in values}
    knobs = config_fields(module) is None
    for name, value in values.items():
        setattr(_owner(module, name), name.rpartition(".")[2], value)

    def back() -> None:
        for name, value in before.items():
            if knobs and not own[name]:
                delattr(_owner(module, name), name.rpartition(".")[2])
            else:
                setattr(_owner(module, name), name.rpartition(".")[2], value)

    return back


@contextmanager
def log_state() -> Iterator[None]:
    """Torch's log settings, read again from TORCH_LOGS and TORCH_LOGS_OUT on the way in and put back on the way out.

    Raises:
        AttributeError: this torch has no such functions.
    """
    import copy

    from torch._logging import _internal

    read_again, saved = _internal._init_logs, copy.deepcopy(_internal.log_state)
    read_again()
    try:
        yield
    finally:
        _internal.log_state = saved
        # The caller has put the environment back by now.
        read_again()


def workers_are_running() -> bool:
    """Whether Inductor's compile workers were started: they keep the environment they were started with."""
    compiling = sys.modules.get("torch._inductor.async_compile")
    return bool(getattr(compiling, "_pool_set", ()))


def nccl_is_loaded() -> bool:
    """Whether this process may have made NCCL read its variables: a process group exists."""
    distributed = sys.modules.get("torch.distributed")
    ready = getattr(distributed, "is_initialized", None)
    return bool(ready and ready())


def cuda_is_initialised() -> bool:
    """Whether this process uses CUDA already."""
    cuda = sys.modules.get("torch.cuda")
    ready = getattr(cuda, "is_initialized", None)
    return bool(ready and ready())


def _knobs(module: types.ModuleType) -> dict[str, Any]:
    """The plain values of triton's knobs: those that were read at the import and are kept."""
    found = {}
    for group, knobs in vars(module).items():
        if hasattr(knobs, "knob_descriptors"):
            for name, value in vars(type(knobs)).items():
                if not name.startswith("_") and isinstance(value, bool | str | int):
                    found[f"{group}.{name}"] = value
    return found


def _owner(module: types.ModuleType, name: str) -> Any:
    owner: Any = module
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    return owner


def _get(module: types.ModuleType, name: str) -> Any:
    return getattr(_owner(module, name), name.rpartition(".")[2])


def _apply(changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
