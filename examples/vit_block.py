"""A Vision Transformer encoder block: pre-norm attention over patches, then an MLP with GELU.

fuselab run examples/vit_block.py:ViTBlock
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, patches, hidden = x.shape
        qkv = self.qkv(x).view(batch, patches, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(batch, patches, hidden))


class ViTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); each branch scaled as in CaiT and DINOv2 (LayerScale)."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.attention = Attention(hidden, heads)
        self.scale1 = nn.Parameter(torch.full((hidden,), 0.1))
        self.norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.fc1 = nn.Linear(hidden, mlp_ratio * hidden)
        self.fc2 = nn.Linear(mlp_ratio * hidden, hidden)
        self.scale2 = nn.Parameter(torch.full((hidden,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale1 * self.attention(self.norm1(x))
        return x + self.scale2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


def get_init_inputs() -> list[int]:
    """Arguments of ``ViTBlock``: the sizes of ViT-Ti."""
    return [192, 3]


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call: two images of 196 patches and a class token."""
    return [torch.randn(2, 197, 192, requires_grad=True)]
