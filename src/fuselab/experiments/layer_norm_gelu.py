"""LayerNorm over the last axis, then GELU: two memory passes in eager, one when fused.

LayerNorm: Ba, Kiros, Hinton 2016. GELU: Hendrycks, Gimpel 2016; ``none`` is the exact one with erf, ``tanh`` its
approximation that GPT-2 was trained with. The pair stands next to each other in convolutional feature extractors
(wav2vec 2.0) and in the upscaling of SAM's mask decoder; the widths of ``full`` are those of the usual transformers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.experiments import model_shapes as models
from fuselab.experiments.inputs import DTYPE_BYTES, Draw, elements, option
from fuselab.experiments.peers import LIGER, QUACK, lacking
from fuselab.experiments.variants import compiled, eager, max_autotune, triton
from fuselab.records import Direction, Traffic, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["EPS", "EXPERIMENT"]

EPS = 1e-5
"""torch's own default, and that of GPT-2."""

OPERATIONS = {
    # mean 1; deviation, its square, its sum 3; times rstd, times weight, plus bias 3; GELU 5 with erf, 9 with tanh
    (Direction.FORWARD, "none"): 12,
    (Direction.FORWARD, "tanh"): 16,
    # xhat again 5, z 2; GELU's derivative 10 with erf, 16 with tanh; the gradients and their sums 12
    (Direction.BACKWARD, "none"): 29,
    (Direction.BACKWARD, "tanh"): 35,
}
"""Floating-point operations an element, a transcendental counted as one."""


def _eager(workload: Workload) -> Implementation:
    from torch.nn import functional

    approximate: str = option(workload, "approximate", "none")

    def layer_norm_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        normalised = functional.layer_norm(x, (x.shape[-1],), weight, bias, EPS)
        return functional.gelu(normalised, approximate=approximate)

    return layer_norm_gelu


def _triton(workload: Workload) -> Implementation:
    from fuselab import ops

    approximate = option(workload, "approximate", "none")

    def layer_norm_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return ops.layer_norm_gelu(x, weight, bias, EPS, approximate)

    return layer_norm_gelu


def _reference(workload: Workload) -> Implementation:
    """From the definitions: GELU(z) is z times the normal distribution's function, erfc(-z / sqrt 2) / 2."""
    import torch

    approximate: str = option(workload, "approximate", "none")

    def layer_norm_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        deviation = x - x.sum(-1, keepdim=True) / x.shape[-1]
        variance = (deviation**2).sum(-1, keepdim=True) / x.shape[-1]
        z = deviation / torch.sqrt(variance + EPS) * weight + bias
        if approximate == "tanh":
            # (1 + tanh u) / 2 is the logistic function of 2u.
            return z * torch.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))
        return z * 0.5 * torch.erfc(-z / math.sqrt(2.0))

    return layer_norm_gelu


def _make_inputs(workload: Workload, device_type: str) -> Inputs:
    draw = Draw(workload, device_type)
    width = workload.shape[-1]
    x = draw.main(draw.rows(EPS))
    return Inputs((x, draw.parameter(width, mean=1.0), draw.parameter(width, mean=0.1)), names=("x", "weight", "bias"))


def _traffic(workload: Workload, direction: Direction) -> Traffic:
    """Forward: x in, y out. Backward: x and dy in, dx out. Weight and bias, and their gradients, once each."""
    large = elements(workload) * DTYPE_BYTES[workload.dtype]
    small = 2 * workload.shape[-1] * DTYPE_BYTES[workload.dtype]
    operations = OPERATIONS[direction, option(workload, "approximate", "none")] * elements(workload)
    if direction is Direction.FORWARD:
        return Traffic(bytes_read=large + small, bytes_written=large, operations=operations, reads=1, writes=1)
    return Traffic(bytes_read=2 * large + small, bytes_written=large + small, operations=operations, reads=2, writes=1)


def _workloads(preset: str, device_type: str) -> Sequence[Workload]:
    def workload(shape: tuple[int, ...], dtype: str, approximate: str = "none", layout: str = "contiguous") -> Workload:
        return Workload(shape=shape, dtype=dtype, options={"approximate": approximate}, layout=layout)

    bert, gpt2, vit = models.BERT_BASE, models.GPT2, models.VIT_BASE
    table = {
        ("smoke", "cpu"): [workload((64, 256), "f32")],
        ("quick", "cpu"): [workload((4096, 1024), "f32"), workload((1024, 4096), "bf16", "tanh")],
        ("full", "cpu"): [
            workload(bert.tokens_by_hidden(4), "f32"),
            workload(models.BERT_LARGE.tokens_by_hidden(4), "bf16"),
            workload(gpt2.tokens_by_hidden(4), "f32", "tanh"),
            workload(models.GPT2_XL.tokens_by_hidden(2), "bf16", "tanh"),
            workload(vit.tokens_by_hidden(16), "f32"),
            workload(models.VIT_LARGE.tokens_by_hidden(16), "bf16"),
            workload((4096, 1024), "f32", layout="sliced"),
        ],
        ("smoke", "cuda"): [workload((64, 256), "f32"), workload((512, 1024), "bf16", "tanh")],
        ("quick", "cuda"): [
            workload((16384, 4096), "bf16"),
            workload((4096, 4096), "bf16", "tanh"),
        ],
        ("full", "cuda"): [
            workload(bert.tokens_by_hidden(64), "bf16"),
            workload(models.BERT_LARGE.tokens_by_hidden(64), "f16"),
            workload(gpt2.tokens_by_hidden(32), "bf16", "tanh"),
            workload(models.GPT2_XL.tokens_by_hidden(16), "bf16", "tanh"),
            workload(vit.tokens_by_hidden(256), "bf16"),
            workload(models.VIT_LARGE.tokens_by_hidden(128), "bf16"),
            workload(models.LLAMA_3_70B.tokens_by_hidden(4), "bf16"),
            workload((16384, 4096), "f32"),
            workload((16384, 4096), "bf16", layout="sliced"),
            workload((4096, 1025), "bf16", "tanh"),
            workload((64, 4096), "bf16"),
        ],
    }
    return table[preset, device_type]


EXPERIMENT = Experiment(
    name="layer_norm_gelu",
    description="LayerNorm over the last axis, then GELU",
    variants=(
        eager(_eager, "F.layer_norm, then F.gelu"),
        compiled(_eager),
        max_autotune(_eager),
        triton(_triton),
        lacking(LIGER, "LayerNorm fused with GELU"),
        lacking(QUACK, "LayerNorm fused with GELU"),
    ),
    make_inputs=_make_inputs,
    reference=_reference,
    traffic=_traffic,
    workloads=_workloads,
    options={"approximate": ("none", "tanh")},
)
