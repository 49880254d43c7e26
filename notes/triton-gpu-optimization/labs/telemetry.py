"""Planted: a print and a value taken out of a tensor, in the middle of what should be one graph."""

import torch
from torch.nn import functional as F


def step(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RMSNorm with its author's telemetry."""
    h = F.rms_norm(x, (x.shape[-1],), weight)
    print("after the norm", h.shape)
    if h.abs().max().item() > 4.0:
        h = h.clamp(-4.0, 4.0)
    return F.silu(h)


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(64, 256), torch.ones(256)]
