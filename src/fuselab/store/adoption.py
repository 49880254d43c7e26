"""Moving what a worker captured from its staging directory into the run."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import StoreError
from fuselab.records import Artifact, Direction, Kernel
from fuselab.store.files import check_relative, inside, naming, safe_name, write_atomically
from fuselab.store.redaction import scrub_code

__all__ = ["Capture"]

_KINDS = ("graphs", "kernels")


@dataclass(frozen=True)
class Capture:
    """What was captured for one variant and workload, its records already with their paths in the run."""

    run: Path
    staging: Path
    variant: str
    workload: str
    artifacts: tuple[Artifact, ...]
    kernels: tuple[Kernel, ...]

    @classmethod
    def read(cls, run: Path, staging: Path, artifacts: Sequence[Artifact], kernels: Sequence[Kernel]) -> Capture:
        """Check every file and path, mask secrets in the files, and rewrite the records.

        Raises:
            StoreError: something leaves the staging directory, is missing or is not a plain file.
        """
        if not staging.absolute().is_relative_to(run):
            raise StoreError(f"{staging} is not a staging directory of {run}")
        inside(run, staging.absolute().relative_to(run).as_posix())
        owners = {(a.variant, a.workload) for a in artifacts} | {(k.variant, k.workload) for k in kernels}
        if len(owners) != 1:
            raise StoreError(f"records of several variants or workloads in {staging}: {sorted(owners)}")
        ((variant, workload),) = owners
        with naming("read", staging):
            sizes = _settle_files(staging)

        def moved(path: str, direction: Direction) -> tuple[str, int]:
            parts = check_relative(path).parts
            if len(parts) < 3 or parts[0] not in _KINDS or parts[1] != direction.value or path not in sizes:
                raise StoreError(f"the record of {path!r} names no file of {direction.value} in {staging}")
            return _in_run(path, variant, workload), sizes[path]

        new_artifacts = []
        for artifact in artifacts:
            if artifact.path is None:
                new_artifacts.append(artifact)
                continue
            path, size = moved(artifact.path, artifact.direction)
            new_artifacts.append(msgspec.structs.replace(artifact, path=path, size_bytes=size))
        new_kernels = []
        for kernel in kernels:
            path, size = moved(kernel.file_path, kernel.direction)
            new_kernels.append(msgspec.structs.replace(kernel, file_path=path, size_bytes=size))
        places = {file: _in_run(file, variant, workload) for file in sizes}
        for file in sizes:
            if file.startswith("kernels/") and file.endswith("/card.json"):
                _rewrite_card(staging / file, places)
        return cls(run, staging, variant, workload, tuple(new_artifacts), tuple(new_kernels))

    def covers(self, record: Artifact | Kernel) -> bool:
        """Whether a record is of the same variant and workload."""
        return (record.variant, record.workload) == (self.variant, self.workload)

    def move(self) -> None:
        """Rename the directories into the run; what an earlier attempt left goes aside first.

        Raises:
            StoreError: the disk refused, or a link stands in the way.
        """
        for kind in _KINDS:
            target = inside(self.run, f"{kind}/{safe_name(self.variant)}/{safe_name(self.workload)}")
            with naming("move captured files to", target):
                if target.exists():
                    target.rename(Path(tempfile.mkdtemp(prefix="replaced-", dir=self.staging)) / "old")
                for direction in Direction:
                    source = self.staging / kind / direction.value
                    if source.is_dir():
                        target.mkdir(mode=0o700, parents=True, exist_ok=True)
                        source.rename(target / direction.value)


def _settle_files(staging: Path) -> dict[str, int]:
    """Sizes of all files by their path, secrets masked; refuses whatever is neither a directory nor a plain file."""
    sizes: dict[str, int] = {}
    for kind in _KINDS:
        for directory, names, files in os.walk(staging / kind):
            for name in (*names, *files):
                path = Path(directory, name)
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                    raise StoreError(f"{path} is neither a directory nor a plain file", hint="captured files are")
            for name in files:
                path = Path(directory, name)
                _mask(path)
                sizes[path.relative_to(staging).as_posix()] = path.stat().st_size
    return sizes


def _mask(path: Path) -> None:
    data = path.read_bytes()
    if b"\0" in data[:4096]:  # machine code: there is no text to mask
        return
    text = data.decode("utf-8", "surrogateescape")
    masked = scrub_code(text)
    if masked != text:
        write_atomically(path, masked.encode("utf-8", "surrogateescape"))


def _in_run(path: str, variant: str, workload: str) -> str:
    kind, _, rest = path.partition("/")
    return f"{kind}/{safe_name(variant)}/{safe_name(workload)}/{rest}"


def _rewrite_card(card: Path, places: dict[str, str]) -> None:
    """Make a kernel's card name files by the places they will have."""
    try:
        document = msgspec.json.decode(card.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StoreError(f"{card} is not JSON: {error}") from error
    moved = {name: places.get(value, value) if isinstance(value, str) else value for name, value in document.items()}
    write_atomically(card, msgspec.json.format(msgspec.json.encode(moved), indent=2) + b"\n")
