"""RMSNorm over the last axis, plain or after a residual add, in the three casting orders that models use.

Zhang, Sennrich 2019. Where values are rounded to the input's dtype differs between models, and so does what a compiler
may fuse: ``none`` keeps float32 to the end (``F.rms_norm`` on a GPU), ``llama`` rounds before the weight is multiplied,
``gemma`` multiplies by one plus the weight in float32 and rounds last. In exact arithmetic the first two are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.experiments import model_shapes as models
from fuselab.experiments.inputs import DTYPE_BYTES, Draw, elements, option
from fuselab.experiments.peers import LIGER, QUACK, peer
from fuselab.experiments.variants import compiled, eager, max_autotune, triton
from fuselab.records import Direction, Traffic, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Norm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

__all__ = ["EPS", "EXPERIMENT"]

EPS = 1e-6
"""That of Gemma and Qwen; Llama-3 has 1e-5."""

OPERATIONS = {
    Direction.FORWARD: 4,  # square, sum, times rstd, times weight
    # mean square again 2, xhat 1, dy * weight 1, its product with xhat and the sum 2, dx 3, dweight 2
    Direction.BACKWARD: 11,
}
"""Floating-point operations an element; the residual's additions come on top."""


def _norm(casting: str) -> Norm:
    """The normalisation as it is written in the models."""
    import torch
    from torch.nn import functional

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, EPS)

    def llama(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = _at_least_float32(x)
        normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
        return weight * normalised.to(x.dtype)

    def gemma(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = _at_least_float32(x)
        normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
        return (normalised * (1.0 + _at_least_float32(weight))).to(x.dtype)

    return {"none": plain, "llama": llama, "gemma": gemma}[casting]


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The models write ``x.float()``; this is the same but for float64, which it leaves alone."""
    import torch

    return x if x.dtype == torch.float64 else x.float()


def _eager(workload: Workload) -> Implementation:
    norm = _norm(option(workload, "casting", "none"))

    def add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = x + residual
        return norm(residual, weight), residual

    return add_rms_norm if option(workload, "form", "plain") == "add" else norm


def _triton(workload: Workload) -> Implementation:
    from fuselab import ops

    casting = option(workload, "casting", "none")

    def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, weight, EPS, casting)

    def add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return ops.add_rms_norm(x, residual, weight, EPS, casting)

    return add_rms_norm if option(workload, "form", "plain") == "add" else rms_norm


def _liger(workload: Workload) -> Implementation:
    from liger_kernel.transformers.functional import liger_fused_add_rms_norm, liger_rms_norm

    casting: str = option(workload, "casting", "none")
    offset = 1.0 if casting == "gemma" else 0.0

    # in_place would let the backward overwrite the gradient that came in, which a check of gradients must not allow.
    def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = liger_rms_norm(x, weight, EPS, offset=offset, casting_mode=casting, in_place=False)
        return y

    def add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = liger_fused_add_rms_norm(x, residual, weight, EPS, offset=offset, casting_mode=casting, in_place=False)
        return y, h

    return add_rms_norm if option(workload, "form", "plain") == "add" else rms_norm


def _liger_lacks(workload: Workload) -> str | None:
    if option(workload, "casting", "none") == "none" and workload.dtype in ("bf16", "f16"):
        return "Liger-Kernel's casting 'none' computes in the input's dtype, not in float32"
    return None


def _quack(workload: Workload) -> Implementation:
    from quack.rmsnorm import rmsnorm

    offset = 1.0 if option(workload, "casting", "none") == "gemma" else 0.0

    def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = rmsnorm(x, weight, eps=EPS, weight_offset=offset)
        return y

    def add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = rmsnorm(x, weight, residual=residual, eps=EPS, prenorm=True, weight_offset=offset)
        return y, h

    return add_rms_norm if option(workload, "form", "plain") == "add" else rms_norm


def _quack_lacks(workload: Workload) -> str | None:
    if option(workload, "casting", "none") == "llama" and workload.dtype in ("bf16", "f16"):
        return "QuACK multiplies by the weight in float32: it has no Llama casting order"
    return None


def _reference(workload: Workload) -> Implementation:
    """From the definition: x over its root mean square, times the weight."""
    import torch

    gemma = option(workload, "casting", "none") == "gemma"

    def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        root_mean_square = torch.sqrt(torch.einsum("...n,...n->...", x, x) / x.shape[-1] + EPS)
        return x / root_mean_square.unsqueeze(-1) * (weight + 1.0 if gemma else weight)

    def add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.add(residual, x)
        return rms_norm(h, weight), h

    return add_rms_norm if option(workload, "form", "plain") == "add" else rms_norm


def _make_inputs(workload: Workload, device_type: str) -> Inputs:
    draw = Draw(workload, device_type)
    width = workload.shape[-1]
    # Gemma's weight is an offset from one.
    mean = 0.1 if option(workload, "casting", "none") == "gemma" else 1.0
    if option(workload, "form", "plain") == "plain":
        x = draw.main(draw.rows(EPS))
        return Inputs((x, draw.parameter(width, mean=mean)), names=("x", "weight"))
    # Their sum is as large as the plain form's x, so that eps weighs the same.
    x = draw.main(draw.rows(EPS) / math.sqrt(2.0))
    residual = draw.main(draw.rows(EPS) / math.sqrt(2.0))
    return Inputs((x, residual, draw.parameter(width, mean=mean)), names=("x", "residual", "weight"))


def _traffic(workload: Workload, direction: Direction) -> Traffic:
    """Plain: x in, y out; backward x and dy in, dx out.

    Add: x and residual in, y and their sum h out; backward h, dy and dh in, and one gradient out, since x and residual
    have the same one. The weight and its gradient once each.
    """
    add = option(workload, "form", "plain") == "add"
    large = elements(workload) * DTYPE_BYTES[workload.dtype]
    small = workload.shape[-1] * DTYPE_BYTES[workload.dtype]
    operations = (OPERATIONS[direction] + add) * elements(workload)
    if option(workload, "casting", "none") == "gemma":
        operations += workload.shape[-1]  # one plus the weight
    if direction is Direction.FORWARD:
        streams = 2 if add else 1
        return Traffic(
            bytes_read=streams * large + small,
            bytes_written=streams * large,
            operations=operations,
            reads=streams,
            writes=streams,
        )
    reads = 3 if add else 2
    return Traffic(
        bytes_read=reads * large + small, bytes_written=large + small, operations=operations, reads=reads, writes=1
    )


def _workloads(preset: str, device_type: str) -> Sequence[Workload]:
    def workload(
        shape: tuple[int, ...], dtype: str, form: str = "plain", casting: str = "none", layout: str = "contiguous"
    ) -> Workload:
        return Workload(shape=shape, dtype=dtype, options={"form": form, "casting": casting}, layout=layout)

    table = {
        ("smoke", "cpu"): [workload((64, 256), "f32")],
        ("quick", "cpu"): [workload((4096, 1024), "f32"), workload((1024, 4096), "bf16", "add", "llama")],
        ("full", "cpu"): [
            workload((1, 1024, models.LLAMA_3_8B.hidden), "bf16", "add", "llama"),
            workload((1, 1024, models.LLAMA_3_70B.hidden), "bf16", "plain", "llama"),
            workload((1, 1024, models.QWEN_2_5_7B.hidden), "bf16", "add", "llama"),
            workload((1, 1024, models.GEMMA_2_9B.hidden), "bf16", "plain", "gemma"),
            workload((1, 1024, models.GEMMA_3_1B.hidden), "f32", "plain", "gemma"),
            workload((4096, 1024), "f32", "add"),
            workload((4096, 1024), "f32", layout="sliced"),
        ],
        ("smoke", "cuda"): [workload((64, 256), "f32"), workload((512, 1024), "bf16", "add", "llama")],
        ("quick", "cuda"): [
            workload((16384, 4096), "bf16"),
            workload((4096, 4096), "bf16", "add", "llama"),
        ],
        ("full", "cuda"): [
            workload(models.LLAMA_3_8B.tokens_by_hidden(8), "bf16", "plain", "llama"),
            workload(models.LLAMA_3_8B.tokens_by_hidden(8), "bf16", "add", "llama"),
            workload(models.LLAMA_3_70B.tokens_by_hidden(4), "bf16", "add", "llama"),
            workload(models.QWEN_2_5_7B.tokens_by_hidden(8), "bf16", "add", "llama"),
            workload(models.QWEN_3_8B.tokens_by_hidden(8), "bf16"),
            # Qwen3 normalises queries and keys too, a head at a time: 128 wide.
            workload((8, models.QWEN_3_8B.tokens, models.QWEN_3_8B.heads, 128), "bf16", "plain", "llama"),
            workload(models.GEMMA_2_9B.tokens_by_hidden(8), "bf16", "plain", "gemma"),
            workload(models.GEMMA_2_27B.tokens_by_hidden(8), "bf16", "plain", "gemma"),
            workload(models.GEMMA_3_1B.tokens_by_hidden(16), "bf16", "plain", "gemma"),
            workload(models.GEMMA_3_12B.tokens_by_hidden(8), "bf16", "plain", "gemma"),
            workload((16384, 4096), "f32", "add"),
            workload((16384, 4096), "f16"),
            workload((16384, 4096), "bf16", layout="sliced"),
            workload((64, 4096), "bf16"),
        ],
    }
    return table[preset, device_type]


EXPERIMENT = Experiment(
    name="rms_norm",
    description="RMSNorm over the last axis, plain or with a residual add, in three casting orders",
    variants=(
        eager(_eager, "F.rms_norm, or the model's own lines for the Llama and Gemma casting orders"),
        compiled(_eager),
        max_autotune(_eager),
        triton(_triton),
        peer(LIGER, "liger_rms_norm, liger_fused_add_rms_norm", _liger, _liger_lacks),
        peer(QUACK, "quack.rmsnorm", _quack, _quack_lacks),
    ),
    make_inputs=_make_inputs,
    reference=_reference,
    traffic=_traffic,
    workloads=_workloads,
    options={"form": ("plain", "add"), "casting": ("none", "llama", "gemma")},
)
