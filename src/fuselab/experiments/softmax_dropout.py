"""Softmax over the last axis with an optional scale and mask, then dropout in training mode: attention's middle.

Vaswani et al. 2017 for the place, Srivastava et al. 2014 for dropout. In eval mode dropout is the identity and proves
nothing, so it is always on. Each implementation draws a mask of its own; it is compared with the reference given that
mask (see ``dropout_mask``), which shows a backward that draws another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuselab.errors import UsageError
from fuselab.experiment import Experiment, Implementation, Inputs
from fuselab.experiments import dropout_mask
from fuselab.experiments import model_shapes as models
from fuselab.experiments.inputs import DTYPE_BYTES, Draw, elements, option
from fuselab.experiments.peers import LIGER, QUACK, lacking
from fuselab.experiments.variants import compiled, eager, max_autotune, triton
from fuselab.records import Direction, Traffic, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["EXPERIMENT", "HEAD_WIDTH", "kept_columns"]

HEAD_WIDTH = 64
"""Width of one attention head of BERT, GPT-2 and ViT: ``scale=sqrt`` is 1 / sqrt(64)."""

OPERATIONS = {
    Direction.FORWARD: 6,  # maximum, x -, exp, sum, over the sum, over the keep probability
    Direction.BACKWARD: 10,  # the softmax again 5, dy over the keep probability 1, its product and sum 2, dx 2
}
"""Operations an element that is not masked; a scale adds one in each direction, an additive mask one each."""


def _p(workload: Workload) -> float:
    p = option(workload, "p", 0.1)
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0.0 <= p <= 1.0:
        raise UsageError(f"p={p!r} is no probability", hint="a number from 0 to 1, for example --option p=0.1")
    return float(p)


def _scale(workload: Workload) -> float | None:
    return 1.0 / math.sqrt(HEAD_WIDTH) if option(workload, "scale", "none") == "sqrt" else None


def _mask(workload: Workload) -> str:
    mask: str = option(workload, "mask", "none")
    return mask


def kept_columns(workload: Workload) -> list[int]:
    """For ``mask=padding``: how many columns from the left are not padding, by entry of the first axis.

    Between a half and seven eighths of them, from one batch entry to the next; a shape of two axes is one batch entry.

    Example:
        >>> kept_columns(Workload(shape=(3, 12, 64, 64)))
        [56, 48, 40]
    """
    width = workload.shape[-1]
    batch = workload.shape[0] if len(workload.shape) > 2 else 1
    return [width - (entry % 4 + 1) * (width // 8) for entry in range(batch)]


def _unmasked(workload: Workload) -> int:
    """Number of elements that the mask leaves."""
    columns, total = workload.shape[-1], elements(workload)
    if _mask(workload) == "causal":
        queries = workload.shape[-2]
        below = sum(min(query + 1, columns) for query in range(queries))
        return total // (queries * columns) * below
    if _mask(workload) == "padding":
        kept = kept_columns(workload)
        return total // (len(kept) * columns) * sum(kept)
    return total


def _eager(workload: Workload) -> Implementation:
    import torch
    from torch.nn import functional

    p, scale = _p(workload), _scale(workload)

    def softmax_dropout(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if scale is not None:
            x = x * scale
        if mask is not None:
            x = x.masked_fill(mask.logical_not(), float("-inf")) if mask.dtype == torch.bool else x + mask
        return functional.dropout(functional.softmax(x, dim=-1), p, training=True)

    return softmax_dropout


def _triton(workload: Workload) -> Implementation:
    from fuselab import ops

    p, scale = _p(workload), _scale(workload)

    def softmax_dropout(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return ops.softmax_dropout(x, p, True, scale=scale, mask=mask)

    return softmax_dropout


def _probabilities(workload: Workload) -> Implementation:
    """The softmax from its definition, exp(x - log sum exp x), with what is masked left out of the sum."""
    import torch

    scale = _scale(workload)

    def softmax(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        scores = x if scale is None else x / math.sqrt(HEAD_WIDTH)
        if mask is not None:
            # A boolean mask says what to keep; as numbers its logarithm is what an additive one adds: 0 or -inf.
            scores = scores + (torch.log(mask.to(x.dtype)) if mask.dtype == torch.bool else mask)
        return torch.exp(scores - torch.logsumexp(scores, dim=-1, keepdim=True))

    return softmax


def _reference(workload: Workload) -> Implementation:
    p = _p(workload)
    softmax = _probabilities(workload)

    def softmax_dropout(x: torch.Tensor, mask: torch.Tensor | None = None, *, keep: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = softmax(x, mask)
        factor = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
        return probabilities * (keep > 0).to(x.dtype) * factor

    return softmax_dropout


def _witness(workload: Workload, inputs: Inputs, output: Any) -> Mapping[str, Any]:
    import torch

    with torch.no_grad():
        wide = inputs.map(lambda t: t.detach().double() if t.is_floating_point() else t)
        probabilities = _probabilities(workload)(*wide.args, **wide.kwargs)
        return {"keep": dropout_mask.recover(output.detach(), probabilities)}


def _check_witness(workload: Workload, witness: Mapping[str, Any]) -> str:
    return dropout_mask.faults(witness["keep"], _p(workload))


def _make_inputs(workload: Workload, device_type: str) -> Inputs:
    import torch

    _p(workload)
    draw = Draw(workload, device_type)
    scale = _scale(workload)
    # Products of queries and keys are sqrt(64) times as wide as the scores that the scale makes of them.
    x = draw.main(draw.normal(workload.shape, std=1.0 if scale is None else 1.0 / scale))
    mask = _mask(workload)
    if mask == "none":
        return Inputs((x,), names=("x",))
    if mask == "causal":
        causal = torch.ones(workload.shape[-2:], dtype=torch.bool, device=device_type).tril()
        return Inputs((x, causal), names=("x", "mask"))
    kept = torch.tensor(kept_columns(workload), device=device_type)
    columns = torch.arange(workload.shape[-1], device=device_type)
    padding = torch.where(columns < kept[:, None], 0.0, float("-inf")).to(draw.dtype)
    between = [1] * (len(workload.shape) - 2)
    return Inputs((x, padding.view(len(kept), *between, -1)), names=("x", "mask"))


def _traffic(workload: Workload, direction: Direction) -> Traffic:
    """Forward: x in, y out. Backward: x and dy in, dx out; the dropout mask is drawn again from its seed.

    What is masked need not be read, and is written all the same: as zeros. The mask is read once for all heads.
    """
    size = DTYPE_BYTES[workload.dtype]
    kept, large = _unmasked(workload), elements(workload) * size
    mask_bytes = {
        "none": 0,
        "causal": math.prod(workload.shape[-2:]),
        "padding": len(kept_columns(workload)) * workload.shape[-1] * size,
    }[_mask(workload)]
    operations = OPERATIONS[direction] + (_mask(workload) == "padding")
    if _scale(workload) is not None:
        operations += 1 if direction is Direction.FORWARD else 2
    reads = 1 if direction is Direction.FORWARD else 2
    return Traffic(
        bytes_read=reads * kept * size + mask_bytes,
        bytes_written=large,
        operations=operations * kept,
        reads=reads,
        writes=1,
    )


def _workloads(preset: str, device_type: str) -> Sequence[Workload]:
    def workload(
        shape: tuple[int, ...], dtype: str, scale: str = "none", mask: str = "none", p: float = 0.1
    ) -> Workload:
        return Workload(shape=shape, dtype=dtype, options={"p": p, "scale": scale, "mask": mask})

    bert, gpt2, vit = models.BERT_BASE, models.GPT2, models.VIT_BASE
    table = {
        ("smoke", "cpu"): [workload((64, 256), "f32")],
        ("quick", "cpu"): [workload((4096, 1024), "f32"), workload((2, 8, 512, 512), "bf16", "sqrt", "causal")],
        ("full", "cpu"): [
            workload(bert.attention(1), "f32", "sqrt", "padding"),
            workload(models.BERT_LARGE.attention(1), "bf16", "sqrt", "padding"),
            workload((1, 4, gpt2.tokens, gpt2.tokens), "f32", "sqrt", "causal"),
            workload((1, 4, gpt2.tokens, gpt2.tokens), "bf16", "sqrt", "causal"),
            workload(vit.attention(8), "f32", "sqrt"),
            workload((4096, 1024), "f32", p=0.5),
        ],
        ("smoke", "cuda"): [workload((64, 256), "f32"), workload((1, 4, 128, 128), "bf16", "sqrt", "causal")],
        ("quick", "cuda"): [
            workload((16384, 4096), "bf16"),
            workload(bert.attention(16), "bf16", "sqrt", "padding"),
        ],
        ("full", "cuda"): [
            workload(bert.attention(16), "bf16", "sqrt", "padding"),
            workload(models.BERT_LARGE.attention(16), "f16", "sqrt", "padding"),
            workload(gpt2.attention(8), "bf16", "sqrt", "causal"),
            workload(models.GPT2_XL.attention(4), "bf16", "sqrt", "causal"),
            workload(vit.attention(64), "bf16", "sqrt"),
            workload(models.VIT_LARGE.attention(64), "bf16", "sqrt"),
            workload((1, *models.LLAMA_3_8B.attention(1)[1:]), "bf16", "sqrt", "causal"),
            workload((16384, 4096), "f32"),
            workload((16384, 8192), "bf16", p=0.5),
            workload((64, 4096), "bf16"),
        ],
    }
    return table[preset, device_type]


EXPERIMENT = Experiment(
    name="softmax_dropout",
    description="softmax over the last axis with optional scale and mask, then dropout in training mode",
    variants=(
        eager(_eager, "F.softmax, then F.dropout"),
        compiled(_eager),
        max_autotune(_eager),
        triton(_triton),
        lacking(LIGER, "softmax fused with dropout"),
        lacking(QUACK, "softmax fused with dropout"),
    ),
    make_inputs=_make_inputs,
    reference=_reference,
    traffic=_traffic,
    workloads=_workloads,
    options={"p": (0.1,), "scale": ("none", "sqrt"), "mask": ("none", "causal", "padding")},
    witness=_witness,
    check_witness=_check_witness,
    min_rank=2,
)
