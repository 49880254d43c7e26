"""Planted: it centres its input in place, so that the second call does not see what the first one saw."""

import torch
from torch.nn import functional as F


def centred(x: torch.Tensor) -> torch.Tensor:
    """Take the mean off, then apply SiLU."""
    x -= x.mean(-1, keepdim=True)
    return F.silu(x)


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(64, 256)]
