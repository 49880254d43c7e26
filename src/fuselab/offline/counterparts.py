"""What generated code calls and a CPU has not got, by other means: libdevice's functions, attention, random numbers.

Imported in the interpreting process only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "LIBDEVICE",
    "CudaOperators",
    "Libdevice",
    "UnsupportedError",
    "philox_uniform",
    "round_to_nearest",
    "same_draws",
]


class UnsupportedError(Exception):
    """Something that cannot be done on a CPU; the message names it."""


def _integers(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """libdevice's predicates return 32-bit integers."""
    return lambda *values: function(*values).to(torch.int32)


def _ilogb(x: torch.Tensor) -> torch.Tensor:
    return (torch.frexp(x).exponent - 1).to(torch.int32)


_SAME_NAME = (
    "rsqrt sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh "
    "erf erfc erfinv lgamma pow fmod floor ceil trunc copysign nextafter hypot ldexp"
)
"""Of functions that torch has under libdevice's name."""
LIBDEVICE: dict[str, Callable[..., torch.Tensor]] = {
    **{name: getattr(torch, name) for name in _SAME_NAME.split()},
    **{name: _integers(getattr(torch, name)) for name in ("isnan", "isinf", "signbit", "isfinite")},
    "finitef": _integers(torch.isfinite),
    "abs": torch.abs,
    "fabs": torch.abs,
    "rint": torch.round,
    "nearbyint": torch.round,
    "round": lambda x: torch.copysign(torch.floor(torch.abs(x) + 0.5), x),
    "llrint": lambda x: torch.round(x).to(torch.int64),
    "fma": lambda a, b, c: (a.double() * b.double() + c.double()).to(a.dtype),
    "tgamma": lambda x: torch.exp(torch.lgamma(x)) * torch.where(torch.floor(x) % 2 != 0, -1, 1).where(x < 0, 1),
    "ilogb": _ilogb,
    "fast_expf": torch.exp,
    "fast_logf": torch.log,
    "fast_dividef": torch.div,
    "rcp_rn": torch.reciprocal,
    "div_rn": torch.div,
    "sqrt_rn": torch.sqrt,
    "cyl_bessel_i0": torch.special.i0,
    "cyl_bessel_i1": torch.special.i1,
    "j0": torch.special.bessel_j0,
    "j1": torch.special.bessel_j1,
    "y0": torch.special.bessel_y0,
    "y1": torch.special.bessel_y1,
}
"""By the names that ``triton.language.extra.libdevice`` has."""


class Libdevice:
    """Stands for the module ``libdevice`` of generated kernels: its functions on the interpreter's tensors."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        function = LIBDEVICE.get(name)
        if function is None:
            raise UnsupportedError(f"libdevice.{name} has no CPU counterpart here")

        def call(*values: Any, **_settings: Any) -> Any:
            import triton.language as tl
            from triton.runtime.interpreter import TensorHandle

            tensors = [v for v in values if isinstance(v, tl.tensor)]
            like = torch.from_numpy(np.ascontiguousarray(tensors[0].handle.data))
            given = [
                torch.from_numpy(np.ascontiguousarray(v.handle.data))
                if isinstance(v, tl.tensor)
                else torch.tensor(getattr(v, "value", v), dtype=like.dtype)
                for v in values
            ]
            found = function(*given)
            element = tensors[0].dtype.scalar if found.dtype == like.dtype else _triton_dtype(found.dtype)
            block = any(t.type.is_block() for t in tensors)
            kind = tl.block_type(element, list(found.shape)) if block else element
            return tl.tensor(TensorHandle(found.numpy(), element), kind)

        return call


def _triton_dtype(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {torch.int32: tl.int32, torch.int64: tl.int64, torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def round_to_nearest() -> None:
    """The interpreter cuts off the bits that bfloat16 has not got, where a device rounds to the nearest: as there."""
    from triton.runtime import interpreter

    original = getattr(interpreter, "_convert_float", None)
    if original is None:
        return

    def convert(value: Any, source: Any, result: Any, rounding: Any = None) -> Any:
        if source.name == "fp32" and result.name == "bf16":
            return bfloat16_bits(value)
        if source.name == "bf16" and result.name == "fp32":
            return (np.ascontiguousarray(value).view(np.uint16).astype(np.uint32) << np.uint32(16)).reshape(value.shape)
        return original(value, source, result, rounding)

    interpreter._convert_float = convert  # type: ignore[attr-defined]


def bfloat16_bits(value: Any) -> Any:
    """Float32 rounded to bfloat16, to nearest and to even, as its 16 bits.

    Example:
        >>> bfloat16_bits(np.array([1.0, 1.00390625, 1.01171875], dtype=np.float32)).tolist()
        [16256, 16256, 16258]
    """
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), np.uint32(0x7FC0), rounded).astype(np.uint16)


# --- operators that a library runs on the device ----------------------------------------------------------------


class CudaOperators(TorchDispatchMode):
    """Operators that have a kernel for CUDA only, by their definitions; the others as the CPU has them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used: list[str] = []
        """Those that a definition stood in for."""
        self.seeds: list[int] = []
        """Of random numbers, as the generated code drew them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        stand_in = _ATTENTION.get(name)
        if stand_in is None:
            found = func(*args, **(kwargs or {}))
            if str(func) == "aten.randint.low_out":  # Inductor draws seeds, and nothing else, in this way
                self.seeds += [int(seed) for seed in found.flatten().tolist()]
            return found
        if name not in self.used:
            self.used.append(name)
        return stand_in(func, *args, **(kwargs or {}))


def _bound(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    values = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    values.update({a.name: value for a, value in zip(func._schema.arguments, args, strict=False)})
    return {**values, **kwargs}


def _weights(given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Attention's weights and their logsumexp in float32, by the definition; and the scale."""
    if given.get("dropout_p"):
        raise UnsupportedError("attention with dropout: a library draws the mask, and draws another one here")
    q, k = given["query"].float(), given["key"].float()
    scale: float = 1 / math.sqrt(q.shape[-1]) if given.get("scale") is None else float(given["scale"])
    scores = (q @ k.transpose(-2, -1)) * scale
    bias = given.get("attn_bias")
    if bias is not None:
        scores = scores + bias.float()
    if given.get("is_causal"):
        rows, columns = scores.shape[-2:]
        scores = scores.masked_fill(torch.ones(rows, columns, dtype=torch.bool).triu(1), -math.inf)
    sums = torch.logsumexp(scores, -1)
    return torch.exp(scores - sums.unsqueeze(-1)), sums, scale


def _attention(func: Any, *args: Any, **kwargs: Any) -> Any:
    given = _bound(func, args, kwargs)
    weights, sums, _ = _weights(given)
    found = weights @ given["value"].float()
    like = _as_on_the_device(func, args, kwargs)
    results = []
    for position, form in enumerate(like):
        if not isinstance(form, torch.Tensor):
            results.append(form)
            continue
        made = torch.empty_strided(form.shape, form.stride(), dtype=form.dtype).zero_()
        if position == 0:
            made.copy_(found)
        elif position == 1 and made.numel():
            _fill_sums(made, sums)
        results.append(made)
    return tuple(results)


def _fill_sums(made: torch.Tensor, sums: torch.Tensor) -> None:
    """The logsumexp, in the padded shape that a library keeps it in."""
    while sums.dim() < made.dim():
        sums = sums.unsqueeze(-1)
    made[tuple(slice(0, n) for n in sums.shape)].copy_(sums)


def _attention_backward(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The definition, differentiated by hand: a dispatch mode is below autograd. What the forward saved is not used."""
    given = _bound(func, args, kwargs)
    weights, _, scale = _weights(given)
    q, k, v = (given[name].float() for name in ("query", "key", "value"))
    gradient = (given["grad_out"] if "grad_out" in given else given["grad_out_"]).float()
    on_weights = gradient @ v.transpose(-2, -1)
    on_scores = weights * (on_weights - (gradient * (weights @ v)).sum(-1, keepdim=True))
    back = [on_scores @ k * scale, on_scores.transpose(-2, -1) @ q * scale, weights.transpose(-2, -1) @ gradient]
    bias = given.get("attn_bias")
    if bias is not None and list(given.get("grad_input_mask") or [])[-1:] == [True]:
        back.append(on_scores.sum_to_size(bias.shape))
    like = _as_on_the_device(func, args, kwargs)
    results: list[Any] = []
    for position, form in enumerate(like):
        if not isinstance(form, torch.Tensor) or position >= len(back):
            results.append(form if not isinstance(form, torch.Tensor) else torch.empty(form.shape, dtype=form.dtype))
            continue
        results.append(torch.empty_strided(form.shape, form.stride(), dtype=form.dtype).copy_(back[position]))
    return tuple(results)


def _as_on_the_device(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What the operator returns on the device, without numbers: the strides of what a library allocates."""
    from torch.utils import _pytree as pytree

    def without_numbers(value: Any) -> Any:
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    given = pytree.tree_map(without_numbers, (tuple(args), dict(kwargs)))
    try:
        return tuple(func(*given[0], **given[1]))
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(f"{func}: its results' strides are not known without a device: {error}") from error


_LIBRARIES = ("flash", "efficient", "cudnn")
_ATTENTION: dict[str, Callable[..., Any]] = {
    **{f"_scaled_dot_product_{library}_attention": _attention for library in _LIBRARIES},
    **{f"_scaled_dot_product_{library}_attention_backward": _attention_backward for library in _LIBRARIES},
}


# --- random numbers ---------------------------------------------------------------------------------------------


def philox_uniform(seed: int, count: int) -> torch.Tensor:
    """What ``tl.rand(seed, offset)`` gives for the offsets from 0: Philox 4x32 with ten rounds, its first word.

    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011; the conversion to [0, 1) is Triton's.
    """
    low = np.uint64(0xFFFFFFFF)
    counters = [np.arange(count, dtype=np.uint64), *(np.zeros(count, dtype=np.uint64) for _ in range(3))]
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        a = counters[0] * np.uint64(0xD2511F53)
        b = counters[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        counters = [
            (b >> shift) ^ counters[1] ^ np.uint64(keys[0]),
            b & low,
            (a >> shift) ^ counters[3] ^ np.uint64(keys[1]),
            a & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    words = counters[0].astype(np.uint32).astype(np.int32)
    words = np.where(words < 0, -words - 1, words)
    return torch.from_numpy(words.astype(np.float32) * np.float32(4.6566127342e-10))


class SameDraws(TorchDispatchMode):
    """Eager draws the numbers that the generated kernels drew: the k-th random operator from the k-th seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seeds: Iterator[int] = iter(seeds)
        self.left_out = ""
        """A random operator whose numbers could not be repeated."""

    def _draw(self, like: torch.Tensor) -> torch.Tensor:
        seed = next(self._seeds, None)
        if seed is None:
            self.left_out = self.left_out or "eager draws more often than the generated code"
            return torch.rand(like.shape)
        return philox_uniform(seed, like.numel()).reshape(like.shape)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name == "aten.bernoulli_.float":
            tensor, probability = args[0], (args[1] if len(args) > 1 else (kwargs or {}).get("p", 0.5))
            return tensor.copy_(self._draw(tensor) > 1 - probability)
        if name == "aten.native_dropout.default":
            tensor, probability = args[0], args[1]
            kept = self._draw(tensor) > probability
            return tensor * kept / (1 - probability), kept
        if name in ("aten.rand_like.default", "aten.rand.default"):
            found = func(*args, **(kwargs or {}))
            return found.copy_(self._draw(found))
        if (kwargs or {}).get("generator") is not None:  # a generator of its own: what the backward starts from
            return func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.left_out = self.left_out or f"{name}: eager's random numbers are not the generated code's"
        return func(*args, **(kwargs or {}))


@contextmanager
def same_draws(seeds: Sequence[int]) -> Iterator[SameDraws]:
    """Eager code within draws what the generated code drew."""
    with SameDraws(seeds) as mode:
        yield mode
