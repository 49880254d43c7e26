"""The few ways in which a run's files are touched: replaced whole, appended in one write, read if they are plain files.

Every ``OSError`` becomes a ``StoreError`` that names the path and the way out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from fuselab.errors import StoreError

__all__ = [
    "append_batch",
    "check_relative",
    "inside",
    "naming",
    "read_batches",
    "read_plain",
    "safe_name",
    "sync_directory",
    "write_atomically",
]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.=_+-]{0,95}")


@contextmanager
def naming(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``StoreError``: "cannot <action> <path>: <why>", with the way out."""
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno in _FULL:
            hint = "free some space, or choose a directory on another disk with --out"
        elif error.errno in _FORBIDDEN:
            hint = "choose a directory that you can write to with --out"
        elif error.errno == errno.EIO:
            hint = "the disk reports a fault; choose a directory on another one with --out"
        elif error.errno == errno.ELOOP:
            raise StoreError(
                f"cannot {action} {path}: it is a symbolic link", hint="a run holds plain files only; remove the link"
            ) from error
        raise StoreError(f"cannot {action} {path}: {error.strerror or error}", hint=hint) from error


def safe_name(name: str) -> str:
    """A name that is safe as one part of a path; what is not safe as it stands gets a hash of the true name.

    Example:
        >>> safe_name("compile-max-autotune"), safe_name("../../etc")
        ('compile-max-autotune', 'etc-74ccf3c5')
    """
    if _SAFE.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    start = re.sub(r"(?:[^A-Za-z0-9.=_+-]|\.\.)+", "_", name)[:48].strip("_.-")
    return f"{start}-{digest}" if start else digest


def check_relative(path: str) -> PurePosixPath:
    """The path, if it is one that stays below the directory it is relative to.

    Raises:
        StoreError: it is absolute, has ``..`` or characters that no path of ours has.
    """
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or not path.isprintable():
        raise StoreError(f"the path {path!r} leaves the run's directory", hint="this run was not written by fuselab")
    return pure


def inside(directory: Path, relative: str) -> Path:
    """The path below ``directory``; nothing on the way may be a symbolic link.

    Raises:
        StoreError: the path leaves the directory.
    """
    path = directory / check_relative(relative)
    with naming("look at", path):
        real, expected = path.resolve(), directory.resolve() / relative
    if real != expected:
        raise StoreError(
            f"cannot use {path}: a symbolic link on the way leads to {real}", hint="a run holds plain files only"
        )
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file whole: after a crash at any moment it is the old one or the new one.

    Raises:
        StoreError: the disk refused; the old file stands.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    with naming("write", path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory last through a power failure, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a directory and say so with EINVAL; a real fault is not that.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def read_plain(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a plain file, at most ``limit`` of them; links, pipes and devices are refused.

    Raises:
        StoreError: it is not a plain file or cannot be read.
    """
    with naming("read", path):
        # O_NONBLOCK: a pipe planted in a run must not make us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"cannot read {path}: it is not a plain file", hint="a run holds plain files only")
            return file.read(-1 if limit is None else limit)


def append_batch(path: Path, lines: Sequence[bytes]) -> None:
    r"""Append lines that belong together, with one write, and wait until the disk has them.

    A kernel may carry out part of a write when the process is killed in the middle of it. Every line but the last of a
    batch therefore ends in a space before its newline: a batch counts only with its last line, whole or not at all.

    Args:
        path: the file; created if missing.
        lines: JSON documents without newlines.

    Raises:
        StoreError: the disk refused; the file is as long as before.
    """
    data = b" \n".join(lines) + b"\n"
    with naming("append to", path):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            length = _set_torn_tail_aside(descriptor, path)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)


def read_batches(path: Path) -> tuple[list[bytes], int]:
    """Lines of every whole batch, and the number of bytes after them that a writer's death left behind.

    Raises:
        StoreError: the file cannot be read.
    """
    data = read_plain(path)
    length = _whole_length(data)
    return [line for line in data[:length].split(b"\n") if line.strip()], len(data) - length


def _whole_length(data: bytes) -> int:
    """Bytes up to the end of the last whole batch."""
    end = data.rfind(b"\n")
    while end >= 1 and data[end - 1] == ord(" "):
        end = data.rfind(b"\n", 0, end)
    return end + 1


def _set_torn_tail_aside(descriptor: int, path: Path) -> int:
    """Move what follows the last whole batch to ``<name>.torn``; the file's length after that."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 2, max(0, size - 2)) == b"}\n":
        return size
    data = os.pread(descriptor, size, 0)
    length = _whole_length(data)
    if length < size:
        torn = path.with_name(f"{path.name}.torn")
        aside = os.open(torn, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write_all(aside, data[length:] + b"\n")
            os.fsync(aside)
        finally:
            os.close(aside)
        os.ftruncate(descriptor, length)
    return length


def _write_all(descriptor: int, data: bytes) -> None:
    """``os.write`` until everything is written: a disk that fills up takes a part before it refuses."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
