"""Shapes of well-known models, from which the ``full`` presets take their workloads.

Figures are those of each model's published configuration (``source``); nothing is measured or guessed here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BERT_BASE",
    "BERT_LARGE",
    "GEMMA_2_9B",
    "GEMMA_2_27B",
    "GEMMA_3_1B",
    "GEMMA_3_12B",
    "GPT2",
    "GPT2_XL",
    "LLAMA_3_8B",
    "LLAMA_3_70B",
    "QWEN_2_5_7B",
    "QWEN_3_8B",
    "VIT_BASE",
    "VIT_LARGE",
    "ModelShape",
]


@dataclass(frozen=True)
class ModelShape:
    """The axes of one model that fusable patterns run over."""

    model: str
    """Name of the model."""
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width inside the feed-forward block (of one half, where it is gated)."""
    heads: int
    """Attention heads."""
    tokens: int
    """Sequence length it was trained on, or a usual one where that is far longer."""
    source: str
    """Where the figures are published."""

    def tokens_by_hidden(self, batch: int) -> tuple[int, ...]:
        """Shape of the residual stream: ``(batch, tokens, hidden)``."""
        return (batch, self.tokens, self.hidden)

    def tokens_by_intermediate(self, batch: int) -> tuple[int, ...]:
        """Shape inside the feed-forward block: ``(batch, tokens, intermediate)``."""
        return (batch, self.tokens, self.intermediate)

    def attention(self, batch: int) -> tuple[int, ...]:
        """Shape of the attention scores: ``(batch, heads, tokens, tokens)``."""
        return (batch, self.heads, self.tokens, self.tokens)


# 2048 tokens stand in for contexts of 8 thousand and more: rows are independent, so more of them only take longer.
LLAMA_3_8B = ModelShape("Llama-3-8B", 4096, 14336, 32, 2048, "config.json of meta-llama/Meta-Llama-3-8B")
LLAMA_3_70B = ModelShape("Llama-3-70B", 8192, 28672, 64, 2048, "config.json of meta-llama/Meta-Llama-3-70B")
QWEN_2_5_7B = ModelShape("Qwen2.5-7B", 3584, 18944, 28, 2048, "config.json of Qwen/Qwen2.5-7B")
QWEN_3_8B = ModelShape("Qwen3-8B", 4096, 12288, 32, 2048, "config.json of Qwen/Qwen3-8B")
GEMMA_2_9B = ModelShape("Gemma-2-9B", 3584, 14336, 16, 2048, "config.json of google/gemma-2-9b")
GEMMA_2_27B = ModelShape("Gemma-2-27B", 4608, 36864, 32, 2048, "config.json of google/gemma-2-27b")
GEMMA_3_1B = ModelShape("Gemma-3-1B", 1152, 6912, 4, 2048, "config.json of google/gemma-3-1b-pt")
GEMMA_3_12B = ModelShape("Gemma-3-12B", 3840, 15360, 16, 2048, "config.json of google/gemma-3-12b-pt")
GPT2 = ModelShape("GPT-2", 768, 3072, 12, 1024, "config.json of openai-community/gpt2")
GPT2_XL = ModelShape("GPT-2 XL", 1600, 6400, 25, 1024, "config.json of openai-community/gpt2-xl")
BERT_BASE = ModelShape("BERT-base", 768, 3072, 12, 512, "Devlin et al. 2019, section 3")
BERT_LARGE = ModelShape("BERT-large", 1024, 4096, 16, 512, "Devlin et al. 2019, section 3")
# 197 tokens: 14 * 14 patches of a 224 pixel image, and the class token.
VIT_BASE = ModelShape("ViT-B/16", 768, 3072, 12, 197, "Dosovitskiy et al. 2021, table 1")
VIT_LARGE = ModelShape("ViT-L/16", 1024, 4096, 16, 197, "Dosovitskiy et al. 2021, table 1")
