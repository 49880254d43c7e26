"""A residual addition and RMSNorm of the sum in one kernel: ``rms_norm`` with a second input and a second output."""

from __future__ import annotations

from torch import Tensor

from fuselab.ops.rms_norm import Casting, RMSNorm, apply_rms_norm, rms_norm_reference

__all__ = ["AddRMSNorm", "add_rms_norm", "add_rms_norm_reference"]


def add_rms_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama"
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm`` in torch's own operators."""
    total = x + residual
    return rms_norm_reference(total, weight, eps, casting), total


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float = 1e-6, casting: Casting = "llama"
) -> tuple[Tensor, Tensor]:
    """``total = x + residual`` and ``rms_norm(total, weight)``, in one kernel.

    Args:
        x: (..., N), float32, float16 or bfloat16, any strides.
        residual: the shape of x.
        weight: (N,) or None.
        eps: as in ``rms_norm``.
        casting: as in ``rms_norm``, with the dtype of the sum in the place of x's.

    Returns:
        The normalised sum and the sum itself, the latter in the promoted dtype of x and residual.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: shapes or devices that do not match, an unknown casting.
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, and a ``NotFusedWarning`` says so once.
    """
    return apply_rms_norm("add_rms_norm", x, residual, weight, eps, casting)


class AddRMSNorm(RMSNorm):
    """``add_rms_norm`` with a weight of its own."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Add, then normalise; returns both; see ``add_rms_norm``."""
        return add_rms_norm(x, residual, self.weight, self.eps, self.casting)
