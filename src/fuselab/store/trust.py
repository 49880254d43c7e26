"""Directories that runs are written to: ours, not open to others, not somewhere else than they seem."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fuselab.errors import StoreError
from fuselab.store.files import naming

__all__ = ["make_directory", "require_trusted"]


def make_directory(path: Path, mode: int) -> None:
    """Make a directory unless it is there, and require that it can be trusted.

    Raises:
        StoreError: it cannot be made, or somebody else could change what is in it.
    """
    with naming("make the directory", path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    require_trusted(path)


def require_trusted(path: Path) -> None:
    """Require that a directory is a real one, owned by us or root, and not open to everybody.

    Raises:
        StoreError: names what is wrong and the way out.
    """
    with naming("look at", path):
        state = path.lstat()
    if stat.S_ISLNK(state.st_mode):
        raise StoreError(
            f"{path} is a symbolic link to {path.readlink()}",
            hint=f"name the directory itself: --out {path.resolve()}",
        )
    if not stat.S_ISDIR(state.st_mode):
        raise StoreError(f"{path} is not a directory", hint="choose another one with --out")
    if state.st_uid not in (os.geteuid(), 0):
        raise StoreError(
            f"{path} belongs to another user (uid {state.st_uid})",
            hint="choose a directory of your own with --out",
        )
    if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
        raise StoreError(
            f"{path} can be written by everybody on this machine",
            hint=f"chmod o-w {path}, or choose another directory with --out",
        )
