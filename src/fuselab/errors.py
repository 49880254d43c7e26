"""Every error that fuselab raises on purpose.

The tree, with the exit code that the command line gives for each::

    FuselabError                 2
    ├── UsageError               2    what the user asked for does not exist or cannot be read
    │   ├── UnknownNameError     2    a name that is not in a list; carries the nearest match
    │   └── ArgumentSpecError    2    a malformed ``--arg``, shape or dtype
    ├── SetupError               2    the machine lacks something: compiler, GPU, torch, triton
    ├── StoreError               1    a run directory cannot be written, read or trusted
    ├── WorkerError              1    a process of ours died or said something unreadable
    └── CheckFailedError         1    a result was wrong, or a bound was not kept

A message says what is wrong and where; the hint says what is allowed or the way out. A user's own exception is never
turned into one of these: it is recorded in its cell.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentSpecError",
    "CheckFailedError",
    "FuselabError",
    "SetupError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
    "WorkerError",
]


class FuselabError(Exception):
    """Base of every error raised on purpose: a message, a hint with the way out, an exit code.

    Example:
        >>> print(UsageError("the shape '4x' has an empty axis", hint="write it as 4x1024"))
        the shape '4x' has an empty axis
          hint: write it as 4x1024
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class UsageError(FuselabError):
    """What the user asked for does not exist or cannot be read."""


class UnknownNameError(UsageError):
    """A name that is not in a list; the message carries the nearest match and the hint the whole list.

    Example:
        >>> print(UnknownNameError("experiment", "rmsnorm", ["rms_norm", "silu"]))
        unknown experiment 'rmsnorm'; did you mean 'rms_norm'?
          hint: experiments: rms_norm, silu
    """

    def __init__(self, noun: str, name: str, allowed: Iterable[str], *, plural: str | None = None) -> None:
        self.name = name
        self.allowed = sorted(allowed)
        near = difflib.get_close_matches(name.lower(), self.allowed, n=1, cutoff=0.5)
        self.nearest = near[0] if near else None
        question = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        listed = ", ".join(self.allowed) if self.allowed else "none"
        super().__init__(f"unknown {noun} {name!r}{question}", hint=f"{plural or noun + 's'}: {listed}")


class ArgumentSpecError(UsageError):
    """A malformed ``--arg``, ``--shape`` or ``--dtype``; the message quotes it and points at the place."""


class SetupError(FuselabError):
    """The machine lacks something that the job needs; the hint is the command that mends it."""


class StoreError(FuselabError):
    """A run directory cannot be created, written, read or trusted; the message names the path."""

    exit_code = 1


class WorkerError(FuselabError):
    """A process of ours died or answered with something unreadable."""

    exit_code = 1


class CheckFailedError(FuselabError):
    """A result was wrong, or a bound that the user asked for was not kept."""

    exit_code = 1
