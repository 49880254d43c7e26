"""Where the key of a call's random numbers comes from: torch's generator, on the host where that is possible.

In an ordinary eager call the generator's state is two numbers on the host, its seed and its offset. A key is made of
them and given to the kernels as it is, and the offset advances by four, the least that torch allows and what one number
drawn on the device takes: so the next call has another key, and torch's own operators go on elsewhere. No kernel runs
for it. torch's functional random numbers (``torch._prims.rng_prims``) take seed and offset the same way.

While a CUDA graph is captured there is no such number: every replay has to draw another, so one is drawn on the device
by an operator of torch's, and the kernels read it there. The same holds for everything that torch has to see drawn:
graphs of ``torch.compile``, ``torch.func``'s transforms, another device than the current one, the interpreter.

A key is a function of seed and offset, without collisions among the offsets of one seed: no two calls after one
``torch.manual_seed`` have the same key. torch's own operators have the seed itself for a key, and ten rounds for seven.
"""

from __future__ import annotations

import functools
import threading

import torch
from torch import Tensor

from fuselab.ops import internals

__all__ = ["NO_KEY", "Key", "draw", "mixed"]

Key = tuple[int, int]
"""62 bits drawn on the host, in halves: each fits an argument of 32 bits that is not negative."""

NO_KEY: Key = (0, 0)
"""Beside a seed on the device."""

_HALF = 31
_LOW = (1 << _HALF) - 1
_ALL = (1 << 2 * _HALF) - 1

# Of our callers: the generator is asked and set in two steps, and no two of them may come between.
_lock = threading.Lock()


def _scrambled(number: int) -> int:
    # A permutation of 62 bits: multiplication by odd numbers and shifted copies of itself, as in SplitMix64
    # (Steele, Lea and Flood, 2014), whose constants these are.
    number ^= number >> 31
    number = number * 0xBF58476D1CE4E5B9 & _ALL
    number ^= number >> 29
    number = number * 0x94D049BB133111EB & _ALL
    return number ^ number >> 31


@functools.lru_cache(maxsize=64)
def _start(seed: int) -> int:
    # Where a seed begins among the offsets. Its two highest bits count too; and a number is added because zero stays
    # zero, which would be torch's own key for the seed 0.
    return _scrambled(_scrambled(seed + 0x9E3779B97F4A7C15 & _ALL) + (seed >> 2 * _HALF) & _ALL)


def mixed(seed: int, offset: int) -> Key:
    """The key for a generator's seed (any 64 bits) and offset (a multiple of four).

    Of one seed, other offsets have other keys: they differ by a permutation of 62 bits, and an offset has no more.

    Example:
        >>> mixed(0, 0) != mixed(0, 4) != mixed(1, 4)
        True
    """
    key = _scrambled(_start(seed) + (offset >> 2) & _ALL)
    return key & _LOW, key >> _HALF


_zeros: dict[torch.device, Tensor] = {}


def _zero(device: torch.device) -> Tensor | None:
    # What a kernel reads in the place of a seed on the device; None while a mode of torch makes other tensors of it.
    found = _zeros.get(device)
    if found is None:
        # Not marked as one made for inference, for it is saved for backwards; and copied from the host, because then it
        # is there on return, whichever stream reads it.
        with torch.inference_mode(False):
            found = torch.zeros(1, dtype=torch.int64, device="cpu").to(device)
        if type(found) is not Tensor or found.device != device:
            return None
        _zeros[device] = found
    return found


def draw(x: Tensor, plain: bool) -> tuple[Tensor, Key]:
    """Seed and key from torch's generator of x's device, which is advanced: either the one or the other is zero.

    Args:
        x: gives the device.
        plain: this is an eager call with an ordinary tensor (``inputs.is_plain``).
    """
    device = x.device
    generator = internals.host_generator(x.get_device()) if plain and x.is_cuda else None
    zero = None if generator is None else _zero(device)
    if generator is None or zero is None:
        # On x's device and without waiting for it: captured in a CUDA graph, it is drawn anew with each replay. There
        # by the shorter of the two kernels, which has 63 bits (0.2 us of 4.2 in a call on one row of 4096).
        if plain and x.is_cuda and internals.captured():
            return torch.empty(1, dtype=torch.int64, device=device).random_(), NO_KEY
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device), NO_KEY
    with _lock:
        seed, offset = generator.initial_seed(), generator.get_offset()
        # This also makes the dropout states of cuDNN's recurrent layers anew when one runs next, as every seeding does.
        generator.set_offset(offset + 4)
    return zero, mixed(seed, offset)
