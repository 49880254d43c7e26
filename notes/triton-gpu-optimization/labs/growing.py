"""Planted: a counter that the compiler takes for a constant, so that each call is another function to it."""

import torch
from torch import nn


class Decay(nn.Module):
    """A running blend whose weight falls with every step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Blend x with its mean, less with every step."""
        self.step += 1
        blend = 0.9**self.step
        return blend * x + (1 - blend) * x.mean(-1, keepdim=True)


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(32, 256)]
