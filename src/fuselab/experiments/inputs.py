"""Random inputs of an experiment: drawn from the workload's seed alone, laid out in memory as the workload says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fuselab.errors import UnknownNameError, UsageError
from fuselab.records import DTYPES, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPE_BYTES", "LAYOUTS", "Draw", "elements", "option"]

DTYPE_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}
"""Bytes of one element, by short dtype name."""

LAYOUTS = ("contiguous", "transposed", "sliced")
"""``transposed``: the last two axes are swapped in memory. ``sliced``: each row is the front of a wider one."""

SLICE_PADDING = 8
"""Elements behind each row of a ``sliced`` tensor: enough to break contiguity, and rows stay aligned to 16 bytes."""

TINY_EVERY = 4
TINY_FACTOR = 3.0


def elements(workload: Workload) -> int:
    """Number of elements of the main input.

    Example:
        >>> elements(Workload(shape=(4, 8, 16)))
        512
    """
    return math.prod(workload.shape)


class Draw:
    """Draws the tensors of one workload, always the same ones in the same order on the same type of device.

    Values are drawn on the device itself: a 1 GB input takes milliseconds there and seconds on a CPU.
    """

    def __init__(self, workload: Workload, device_type: str) -> None:
        import torch

        if workload.dtype not in DTYPE_BYTES:
            raise UsageError(
                f"experiments have floating inputs, not {workload.dtype}", hint=f"dtypes: {', '.join(DTYPE_BYTES)}"
            )
        self._workload = workload
        self._device = torch.device(device_type)
        self._generator = torch.Generator(device=self._device).manual_seed(workload.seed)
        self.dtype: torch.dtype = getattr(torch, DTYPES[workload.dtype])
        self._drawn_in = torch.float64 if workload.dtype == "f64" else torch.float32

    def normal(self, shape: tuple[int, ...], *, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
        """Normal values of that shape, in float32 (float64 for a float64 workload), not yet a leaf."""
        import torch

        values = torch.randn(shape, generator=self._generator, device=self._device, dtype=self._drawn_in)
        return values.mul_(std).add_(mean)

    def rows(self, eps: float) -> torch.Tensor:
        """Rows to be normalised, of the workload's shape.

        Their mean is not zero, so that a LayerNorm in place of an RMSNorm is seen; every fourth row is so small that
        eps changes it by 5%, so that a dropped eps is seen in every dtype. It is no smaller than that since gradients
        grow as rows shrink, and the errors of a few huge gradients would hide those of all others.
        """
        values = self.normal(self._workload.shape, mean=0.5)
        values.view(-1, self._workload.shape[-1])[::TINY_EVERY] *= TINY_FACTOR * math.sqrt(eps)
        return values

    def parameter(self, size: int, *, mean: float) -> torch.Tensor:
        """A weight or bias: noise of 0.2 around ``mean``, so that one left out or shifted by a column is seen."""
        return self.normal((size,), mean=mean, std=0.2).to(self.dtype).requires_grad_()

    def main(self, values: torch.Tensor) -> torch.Tensor:
        """A large input: in the workload's dtype and layout, a leaf that requires grad.

        Raises:
            UnknownNameError: the workload's layout is not one of ``LAYOUTS``.
            UsageError: a transposed layout of a single axis.
        """

        values = values.to(self.dtype)
        layout = self._workload.layout
        if layout not in LAYOUTS:
            raise UnknownNameError("layout", layout, LAYOUTS)
        if layout == "transposed":
            if values.dim() < 2:
                raise UsageError("the layout 'transposed' needs at least two axes", hint="for example --shape 64x256")
            values = values.transpose(-1, -2).contiguous().transpose(-1, -2)
        elif layout == "sliced":
            # What lies behind a row is NaN: a kernel that reads past its columns shows it.
            wide = values.new_full((*values.shape[:-1], values.shape[-1] + SLICE_PADDING), float("nan"))
            sliced = wide[..., : values.shape[-1]]
            sliced.copy_(values)
            values = sliced
        return values.detach().requires_grad_()


def option(workload: Workload, name: str, default: Any) -> Any:
    """An option's value; workloads made by hand may leave out what is at its default."""
    return workload.options.get(name, default)
