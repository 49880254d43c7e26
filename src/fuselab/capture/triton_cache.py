"""What Triton left in its cache: one directory a compiled configuration, matched to kernels by the compiler's records.

A cache directory is named by the hash of the compilation and holds ``<function>.<stage>`` files and the metadata as
``<function>.json``. The first location record of its TTIR is the file that the kernel was written in, and Inductor
writes every kernel to a file named by the hash of its source: that file, not the function's name, ties a configuration
to a kernel. Which of several configurations is used is known to the launcher in the process, or to Inductor's
``*.best_config``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuselab.records import Stage

__all__ = ["STAGES", "TritonBinary", "choose", "chosen_hashes", "read_cache"]

STAGES: dict[str, Stage] = {
    "ttir": Stage.TTIR,
    "ttgir": Stage.TTGIR,
    "llir": Stage.LLIR,
    "ptx": Stage.PTX,
    "cubin": Stage.CUBIN,
    "amdgcn": Stage.AMDGCN,
}
"""File suffixes that Triton uses, in the order of lowering, to the stage."""

_LOCATION = re.compile(r'^#loc\d* = loc\("(?P<file>[^"]+)":\d+:\d+\)', re.MULTILINE)
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class TritonBinary:
    """One compiled configuration of one Triton function."""

    hash: str
    """Name of its directory: the hash of the compilation, as the launcher knows it."""
    name: str
    """Name of the function."""
    source_path: str
    """File that the function was written in, from the TTIR's location records; empty where there are none."""
    files: dict[Stage, Path] = field(default_factory=dict)
    """Stage to file."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Triton's own metadata: ``num_warps``, ``num_stages``, ``shared`` (bytes), ``target``, ..."""

    @property
    def key(self) -> str:
        """Stem of the source file: Inductor's hash of the kernel's source."""
        return Path(self.source_path).stem


def read_cache(directories: Iterable[Path], known: Collection[Path] = ()) -> list[TritonBinary]:
    """Every compiled configuration under Triton cache directories, except the directories in ``known``.

    A directory that is not complete (another process is writing it, or died) is left out.
    """
    binaries: dict[Path, TritonBinary] = {}
    for root in directories:
        for metadata_path in sorted(root.glob("**/*.json")):
            if metadata_path.name.startswith("__grp__") or metadata_path.parent in known:
                continue
            try:
                metadata = json.loads(metadata_path.read_text())
            except (OSError, ValueError):
                continue
            if not isinstance(metadata, dict) or "hash" not in metadata:
                continue  # a launcher stub's or Inductor's own JSON
            name = metadata_path.stem
            files = {
                stage: path
                for suffix, stage in STAGES.items()
                if (path := metadata_path.with_name(f"{name}.{suffix}")).is_file()
            }
            if files:
                source = _source_path([metadata_path.with_name(f"{name}.source"), *files.values()])
                binaries[metadata_path.parent] = TritonBinary(
                    metadata_path.parent.name, metadata.get("name", name), source, files, metadata
                )
    return list(binaries.values())


def chosen_hashes(inductor_cache: Path) -> set[str]:
    """Hashes of the configurations that autotuning settled on, from Inductor's ``*.best_config`` files."""
    found = set()
    for path in inductor_cache.glob("*/*.best_config"):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("triton_cache_hash"):
            found.add(str(record["triton_cache_hash"]))
    return found


def choose(
    binaries: Iterable[TritonBinary], source_path: str, name: str, launcher_hash: str | None, best: Collection[str]
) -> tuple[TritonBinary | None, list[TritonBinary], str]:
    """The configuration in use, the others, and how the choice was made.

    Args:
        binaries: what ``read_cache`` found.
        source_path: the file that Inductor wrote the kernel to.
        name: the kernel's function name: settles it where one file defines several functions.
        launcher_hash: the hash of the only launcher left in the process, if that is known.
        best: hashes from ``chosen_hashes``.
    """
    key = Path(source_path).stem
    mine = [b for b in binaries if (b.hash == launcher_hash) or (key and b.key == key)]
    mine = [b for b in mine if b.name == name] or mine
    for reason, hashes in (("launcher", {launcher_hash}), ("autotuning record", set(best))):
        matching = [b for b in mine if b.hash in hashes]
        if len(matching) == 1:
            return matching[0], [b for b in mine if b is not matching[0]], reason
    if len(mine) == 1:
        return mine[0], [], "only configuration"
    if mine:
        return mine[0], mine[1:], "first of several: nothing was launched, so none was chosen yet"
    return None, [], "nothing in Triton's cache was compiled from this kernel's source"


def _source_path(paths: Iterable[Path]) -> str:
    for path in paths:
        if path.suffix in {".source", ".ttir", ".ttgir"} and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                match = _LOCATION.search(file.read(_HEAD_BYTES))
            if match:
                return match["file"]
    return ""
