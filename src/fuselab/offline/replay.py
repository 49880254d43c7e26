"""What the generated graphs of a program were called with: enough to call them again, on numbers, in another process.

While a program is traced, every tensor that the program itself holds (an input, a parameter, a gradient that the
backward starts from) is named, and so is every result of a graph. A tensor that a graph is then called with is one of
these, or a view of one: they are told apart by their storage, which views and what autograd saves share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fuselab.offline.messages import Candidate
from fuselab.records import Direction

if TYPE_CHECKING:
    import torch

__all__ = ["FILE", "FOLDER", "GraphCall", "Recorder", "Replay", "Source"]

FOLDER = "replay"
"""Where the generated modules are kept, below a request's directory."""
FILE = "replay.json"
"""The program itself, there."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a value comes from."""

    kind: str
    """``input``, ``parameter``, ``buffer``, ``gradient``, ``result`` (of a graph) or ``number``."""
    name: str = ""
    """Of an input, a parameter or a buffer, or the output that a gradient belongs to."""
    call: int = -1
    """Of a result: which call of a graph."""
    position: int = -1
    """Of a result: which one."""
    shape: list[int] = []
    stride: list[int] = []
    offset: int = 0
    """Elements from the beginning of the storage of what it is a view of."""
    number: bool | int | float | None = None


class GraphCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a generated graph."""

    file: str
    """Its module, relative to the request's directory."""
    direction: Direction
    """Forward or backward."""
    arguments: list[Source]
    """What it is called with."""
    configs: dict[str, dict[str, Any]] = {}
    """Block sizes by kernel: the heuristic's first choice."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A program as calls of generated graphs."""

    calls: list[GraphCall] = []
    """In order."""
    outputs: dict[str, Source] = {}
    """What the program returned, by name."""
    gradients: dict[str, Source | None] = {}
    """By what they belong to; None where there is none."""
    strides: dict[str, list[int]] = {}
    """Of the gradients that the backward starts from, by output: a device lays an output out in its own way."""
    problem: str = ""
    """Why it cannot be called again; empty where it can."""


class Recorder:
    """Watches the graphs while a program is traced."""

    def __init__(self, into: Path, candidates: Mapping[str, Sequence[Candidate]]) -> None:
        """Take note of where to write, and of where the kernels' configurations come in."""
        self._into = into
        self._candidates = candidates
        self._sources: dict[int, tuple[Source, int]] = {}
        self._kept: list[Any] = []  # a storage that is gone would give its place, and its name, to another
        self._files: list[tuple[str, Direction, dict[str, dict[str, Any]]]] = []
        self._calls: list[GraphCall] = []
        self._strides: dict[str, list[int]] = {}
        self._problem = ""

    def name(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        """Remember a tensor of the program's own; the first name of a storage stands."""
        source = Source(
            kind=kind,
            name=name,
            shape=_numbers(tensor.shape),
            stride=_numbers(tensor.stride()),
            offset=int(tensor.storage_offset()),
        )
        if kind == "gradient":
            self._strides[name] = source.stride
        self._remember(source, tensor)

    def lowered(
        self, compiled: Any, direction: Direction, run: Callable[[list[Any]], Any]
    ) -> Callable[[list[Any]], Any]:
        """Keep a generated module; what is returned is called in place of ``run`` and takes note of each call."""
        text = getattr(compiled, "source_code", None)
        number = len(self._files)
        file = f"{FOLDER}/graph_{number}.py"
        if not isinstance(text, str) or not text:
            self._blame("this torch does not hand out the module that it generated for a graph")
        else:
            path = self._into / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        firsts = {
            name: {**c.config, "num_warps": c.num_warps}
            for name, found in self._candidates.items()
            for c in found
            if c.first and "@" not in name
        }
        self._files.append((file, direction, firsts))

        def watched(arguments: list[Any]) -> Any:
            given = list(arguments)
            results = run(arguments)
            self._called(number, given, results)
            return results

        vars(watched)["_boxed_call"] = True
        return watched

    def done(
        self, outputs: Sequence[tuple[str, torch.Tensor]], gradients: Sequence[tuple[str, torch.Tensor | None]]
    ) -> Replay:
        """The program, now that it has ended."""
        found = {name: self._source(tensor, f"the program's {name}") for name, tensor in outputs}
        back = {
            name: None if tensor is None else self._source(tensor, f"the gradient of {name}")
            for name, tensor in gradients
        }
        if not self._calls:
            self._blame("no graph was generated")
        return Replay(calls=self._calls, outputs=found, gradients=back, strides=self._strides, problem=self._problem)

    def _called(self, number: int, arguments: Sequence[Any], results: Any) -> None:
        file, direction, configs = self._files[number]
        index = len(self._calls)
        sources = [
            self._source(value, f"argument {i} of {direction} graph {number}") for i, value in enumerate(arguments)
        ]
        self._calls.append(GraphCall(file=file, direction=direction, arguments=sources, configs=configs))
        for position, value in enumerate(results if isinstance(results, list | tuple) else [results]):
            if hasattr(value, "untyped_storage"):
                source = Source(
                    kind="result",
                    call=index,
                    position=position,
                    shape=_numbers(value.shape),
                    stride=_numbers(value.stride()),
                    offset=int(value.storage_offset()),
                )
                self._remember(source, value)

    def _remember(self, source: Source, tensor: torch.Tensor) -> None:
        self._kept.append(tensor)
        self._sources.setdefault(_storage(tensor), (source, int(tensor.storage_offset())))

    def _source(self, value: Any, what: str) -> Source:
        if not hasattr(value, "untyped_storage"):
            if isinstance(value, bool | int | float) or value is None:
                return Source(kind="number", number=value)
            self._blame(f"{what} is neither a tensor nor a number: {type(value).__name__}")
            return Source(kind="number")
        known = self._sources.get(_storage(value))
        if known is None:
            self._blame(f"{what} was made by code between the graphs, which was not generated")
            return Source(kind="number")
        self._kept.append(value)
        return msgspec.structs.replace(
            known[0],
            shape=_numbers(value.shape),
            stride=_numbers(value.stride()),
            offset=int(value.storage_offset()) - known[1],
        )

    def _blame(self, problem: str) -> None:
        self._problem = self._problem or problem


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _numbers(values: Sequence[Any]) -> list[int]:
    return [int(getattr(getattr(v, "node", None), "hint", v)) for v in values]
