"""Yours: replace ``mine`` by a function of your own code, and ``get_inputs`` by what it is called with."""

import torch
from torch.nn import functional as F


def mine(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A residual addition, RMSNorm and a gate, as they stand at the start of a feed-forward block."""
    h = F.rms_norm(x + residual, (x.shape[-1],), weight)
    return F.silu(h) * h


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(256, 1024), torch.randn(256, 1024), torch.ones(1024)]
