"""Where captured files go: names that any file system takes, written whole, each with its record."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from fuselab.records import Artifact, Direction, Stage

__all__ = ["EXTENSIONS", "Files", "safe_name"]

EXTENSIONS: dict[Stage, str] = {Stage.FUSION: "json", Stage.PROVENANCE: "json"}
"""File endings of graph stages that are not Python."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,119}")


def safe_name(name: str) -> str:
    """A directory name for a kernel: the name itself, or its hash where a file system might stumble over it.

    Example:
        >>> safe_name("triton_poi_fused_add_0")
        'triton_poi_fused_add_0'
        >>> safe_name("../../etc/passwd")
        'kernel-3754d6cb3a38e118'
    """
    if _SAFE.fullmatch(name) and ".." not in name:
        return name
    return f"kernel-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


@dataclass
class Files:
    """Writes below one directory and keeps a record of each file, or of its absence."""

    into: Path
    variant: str
    workload: str
    artifacts: list[Artifact] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    def graph_stage(self, direction: Direction, stage: Stage, number: int, text: str) -> Path:
        """Write one graph stage; ``number`` tells the graphs of one capture apart (the first has none in its name)."""
        name = stage.value if number == 0 else f"{stage.value}.{number}"
        path = self.unique(f"graphs/{direction.value}", name, EXTENSIONS.get(stage, "py"))
        return self.write(path, text, direction, stage)

    def kernel_directory(self, direction: Direction, name: str, number: int) -> str:
        """A directory name for a kernel, unique within its direction, whatever the name and whatever the case."""
        base = safe_name(name if number == 0 else f"{name}.g{number}")
        return self.unique(f"kernels/{direction.value}", base, "").rpartition("/")[2]

    def unique(self, folder: str, name: str, extension: str) -> str:
        """A path below ``into`` that no other file of this capture has, compared without case."""
        ending = f".{extension}" if extension else ""
        count = 1
        while (path := f"{folder}/{name}{'' if count == 1 else f'_{count}'}{ending}").lower() in self._taken:
            count += 1
        self._taken.add(path.lower())
        return path

    def write(
        self, relative: str, content: str | bytes, direction: Direction, stage: Stage, kernel_id: str | None = None
    ) -> Path:
        """Write one file, whole or not at all, and record it."""
        path = self.into / relative
        self.put(path, content)
        self.note(path, direction, stage, kernel_id)
        return path

    def note(self, path: Path, direction: Direction, stage: Stage, kernel_id: str | None = None) -> None:
        """Record a file that is there already."""
        self.artifacts.append(
            Artifact(
                stage=stage,
                variant=self.variant,
                workload=self.workload,
                direction=direction,
                path=path.relative_to(self.into).as_posix(),
                size_bytes=path.stat().st_size,
                kernel_id=kernel_id,
            )
        )

    def put(self, path: Path, content: str | bytes) -> int:
        """Write a file through a temporary name; its size in bytes."""
        data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:64]}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
        return len(data)

    def absent(self, direction: Direction, stage: Stage, reason: str, kernel_id: str | None = None) -> None:
        """Record why a stage has no file."""
        self.artifacts.append(
            Artifact(
                stage=stage,
                variant=self.variant,
                workload=self.workload,
                direction=direction,
                kernel_id=kernel_id,
                absent=reason,
            )
        )
