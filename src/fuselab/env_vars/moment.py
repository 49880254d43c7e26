"""``fuselab.env(NAME=value)``: a variable set at a moment when it works, or an error that says why it cannot.

What has not been read yet is set in the environment. What a configuration module has read while it was imported is set
in the fields that the variable fills: the module's source is run once more, out of sight, with and without the
variable, and the fields that differ are those. What C++ or a cache has read once and for all is refused, with the way
out. The environment is set in every case, so that processes started meanwhile see it, and everything is put back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from fuselab.env_vars import internals
from fuselab.env_vars.catalogue import Moment, Variable, catalogue
from fuselab.errors import FuselabError, SetupError, UsageError

__all__ = ["Env", "TooLateError", "env"]

RELOADED = ("TORCH_LOGS", "TORCH_LOGS_OUT")
"""What torch can read again after its import."""

CONFIGURED = "torch._inductor.config"
COMPILERS = ("triton", "cpu", "caches")
"""Subjects whose compile-time variables are read in compile workers too."""
PASSED_ON = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_LIBDEVICE_PATH")
"""What Inductor hands to running workers with each job."""


class TooLateError(UsageError):
    """A variable cannot take effect any more in this process; the hint says what can."""


class Env:
    """The public name ``fuselab.env``: called, a context manager; ``check()`` looks at this process."""

    def __call__(self, **settings: str | int | bool | None) -> Any:
        """Set variables for a block of code, where that takes effect.

        Args:
            settings: values by variable; True and False stand for 1 and 0, None for not set.

        Raises:
            TooLateError: a variable was read already and has no field; nothing was changed.
            UnknownNameError: no torch or triton that we know of reads it.

        Example:
            >>> import os, fuselab
            >>> with fuselab.env(TRITON_KERNEL_DUMP=True, TRITON_ALWAYS_COMPILE=True):
            ...     os.environ["TRITON_KERNEL_DUMP"]
            '1'
        """
        return _settings(settings)

    def check(self) -> Any:
        """What is set in this process and what is wrong with it, as a report that displays itself in a notebook."""
        from fuselab.env_vars.findings import report_here

        return report_here()

    def __repr__(self) -> str:
        return "fuselab.env(NAME=value, ...) sets variables for a block; fuselab.env.check() looks at this process"


env = Env()


@contextmanager
def _settings(settings: Mapping[str, str | int | bool | None]) -> Iterator[None]:
    values = {name: _text(name, value) for name, value in settings.items()}
    variables = {name: catalogue().find(name) for name in values}
    for variable in variables.values():
        _refuse_if_late(variable, values)
    # Whatever fields differ is found out before anything is changed, so that an error leaves all as it was.
    fields = _fields({variables[name].name: value for name, value in values.items()}, list(variables.values()))
    before = {variable.name: os.environ.get(variable.name) for variable in variables.values()}
    with ExitStack() as stack:
        reloaded = any(variable.name in RELOADED for variable in variables.values()) and "torch" in sys.modules
        if reloaded:
            logs = internals.log_state()
        stack.callback(_restore, before, logs if reloaded else None)
        _restore({variables[name].name: value for name, value in values.items()})
        if reloaded:
            logs.__enter__()
        backs: list[Callable[[], None]] = []
        stack.callback(lambda: [back() for back in reversed(backs)])
        for module, changed in fields.items():
            backs.append(internals.set_fields(sys.modules[module], changed))
        yield


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float | os.PathLike):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    raise UsageError(f"{name}={value!r}: a variable holds text", hint="give a str, an int, a bool, a path or None")


def _refuse_if_late(variable: Variable, values: Mapping[str, str | None]) -> None:
    """Raise if setting the variable now changes nothing."""
    if variable.name in RELOADED:
        return
    late = why_late(variable)
    if late and not (variable.field and variable.read is Moment.IMPORT and variable.before is None):
        raise TooLateError(
            f"{variable.name} cannot take effect any more: {late}",
            hint=variable.instead or f"start the process with {variable.name}={values.get(variable.name) or 1}",
        )
    threads = values.get("TORCHINDUCTOR_COMPILE_THREADS")
    in_workers = variable.read is Moment.COMPILE and variable.subject in COMPILERS and variable.name not in PASSED_ON
    if in_workers and threads != "1" and internals.workers_are_running():
        raise TooLateError(
            f"{variable.name} does not reach Inductor's compile workers: they run with the environment they began with",
            hint=f"fuselab.env({variable.name}=..., TORCHINDUCTOR_COMPILE_THREADS=1) compiles in this process",
        )


def why_late(variable: Variable) -> str:
    """Why setting a variable in this process's environment changes nothing any more; empty while it still does."""
    for event in variable.too_late_after():
        if event == "cuda":
            if internals.cuda_is_initialised():
                return "CUDA is in use, and it was read then"
        elif event == "nccl":
            if internals.nccl_is_loaded():
                return "a process group exists, and it was read then"
        elif event in sys.modules:
            once = variable.read is Moment.FIRST_USE
            return f"{event} is imported, and {'may have read it since' if once else 'it was read then'}"
    return ""


def _fields(values: Mapping[str, str | None], variables: list[Variable]) -> dict[str, dict[str, Any]]:
    """Fields to set, by module: those that differ between an import with and without the variables."""
    modules = {
        reader
        for variable in variables
        if variable.field and variable.read is Moment.IMPORT and variable.before is None
        for reader in variable.readers
        if reader in sys.modules
    }
    if "TORCH_COMPILE_DEBUG" in values or "TORCHINDUCTOR_FORCE_DISABLE_CACHES" in values:
        modules |= {CONFIGURED} & set(sys.modules)
    now = {name: os.environ.get(name) for name in values}
    changed: dict[str, dict[str, Any]] = {}
    for module in sorted(modules):
        try:
            with_, without = (internals.fresh_fields(module, change) for change in (values, now))
        except FuselabError:
            raise
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            raise UsageError(
                f"{module} does not accept {', '.join(f'{n}={v}' for n, v in values.items())}: {error}",
                hint="fuselab env NAME shows what a variable takes",
            ) from error
        except ImportError as error:
            raise SetupError(f"{module} cannot be read again: {error}") from error
        changed[module] = {name: v for name, v in with_.items() if name not in without or without[name] != v}
        # A field that the program set itself keeps the variable from showing: it is set like the others, and put back.
        wanted = [v.field.removeprefix(f"{module}.") for v in variables if v.field and v.field.startswith(f"{module}.")]
        changed[module].update({name: with_[name] for name in wanted if name in with_})
    return changed


def _restore(environ: Mapping[str, str | None], logs: Any = None) -> None:
    for name, value in environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if logs is not None:
        logs.__exit__(None, None, None)
