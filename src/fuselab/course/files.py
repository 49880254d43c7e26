"""The course's files: where they are, and copying them to work in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fuselab.errors import SetupError, UsageError

__all__ = ["Copied", "copy_course", "material"]

_LEFT_OUT = ("__pycache__", ".ipynb_checkpoints", ".virtual_documents")


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What ``fuselab course`` did, paths relative to the folder."""

    folder: str
    written: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that were changed by the learner and stay as they are."""


def material() -> Path:
    """The folder with notebooks, exercises and solutions: in the installed package, or in a checkout.

    Raises:
        SetupError: the installation lacks it.
    """
    here = Path(__file__).parent
    for folder in (here / "material", here.parents[2] / "notes" / "triton-gpu-optimization"):
        if (folder / "exercises").is_dir():
            return folder
    raise SetupError("this installation has no course files", hint="install fuselab again from a wheel or a checkout")


def copy_course(folder: Path, *, force: bool = False) -> Copied:
    """Copy notebooks, exercises, solutions and data; a file that exists with other content is kept.

    Args:
        folder: where to; made with its parents.
        force: overwrite those, too.

    Raises:
        UsageError: the folder is a file, or cannot be written.
    """
    source = material()
    if folder.resolve() == source.resolve():
        raise UsageError(f"{folder} is where the course comes from", hint="name another folder: fuselab course DIR")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="name a folder: fuselab course DIR")
    written, kept = [], []
    try:
        for path in _files(source):
            name = path.relative_to(source)
            target = folder / name
            if target.exists() and target.read_bytes() == path.read_bytes():
                continue
            if target.exists() and not force:
                kept.append(name.as_posix())
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            written.append(name.as_posix())
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}", hint="name another folder") from None
    return Copied(folder=str(folder), written=tuple(written), kept=tuple(kept))


def _files(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        if path.is_file() and not any(part in _LEFT_OUT for part in path.relative_to(source).parts):
            yield path
