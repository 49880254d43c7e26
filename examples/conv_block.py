"""A ConvNeXt block: depthwise convolution, LayerNorm over channels, an inverted bottleneck.

    fuselab run examples/conv_block.py:ConvNeXtBlock

The convolution is a library call; everything around it is what the compiler can fuse, with two changes of layout.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ConvNeXtBlock(nn.Module):
    """x + scale * pwconv2(gelu(pwconv1(norm(dwconv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.dwconv(x).permute(0, 2, 3, 1)  # channels last, as LayerNorm and the linear layers want them
        h = self.scale * self.pwconv2(F.gelu(self.pwconv1(self.norm(h))))
        return x + h.permute(0, 3, 1, 2)


def get_init_inputs() -> list[int]:
    """Arguments of ``ConvNeXtBlock``."""
    return [64]


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call: two feature maps of 28 x 28."""
    return [torch.randn(2, 64, 28, 28, requires_grad=True)]
