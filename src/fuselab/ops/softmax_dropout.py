"""Softmax followed by dropout, with an optional scale and mask, forward and backward (Srivastava et al., 2014).

What is dropped is never stored: it is a function of a seed, the row and the column (see ``philox``). The seed comes
from torch's generator, once a call (see ``philox_key``), and is kept for the backward, which evaluates the same
function again. So ``torch.manual_seed`` reproduces it, checkpointing, which restores the generator, replays it, and a
CUDA graph draws a new seed with each replay. Besides the seed, the backward keeps the input and two float32 a row.
"""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import triton
from torch import Tensor, nn
from torch.compiler import is_compiling

from fuselab.ops.autograd import refuse_second_derivative
from fuselab.ops.inputs import check_tensors, check_untransformed, compute_dtype, is_plain, needs_grad, on_cpu, rows
from fuselab.ops.internals import applied, in_forward_mode
from fuselab.ops.launch import INTERPRETED, Tile, launch, operator, takes_registers, wrap_triton
from fuselab.ops.philox import check_probability, dropout_arguments
from fuselab.ops.philox_key import NO_KEY, Key, draw
from fuselab.ops.replay import Replays
from fuselab.ops.score_mask import check_mask, mask_arguments
from fuselab.ops.softmax_dropout_kernels import _softmax_dropout_backward_kernel, _softmax_dropout_forward_kernel

__all__ = ["SoftmaxDropout", "softmax_dropout", "softmax_dropout_reference"]

# Rows up to this width are held on chip (up to twice that by the forward, if they can be packed), those wider than the
# second number packed where possible; wider ones are looped over, twice, in tiles of so many columns.
_WIDEST = 16384
_PACKED_FROM = 8192
_LOOPED = 8192


def softmax_dropout_reference(
    x: Tensor,
    p: float,
    keep: Tensor | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    """``softmax_dropout`` in torch's own operators, given the elements to keep; float64 is computed in float64.

    ``keep`` is a boolean tensor of x's shape, or None for a call that drops nothing.
    """
    scores = x.to(compute_dtype(x))
    if scale is not None:
        scores = scores * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
    probabilities = F.softmax(scores, dim=dim)
    if keep is not None:
        probabilities = probabilities * (keep.to(scores.dtype) * (1 / (1 - p) if p < 1 else 0.0))
    return probabilities.to(x.dtype)


class _Shape(NamedTuple):
    """What a program holds of a row: its tile, in how many packed parts (1: unpacked), and the compiler's options."""

    tile: Tile
    parts: int = 1
    options: tuple[tuple[str, int], ...] = ()


def _shape(kernel: Any, x: Tensor, width: int, masked: bool, backward: bool) -> _Shape:
    # Measured on an H200, see benchmarks/notes.md. 32 elements a thread: the fewer threads share a row, the less its
    # two sums cost. Up to 1024 columns one warp has the row for itself, or several rows, and nothing is exchanged
    # through shared memory.
    width = int(width)
    if width <= _PACKED_FROM:
        block_n = max(triton.next_power_of_2(width), 16)
        block_m = max(1024 // block_n, 1)
        return _Shape(Tile(block_m, block_n, max(block_m * block_n // 1024, 1)))
    # What a thread may hold is told to Triton's compiler, which would take more and leave a multiprocessor with nothing
    # to read while it computes. Inductor cannot tell it.
    told = takes_registers(kernel, x.device)
    # A mask that may end within a word takes the compiler minutes.
    packable = x.dtype != torch.float32 and not masked and width % 8 == 0
    looped = _Shape(Tile(1, _LOOPED, 32 if backward else 8))
    if backward:
        if width > _WIDEST:
            return looped
        # Told, it asks for the row at once; else for a quarter when it has worked on the one before, and is slower.
        parts = 4 if packable and (told or INTERPRETED) else 1
        return _Shape(Tile(1, _WIDEST, 16), parts, (("maxnreg", 64),) if told and parts > 1 else ())
    if width > _WIDEST:
        packed = _Shape(Tile(1, 2 * _WIDEST, 32), 4, (("maxnreg", 32),))
        return packed if packable and told and width <= 2 * _WIDEST else looped
    if packable:
        return _Shape(Tile(1, _WIDEST, 8), 4, (("maxnreg", 64),)) if told else _Shape(Tile(1, _WIDEST, 16), 4)
    held = told and x.dtype != torch.float32
    return _Shape(Tile(1, _WIDEST, 16), 1, (("maxnreg", 64),)) if held else _Shape(Tile(1, 4096, 4))


def _neighbours(x: Tensor) -> int:
    # Columns of a 16-byte access.
    return 4 if x.dtype == torch.float32 else 8


def _meta(x: Tensor, width: int, scale: float, masked: bool, dropout: bool, shape: _Shape) -> dict[str, Any]:
    # The constants that forward and backward have in common.
    tile = shape.tile
    return {
        "DROPOUT": dropout,
        "NEGATIVE": scale < 0 and not masked,
        "EVEN": int(width) % tile.BLOCK_N == 0,
        "ONE_BLOCK": int(width) <= tile.BLOCK_N,
        "PARTS": shape.parts,
        "NEIGHBOURS": _neighbours(x),
        "BLOCK_M": tile.BLOCK_M,
        "BLOCK_N": tile.BLOCK_N,
        "num_warps": tile.num_warps,
        **dict(shape.options),
    }


def _forward_outputs(x: Tensor, saved: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    # The result and, if saved, what the backward needs of each row: the largest score and one over the sum.
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not saved:
        return y, y, y
    peak = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    return y, peak, torch.empty_like(peak)


def _forward(
    kernel: Any,
    x: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    p: float,
    scale: float,
    saved: bool = True,
    key: Key = NO_KEY,
) -> tuple[Tensor, Tensor, Tensor]:
    y, peak, reciprocal = _forward_outputs(x, saved)
    if x.numel() == 0:
        return y, peak, reciprocal
    x_MN = rows(x)
    M, N = x_MN.shape
    mask, mask_layout, mask_kind, mask_axes = mask_arguments(x, mask)
    shape = _shape(kernel, x, N, mask_kind != "none", False)
    launch(
        kernel,
        (triton.cdiv(M, shape.tile.BLOCK_M),),
        x.device,
        x_MN,
        mask,
        x_MN if seed is None else seed,
        y,
        peak,
        reciprocal,
        x_MN.stride(0),
        M,
        N,
        scale,
        *dropout_arguments(p),
        *key,
        *mask_layout,
        MASK=mask_kind,
        MASK_AXES=mask_axes,
        SAVED=saved,
        **_meta(x, N, scale, mask_kind != "none", seed is not None, shape),
    )
    return y, peak, reciprocal


def _backward_outputs(x: Tensor, scores_grad: bool) -> Tensor:
    return torch.empty(x.shape, dtype=torch.float32 if scores_grad else x.dtype, device=x.device)


def _backward(
    kernel: Any,
    x: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    peak: Tensor,
    reciprocal: Tensor,
    dy: Tensor,
    p: float,
    scale: float,
    scores_grad: bool,
    key: Key = NO_KEY,
) -> Tensor:
    # The gradient of x; with scores_grad that of scale * x + mask, in float32.
    dx = _backward_outputs(x, scores_grad)
    if x.numel() == 0:
        return dx
    x_MN, dy_MN = rows(x), rows(dy)
    M, N = x_MN.shape
    mask, mask_layout, mask_kind, mask_axes = mask_arguments(x, mask)
    shape = _shape(kernel, x, N, mask_kind != "none", True)
    launch(
        kernel,
        (triton.cdiv(M, shape.tile.BLOCK_M),),
        x.device,
        x_MN,
        mask,
        x_MN if seed is None else seed,
        peak,
        reciprocal,
        dy_MN,
        dx,
        x_MN.stride(0),
        dy_MN.stride(0),
        M,
        N,
        scale,
        1.0 if scores_grad else scale,
        *dropout_arguments(p),
        *key,
        *mask_layout,
        MASK=mask_kind,
        MASK_AXES=mask_axes,
        BITS=seed is not None and 1 < triton.cdiv(int(N), shape.tile.BLOCK_N) <= 32 // _neighbours(x),
        **_meta(x, N, scale, mask_kind != "none", seed is not None, shape),
    )
    return dx


@operator("softmax_dropout", lambda x, seed, mask, p, scale: _forward_outputs(x))
def _softmax_dropout(
    x: Tensor, seed: Tensor | None, mask: Tensor | None, p: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _forward(wrap_triton(_softmax_dropout_forward_kernel), x, seed, mask, p, scale)


@operator(
    "softmax_dropout_backward",
    lambda x, seed, mask, peak, reciprocal, dy, p, scale, scores_grad: _backward_outputs(x, scores_grad),
)
def _softmax_dropout_backward(
    x: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    peak: Tensor,
    reciprocal: Tensor,
    dy: Tensor,
    p: float,
    scale: float,
    scores_grad: bool,
) -> Tensor:
    kernel = wrap_triton(_softmax_dropout_backward_kernel)
    return _backward(kernel, x, seed, mask, peak, reciprocal, dy, p, scale, scores_grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, seed, mask, p, scale, *_ = inputs
    ctx.save_for_backward(x, seed, mask, *output[1:])
    ctx.options = p, scale


def _differentiate(run: Any, ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
    x, seed, mask, peak, reciprocal = ctx.saved_tensors
    p, scale = ctx.options
    mask_grad = ctx.needs_input_grad[2]
    dmask: Tensor | None = None
    twice = torch.is_grad_enabled() or in_forward_mode()
    with torch.no_grad() if twice else nullcontext():
        dx: Tensor | None = run(x, seed, mask, peak, reciprocal, dy, p, scale, mask_grad)
        if mask_grad and dx is not None:
            dmask = dx.sum_to_size(mask.shape).to(mask.dtype)
            dx = (dx * scale).to(x.dtype)
    if twice:
        dx, dmask = refuse_second_derivative("softmax_dropout", (dx, dmask), (dy, x, mask))
    return dx, None, dmask, None, None


_REPLAYS = Replays("key_low", "key_high")


def _eager_forward(
    x: Tensor, seed: Tensor | None, mask: Tensor | None, p: float, scale: float, saved: bool, key: Key
) -> tuple[Tensor, ...]:
    # As _forward; replayed where a call of this form was made before.
    def ordinary() -> tuple[Tensor, ...]:
        return _forward(_softmax_dropout_forward_kernel, x, seed, mask, p, scale, saved, key)

    return _REPLAYS.run(ordinary, (x, seed, mask), p, scale, saved, numbers=key)


_BACKWARD_REPLAYS = Replays("key_low", "key_high")


def _eager_backward(
    key: Key,
    x: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    peak: Tensor,
    reciprocal: Tensor,
    dy: Tensor,
    p: float,
    scale: float,
    scores_grad: bool,
) -> Tensor:
    # As _backward, replayed as the forward is.
    def ordinary() -> tuple[Tensor, ...]:
        return (_backward(_softmax_dropout_backward_kernel, *inputs, p, scale, scores_grad, key),)

    inputs = x, seed, mask, peak, reciprocal, dy
    return _BACKWARD_REPLAYS.run(ordinary, inputs, p, scale, scores_grad, numbers=key)[0]


def _traced_backward(key: Key, x: Tensor, seed: Tensor | None, *rest: Any) -> Any:
    # The operator has no key: the two are put together.
    low, high = key
    if seed is not None and (low or high):
        seed = seed + (high << 32 | low)
    return _softmax_dropout_backward(x, seed, *rest)


class _SoftmaxDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, seed: Tensor | None, mask: Tensor | None, p: float, scale: float, key: Key
    ) -> Tensor:
        y, peak, reciprocal = _eager_forward(x, seed, mask, p, scale, True, key)
        _save(ctx, (x, seed, mask, p, scale), (y, peak, reciprocal))
        ctx.key = key
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        backward = _eager_backward if type(grads[0]) is Tensor and not is_compiling() else _traced_backward
        return *_differentiate(functools.partial(backward, ctx.key), ctx, grads[0]), None


_apply = applied("softmax_dropout", _SoftmaxDropout)

_softmax_dropout.register_autograd(
    lambda ctx, dy, _peak, _reciprocal: _differentiate(_softmax_dropout_backward, ctx, dy), setup_context=_save
)


def _check(x: Tensor, p: float, mask: Tensor | None, dim: int) -> None:
    check_tensors("softmax_dropout", x=x)
    check_mask("softmax_dropout", mask, x)
    check_probability("softmax_dropout", p)
    axes = max(x.dim(), 1)  # as F.softmax has it: a number is a row of one
    if not -axes <= dim < axes:
        raise ValueError(f"softmax_dropout: dim={dim} for x with {x.dim()} axes; allowed: {-axes} to {axes - 1}")


def softmax_dropout(
    x: Tensor,
    p: float = 0.5,
    training: bool = True,
    scale: float | None = None,
    mask: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    """``dropout(softmax(scale * x + mask))``, in one kernel.

    Args:
        x: (..., N), float32, float16 or bfloat16, any strides.
        p: probability that an element is dropped; those kept are multiplied by ``1 / (1 - p)``.
        training: False drops nothing.
        scale: factor on x; None is 1.
        mask: broadcasts to x, as in ``F.scaled_dot_product_attention``: boolean (True keeps a score, False makes it
            ``-inf``), or a float that is added.
        dim: the axis to normalise; any other than the last is moved there first, which copies.

    Returns:
        The shape and dtype of x; NaN in rows where every score is ``-inf``, as ``F.softmax`` has it.

    Raises:
        TypeError: an unsupported dtype.
        ValueError: p outside of [0, 1], an axis that x does not have, a mask that does not broadcast or is elsewhere.
        RuntimeError: a device that is neither a GPU nor the CPU; a second derivative on a GPU.

    On a CPU it is computed with torch's own operators, ``F.dropout`` among them; a ``NotFusedWarning`` says so once.

    Autocast does not change dtypes here: everything is computed in float32 in any case. What is dropped comes from
    torch's generator of x's device. It differs from what ``F.dropout`` would drop after the same ``torch.manual_seed``,
    and so does it between eager calls, captured CUDA graphs and ``torch.compile``, which takes its own random numbers.
    Each element is dropped with probability p to within 2^-32, and any two as good as independently (``ops.philox``).

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 4, dtype=torch.float64)
        >>> softmax_dropout_reference(x, 0.5, keep=torch.tensor([[True, False, True, True]]))
        tensor([[0.5000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    _check(x, p, mask, dim)
    if on_cpu("softmax_dropout", x):
        return F.dropout(softmax_dropout_reference(x, 0.0, None, scale, mask, dim), p, training)
    if x.dim() == 0:
        return softmax_dropout(x[None], p, training, scale, mask)[0]
    p = float(p) if training else 0.0
    scale = 1.0 if scale is None else float(scale)
    last = dim in (-1, x.dim() - 1)
    if not last:
        x = x.movedim(dim, -1)
        if mask is not None:
            mask = mask[(None,) * (x.dim() - mask.dim())].movedim(dim, -1)
    check_untransformed("softmax_dropout", x, mask)
    plain = is_plain(x, mask)
    seed, key = draw(x, plain) if p > 0.0 else (None, NO_KEY)
    if not plain:
        y: Tensor = _softmax_dropout(x, seed, mask, p, scale)[0]
    elif needs_grad(x, mask):
        y = _apply(x, seed, mask, p, scale, key)
    else:
        y = _eager_forward(x, seed, mask, p, scale, False, key)[0]
    return y if last else y.movedim(-1, dim)


class SoftmaxDropout(nn.Module):
    """``softmax_dropout`` that drops while the module is in training mode."""

    def __init__(self, p: float = 0.5, scale: float | None = None, dim: int = -1) -> None:
        super().__init__()
        check_probability("SoftmaxDropout", p)
        self.p = p
        self.scale = scale
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities of x's scores, some dropped; see ``softmax_dropout``."""
        return softmax_dropout(x, self.p, self.training, self.scale, mask, self.dim)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows between the brackets."""
        return f"p={self.p}, scale={self.scale}, dim={self.dim}"
