"""A Llama-style MLP behind an RMSNorm, small enough for a laptop.

    fuselab run examples/swiglu_mlp.py:Block
    fuselab run examples/swiglu_mlp.py:gate --arg 'a=f32[512,1408]:requires_grad' --arg 'b=f32[512,1408]:requires_grad'

``get_init_inputs`` and ``get_inputs`` say how to make the module and what to call it with, so the first line needs no
``--arg``.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Residual block: x + down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.gate = nn.Linear(hidden, intermediate, bias=False)
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised = self.norm(x)
        return x + self.down(gate(self.gate(normalised), self.up(normalised)))


def gate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SwiGLU."""
    return F.silu(a) * b


def get_init_inputs() -> list[int]:
    """Arguments of ``Block``."""
    return [512, 1408]


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call: 4 sequences of 128 tokens."""
    return [torch.randn(4, 128, 512, requires_grad=True)]
