"""What a warm-up and a comparison must leave as it was: buffers, random generators, the caller's tensors."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["StateKept", "copied"]


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same layout, a leaf as the caller's was."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    if 0 in tensor.stride():  # expanded: elements share memory, and cannot be written one by one
        return tensor.detach().requires_grad_(tensor.requires_grad)
    return copy.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


class StateKept:
    """Buffers (BatchNorm's statistics) and random generators as they were: a warm-up is no training step."""

    def __init__(self, model: Any) -> None:
        self._buffers = dict(model.named_buffers()) if isinstance(model, torch.nn.Module) else {}
        self._kept: dict[str, torch.Tensor] = {}
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        self._rng: Any = torch.random.fork_rng(devices)

    def __enter__(self) -> None:
        self._kept = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
        self._rng.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._rng.__exit__(*error)
        with torch.no_grad():
            for name, buffer in self._buffers.items():
                buffer.copy_(self._kept[name])
