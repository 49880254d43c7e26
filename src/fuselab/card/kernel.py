"""One kernel on the way to its card: everything that several of the card's sections need, each as far as it can be had.

Pure but for reading the kernel's own files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuselab.card.launch import LaunchArguments, ScalarArgument, TensorArgument
from fuselab.card.triton_source import TritonSource, argument_names, launch_grid, read_triton_source
from fuselab.ir.instructions import InstructionMix, parse_sass
from fuselab.ir.occupancy import Occupancy, occupancy
from fuselab.ir.traffic import Traffic, measure_traffic
from fuselab.ir.traffic_cpp import CppAccesses, read_cpp
from fuselab.ir.traffic_ttir import TtirAccesses, read_ttir
from fuselab.targets import TARGETS, Target

__all__ = ["AbsentError", "KernelFacts", "named"]


class AbsentError(Exception):
    """Something cannot be had; the message says why."""


@dataclass
class KernelFacts:
    """What is worked out for one kernel before its card is written."""

    card: dict[str, Any]
    """What the kernel's record and its binary say."""
    folder: Path
    """Where its source and stages were saved."""
    launch: LaunchArguments | None = None
    names: tuple[str, ...] = ()
    """Names of the launch's arguments, in order."""
    source: TritonSource | None = None
    grid: tuple[int, int, int] | None = None
    grid_absent: str = ""
    target: Target | None = None
    target_absent: str = ""
    """Why the device is not known, or which several fit; ``target`` may stand for all of them."""
    traffic: Traffic | None = None
    ttir: TtirAccesses | None = None
    cpp: CppAccesses | None = None
    mix: InstructionMix | None = None
    occupancy: Occupancy | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    """Integer arguments by name."""

    @property
    def backend(self) -> str:
        """``triton``, ``cpp`` or ``extern``."""
        return str(self.card["backend"])

    @property
    def programs(self) -> int | None:
        """Programs of one launch."""
        return None if self.grid is None else math.prod(self.grid)

    def text(self, stage: str) -> str:
        """A stage's text.

        Raises:
            AbsentError: it was not saved.
        """
        path = self.folder / stage
        if not path.is_file():
            raise AbsentError(f"{stage} was not captured")
        return path.read_text(encoding="utf-8", errors="replace")

    def read(self, launch: LaunchArguments | None, target: Target | None) -> None:
        """Read the kernel's files.

        Args:
            launch: its first launch; None where the output module has none that can be read.
            target: the device that it is for; None: the described device whose architecture and multiprocessors its
                source names.
        """
        self.launch = launch
        if self.backend == "triton":
            self._read_triton(target)
        elif self.backend == "cpp":
            try:
                self.cpp = read_cpp(self.text("kernel.cpp"), {})
                self.names = tuple(argument.name for argument in self.cpp.arguments)
                self.sizes = _sizes(self)
                self.cpp = read_cpp(self.text("kernel.cpp"), self.sizes)
            except (AbsentError, ValueError):
                self.cpp = None
        self._measure_traffic()
        self._measure_mix()
        self._measure_occupancy()

    def _read_triton(self, target: Target | None) -> None:
        try:
            self.source = read_triton_source(self.text("kernel.py"))
        except (AbsentError, ValueError, SyntaxError) as error:
            self.grid_absent = f"the kernel's source could not be read: {error}"
            return
        if self.launch is not None:
            self.names = argument_names(self.source, len(self.launch.arguments))
        self.sizes = {**self.source.sizes, **_sizes(self)}
        config = {k: v for k, v in (self.card.get("config") or {}).items() if isinstance(v, int)}
        found = launch_grid(self.source.inductor_meta, config, self.sizes)
        if isinstance(found, str):
            self.grid_absent = found
        else:
            self.grid = found
        self.target, self.target_absent = (target, "") if target is not None else described_target(self.source)
        try:
            self.ttir = read_ttir(self.text("ttir"), self.sizes, self.grid)
        except (AbsentError, ValueError):
            self.ttir = None

    def _measure_traffic(self) -> None:
        found = self.ttir or self.cpp
        if found is None:
            return
        sizes: dict[str, int | None] = {}
        if self.launch is not None and len(self.names) == len(self.launch.arguments):
            for name, argument in zip(self.names, self.launch.arguments, strict=True):
                if isinstance(argument, TensorArgument):
                    sizes[name] = math.prod(argument.shape)
        self.traffic = measure_traffic(found.accesses, sizes, found.reasons)

    def _measure_mix(self) -> None:
        try:
            text = self.text("sass")
            trips = [loop.trips for loop in self.ttir.loops] if self.ttir else []
            self.mix = parse_sass(text, trips=trips)
        except (AbsentError, ValueError):
            self.mix = None

    def _measure_occupancy(self) -> None:
        card = self.card
        if self.target is None or card.get("registers") is None or card.get("num_warps") is None:
            return
        try:
            self.occupancy = occupancy(
                self.target, card["registers"], card.get("shared_bytes") or 0, card["num_warps"], self.programs
            )
        except ValueError as error:
            self.target_absent = str(error)


def described_target(source: TritonSource) -> tuple[Target | None, str]:
    """The described device that a source names by architecture and multiprocessors, or the reason that there is none.

    Where several fit, one of them and the reason: what a multiprocessor holds is the same for all, memory's speed not.
    """
    cc, count = source.device.get("cc"), source.device.get("multi_processor_count")
    if not isinstance(cc, int):
        return None, f"no described device has the architecture {cc!r}"
    capability = divmod(cc, 10)
    same = [t for t in TARGETS.values() if t.compute_capability == capability]
    exact = [t for t in same if t.multiprocessors == count]
    if len(exact) == 1:
        return exact[0], ""
    fitting = exact or same
    if not fitting:
        return None, f"no described device has capability {capability}"
    return fitting[0], f"several described devices fit ({', '.join(t.name for t in fitting)})"


def named(names: tuple[str, ...], launch: LaunchArguments | None) -> list[tuple[str, Any]]:
    """A launch's arguments with their names, as far as there are names."""
    arguments = launch.arguments if launch else ()
    return [(names[i] if i < len(names) else f"argument {i}", a) for i, a in enumerate(arguments)]


def _sizes(kernel: KernelFacts) -> dict[str, int]:
    """Integer arguments of the launch by name."""
    return {
        name: argument.value
        for name, argument in named(kernel.names, kernel.launch)
        if isinstance(argument, ScalarArgument) and isinstance(argument.value, int)
    }
