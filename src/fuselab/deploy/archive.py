"""The package's one file: a zip archive without compression, a manifest first, replaced whole or not at all.

One file, because that is what gets copied, mounted and checksummed. Without compression, because it is read once at
every start, and because such an archive cannot hold more than it weighs: there is nothing to bomb with. ``unzip -l``
lists it, and nothing here unpickles.

What is read is held against the manifest: the same names, the same sizes, the same checksums, plain files only.
Checksums find damage; they do not prove who wrote the package. The hash of the whole file, given by whoever ships it,
does.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import io
import os
import secrets
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import msgspec

from fuselab.deploy.manifest import MANIFEST, File, Manifest, check_name, decode_manifest
from fuselab.errors import StoreError, UsageError
from fuselab.store.files import naming, sync_directory

__all__ = ["Package", "Replacement", "describe_files", "require_trusted_file", "sha256_of"]

_LARGEST_MANIFEST = 64 << 20
_MOST_FILES = 100_000
_CHUNK = 1 << 20


class Package:
    """A package opened for reading. Every file that is read is checked against its checksum."""

    def __init__(self, path: Path | str, *, sha256: str | None = None, trusted_only: bool = True) -> None:
        """Open and validate; nothing is extracted yet.

        Args:
            path: the package.
            sha256: what the whole file must hash to, where somebody vouches for it.
            trusted_only: refuse a file that others could have changed; False to look without loading anything.

        Raises:
            StoreError: it is missing, damaged, not a package, or cannot be trusted.
        """
        self.path = Path(path)
        if trusted_only:
            require_trusted_file(self.path)
        with naming("read", self.path):
            self._stream: IO[bytes] = self.path.open("rb")
        try:
            if not stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
                raise StoreError(f"{self.path} is not a plain file", hint="name the file that fuselab pack wrote")
            if sha256 is not None and (found := sha256_of(self._stream)) != sha256.lower():
                raise StoreError(
                    f"{self.path} is not the package that was vouched for: sha256 {found}, expected {sha256}",
                    hint="fetch the package again",
                )
            self._archive = _archive(self._stream, self.path)
            self.manifest = self._manifest()
            self._check_members()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            StoreError: they are not those of the manifest.
        """
        return b"".join(self._chunks(name))

    def extract(self, name: str, into: Path) -> Path:
        """Write one file below a directory of ours and return its path; checked before it is there.

        Raises:
            StoreError: the bytes are not those of the manifest, or the disk refused.
        """
        path = into / check_name(name)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with naming("unpack to", path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.writelines(self._chunks(name))
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return path

    def check_all(self) -> None:
        """Read every file and hold it against its checksum."""
        for file in self.manifest.files:
            for _ in self._chunks(file.name):
                pass

    def sha256(self) -> str:
        """Hash of the whole file."""
        return sha256_of(self._stream)

    def _chunks(self, name: str) -> Iterator[bytes]:
        file = next((f for f in self.manifest.files if f.name == name), None)
        if file is None:
            raise StoreError(f"{self.path} has no file {name!r}", hint="pack again")
        digest = hashlib.sha256()
        try:
            with self._archive.open(file.name) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    yield chunk
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise _damaged(self.path, f"{name}: {error}") from error
        if digest.hexdigest() != file.sha256:
            raise _damaged(self.path, f"{name} does not have the checksum that the manifest gives")

    def _manifest(self) -> Manifest:
        try:
            info = self._archive.getinfo(MANIFEST)
            if info.file_size > _LARGEST_MANIFEST or info.compress_type != zipfile.ZIP_STORED:
                raise StoreError(f"{self.path} has a manifest of {info.file_size} bytes", hint="pack again")
            data = self._archive.read(info)
        except KeyError:
            raise StoreError(
                f"{self.path} is an archive without {MANIFEST}: not a fuselab package",
                hint="name the file that fuselab pack wrote",
            ) from None
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
            raise _damaged(self.path, f"{MANIFEST}: {error}") from error
        return decode_manifest(data, str(self.path))

    def _check_members(self) -> None:
        """The archive holds exactly what the manifest lists, plain and uncompressed."""
        infos = self._archive.infolist()
        if len(infos) > _MOST_FILES:
            raise StoreError(f"{self.path} holds {len(infos)} files", hint="fuselab writes no such package")
        sizes = {file.name: file.size for file in self.manifest.files}
        seen: set[str] = set()
        for info in infos:
            name = check_name(info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                raise StoreError(
                    f"{self.path}: {name} is a link or a directory", hint="a package holds plain files only; refused"
                )
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise StoreError(
                    f"{self.path}: {name} is compressed or encrypted ({info.file_size} bytes out of "
                    f"{info.compress_size})",
                    hint="fuselab writes packages without compression; refused",
                )
            if name in seen:
                raise StoreError(f"{self.path} holds {name} twice", hint="pack again")
            seen.add(name)
            if name != MANIFEST and sizes.get(name) != info.file_size:
                listed = "does not list it" if name not in sizes else f"says {sizes[name]}"
                raise _damaged(self.path, f"{name} has {info.file_size} bytes, the manifest {listed}")
        if missing := sorted(set(sizes) - seen):
            raise _damaged(self.path, f"{missing[0]} is missing")
        if sum(sizes.values()) > os.fstat(self._stream.fileno()).st_size:
            raise _damaged(self.path, "its files overlap")


class Replacement:
    """A package being written: a locked sibling of the final path, exchanged for it in one step.

    Until ``commit`` returns, the old package is untouched; after a kill the sibling is left over, and the next packing
    removes it, since nobody holds its lock.
    """

    def __init__(self, path: Path) -> None:
        """Make the sibling at once, so that a directory which cannot be written to is found before anything is built.

        Raises:
            UsageError: there is something at the path that is no package.
            StoreError: the directory cannot be written to.
        """
        self.path = path
        if path.is_symlink() or path.exists():
            _require_package(path)
        _remove_leftovers(path)
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with naming("write", path):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._stream: IO[bytes] = os.fdopen(os.open(self._temporary, flags, 0o600), "w+b")
            with suppress(OSError):  # a file system without locks: leftovers stay there
                fcntl.flock(self._stream.fileno(), fcntl.LOCK_EX)

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def commit(self, manifest: Manifest, files: Mapping[str, Path]) -> tuple[int, str]:
        """Write everything, wait until the disk has it, put it in the old package's place; its size and its hash.

        Args:
            manifest: lists every one of ``files``.
            files: where the bytes of each name are.

        Raises:
            StoreError: the disk refused; the old package stands.
        """
        listed = {file.name: file for file in manifest.files}
        with naming("write", self.path):
            try:
                with zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED) as archive:
                    _add(archive, MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest), indent=1)])
                    for name, source in files.items():
                        with source.open("rb") as stream:
                            _add(archive, listed[name].name, iter(lambda s=stream: s.read(_CHUNK), b""))  # type: ignore[misc]
                self._stream.flush()
                os.fsync(self._stream.fileno())
            except ValueError as error:  # zipfile closes over a write that failed with this
                raise OSError(errno.EIO, str(error)) from error
            size, sha256 = os.fstat(self._stream.fileno()).st_size, sha256_of(self._stream)
            mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else 0o644
            os.fchmod(self._stream.fileno(), mode & ~stat.S_IWOTH)
            self._temporary.replace(self.path)
            sync_directory(self.path.parent)
        return size, sha256


def describe_files(files: Mapping[str, Path]) -> list[File]:
    """Size and checksum of each file."""
    found = []
    for name, path in files.items():
        with naming("read", path), path.open("rb") as stream:
            found.append(File(name=check_name(name), size=path.stat().st_size, sha256=sha256_of(stream)))
    return found


def sha256_of(stream: IO[bytes]) -> str:
    """Hash of a whole open file; its position is put back."""
    before = stream.tell()
    stream.seek(0)
    digest = hashlib.file_digest(cast(io.BufferedReader, stream), "sha256")
    stream.seek(before)
    return digest.hexdigest()


def require_trusted_file(path: Path) -> None:
    """Require that nobody else could have put or changed the file: loading a package runs its code.

    The file and the directories that hold it and, for a link, that hold what it leads to: owned by us or root, not to
    be written by everybody.

    Raises:
        StoreError: names what is wrong and the way out.
    """
    with naming("read", path):
        real = path.resolve(strict=True)
        places = [(real, real.stat())] + [(p, p.stat()) for p in dict.fromkeys((real.parent, path.absolute().parent))]
    for place, state in places:
        if state.st_uid not in (os.geteuid(), 0):
            raise StoreError(
                f"{place} belongs to another user (uid {state.st_uid}), and loading a package runs its code",
                hint="copy the package to a directory of your own, if you trust it",
            )
        sticky_directory = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
        if state.st_mode & stat.S_IWOTH and not sticky_directory:
            raise StoreError(
                f"{place} can be written by everybody on this machine, and loading a package runs its code",
                hint=f"chmod o-w {place}",
            )


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from error


def _archive(stream: IO[bytes], path: Path) -> zipfile.ZipFile:
    with _as_damage(path):
        return zipfile.ZipFile(stream)


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged, truncated or no package: {what}", hint="copy it again, or pack again")


def _require_package(path: Path) -> None:
    """Packing replaces packages, not whatever a mistyped ``-o`` names."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a symbolic link to {path.readlink()}", hint=f"name the file itself: -o {path.resolve()}"
        )
    if not path.is_file():
        raise UsageError(f"{path} is not a plain file", hint="name a file: -o model.pack")
    with suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(path) as archive:
        if MANIFEST in archive.namelist():
            return
    raise UsageError(
        f"{path} exists and is no package; it is left as it is", hint="choose another name with -o, or remove it"
    )


def _remove_leftovers(path: Path) -> None:
    """Remove siblings of packings that were killed: those whose lock nobody holds."""
    for leftover in path.parent.glob(f".{path.name}.????????.tmp"):
        with suppress(OSError), leftover.open("rb") as stream:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def _add(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes]) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    with archive.open(info, "w", force_zip64=True) as member:
        for chunk in chunks:
            member.write(chunk)


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
