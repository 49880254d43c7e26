"""Which modules compute what an operator computes: by their type, or by what their class's forward says.

A class of another library is known by its name and by its forward, which has to be a straight line of assignments and a
return: these are put into one another until one expression of the input is left, and that expression is compared. So
local names and how the lines are cut do not matter, and a class with another forward, or one that was changed at run
time, is not taken for what its name says. No library is imported for it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

__all__ = [
    "ORIGINAL",
    "Casting",
    "Gate",
    "gate_of",
    "has_own_forward",
    "original_class",
    "own_forward_of",
    "rms_norm_of",
    "silu_of",
]

ORIGINAL = "_fuselab_original"
"""Where a patched module's class keeps the one that it had."""

Casting = Literal["llama", "gemma", "none"]
Gate = Literal["silu", "gelu", "gelu_tanh"]

_NORMALISED = "({x} * torch.rsqrt({x}.pow(2).mean(-1, keepdim=True) + self.{eps}))"
_RMS_NORMS: dict[Casting, str] = {
    "llama": f"self.weight * {_NORMALISED}.to(x.dtype)",
    "none": f"(self.weight * {_NORMALISED}).to(x.dtype)",
    "gemma": f"({_NORMALISED} * (1.0 + self.weight.float())).type_as(x)",
}
_FLOAT32 = ("x.to(torch.float32)", "x.float()")
_EPS = ("variance_epsilon", "eps")
_MLP = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def original_class(module: nn.Module) -> type[nn.Module] | None:
    """The class that a patched module had, or None."""
    return cast("type[nn.Module] | None", vars(type(module)).get(ORIGINAL))


def has_own_forward(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether calling an instance of (a subclass of) ``base`` runs anything else than ``base.forward``."""
    cls = type(module)
    return own_forward_of(module) or cls.forward is not base.forward


def own_forward_of(module: nn.Module) -> bool:
    """Whether this very instance, or its class's ``__call__``, was given another forward than its class has."""
    return "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__


def rms_norm_of(module: nn.Module) -> tuple[Casting, str] | None:
    """Casting order of a module whose class is named ...RMSNorm and is one by its forward, and the name of its eps.

    None for another. It has to have one parameter, a weight of one axis, and neither buffers nor children.
    """
    cls = type(module)
    weight = module._parameters.get("weight")
    if not cls.__name__.endswith("RMSNorm") or set(module._parameters) != {"weight"} or weight is None:
        return None
    if weight.dim() != 1 or module._buffers or module._modules:
        return None
    said = _expression(cls)
    for casting, form in _RMS_NORMS.items():
        for eps in _EPS:
            known = isinstance(getattr(module, eps, None), float)
            if known and any(said == _plain(form.format(x=x, eps=eps)) for x in _FLOAT32):
                return casting, eps
    return None


def gate_of(module: nn.Module) -> Gate | None:
    """The activation of a module whose class is named ...MLP and is a gated one by its forward; else None.

    Its children have to be ``gate_proj``, ``up_proj``, ``down_proj`` and ``act_fn``, SiLU or GELU.
    """
    cls = type(module)
    if not cls.__name__.endswith("MLP") or set(module._modules) != {*_PROJECTIONS, "act_fn"}:
        return None
    if module._parameters or module._buffers or any(module._modules[name] is None for name in _PROJECTIONS):
        return None
    activation = module._modules["act_fn"]
    if activation is None or _expression(cls) != _plain(_MLP):
        return None
    return "silu" if silu_of(activation) else _gelu_of(activation)


def silu_of(module: nn.Module) -> bool:
    """Whether a module is SiLU that leaves its input alone: nn.SiLU, or transformers' ``SiLUActivation``.

    Or one of these that is patched already, as one that several MLPs share.
    """
    original = original_class(module)
    if original is not None and not own_forward_of(module):
        return original.__name__ == "SiLUActivation" or issubclass(original, nn.SiLU)
    if isinstance(module, nn.SiLU):
        return not has_own_forward(module, nn.SiLU) and not module.inplace
    return _is_activation(module, ("SiLUActivation",), ("nn.functional.silu(x)", "F.silu(x)"))


def _gelu_of(module: nn.Module) -> Gate | None:
    if isinstance(module, nn.GELU):
        if has_own_forward(module, nn.GELU):
            return None
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    names = ("GELUTanh", "PytorchGELUTanh")
    if _is_activation(module, names, ("nn.functional.gelu(x, approximate='tanh')", "F.gelu(x, approximate='tanh')")):
        return "gelu_tanh"
    act = getattr(module, "act", None)
    if not isinstance(act, functools.partial) or act.func is not F.gelu or act.args:
        return None
    tanh = act.keywords == {"approximate": "tanh"} and _is_activation(module, names, ("self.act(x)",))
    return "gelu_tanh" if tanh else None


def _is_activation(module: nn.Module, names: tuple[str, ...], forms: tuple[str, ...]) -> bool:
    cls = type(module)
    if cls.__name__ not in names or module._parameters or module._buffers or module._modules:
        return False
    return not own_forward_of(module) and _expression(cls) in [_plain(form) for form in forms]


# What a forward says.


class _UnknownFormError(Exception):
    """A forward that is not a straight line."""


_GLOBALS: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
"""What a name has to stand for in the module that a forward is from."""


@functools.lru_cache(maxsize=512)
def _plain(form: str) -> str:
    return ast.unparse(ast.parse(form, mode="eval").body)


def _expression(cls: type[nn.Module]) -> str | None:
    """The forward of a class as one expression of ``x``, or None where it is no straight line."""
    return _read(cast(Any, cls), cls.forward)


@functools.lru_cache(maxsize=512)
def _read(cls: Any, forward: Callable[..., Any]) -> str | None:
    try:
        return ast.unparse(_returned(cls, forward, [ast.Name("x", ast.Load())]))
    except (_UnknownFormError, OSError, TypeError, SyntaxError):  # without a source there is nothing to go by
        return None


def _returned(cls: type, function: Callable[..., Any], arguments: list[ast.expr]) -> ast.expr:
    """What a method returns for these arguments, written out."""
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        raise _UnknownFormError
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        raise _UnknownFormError
    parameters = definition.args
    names = [argument.arg for argument in parameters.args]
    if len(names) != len(arguments) + 1 or names[0] != "self":
        raise _UnknownFormError
    if parameters.vararg or parameters.kwarg or parameters.kwonlyargs or parameters.posonlyargs or parameters.defaults:
        raise _UnknownFormError
    known = dict(zip(names[1:], arguments, strict=True))
    for statement in definition.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if isinstance(statement, ast.Return) and statement.value is not None:
            if statement is not definition.body[-1]:
                raise _UnknownFormError
            return _written_out(cls, function, known, statement.value)
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise _UnknownFormError
        (target,) = statement.targets
        if not isinstance(target, ast.Name):
            raise _UnknownFormError
        known[target.id] = _written_out(cls, function, known, statement.value)
    raise _UnknownFormError


def _written_out(cls: type, function: Callable[..., Any], known: dict[str, ast.expr], value: ast.expr) -> ast.expr:
    scope = inspect.getclosurevars(function).globals

    class WriteOut(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            if node.id in known:
                return known[node.id]
            if node.id != "self" and (node.id not in _GLOBALS or scope.get(node.id) is not _GLOBALS[node.id]):
                raise _UnknownFormError
            return node

        def visit_Call(self, node: ast.Call) -> ast.expr:
            method = node.func
            if isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name) and method.value.id == "self":
                called = inspect.getattr_static(cls, method.attr, None)
                if inspect.isfunction(called):
                    if node.keywords:
                        raise _UnknownFormError
                    return _returned(cls, called, [self.visit(argument) for argument in node.args])
            self.generic_visit(node)
            return node

    written: ast.expr = WriteOut().visit(value)
    return written
