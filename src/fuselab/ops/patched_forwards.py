"""The forwards that ``patch`` puts into modules, and how a module's class is exchanged for one that has them.

Each calls a fused operator where that takes the input and nobody could tell the difference, and else the forward that
the class had.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import types
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state

from fuselab.ops.geglu import geglu
from fuselab.ops.inputs import DTYPES
from fuselab.ops.internals import in_forward_mode, untransformed
from fuselab.ops.launch import INTERPRETED
from fuselab.ops.layer_norm_gelu import layer_norm_gelu
from fuselab.ops.recognition import ORIGINAL, has_own_forward
from fuselab.ops.rms_norm import rms_norm
from fuselab.ops.silu import silu, swiglu

__all__ = ["class_with", "pairs_of"]

_DEFAULT_EPS = torch.finfo(torch.float32).eps
"""What torch's RMSNorm takes for eps=None, whatever the dtype of the input."""


def _taken(x: Any) -> bool:
    """Whether an operator takes this input as it is."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return False
    if x.dtype not in DTYPES or not (x.is_cuda or (INTERPRETED and x.device.type == "cpu")) or x.dim() == 0:
        return False
    if torch.compiler.is_compiling():
        return True
    return untransformed() and not in_forward_mode()


@functools.cache
def _float32_under_autocast(operator: str, device_type: str) -> bool:
    """Whether autocast runs torch's own operator in float32: asked of the dispatcher, since it differs by version."""
    key = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}[device_type]
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{operator}", key))


_AUTOCAST: dict[tuple[str, str], bool] = {
    (operator, device_type): _float32_under_autocast(operator, device_type)
    for operator in ("layer_norm", "rms_norm")
    for device_type in ("cuda", "cpu")
}


def _autocast(operator: str, x: Tensor) -> Tensor:
    """The input in the dtype that autocast gives torch's own operator, so that the result has the same dtype."""
    device_type = x.device.type
    return x.float() if torch.is_autocast_enabled(device_type) and _AUTOCAST[operator, device_type] else x


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _has_global_hooks() -> bool:
    return bool(
        module_state._global_forward_hooks
        or module_state._global_forward_pre_hooks
        or module_state._global_backward_hooks
        or module_state._global_backward_pre_hooks
    )


def _as_before(self: nn.Module, *args: Any) -> Any:
    """Call the forward that the module's class had; inherited, where ``fully_shard`` exchanged the class once more."""
    return cast(Any, type(self))._fuselab_original.forward(self, *args)


def _torch_rms_norm(self: Any, x: Tensor) -> Any:
    if not _taken(x) or x.shape[-1:] != self.normalized_shape:
        return _as_before(self, x)
    eps = _DEFAULT_EPS if self.eps is None else self.eps
    return rms_norm(_autocast("rms_norm", x), self.weight, eps, "none")


def _other_rms_norm(casting: Any, eps_name: str) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Any:
        eps = getattr(self, eps_name)  # of now: it may be another one since
        if not _taken(x) or x.shape[-1:] != self.weight.shape or type(eps) is not float:
            return _as_before(self, x)
        return rms_norm(x, self.weight, eps, casting)

    return forward


def _silu(self: nn.Module, x: Tensor) -> Any:
    # F.silu keeps the layout of its input, ours makes it contiguous: channels_last would be copied there and back.
    return silu(x) if _taken(x) and x.is_contiguous() else _as_before(self, x)


def _gated(gate: str, activation: type[nn.Module]) -> Callable[..., Any]:
    def forward(self: Any, x: Any) -> Any:
        act_fn = self.act_fn  # of now: it may be another one since
        if not _taken(x) or not isinstance(act_fn, activation) or _has_hooks(act_fn) or _has_global_hooks():
            return _as_before(self, x)
        a, b = self.gate_proj(x), self.up_proj(x)
        if not _taken(a) or not _taken(b) or a.shape != b.shape:
            return self.down_proj(act_fn(a) * b)
        if gate == "silu":
            return self.down_proj(swiglu(a, b))
        return self.down_proj(geglu(a, b, "tanh" if gate == "gelu_tanh" else "none"))

    return forward


def _sequential(self: nn.Sequential, x: Any) -> Any:
    members = list(self)
    at = 0
    while at < len(members):
        if at + 1 < len(members) and _is_pair(members[at], members[at + 1]) and _fuses(members[at], members[at + 1], x):
            norm, gelu = cast(nn.LayerNorm, members[at]), cast(nn.GELU, members[at + 1])
            wide = _autocast("layer_norm", x)
            x = layer_norm_gelu(wide, norm.weight, norm.bias, norm.eps, cast(Any, gelu.approximate))
            at += 2
        else:
            x = members[at](x)
            at += 1
    return x


def _is_pair(first: nn.Module, second: nn.Module) -> bool:
    if not isinstance(first, nn.LayerNorm) or not isinstance(second, nn.GELU):
        return False
    return (
        not has_own_forward(first, nn.LayerNorm)
        and not has_own_forward(second, nn.GELU)
        and len(first.normalized_shape) == 1
    )


def _fuses(norm: nn.Module, gelu: nn.Module, x: Any) -> bool:
    if not _taken(x) or _has_hooks(norm) or _has_hooks(gelu) or _has_global_hooks():
        return False
    return bool(x.shape[-1:] == cast(nn.LayerNorm, norm).normalized_shape)


# How a class is exchanged.


def class_with(base: type[nn.Module], kind: str, *choices: Hashable) -> type[nn.Module]:
    """A subclass of ``base`` with a fused forward: one for all modules of the same kind, as compilers like it.

    Args:
        base: the class that a module has.
        kind: ``rms_norm``, ``other_rms_norm`` (casting, name of eps), ``silu``, ``gated`` (activation, its class) or
            ``sequential``.
        choices: what the kind needs to know.
    """
    return _class_with(cast(Hashable, base), kind, *choices)


@functools.cache
def _class_with(base: Any, kind: str, *choices: Hashable) -> type[nn.Module]:
    forward = _named_as(_KINDS[kind](*choices), base.forward)

    def reduce(self: nn.Module, _protocol: Any) -> Any:
        return _restored, (base, kind, *choices), vars(self)

    namespace = {
        "forward": forward, "__reduce_ex__": reduce, "__module__": __name__, "__doc__": f"{base.__name__}, fused.",
        ORIGINAL: base,
    }  # fmt: skip
    return type(f"Fused{base.__name__}", (base,), namespace)


def _named_as(forward: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """``forward``, of one input ``x``, with the name that this has in the forward before: it may be given by name."""
    code = cast(types.FunctionType, forward).__code__
    names = list(inspect.signature(original).parameters)[1:]
    if len(names) != 1 or names[0] in code.co_varnames + code.co_freevars:
        return forward
    renamed = code.replace(co_varnames=tuple(names[0] if name == "x" else name for name in code.co_varnames))
    return types.FunctionType(renamed, forward.__globals__, forward.__name__, None, forward.__closure__)


_KINDS: dict[str, Callable[..., Callable[..., Any]]] = {
    "rms_norm": lambda: _torch_rms_norm,
    "other_rms_norm": _other_rms_norm,
    "silu": lambda: _silu,
    "gated": _gated,
    "sequential": lambda: _sequential,
}


def _restored(base: type[nn.Module], kind: str, *choices: Any) -> nn.Module:
    """An empty instance of an exchanged class, for copy and pickle."""
    cls = class_with(base, kind, *choices)
    return cls.__new__(cls)


def pairs_of(module: nn.Sequential) -> list[tuple[nn.Module, nn.Module]]:
    """Each LayerNorm of a Sequential that a GELU follows, and that GELU."""
    return [two for two in itertools.pairwise(module) if _is_pair(*two)]
