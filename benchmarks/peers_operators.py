"""What ``peers`` compares: the operators, their shapes and bytes, and everybody's implementation of each.

Nothing here is at the top of the module that needs torch: plans and tables are made without it. A peer's function is
called as its users call it, but for two things: what would overwrite a gradient that came in is asked not to
(``in_place=False``), and where a backward overwrites the inputs themselves (Liger's gated products) the forward gets
copies, which in a cell of backwards are made outside of what is timed.
"""

from __future__ import annotations

import importlib
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fuselab.records import Direction, Traffic

if TYPE_CHECKING:
    import torch

P = 0.1
"""Probability that softmax_dropout drops an element."""
LAYER_NORM_EPS, RMS_NORM_EPS = 1e-5, 1e-6
BYTES = 2
"""Of a bfloat16."""

LARGE = ((16384, 4096), (8192, 8192), (4096, 16384), (65536, 1024), (131072, 256), (8192, 32768))
SMALL = ((1, 4096), (16, 4096), (64, 4096), (256, 4096))
"""Where a step waits for launches: decoding, and batches that fit into a cache."""
QUICK = ((16384, 4096), (131072, 256), (64, 4096))
HOST = (16, 4096)
"""The shape at which the host's time of a call is measured."""
HOST_CELL = "host"
"""Stands where a cell has its direction."""

OURS, EAGER, COMPILE, TUNED, LIGER, QUACK = "ours", "eager", "compile", "max-autotune", "liger", "quack"
VARIANTS = (EAGER, COMPILE, TUNED, LIGER, QUACK, OURS)
FLOORS = {("softmax_dropout", QUACK): "its softmax has no dropout"}
"""Timed beside the others to see what is left, and not compared: they do less."""


@dataclass(frozen=True)
class Operator:
    """One operator: tensors in order, streams of the size of x by direction, implementations by variant."""

    name: str
    tensors: tuple[str, ...]
    """``x``-like ones are (rows, columns), ``weight`` and ``bias`` (columns,)."""
    streams: Mapping[Direction, tuple[int, int]]
    """How many tensors of the size of x have to be read and written."""
    build: Mapping[str, Callable[[], Callable[..., Any]]]
    """By variant; ``compile`` and ``max-autotune`` compile what ``eager`` builds."""
    reference: Callable[..., Any]
    """In float64, with ``keep`` for what dropout kept."""
    random: bool = False
    overwrites: frozenset[str] = frozenset()
    """Variants whose backward writes over the inputs of the forward."""
    rounds_between: frozenset[str] = frozenset({EAGER})
    """Variants that are PyTorch operator by operator, in part: they round in between."""
    shapes: tuple[tuple[int, int], ...] = LARGE + SMALL
    title: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    """What a variant is here, where its name does not say it."""

    def vectors(self) -> int:
        """Tensors of the size of a row: read forward; read and their gradients written backward."""
        return sum(name in ("weight", "bias") for name in self.tensors)

    def traffic(self, shape: tuple[int, int], direction: Direction) -> Traffic:
        """The fewest bytes: each tensor once. Statistics of a row are left out: four bytes a row."""
        reads, writes = self.streams[direction]
        large, small = math.prod(shape) * BYTES, self.vectors() * shape[1] * BYTES
        backward = direction is Direction.BACKWARD
        return Traffic(
            bytes_read=reads * large + small,
            bytes_written=writes * large + small * backward,
            reads=reads,
            writes=writes,
        )


# Everybody's implementations. Each returns a function of the tensors, in order.


def _functional() -> Any:
    import torch.nn.functional

    return torch.nn.functional


def _ops() -> Any:
    return importlib.import_module("fuselab.ops")


def _liger() -> Any:
    return importlib.import_module("liger_kernel.transformers.functional")


def _eager_layer_norm_gelu() -> Callable[..., Any]:
    F = _functional()
    return lambda x, weight, bias: F.gelu(F.layer_norm(x, (x.shape[-1],), weight, bias, LAYER_NORM_EPS))


def _liger_layer_norm_gelu() -> Callable[..., Any]:
    F, liger = _functional(), _liger()
    return lambda x, weight, bias: F.gelu(liger.liger_layer_norm(x, weight, bias, LAYER_NORM_EPS))


def _our_layer_norm_gelu() -> Callable[..., Any]:
    ops = _ops()
    return lambda x, weight, bias: ops.layer_norm_gelu(x, weight, bias, LAYER_NORM_EPS)


def _eager_softmax_dropout() -> Callable[..., Any]:
    F = _functional()
    return lambda x: F.dropout(F.softmax(x, -1), P)


def _liger_softmax_dropout() -> Callable[..., Any]:
    F, liger = _functional(), _liger()
    return lambda x: F.dropout(liger.liger_softmax(x), P)


def _quack_softmax() -> Callable[..., Any]:
    return importlib.import_module("quack.softmax").softmax  # type: ignore[no-any-return]


def _our_softmax_dropout() -> Callable[..., Any]:
    ops = _ops()
    return lambda x: ops.softmax_dropout(x, P)


def _eager_rms_norm() -> Callable[..., Any]:
    F = _functional()
    return lambda x, weight: F.rms_norm(x, (x.shape[-1],), weight, RMS_NORM_EPS)


def _liger_rms_norm() -> Callable[..., Any]:
    liger = _liger()
    return lambda x, weight: liger.liger_rms_norm(x, weight, RMS_NORM_EPS, in_place=False)


def _quack_rms_norm() -> Callable[..., Any]:
    rmsnorm = importlib.import_module("quack.rmsnorm").rmsnorm  # `quack.rmsnorm` as an attribute is the function
    return lambda x, weight: rmsnorm(x, weight, eps=RMS_NORM_EPS)


def _our_rms_norm() -> Callable[..., Any]:
    ops = _ops()
    return lambda x, weight: ops.rms_norm(x, weight, RMS_NORM_EPS, "none")


def _eager_add_rms_norm() -> Callable[..., Any]:
    F = _functional()

    def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
        total = x + residual
        return F.rms_norm(total, (x.shape[-1],), weight, RMS_NORM_EPS), total

    return add_rms_norm


def _liger_add_rms_norm() -> Callable[..., Any]:
    liger = _liger()
    return lambda x, residual, weight: liger.liger_fused_add_rms_norm(x, residual, weight, RMS_NORM_EPS, in_place=False)


def _quack_add_rms_norm() -> Callable[..., Any]:
    rmsnorm = importlib.import_module("quack.rmsnorm").rmsnorm
    return lambda x, residual, weight: rmsnorm(x, weight, residual=residual, eps=RMS_NORM_EPS, prenorm=True)


def _our_add_rms_norm() -> Callable[..., Any]:
    ops = _ops()
    return lambda x, residual, weight: ops.add_rms_norm(x, residual, weight, RMS_NORM_EPS, "none")


def _eager_silu() -> Callable[..., Any]:
    F = _functional()

    def silu(x: torch.Tensor) -> torch.Tensor:  # not F.silu itself: its code object is everybody's
        return F.silu(x)  # type: ignore[no-any-return]

    return silu


def _our_silu() -> Callable[..., Any]:
    return _ops().silu  # type: ignore[no-any-return]


def _eager_swiglu() -> Callable[..., Any]:
    F = _functional()
    return lambda a, b: F.silu(a) * b


def _liger_swiglu() -> Callable[..., Any]:
    return importlib.import_module("liger_kernel.ops.swiglu").LigerSiLUMulFunction.apply  # type: ignore[no-any-return]


def _our_swiglu() -> Callable[..., Any]:
    return _ops().swiglu  # type: ignore[no-any-return]


def _eager_geglu(approximate: str) -> Callable[[], Callable[..., Any]]:
    def build() -> Callable[..., Any]:
        F = _functional()
        return lambda a, b: F.gelu(a, approximate=approximate) * b

    return build


def _liger_geglu() -> Callable[..., Any]:
    return importlib.import_module("liger_kernel.ops.geglu").LigerGELUMulFunction.apply  # type: ignore[no-any-return]


def _our_geglu(approximate: str) -> Callable[[], Callable[..., Any]]:
    def build() -> Callable[..., Any]:
        ops = _ops()
        return lambda a, b: ops.geglu(a, b, approximate)

    return build


# The references, from fuselab's own in torch's operators: they compute float64 in float64.


def _reference(name: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
    def reference(*tensors: torch.Tensor, keep: torch.Tensor | None = None) -> Any:
        function = getattr(_ops(), f"{name}_reference")
        return function(*tensors, *arguments, **options)

    return reference


def _softmax_dropout_reference(x: torch.Tensor, keep: torch.Tensor | None = None) -> Any:
    return _ops().softmax_dropout_reference(x, 0.0 if keep is None else P, keep)


FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
GATED = {FORWARD: (2, 1), BACKWARD: (3, 2)}
NORMALISED = {FORWARD: (1, 1), BACKWARD: (2, 1)}
FEW = ((16384, 4096), (4096, 16384), (131072, 256), (64, 4096))

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator(
            "layer_norm_gelu", ("x", "weight", "bias"), NORMALISED,
            {EAGER: _eager_layer_norm_gelu, LIGER: _liger_layer_norm_gelu, OURS: _our_layer_norm_gelu},
            _reference("layer_norm_gelu", LAYER_NORM_EPS),
            rounds_between=frozenset({EAGER, LIGER}),
            title="LayerNorm + GELU (erf)", names={LIGER: "its LayerNorm, then F.gelu"},
        ),
        Operator(
            "softmax_dropout", ("x",), NORMALISED,
            {EAGER: _eager_softmax_dropout, LIGER: _liger_softmax_dropout, QUACK: _quack_softmax,
             OURS: _our_softmax_dropout},
            _softmax_dropout_reference, random=True, rounds_between=frozenset({EAGER, LIGER}),
            title="softmax + dropout (p = 0.1)",
            names={LIGER: "its softmax, then F.dropout", QUACK: "its softmax alone, without dropout"},
        ),
        Operator(
            "rms_norm", ("x", "weight"), NORMALISED,
            {EAGER: _eager_rms_norm, LIGER: _liger_rms_norm, QUACK: _quack_rms_norm, OURS: _our_rms_norm},
            _reference("rms_norm", RMS_NORM_EPS, "none"), title="RMSNorm",
        ),
        Operator(
            "add_rms_norm", ("x", "residual", "weight"), {FORWARD: (2, 2), BACKWARD: (3, 1)},
            {EAGER: _eager_add_rms_norm, LIGER: _liger_add_rms_norm, QUACK: _quack_add_rms_norm,
             OURS: _our_add_rms_norm},
            _reference("add_rms_norm", RMS_NORM_EPS, "none"), title="residual add + RMSNorm",
        ),
        Operator("silu", ("x",), NORMALISED, {EAGER: _eager_silu, OURS: _our_silu}, _reference("silu"), title="SiLU"),
        Operator(
            "swiglu", ("a", "b"), GATED, {EAGER: _eager_swiglu, LIGER: _liger_swiglu, OURS: _our_swiglu},
            _reference("swiglu"), overwrites=frozenset({LIGER}), title="SwiGLU",
        ),
        Operator(
            "geglu_tanh", ("a", "b"), GATED,
            {EAGER: _eager_geglu("tanh"), LIGER: _liger_geglu, OURS: _our_geglu("tanh")},
            _reference("geglu", approximate="tanh"), overwrites=frozenset({LIGER}), title="GEGLU (tanh)",
        ),
        Operator(
            "geglu", ("a", "b"), GATED, {EAGER: _eager_geglu("none"), OURS: _our_geglu("none")},
            _reference("geglu", approximate="none"), shapes=FEW, title="GEGLU (erf)",
        ),
    )
}  # fmt: skip


def variants_of(operator: Operator) -> list[str]:
    """Names of everything that is compared, in the order of the tables."""
    return [name for name in VARIANTS if name in operator.build or name in (COMPILE, TUNED)]


def separate(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a code object of its own.

    torch.compile keeps what it compiled with the code object, so that the functions of several shapes would be
    recompilations of one another, of which it allows eight.
    """
    if not isinstance(function, types.FunctionType):
        return function
    return types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def build(operator: Operator, variant: str) -> Callable[..., Any]:
    """The implementation, compiled by its first call where it is torch.compile's.

    Raises:
        ModuleNotFoundError: a peer that is not installed.
    """
    if variant not in (COMPILE, TUNED):
        return operator.build[variant]()
    import torch
    import torch._inductor

    function = separate(operator.build[EAGER]())
    if variant == COMPILE:
        return torch.compile(function, dynamic=False)
    options = {**torch._inductor.list_mode_options("max-autotune-no-cudagraphs"), "coordinate_descent_tuning": True}
    return torch.compile(function, dynamic=False, options=options)


def on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on copies of its inputs, for one whose backward writes over them."""
    return lambda *tensors: function(*(t.clone() for t in tensors))
