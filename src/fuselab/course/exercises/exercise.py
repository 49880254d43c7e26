"""What an exercise is: its inputs, its result in float64, and the mistakes that are usually made.

The declarations import no torch: their models call methods of the tensors that they get, in a process that has torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BASICS", "OPTIMIZATION", "Case", "Exercise", "Given", "Maker", "next_power_of_2", "rows"]

BASICS = "pytorch-triton-basics"
OPTIMIZATION = "triton-optimization"


@dataclass(frozen=True)
class Case:
    """One input of an exercise."""

    dtype: str = "f32"
    shape: tuple[int, ...] = (3, 100)
    layout: str = "contiguous"
    """``sliced``: rows of a wider matrix, so that the row stride is not the width."""
    options: Mapping[str, float] = field(default_factory=dict)
    """``eps``, ``p``, ``seed``, ``scale`` (of x), ``shift`` (of x), or what else the exercise reads."""

    @property
    def label(self) -> str:
        """What the learner reads.

        Example:
            >>> Case("f32", (4, 100), "sliced", {"eps": 0.5}).label
            'f32[4, 100] sliced, eps=0.5'
        """
        shape = f"{self.dtype}[{', '.join(map(str, self.shape))}]" if self.shape else ""
        layout = "" if self.layout == "contiguous" else f" {self.layout}"
        shown = {k: v for k, v in self.options.items() if k not in ("scale", "shift")}
        return ", ".join([part for part in [shape + layout, *(f"{k}={v:g}" for k, v in shown.items())] if part])


class Maker(Protocol):
    """Makes the inputs of one case, each within a zone of marked memory."""

    def __call__(
        self, *shape: int, scale: float = 1.0, shift: float = 0.0, layout: str = "contiguous", dtype: str = ""
    ) -> Tensor:
        """A normal random tensor, in the case's dtype unless one is given."""
        ...


class Given(Protocol):
    """The arguments of a call in float64, by name, and what lies in memory around them."""

    def __getattr__(self, name: str) -> Any: ...

    def read(self, name: str, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Any:
        """Memory from the tensor's first element on, read as a kernel with these strides would, in float64."""
        ...

    def beyond(self, name: str, block: int) -> Any:
        """The tensor's rows read to the width of a block without a mask: ``(M, block)``, in float64."""
        ...

    def packed(self, name: str) -> Any:
        """The tensor read as if its rows lay one after the other, in float64."""
        ...

    def stride(self, name: str) -> int:
        """From one row of the tensor to the next, in elements."""
        ...

    def uniform(self, seed: int, rows: int, columns: int, stride: int) -> Any:
        """``tl.rand(seed, row * stride + column)``, in float64."""
        ...


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A function to write, with everything that is needed to judge it."""

    name: str
    title: str
    notebook: str
    """The notebook that sets it."""
    level: int
    """From 1, one line, to 5, a fused backward."""
    call: str
    """Signature of the function: ``rms_norm_forward(x, weight, eps) -> y``."""
    task: str
    hints: tuple[str, str, str]
    outputs: tuple[str, ...]
    inputs: Callable[[Case, Maker], dict[str, Any]]
    """Arguments by name, in the order of the call."""
    model: Callable[[Any, str], tuple[Any, ...]]
    """The results in float64; with a mistake's name, the results that this mistake gives."""
    mistakes: tuple[str, ...]
    """Those that the model can make, most likely first; the general ones come on top. What follows a colon in a name
    tells variants of one mistake apart."""
    cases: tuple[Case, ...]
    kernel: str = ""
    """The kernel of the starter file that a bare kernel of the learner's takes the place of; empty: there are more."""
    in_f32: tuple[str, ...] = ()
    """The results that are float32 whatever the inputs are."""
    needs_triton: bool = True


def next_power_of_2(n: int) -> int:
    """The block that holds a row of n.

    Example:
        >>> next_power_of_2(100), next_power_of_2(128)
        (128, 128)
    """
    return 1 << (n - 1).bit_length()


def rows(dtype: str = "f32", m: int = 3, n: int = 100, layout: str = "contiguous", **options: float) -> Case:
    """A matrix as a case, in fewer characters."""
    return Case(dtype, (m, n), layout, options)
