"""Inputs that rotate, so that caches are cold by construction.

Between two uses of one buffer the calls in between touch more than twice the last-level cache. Where memory or
patience does not allow that many sets, the rotation says that it is not cold and the figure is labelled warm.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.measure.layout import copied

__all__ = ["COLD_FACTOR", "DRAWN_SETS", "Rotation", "cache_bytes", "free_bytes", "sets_needed", "tensor_bytes"]

COLD_FACTOR = 2
"""How often the last-level cache has to be touched over between two uses of one buffer."""

MAX_SETS = 1024
"""Sets beyond this many cost more time to make than the measurement takes."""

DRAWN_SETS = 4
"""Sets that the factory makes; the others are copies of these: caches tell addresses apart, not values."""

_LINE = 64


def cache_bytes(device_type: str) -> int | None:
    """Size of the last-level cache: a GPU's L2, a CPU's largest; None where the system does not say."""
    if device_type == "cuda":
        size = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", 0)
        return int(size) or None
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            unit = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:], 1)
            sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes, default=None)


def free_bytes(device_type: str) -> int:
    """Memory that can still be allocated on the device."""
    if device_type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def tensor_bytes(*groups: Inputs | list[Tensor]) -> int:
    """Bytes of all distinct storages among the tensors."""
    seen: dict[int, int] = {}
    for group in groups:
        tensors = [t for _, t in group.tensors()] if isinstance(group, Inputs) else group
        for tensor in tensors:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def sets_needed(touched_bytes: int, cache: int | None) -> int:
    """Sets for the bytes touched between two uses of one buffer to exceed ``COLD_FACTOR`` caches; at least 2.

    Example:
        >>> sets_needed(touched_bytes=10, cache=50)
        12
    """
    if cache is None or touched_bytes <= 0:
        return 2
    # One set's own bytes are not counted: they may be touched just after the buffer.
    return max(2, math.floor(COLD_FACTOR * cache / touched_bytes) + 2)


class Rotation:
    """Sets of inputs of one factory, handed out in turn to whoever shares it.

    All variants of a group share one rotation and one cursor, so that what one has just touched is not the next one's.
    """

    def __init__(
        self,
        factory: Callable[[int], Inputs],
        *,
        touched_bytes: int,
        cache: int | None,
        memory_bytes: int,
        bytes_per_set: int | None = None,
        cold: bool = True,
    ) -> None:
        """Make the sets.

        Args:
            factory: makes set number i.
            touched_bytes: what one call touches, at least.
            cache: size of the last-level cache.
            memory_bytes: what all sets together may take, with what else each call allocates.
            bytes_per_set: what one set takes with that; as the first set alone where None.
            cold: False makes one set alone, so that caches are as warm as its size allows.
        """
        self.sets = [factory(0)]
        each = max(bytes_per_set or tensor_bytes(self.sets[0]), 1)
        needed = sets_needed(touched_bytes, cache)
        count = max(2, min(needed, MAX_SETS, memory_bytes // each)) if cold else 1
        self.sets += [factory(i) for i in range(1, min(count, DRAWN_SETS))]
        self.sets += [self.sets[i % DRAWN_SETS].map(copied) for i in range(DRAWN_SETS, count)]
        self.fits_cache = cache is not None and touched_bytes <= cache
        """Whether what one call touches may still be there when the next one comes."""
        self.cold = cache is not None and (len(self.sets) - 1) * touched_bytes > COLD_FACTOR * cache
        self.cursor = 0
        self.kept: list[Any] = [None] * len(self.sets)
        """Results by set, of whoever made the last: the memory that is written to rotates with the inputs."""
        self.grad_outputs: dict[Hashable, dict[int, list[Tensor]]] = {}
        """Gradients of outputs by their form, then by set: kept here for all who share the rotation."""

    def __len__(self) -> int:
        return len(self.sets)

    def take(self, calls: int) -> list[tuple[int, Inputs]]:
        """The next ``calls`` sets with their numbers, going round."""
        taken = [
            ((self.cursor + i) % len(self.sets), self.sets[(self.cursor + i) % len(self.sets)]) for i in range(calls)
        ]
        self.cursor = (self.cursor + calls) % len(self.sets)
        return taken

    def renew(self, generator: np.random.Generator) -> None:
        """Move one set, drawn at random, to another address, at another distance from a page's start."""
        at = int(generator.integers(len(self.sets)))
        offset = int(generator.integers(64)) * _LINE
        self.sets[at] = self.sets[at].map(lambda tensor: copied(tensor, offset))
