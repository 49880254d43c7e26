"""``patch``: the modules of a model that have a fused operator call it, with the parameters that they have.

A module keeps its identity: its class is exchanged for a subclass with another forward, so that parameters, names in
the ``state_dict``, hooks, buffers, mode, references from elsewhere and ``isinstance`` are as they were, an optimiser
goes on, and undoing it leaves nothing behind.

What is recognised:

- ``nn.RMSNorm`` over one axis, and classes named ``...RMSNorm`` whose forward is Llama's, Gemma's or that of OLMo 2
  (as transformers has them: some 160 classes).
- In ``nn.Sequential``, an ``nn.LayerNorm`` over one axis right before an ``nn.GELU``: there, and nowhere else, it is
  certain that one feeds the other. The Sequential's forward is exchanged; each of its members called by itself computes
  what it always did.
- ``nn.SiLU`` that is not in place, and transformers' ``SiLUActivation``.
- Classes named ``...MLP`` whose forward is ``down_proj(act_fn(gate_proj(x)) * up_proj(x))`` with SiLU or GELU (as
  transformers' Llama, Mistral, Qwen2, Gemma and some 120 more).

Subclasses with a forward of their own, instances with one (as accelerate's offloading gives them) and everything else
are left, with the reason. A call that the operators do not take is made as before: on a CPU, in other dtypes, of tensor
subclasses, under ``torch.func`` transforms and forward-mode differentiation, and where hooks on members of a fused pair
would see other values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

from torch import nn

from fuselab.ops.patched_forwards import class_with, pairs_of
from fuselab.ops.recognition import gate_of, has_own_forward, original_class, own_forward_of, rms_norm_of, silu_of
from fuselab.ops.rms_norm import RMSNorm

__all__ = ["Left", "Patch", "Swapped", "patch"]


@dataclass(frozen=True)
class Swapped:
    """A module that calls a fused operator now."""

    name: str
    """Its first name in the model; empty for the model itself."""
    type: str
    """Name of its class before."""
    operator: str
    """What it calls: a name of ``fuselab.ops``, with what was chosen for it."""


@dataclass(frozen=True)
class Left:
    """A module that looks as if it had a fused operator, and was left as it is."""

    name: str
    type: str
    reason: str


# What is done with each module of a model.

_Decision = tuple[str, tuple[Hashable, ...], str]
"""Kind of forward, what was chosen for it, and the operator in words."""

_OWN = "it has a forward of its own"


def _decide(module: nn.Module) -> _Decision | str | None:
    """What to put in; why not, in words, for what looks as if something could be; None for everything else."""
    if isinstance(module, nn.RMSNorm):
        return _decide_rms_norm(module)
    if isinstance(module, nn.SiLU):
        return _decide_silu(module)
    if isinstance(module, nn.Sequential):
        return _decide_sequential(module)
    if isinstance(module, RMSNorm):  # ours, which calls the operator anyway
        return None
    return _decide_by_name(module)


def _decide_rms_norm(module: nn.RMSNorm) -> _Decision | str:
    if has_own_forward(module, nn.RMSNorm):
        return _OWN
    if len(module.normalized_shape) != 1:
        return f"it normalises {len(module.normalized_shape)} axes, the operator one"
    return "rms_norm", (), "rms_norm, casting 'none'"


def _decide_silu(module: nn.SiLU) -> _Decision | str:
    if has_own_forward(module, nn.SiLU):
        return _OWN
    return "it works in place" if module.inplace else ("silu", (), "silu")


def _decide_sequential(module: nn.Sequential) -> _Decision | str | None:
    pairs = len(pairs_of(module))
    if not pairs:
        return None
    if has_own_forward(module, nn.Sequential):
        return f"{_OWN}: whether its LayerNorm feeds its GELU is not certain"
    return "sequential", (), "layer_norm_gelu" + (f", {pairs} times" if pairs > 1 else "")


def _decide_by_name(module: nn.Module) -> _Decision | str | None:
    norm, gate, silu = rms_norm_of(module), gate_of(module), silu_of(module)
    name, why = type(module).__name__, None
    if own_forward_of(module):
        return _OWN if name.endswith(("RMSNorm", "MLP", "SiLUActivation")) else None
    if norm is not None:
        return "other_rms_norm", norm, f"rms_norm, casting {norm[0]!r}"
    if gate is not None:
        words = {"silu": "swiglu", "gelu": "geglu", "gelu_tanh": "geglu, approximate 'tanh'"}
        act_fn = cast(nn.Module, module.act_fn)
        return "gated", (gate, cast(Hashable, original_class(act_fn) or type(act_fn))), words[gate]
    if silu:
        return "silu", (), "silu"
    if name.endswith("RMSNorm"):
        why = "its forward is not that of a known RMSNorm"
    elif name.endswith("MLP") and "act_fn" in module._modules:
        why = "its forward is not down_proj(act_fn(gate_proj(x)) * up_proj(x)) with SiLU or GELU"
    return why


def _why_alone(module: nn.LayerNorm, fused: set[int]) -> str | None:
    if id(module) in fused:
        return None
    if has_own_forward(module, nn.LayerNorm):
        return _OWN
    if len(module.normalized_shape) != 1:
        return f"it normalises {len(module.normalized_shape)} axes, the operator one"
    return "no nn.GELU comes right after it in an nn.Sequential"


def _has_bound(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether an instance holds the fused forward that it has anyway: what accelerate leaves when its hook goes."""
    return getattr(vars(module).get("forward"), "__func__", None) is cls.forward


@dataclass
class Patch:
    """What ``patch`` did; ``undo`` or the end of a ``with`` block puts everything back."""

    swapped: tuple[Swapped, ...]
    """Modules that call a fused operator now, in the order of the model; a shared one once."""
    left: tuple[Left, ...]
    """Modules that look as if they could, and why they were left."""
    _modules: list[tuple[str, nn.Module, type[nn.Module]]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Give every module the class it had; a second time it does nothing.

        Raises:
            RuntimeError: somebody exchanged a module's class since (FSDP's ``fully_shard`` does), or gave it a forward
                of its own (accelerate's hooks, ``module.forward = torch.compile(module.forward)``): undo that first.
                Nothing was put back.
        """
        changed = [name or "the model itself" for name, module, cls in self._modules if type(module) is not cls]
        if changed:
            raise RuntimeError(
                f"patch.undo: the class of {', '.join(changed[:3])} was exchanged since; undo in the opposite order"
            )
        bound = [module for _, module, cls in self._modules if _has_bound(module, cls)]
        given = [name or "the model itself" for name, module, _ in self._modules if "forward" in vars(module)]
        if len(given) > len(bound):
            raise RuntimeError(
                f"patch.undo: {', '.join(given[:3])} was given a forward of its own since, which calls the fused one; "
                "undo in the opposite order"
            )
        for module in bound:
            del module.forward
        for _, module, cls in self._modules:
            module.__class__ = cls.__mro__[1]
        self._modules.clear()

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        counts = Counter(each.operator for each in self.swapped)
        lines = [f"{len(self.swapped)} modules call a fused operator, {len(self.left)} were left"]
        lines += [f"  {count} x {operator}" for operator, count in counts.items()]
        lines += [f"  left {each.name or 'the model itself'} ({each.type}): {each.reason}" for each in self.left]
        return "\n".join(lines)


def patch(model: nn.Module) -> Patch:
    """Have the modules of a model that have a fused operator call it; see the module's docstring for which these are.

    The model is changed in place; its parameters, ``state_dict`` and hooks stay. Calling it again swaps what was added
    meanwhile. To be called before ``fully_shard``, before or after ``torch.compile`` and ``DistributedDataParallel``.

    Args:
        model: any module, itself included.

    Returns:
        What was swapped and what was left, and why; its ``undo`` puts everything back, as does leaving a ``with``.

    Raises:
        TypeError: not a module.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.RMSNorm(8), nn.SiLU(inplace=True))
        >>> with patch(model) as patched:
        ...     print(patched)
        2 modules call a fused operator, 1 were left
          1 x layer_norm_gelu
          1 x rms_norm, casting 'none'
          left 4 (SiLU): it works in place
        >>> type(model[3]).__name__
        'RMSNorm'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch: model is a {type(model).__name__}; expected a torch.nn.Module")
    swapped: list[Swapped] = []
    left: list[Left] = []
    exchanged: list[tuple[str, nn.Module, type[nn.Module]]] = []
    fused: set[int] = set()
    modules = list(model.named_modules())
    for name, module in modules:
        original = original_class(module)
        decision = "it is patched already" if original is not None else _decide(module)
        was = (original or type(module)).__name__
        if isinstance(decision, str):
            left.append(Left(name, was, decision))
        elif decision is not None:
            kind, choices, operator = decision
            exchanged.append((name, module, class_with(type(module), kind, *choices)))
            swapped.append(Swapped(name, was, operator))
        if isinstance(module, nn.Sequential) and (original is not None or isinstance(decision, tuple)):
            fused |= {id(norm) for norm, _ in pairs_of(module)}
    for name, module in modules:
        if isinstance(module, nn.LayerNorm) and (reason := _why_alone(module, fused)):
            left.append(Left(name, type(module).__name__, reason))
    for _, module, cls in exchanged:
        module.__class__ = cls
    return Patch(tuple(swapped), tuple(left), exchanged)
