"""The MLP half of a Llama layer: RMSNorm, SwiGLU and the residual, as the model's own code writes them.

    fuselab run examples/llama_mlp.py:LlamaMLP
    fuselab run examples/llama_mlp.py:rms_norm --arg 'x=bf16[512,256]:requires_grad' --arg 'weight=bf16[256]'

``get_init_inputs`` and ``get_inputs`` say how to make the module and what to call it with, so the first line needs no
``--arg``. The sizes are those of a small model; ``[4096, 14336]`` makes it Llama 3 8B.
"""

import torch
from torch import nn
from torch.nn import functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Normalises in float32 and applies the weight in the input's dtype, as Llama does."""
    x_f32 = x.float()
    variance = x_f32.pow(2).mean(-1, keepdim=True)
    return weight * (x_f32 * torch.rsqrt(variance + eps)).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis."""

    def __init__(self, hidden: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)


class LlamaMLP(nn.Module):
    """x + down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden)
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


def get_init_inputs() -> list[int]:
    """Arguments of ``LlamaMLP``: hidden and intermediate size."""
    return [256, 704]


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call: 2 sequences of 128 tokens."""
    return [torch.randn(2, 128, 256, requires_grad=True)]
