"""Who measures on a device of this host: checks beside each other, a timing alone, whichever fuselab they belong to.

The lock's files lie in a directory of the user's own, named by the GPU's UUID (a CPU's is ``cpu``): one file says
who is in the room, the other is its gate. ``flock`` alone lets a stream of sharers starve whoever waits to be
alone, so everybody passes the gate first, and whoever waits to be alone keeps it shut. The system releases both when
their holder dies. Other users' processes are not kept away; a measurement's conditions count them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fuselab.store.files import naming, safe_name
from fuselab.store.trust import make_directory

__all__ = ["CPU", "HostDeviceLock", "runtime_directory"]

CPU = "cpu"
"""Name of the host's processor: its timings share memory bandwidth, so it is one device."""

_POLL_S = 0.02
_SAY_EVERY_S = 10.0


def runtime_directory() -> Path:
    """Where locks lie: ``FUSELAB_RUNTIME_DIR``, ``/run/user/<uid>/fuselab``, or ``<temporary files>/fuselab-<uid>``.

    ``XDG_RUNTIME_DIR`` is not asked: two sessions of one user may have two, and the lock has to be the same for both.
    """
    named = os.environ.get("FUSELAB_RUNTIME_DIR")
    if named:
        return Path(named)
    user = Path(f"/run/user/{os.getuid()}")
    return user / "fuselab" if os.access(user, os.W_OK) else Path(tempfile.gettempdir()) / f"fuselab-{os.getuid()}"


class HostDeviceLock:
    """A device of this host, shared by checks and held alone by a timing.

    Args:
        device: a GPU's UUID, or ``CPU``.
        directory: of the lock's files; ``runtime_directory()`` unless given.
        waiting: called with a few words every few seconds while somebody else has the device.
        stopped: asked while waiting; once it is true, waiting ends with ``KeyboardInterrupt``.

    Raises:
        StoreError: the directory cannot be made or trusted.
    """

    def __init__(
        self,
        device: str,
        *,
        directory: Path | None = None,
        waiting: Callable[[str], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        directory = directory or runtime_directory()
        make_directory(directory, 0o700)
        self._device = device
        self._room = directory / f"{safe_name(device)}.lock"
        self._gate = directory / f"{safe_name(device)}.gate"
        self._waiting, self._stopped = waiting, stopped

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside others; a timing does not begin meanwhile."""
        with self._held(self._gate, fcntl.LOCK_EX):
            room = self._open(self._room, fcntl.LOCK_SH)
        try:
            yield
        finally:
            os.close(room)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the device alone."""
        with self._held(self._gate, fcntl.LOCK_EX), self._held(self._room, fcntl.LOCK_EX):
            yield

    @contextmanager
    def _held(self, path: Path, how: int) -> Iterator[None]:
        descriptor = self._open(path, how)
        try:
            yield
        finally:
            os.close(descriptor)

    def _open(self, path: Path, how: int) -> int:
        with naming("lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            said = time.monotonic() - _SAY_EVERY_S + 1.0
            while True:
                try:
                    # Polled: a thread that sleeps in the kernel could not be told to stop.
                    fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self._stopped():
                        raise KeyboardInterrupt from None
                    if time.monotonic() - said > _SAY_EVERY_S:
                        said = time.monotonic()
                        self._waiting(f"waiting for {self._device}: another fuselab of this user measures on it")
                    time.sleep(_POLL_S)
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
