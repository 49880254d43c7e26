"""Memory that tells what a kernel did to it: marked zones around every tensor, marked elements in new ones.

A store without a mask changes a zone; a load without one brings the zone's value into the result, where the models of
mistakes find it again; an element that still holds its mark was never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["STRANGE", "Memory", "Zone", "untouched"]

ZONE = 32768
"""Elements before and after each tensor: more than a small matrix read with swapped strides, a multiple of 16 bytes."""

STRANGE = 50.0
"""What the zones of inputs hold: exact in every dtype, far from the inputs, its exponential within float32's range."""

UNTOUCHED = 88.0
"""What the zones of new tensors hold: another number, since what a kernel writes there is often what it read there."""

_MARKS = {
    torch.float32: (torch.int32, 0x7FC0FADE),
    torch.float16: (torch.int16, 0x7EDE),
    torch.bfloat16: (torch.int16, 0x7FDE),
    torch.float64: (torch.int64, 0x7FF8FADEFADEFADE),
}
"""The bits of new memory: a NaN that no arithmetic makes."""


def untouched(tensor: Tensor) -> Tensor:
    """Which elements still hold the mark of new memory."""
    if tensor.dtype not in _MARKS:
        return torch.zeros(tensor.shape, dtype=torch.bool)
    bits, mark = _MARKS[tensor.dtype]
    return tensor.detach().cpu().contiguous().view(bits) == mark


@dataclass
class Zone:
    """One tensor and the memory around it."""

    buffer: Tensor
    tensor: Tensor
    first: int
    """The tensor's first and last element in the buffer."""
    last: int
    mark: float = STRANGE
    name: str = ""

    def spilled(self) -> tuple[int, int]:
        """How many elements before and after the tensor were changed."""
        before, after = self.buffer[: self.first], self.buffer[self.last + 1 :]
        return int((before != self.mark).sum()), int((after != self.mark).sum())


class Memory:
    """The tensors of one call: inputs that it makes, and those that the learner's function makes meanwhile."""

    def __init__(self, device: str, seed: int) -> None:
        self.device = device
        self.zones: list[Zone] = []
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, scale: float, shift: float, layout: str) -> Tensor:
        """A normal random input; ``sliced`` lies in a wider matrix, whose other columns are marked."""
        values = (torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale + shift).to(dtype)
        strides = list(values.stride())
        if layout == "sliced":
            strides[-2] += 36  # a multiple of 4: neighbouring rows stay aligned alike
        tensor = self._place(shape, tuple(strides), dtype, self.device, STRANGE)
        tensor.copy_(values)
        return tensor

    def _place(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: Any, mark: float
    ) -> Tensor:
        extent = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        buffer = _full((extent + 1 + 2 * ZONE,), mark, dtype=dtype, device=device)
        tensor = buffer.as_strided(shape, strides, ZONE)
        self.zones.append(Zone(buffer=buffer, tensor=tensor, first=ZONE, last=ZONE + extent, mark=mark))
        return tensor

    def snapshot(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU of a tensor made here, with the memory around it."""
        zone = next(z for z in self.zones if z.tensor is tensor)
        return zone.buffer.detach().cpu().clone().as_strided(tensor.shape, tensor.stride(), zone.first)

    def name(self, tensor: Any, name: str) -> None:
        """Give the zone of a tensor its name for messages."""
        if isinstance(tensor, Tensor):
            for zone in self.zones:
                if zone.buffer.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() and not zone.name:
                    zone.name = name

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile ``torch.empty`` and its kin make guarded tensors, the empty ones marked."""
        before: list[tuple[Any, str, Any]] = []
        places: list[tuple[Any, str]] = [(torch, name) for name in ("empty", "empty_like", "zeros", "zeros_like")]
        places += [(Tensor, name) for name in ("new_empty", "new_zeros")]
        try:
            for owner, name in places:
                original = getattr(owner, name)
                before.append((owner, name, original))
                setattr(owner, name, self._guarded(original, marked="empty" in name))
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)

    def _guarded(self, original: Callable[..., Tensor], *, marked: bool) -> Callable[..., Tensor]:
        def make(*arguments: Any, **options: Any) -> Tensor:
            made = original(*arguments, **options)
            if made.numel() == 0 or made.dtype not in _MARKS or made.device.type == "meta":
                return made
            tensor = self._place(tuple(made.shape), made.stride(), made.dtype, made.device, UNTOUCHED)
            if marked:
                bits, mark = _MARKS[made.dtype]
                tensor.view(bits).fill_(mark)
            else:
                tensor.zero_()
            return tensor.requires_grad_(made.requires_grad)

        return make


_full = torch.full
"""Kept from before anything is replaced."""
