"""A function that is compiled again on almost every call, until the compiler gives up on it.

    fuselab diagnose examples/recompile_storm.py:DecayedNorm --calls 12
    fuselab diagnose examples/recompile_storm.py:DecayedNorm --calls 12 --vary x.0=8,16,24 --prove

The step counter is a Python integer on the module: the compiler takes each new value for a constant. After eight of
them it reaches its limit and the function runs uncompiled, without another word.
"""

import torch
from torch import nn
from torch.nn import functional as F


class DecayedNorm(nn.Module):
    """Layer norm whose output is blended with its input, less with every step."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.step = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.step += 1
        blend = 0.9**self.step
        normalised = F.layer_norm(x, (x.shape[-1],), self.weight)
        return blend * x + (1 - blend) * normalised


def get_init_inputs() -> list[int]:
    """Arguments of ``DecayedNorm``."""
    return [256]


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(32, 256)]
