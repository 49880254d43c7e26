"""SiLU in its three spellings, and SwiGLU's ``silu(a) * b``.

SiLU: Elfwing, Uchibe, Doya 2017; SwiGLU: Shazeer 2020. By hand, ``x * sigmoid(x)`` is two kernels forward and four
backward, and rounds in between; compiled, it should be the kernel that ``F.silu`` is. SwiGLU is what a fused kernel is
worth most for: three streams instead of five.
"""

from __future__ import annotations

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

__all__ = ["EXPERIMENT"]

OPERATIONS = {
    (Direction.FORWARD, "silu"): 4,  # -x, exp, 1 +, x /
    (Direction.FORWARD, "swiglu"): 5,
    (Direction.BACKWARD, "silu"): 9,  # the logistic function 4, its combination with x 4, times dy 1
    (Direction.BACKWARD, "swiglu"): 12,
}
"""Floating-point operations an element, a transcendental counted as one."""


def _form(workload: Workload) -> str:
    form: str = option(workload, "form", "silu")
    return form


def _eager(workload: Workload) -> Implementation:
    from torch.nn import functional

    def silu(x: torch.Tensor) -> torch.Tensor:
        return functional.silu(x)

    def swiglu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return functional.silu(a) * b

    return swiglu if _form(workload) == "swiglu" else silu


def _manual(_workload: Workload) -> Implementation:
    import torch

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    return silu


def _module(_workload: Workload) -> Implementation:
    import torch

    return torch.nn.SiLU()


def _silu_only(workload: Workload, _device_type: str) -> str | None:
    if _form(workload) == "swiglu":
        return "a spelling of SiLU alone: SwiGLU is written with F.silu in eager and compile"
    return None


def _triton(workload: Workload) -> Implementation:
    from fuselab import ops

    def silu(x: torch.Tensor) -> torch.Tensor:
        return ops.silu(x)

    def swiglu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return ops.swiglu(a, b)

    return swiglu if _form(workload) == "swiglu" else silu


def _reference(workload: Workload) -> Implementation:
    """The logistic function as exp(-log(1 + exp(-x))): exact to the last bits at both ends."""
    import torch

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.exp(-torch.logaddexp(torch.zeros_like(x), -x))

    def swiglu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return silu(a) * b

    return swiglu if _form(workload) == "swiglu" else silu


def _make_inputs(workload: Workload, device_type: str) -> Inputs:
    draw = Draw(workload, device_type)
    if _form(workload) == "silu":
        return Inputs((draw.main(draw.normal(workload.shape)),), names=("x",))
    a = draw.main(draw.normal(workload.shape))
    b = draw.main(draw.normal(workload.shape, mean=0.5))
    return Inputs((a, b), names=("a", "b"))


def _traffic(workload: Workload, direction: Direction) -> Traffic:
    """SiLU: x in, y out; backward x and dy in, dx out. SwiGLU: a, b in, y out; backward a, b, dy in, da, db out."""
    reads, writes = {
        (Direction.FORWARD, "silu"): (1, 1),
        (Direction.BACKWARD, "silu"): (2, 1),
        (Direction.FORWARD, "swiglu"): (2, 1),
        (Direction.BACKWARD, "swiglu"): (3, 2),
    }[direction, _form(workload)]
    large = elements(workload) * DTYPE_BYTES[workload.dtype]
    return Traffic(
        bytes_read=reads * large,
        bytes_written=writes * large,
        operations=OPERATIONS[direction, _form(workload)] * elements(workload),
        reads=reads,
        writes=writes,
    )


def _workloads(preset: str, device_type: str) -> Sequence[Workload]:
    def workload(shape: tuple[int, ...], dtype: str, form: str = "silu", layout: str = "contiguous") -> Workload:
        return Workload(shape=shape, dtype=dtype, options={"form": form}, layout=layout)

    table = {
        ("smoke", "cpu"): [workload((64, 256), "f32")],
        ("quick", "cpu"): [workload((4096, 1024), "f32"), workload((1024, 4096), "bf16", "swiglu")],
        ("full", "cpu"): [
            workload((1, 512, models.LLAMA_3_8B.intermediate), "bf16", "swiglu"),
            workload((1, 256, models.LLAMA_3_70B.intermediate), "bf16", "swiglu"),
            workload((1, 512, models.QWEN_2_5_7B.intermediate), "bf16", "swiglu"),
            workload((1, 512, models.QWEN_3_8B.intermediate), "f32", "swiglu"),
            workload((1024, 4096), "f32"),
            workload((1024, 4096), "bf16"),
            workload((4096, 1024), "f32", layout="transposed"),
        ],
        ("smoke", "cuda"): [workload((64, 256), "f32"), workload((512, 1024), "bf16", "swiglu")],
        ("quick", "cuda"): [
            workload((16384, 4096), "bf16"),
            workload((4096, models.LLAMA_3_8B.intermediate), "bf16", "swiglu"),
        ],
        ("full", "cuda"): [
            workload(models.LLAMA_3_8B.tokens_by_intermediate(4), "bf16", "swiglu"),
            workload(models.LLAMA_3_70B.tokens_by_intermediate(2), "bf16", "swiglu"),
            workload(models.QWEN_2_5_7B.tokens_by_intermediate(4), "bf16", "swiglu"),
            workload(models.QWEN_3_8B.tokens_by_intermediate(4), "bf16", "swiglu"),
            workload(models.LLAMA_3_8B.tokens_by_intermediate(4), "f32", "swiglu"),
            workload((16384, 4096), "f32"),
            workload((16384, 8192), "bf16"),
            workload((16384, 8192), "bf16", layout="transposed"),
            workload((64, 4096), "bf16", "swiglu"),
        ],
    }
    return table[preset, device_type]


EXPERIMENT = Experiment(
    name="silu",
    description="SiLU by hand, as F.silu and as nn.SiLU, and SwiGLU: silu(a) * b",
    variants=(
        eager(_eager, "F.silu(x), or F.silu(a) * b"),
        eager(_manual, "x * torch.sigmoid(x)", name="manual", unavailable=_silu_only),
        eager(_module, "nn.SiLU()", name="module", unavailable=_silu_only),
        compiled(_eager),
        compiled(
            _manual,
            name="compile-manual",
            description="torch.compile of x * torch.sigmoid(x)",
            unavailable=_silu_only,
        ),
        max_autotune(_eager),
        triton(_triton),
        # Its forward is fine; its backward writes the gradients over a and b, so a second use of them is wrong.
        lacking(LIGER, "SiLU by itself, nor a SwiGLU whose backward leaves its inputs as they were"),
        lacking(QUACK, "SiLU or SwiGLU outside of a matrix multiplication"),
    ),
    make_inputs=_make_inputs,
    reference=_reference,
    traffic=_traffic,
    workloads=_workloads,
    options={"form": ("silu", "swiglu")},
)
