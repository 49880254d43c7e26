"""The inputs of one call: made in guarded memory, and kept as float64 for the models of results and mistakes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fuselab.course.exercises.exercise import Case
from fuselab.course.guard import Memory
from fuselab.course.philox import uniform

__all__ = ["DTYPES", "CaseMaker", "GivenTensors"]

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class CaseMaker:
    """``Maker`` of ``exercises.exercise``: inputs in the memory of one call."""

    def __init__(self, memory: Memory, case: Case) -> None:
        self._memory, self._case = memory, case

    def __call__(
        self, *shape: int, scale: float = 1.0, shift: float = 0.0, layout: str = "contiguous", dtype: str = ""
    ) -> Tensor:
        """A normal random tensor of the case's dtype."""
        return self._memory.normal(shape, DTYPES[dtype or self._case.dtype], scale, shift, layout)


class GivenTensors:
    """``Given`` of ``exercises.exercise``, from snapshots taken before the learner's function ran."""

    def __init__(self, memory: Memory, arguments: dict[str, Any], label: str) -> None:
        self.label = label
        self._values = {k: memory.snapshot(v) if isinstance(v, Tensor) else v for k, v in arguments.items()}
        self._doubles = {k: v.double() if isinstance(v, Tensor) else v for k, v in self._values.items()}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_doubles"][name]
        except KeyError:
            raise AttributeError(name) from None

    def tensors(self) -> list[Tensor]:
        """All arguments that are tensors, in float64."""
        return [v for v in self._doubles.values() if isinstance(v, Tensor)]

    def read(self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Tensor:
        """Memory from the tensor's first element on, with these strides."""
        value = self._values[name]
        return value.as_strided(shape, strides, value.storage_offset() + offset).double()

    def beyond(self, name: str, block: int) -> Tensor:
        """Rows read to the width of a block."""
        value = self._values[name]
        return self.read(name, (*value.shape[:-1], block), value.stride())

    def packed(self, name: str) -> Tensor:
        """Rows read as if one began where the other ends."""
        value = self._values[name]
        return self.read(name, tuple(value.shape), (value.shape[-1], 1)[-value.dim() :])

    def stride(self, name: str) -> int:
        """From one row to the next, in elements."""
        return int(self._values[name].stride(0))

    def uniform(self, seed: int, rows: int, columns: int, stride: int) -> Tensor:
        """``tl.rand(seed, row * stride + column)``."""
        return uniform(seed, rows, columns, stride)
