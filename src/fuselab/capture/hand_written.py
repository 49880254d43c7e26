"""Triton kernels that the user's code launches by itself, outside of ``torch.compile``: saved like generated ones.

Their source is the user's own, so a line of the kernel is a line of the user's file, and there is no graph above it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fuselab.capture import internals
from fuselab.capture.chain_builder import BuiltKernel, ChainBuilder
from fuselab.capture.files import Files
from fuselab.capture.internals_triton import JitKernel
from fuselab.capture.machine_code import disassemble, resource_usage
from fuselab.capture.triton_cache import STAGES
from fuselab.records import Direction, Kernel, Stage

__all__ = ["HandWritten"]

_TOOLS_AT_ONCE = 8


@dataclass
class HandWritten:
    """Saves the kernels of one capture."""

    files: Files
    chain: ChainBuilder
    kernels: list[Kernel] = field(default_factory=list)

    def add(self, seen: Iterable[JitKernel]) -> None:
        """Write every kernel's source, stages, card and chain."""
        built: dict[Direction, list[BuiltKernel]] = {}
        with ThreadPoolExecutor(_TOOLS_AT_ONCE) as pool:
            for direction, kernel in pool.map(self._saved, list(seen)):
                built.setdefault(direction, []).append(kernel)
        for direction, kernels in built.items():
            self.chain.add_outside(direction, kernels)

    def _saved(self, seen: JitKernel) -> tuple[Direction, BuiltKernel]:
        direction = Direction.BACKWARD if seen.backward else Direction.FORWARD
        directory = self.files.kernel_directory(direction, seen.name, 0)
        folder = f"kernels/{direction.value}/{directory}"
        kernel_id = f"{self.files.variant}/{self.files.workload}/{direction.value}/{directory}"
        source = self.files.write(f"{folder}/kernel.py", seen.source, direction, Stage.TRITON, kernel_id)
        stages = [Stage.TRITON]
        for suffix, stage in STAGES.items():
            content = seen.stages.get(suffix)
            if content:
                self.files.write(f"{folder}/{stage.value}", content, direction, stage, kernel_id)
                stages.append(stage)
            elif stage is not Stage.AMDGCN and "amdgcn" not in seen.stages:
                self.files.absent(direction, stage, "Triton keeps none in memory", kernel_id)
        usage: dict[str, Any] = {}
        if Stage.CUBIN in stages:
            usage = self._machine_code(source.parent, direction, kernel_id, stages)
        kernel = Kernel(
            kernel_id=kernel_id,
            name=seen.name,
            backend="triton",
            variant=self.files.variant,
            workload=self.files.workload,
            direction=direction,
            file_path=source.relative_to(self.files.into).as_posix(),
            size_bytes=source.stat().st_size,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source_lines=list(seen.callers),
            launches=seen.launches,
            stages=[stage.value for stage in stages],
            registers=usage.get("registers"),
            spills=usage.get("local_bytes"),
            shared_bytes=_whole(seen.metadata.get("shared")),
            num_warps=_whole(seen.metadata.get("num_warps")),
            num_stages=_whole(seen.metadata.get("num_stages")),
        )
        card = {
            **msgspec.to_builtins(kernel),
            "written_by": "hand",
            "defined_at": f"{seen.file}:{seen.above + 1}",
            "triton_hash": seen.hash,
            "launches_while_tuning": seen.tuned,
            "triton_metadata": seen.metadata,
            "resource_usage": usage or None,
        }
        self.files.put(source.parent / "card.json", json.dumps(card, indent=1, default=str))
        self.kernels.append(kernel)
        return direction, BuiltKernel(
            kernel_id=kernel_id,
            name=seen.name,
            backend="triton",
            folder=source.parent,
            source=seen.source,
            compiled_from=seen.file,
            written_in=(seen.file, seen.above),
            shift=seen.above,
        )

    def _machine_code(self, folder: Path, direction: Direction, kernel_id: str, stages: list[Stage]) -> dict[str, Any]:
        """Save the SASS; what the kernel takes of the device."""
        nvdisasm, cuobjdump = internals.nvidia_tool("nvdisasm"), internals.nvidia_tool("cuobjdump")
        cubin = folder / Stage.CUBIN.value
        relative = (folder / Stage.SASS.value).relative_to(self.files.into).as_posix()
        reason = "this Triton ships no nvdisasm"
        usage: dict[str, Any] = {}
        try:
            if cuobjdump is not None:
                found = resource_usage(cubin, cuobjdump)
                usage = vars(next(iter(found.values()))) if len(found) == 1 else {}
            if nvdisasm is not None:
                self.files.write(relative, disassemble(cubin, nvdisasm), direction, Stage.SASS, kernel_id)
                stages.append(Stage.SASS)
                return usage
        except RuntimeError as error:
            reason = str(error)
        self.files.absent(direction, Stage.SASS, reason, kernel_id)
        return usage


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
