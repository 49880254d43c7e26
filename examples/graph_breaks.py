"""Three graph breaks in one function, each of a kind that real training code has.

    fuselab diagnose examples/graph_breaks.py:normalised_step
    fuselab diagnose examples/graph_breaks.py:normalised_step --prove

The compiler makes four graphs of it instead of one: a print, a value taken out of a tensor to decide a branch, and a
log line. Results stay right; every break ends fusion and costs a way back through Python.
"""

# ruff: noqa: T201 - the print is the example
import logging

import torch
from torch.nn import functional as F

logger = logging.getLogger(__name__)


def normalised_step(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One layer with its author's debugging still in it."""
    h = F.layer_norm(x, (x.shape[-1],), weight, bias)
    print("normalised", h.shape)
    peak = h.abs().max()
    if peak.item() > 4.0:
        h = h * (4.0 / peak)
    logger.warning("clipped")
    return F.gelu(h) + x


def get_inputs() -> list[torch.Tensor]:
    """Arguments of a call."""
    return [torch.randn(64, 512), torch.rand(512) + 0.5, 0.1 * torch.randn(512)]
