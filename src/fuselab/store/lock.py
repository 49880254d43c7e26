"""Who carries a run out: an advisory lock on a file in the run, which the system releases when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from fuselab.errors import StoreError
from fuselab.store.files import naming

__all__ = ["RunLock", "is_held"]

_PATIENCE_S = 0.5
"""A reader that asks who is there holds a shared lock for microseconds; a writer waits that out."""


class RunLock:
    """Exclusive ``flock``; released by ``release``, by the end of the process, or with the object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._release: weakref.finalize[..., RunLock] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._release is not None and self._release.alive

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreError: another process holds it, or it cannot be written.
        """
        with naming("lock", self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if not _flock(descriptor, fcntl.LOCK_EX, _PATIENCE_S):
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                    raise StoreError(
                        f"run {self._path.parent} is being carried out by another process"
                        + (f" ({holder})" if holder.isdigit() else ""),
                        hint="wait until it ends, or end it",
                    )
                with suppress(OSError):  # the number is for the message above; a full disk may go without
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
        self._release = weakref.finalize(self, os.close, descriptor)

    def moved_to(self, path: Path) -> None:
        """Follow the file to its new name; the lock is on the file, not on its name."""
        self._path = path

    def release(self) -> None:
        """Give the lock back."""
        if self._release is not None:
            self._release()
            self._release = None


def is_held(path: Path) -> bool | None:
    """Whether a living process holds the lock at ``path``; None where the file system cannot say."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return False if error.errno in (errno.ENOENT, errno.ELOOP) else None
    try:
        return not _flock(descriptor, fcntl.LOCK_SH, 0.0)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True
