"""A block of GPT-2 (Radford et al. 2019), and a small GPT-2 of such blocks, reduced by arguments to fit a laptop.

    fuselab compile-cost examples/gpt2_block.py:block --device cpu
    fuselab compile-cost examples/gpt2_block.py:Model --arg 'tokens=i64[1,64]<512' --scope both
    fuselab compile-cost examples/gpt2_block.py:block --shapes '1x32x256,1x48x256,1x64x256*4'

GPT-2 small is ``Block(768, 12)`` on 1024 tokens, and ``Model(50257, 768, 12, 12, 1024)``.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal self-attention; q, k and v come from one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with GELU in its tanh form as GPT-2 has it."""

    def __init__(self, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Model(nn.Module):
    """Token and position embeddings, blocks, a norm, and logits through the transposed embedding."""

    def __init__(
        self, vocabulary: int = 512, width: int = 256, heads: int = 4, layers: int = 4, context: int = 128
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


block = Block(256, 4)
"""GPT-2 small is Block(768, 12)."""


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call of ``block``: one sequence of 64 tokens."""
    return [torch.randn(1, 64, 256)]
