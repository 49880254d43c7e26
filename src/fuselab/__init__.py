"""fuselab measures, shows and beats what ``torch.compile`` does with fusable PyTorch code."""

from __future__ import annotations

__version__ = "0.1.0"
