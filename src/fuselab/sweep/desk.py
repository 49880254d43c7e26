"""Where a worker of a sweep keeps a unit's cells until they travel: in memory, its compiler's caches in a directory.

The run store is the client's alone: a worker may be on a host that does not see it. What was captured stays here and is
removed with the unit; ``fuselab run`` on one workload keeps it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from fuselab.records import Artifact, CellKey, Kernel, Measurement
from fuselab.store import scrub
from fuselab.store.files import naming, safe_name

__all__ = ["Desk"]


class Desk:
    """An ``execution.Ledger`` for one unit.

    Args:
        directory: for caches and what workers capture; whoever made it removes it.
        finished: cells that are in the store already.
    """

    def __init__(self, directory: Path, finished: Iterable[CellKey]) -> None:
        self._directory = directory
        self._finished = set(finished)
        self.cells: list[Measurement] = []

    def finished_cells(self) -> set[CellKey]:
        """Cells that need not be repeated."""
        return set(self._finished)

    def append(self, measurements: Sequence[Measurement]) -> None:
        """Keep cells until the unit is done, their words without secrets: they travel and are shown before that."""
        self.cells += [
            msgspec.structs.replace(m, reason=scrub(m.reason), warnings=[scrub(w) for w in m.warnings])
            for m in measurements
        ]
        self._finished.update(m.key for m in measurements)

    def staging(self, name: str) -> Path:
        """A fresh directory for a worker to write to."""
        with naming("make a directory in", self._directory):
            return Path(tempfile.mkdtemp(prefix=f"{safe_name(name)}-", dir=self._directory))

    def caches(self, variant: str, workload: str) -> Path:
        """The directory for the compiler's caches of one variant and workload."""
        path = self._directory / "caches" / safe_name(variant) / safe_name(workload)
        with naming("make the directory", path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def adopt(
        self, staging: Path, artifacts: Sequence[Artifact], kernels: Sequence[Kernel]
    ) -> tuple[list[Artifact], list[Kernel]]:
        """Count what was captured, and make room: a sweep of thousands of workloads keeps figures."""
        shutil.rmtree(staging, ignore_errors=True)
        return list(artifacts), list(kernels)
