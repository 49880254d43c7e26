"""How far a result may be from the float64 reference: eager's own error, times a factor, above a floor.

The bound is ``max(factor * eager's error, floor)``, for the root-mean-square and for the largest error, with a factor
of 2, and 3 where 16-bit numbers take part. The floor is there because eager can be exact by luck, or add up in a
better order than anybody has to: a bound of twice nothing fails everything. It is relative to the reference's own
root-mean-square (its largest magnitude, for the largest error)::

    2 * u_out + u_acc * (4 + sqrt(L) / 16 + sqrt(R) * c(n))

``u_out`` is one rounding to the output's dtype, which a gradient may see twice. ``u_acc`` is one rounding of the
arithmetic behind it (float32 for 16-bit and 32-bit outputs); four of them are what the elementary functions of two
libraries differ by. A sum of L terms, added up one after the other, is off by about sqrt(L) / 3 roundings; kernels
keep 16 or more partial sums along the last axis, hence the second term.

The last term is for what is added up over rows: a result of n elements, R times fewer than the largest tensor of the
call has, as weight gradients are. It is what one float32 accumulator makes of R terms (Higham 1993, "The accuracy of
floating point summation", with a model in place of the worst case). Addition k rounds the partial sum s_k by a
relative error whose root-mean-square is u * sqrt((1 - 1/4) / (2 ln 2) / 3) = 0.425 u, mantissas being spread as they
are. The gradients of outputs are drawn standard normal and independent, so that the s_k are a random walk whatever
the function is: s_k^2 is k sigma^2 on average, and the errors of R additions come to 0.425 u sigma R / sqrt(2), that
is 0.30 sqrt(R) u of the result's root-mean-square sigma sqrt(R). Their distribution is that of the normal times the
root of the integral of a squared Brownian motion, whose tail falls as exp(-pi y / 2) only; simulated over 4 million
walks (quantiles at 99.99%), both coefficients are

    c = 0.30 * (1 + 6 / sqrt(n)) * max(1, 16 / n)    for the root-mean-square,
    c = 1.2 * max(1, 16 / n)                         for the largest error.

The second factor is there because few elements say little of how large they might have been. For one and two elements
a sequential sum is still refused once in 190 and in 2700 times.

Why one accumulator, where eager has partial sums and a tenth of the error: because that is what a compiler makes of a
sum over rows and may. Inductor's C++ does (``tmp_acc0_vec = tmp_acc0_vec + tmp5``, row after row; from 4097 rows on
it starts anew every 8192): RMSNorm's weight gradient over 4096 rows of 1024 columns has an error of 19.2 roundings,
the model says 19.2, eager has 2.5; over 16384 rows 26.9, the model says 27.2 for runs of 8192. Adding up the same
terms in that order reproduces the compiled errors column by column, with a correlation of 0.95.
``tests/measure/test_tolerance.py`` holds the figures and shows how small a wrong weight gradient is still seen: over
4096 rows in float32, one that is off by 3 parts in a million, or one column of it by 10 parts in a million of the
largest; a single row left out is 15 600.

Sixteen bits round so coarsely that GELU's tanh form is within the error of its erf form, element by element. What
rounding hides shows in the mean: rounding errors have either sign. So a 16-bit result is also held to a bound on its
mean error, among results of one sign and one power of two, where there are 64 of them and more: at most eager's
root-mean-square error among these, or two roundings of their size, and five standard errors beside, rows being the
unit: what the elements of a row have in common, such as the rounding of the row's sum, is one error. In 4 million
results the tanh form is off by 16% in the mean where GELU is about -2e-4, which is 10 times eager's error there;
kernels that round once more or less than eager stay below a fifth of two roundings, truncation instead of rounding at
a third. Where there are fewer or none of such small results, as with a bias of 1 and a million of them, it passes.

Nothing is asked of the mean where PyTorch computes operator by operator and rounds to 16 bits in between: inputs of 16
bits have few values, each with the same rounding every time, and where the operators' results cancel that is all that
is left. Gradients of ``x * torch.sigmoid(x)`` in bfloat16 at x = -1.28125, next to where the slope is zero, have errors
that are on average as large as they are, and are 17% too small in the mean: sigmoid(x) is rounded up there every time
(on a CPU; ``tests/measure/test_tolerance.py``).

For float32 and 4096 columns the floor is 6e-7 where nothing is added up over rows, for bf16 0.8%. On top of that the
root-mean-square bound is capped at 4% of the reference, unless eager itself is worse than that: a result scaled by
0.95 fails whatever eager's error is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fuselab.records import TensorCheck

__all__ = ["Scale", "compare", "not_repeated", "scale_of", "widen"]

FACTOR = 2.0
FACTOR_16_BIT = 3.0
CAP = 0.04
"""Largest relative root-mean-square error that is ever allowed, unless eager has more."""


_STRATUM = 64
"""Fewest results of one sign and power of two whose mean error is looked at."""
_CLUSTERS = 1024
"""Most groups of rows that standard errors are taken from."""
_POWERS = 24
"""Powers of two below the largest result that are told apart."""
_BIAS_FACTOR = 1.0
_STANDARD_ERRORS = 5.0


@dataclass(frozen=True)
class Scale:
    """What the bound of a call's tensors depends on besides the tensor itself."""

    elements: int
    """Elements of the largest tensor of the call."""
    last_axis: int
    """Longest last axis among the inputs."""
    sixteen_bit: bool
    """Whether a tensor of 16 bits or fewer takes part."""


def scale_of(tensors: Iterable[Tensor]) -> Scale:
    """The scale of a call from its inputs and outputs."""
    tensors = list(tensors)
    floating = [t for t in tensors if t.dtype.is_floating_point]
    return Scale(
        elements=max((t.numel() for t in tensors), default=1),
        last_axis=max((t.shape[-1] for t in tensors if t.dim()), default=1),
        sixteen_bit=any(t.dtype.itemsize <= 2 for t in floating),
    )


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float64 (complex: complex128; integers and booleans as they are), detached, ``requires_grad``
    kept."""
    if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
        return tensor.detach()
    wide = torch.complex128 if tensor.dtype.is_complex else torch.float64
    # A copy even where the dtype is float64 already: the reference must not write through to the inputs.
    return tensor.detach().to(wide, copy=True).requires_grad_(tensor.requires_grad)


@dataclass(frozen=True)
class _Floor:
    """Relative errors that are always allowed."""

    rms: float
    """Of the root-mean-square."""
    largest: float
    """Of the largest magnitude."""


_ADDITION = 0.30
"""Error of adding up R centred terms one after the other, in units of sqrt(R) roundings of the result."""

_ADDITION_LARGEST = 1.2
"""The largest such error among many, in the same units of the largest result."""

_FEW = 16
"""Fewer elements than these do not tell how large they might have been."""


def _relative_floor(dtype: torch.dtype, numel: int, scale: Scale) -> _Floor:
    """The floor of the module's docstring for ``numel`` elements of ``dtype``."""
    numel = max(numel, 1)
    out = torch.finfo(dtype).eps / 2
    accumulator = min(out, torch.finfo(torch.float32).eps / 2)
    # The reference of a float64 result is no more accurate than the result.
    times = 4.0 if dtype in (torch.float64, torch.complex128) else 1.0
    common = 2 * out + accumulator * (4 + math.sqrt(scale.last_axis) / 16)
    rows = accumulator * math.sqrt(scale.elements / numel) * max(1.0, _FEW / numel)
    return _Floor(
        rms=times * (common + rows * _ADDITION * (1 + 6 / math.sqrt(numel))),
        largest=times * (common + rows * _ADDITION_LARGEST),
    )


def _places(t: Tensor) -> Tensor:
    """0 where finite, 1 NaN, 2 +Inf, 3 -Inf; a complex number counts by its worse part."""
    if t.dtype.is_complex:
        return torch.maximum(_places(t.real), _places(t.imag))
    kinds = (torch.isnan(t), torch.isposinf(t), torch.isneginf(t))
    return sum(
        (kind.to(torch.uint8) * (i + 1) for i, kind in enumerate(kinds)), torch.zeros_like(kinds[0], dtype=torch.uint8)
    )


_PLACE_NAMES = ("a finite value", "NaN", "+Inf", "-Inf")


def _first(mask: Tensor) -> list[int]:
    return [int(i) for i in mask.nonzero()[0].tolist()]


def _misplaced(got: Tensor, eager: Tensor, reference: Tensor) -> str:
    """Where NaN and Inf are that neither eager nor the reference (rounded to the dtype) has, in words."""
    places = _places(got)
    eager_places = _places(eager)
    wrong = (places != eager_places) & (places != _places(reference.to(got.dtype)))
    count = int(wrong.sum())
    if not count:
        return ""
    at = _first(wrong)
    index = tuple(at)
    has, should = _PLACE_NAMES[int(places[index])], _PLACE_NAMES[int(eager_places[index])]
    return f"{has} where eager has {should}, at {count} of {got.numel()} places, first at {at}"


def compare(
    name: str,
    got: Tensor,
    eager: Tensor,
    reference: Tensor,
    scale: Scale,
    *,
    eager_reference: Tensor | None = None,
    rounds_between: bool = False,
) -> TensorCheck:
    """Hold ``got`` to the bound.

    Args:
        name: what it is, for messages.
        got: the result under test.
        eager: eager's result on the same inputs; shape, dtype and device have to be the same.
        reference: the float64 result for the inputs (and the randomness) that ``got`` was made of.
        scale: of the call; see ``scale_of``.
        eager_reference: the float64 result for the randomness that eager drew, where that is another.
        rounds_between: ``got`` was computed operator by operator, so that nothing is asked of its mean error.
    """
    for what, mine, expected in (
        ("shape", tuple(got.shape), tuple(eager.shape)),
        ("dtype", got.dtype, eager.dtype),
        ("device", got.device, eager.device),
    ):
        if mine != expected:
            return TensorCheck(name=name, correct=False, reason=f"{what} {mine}, eager's is {expected}")
    if tuple(reference.shape) != tuple(got.shape):
        reason = f"shape {tuple(got.shape)}, the reference's is {tuple(reference.shape)}"
        return TensorCheck(name=name, correct=False, reason=reason)
    got, eager, reference = got.detach(), eager.detach(), reference.detach()
    if not (got.dtype.is_floating_point or got.dtype.is_complex):
        differ = got != reference.to(got.dtype)
        count = int(differ.sum())
        place = f"differs from the reference at {count} of {got.numel()} places, first at "
        return TensorCheck(name=name, correct=not count, reason=f"{place}{_first(differ)}" if count else "")
    # A random result has its NaN where its own reference has them, not where eager's mask put them.
    beside = eager if eager_reference is None else reference.to(got.dtype)
    if misplaced := _misplaced(got, beside, reference):
        return TensorCheck(name=name, correct=False, reason=misplaced)
    rms, largest, norm, peak = _errors(got, reference)
    eager_rms, eager_max, _, _ = _errors(eager, reference if eager_reference is None else eager_reference.detach())
    floor = _relative_floor(got.dtype, got.numel(), scale)
    factor = FACTOR_16_BIT if scale.sixteen_bit or got.dtype.itemsize <= 2 else FACTOR
    allowed_rms = max(factor * eager_rms, floor.rms * norm)
    allowed_rms = min(allowed_rms, max(CAP * norm, 1.25 * eager_rms))
    allowed_max = max(factor * eager_max, floor.largest * peak)
    reason = ""
    if not rms <= allowed_rms:
        zeros = "" if bool(got.any()) else "all zeros: "
        reason = f"{zeros}root-mean-square error {rms:.3g}, allowed {allowed_rms:.3g} (eager {eager_rms:.3g})"
    elif not largest <= allowed_max:
        reason = f"largest error {largest:.3g}, allowed {allowed_max:.3g} (eager {eager_max:.3g})"
    elif got.dtype.itemsize <= 2 and not rounds_between:
        beside_floor = (floor.rms - torch.finfo(got.dtype).eps) * norm
        truth = reference if eager_reference is None else eager_reference.detach()
        reason = _bias(got, reference, eager, truth, beside_floor)
    return TensorCheck(
        name=name,
        correct=not reason,
        rms_error=rms,
        max_error=largest,
        eager_rms_error=eager_rms,
        eager_max_error=eager_max,
        allowed_rms_error=allowed_rms,
        allowed_max_error=allowed_max,
        reason=reason,
    )


def _bias(got: Tensor, reference: Tensor, eager: Tensor, eager_reference: Tensor, floor: float) -> str:
    """Where the mean error is more than rounding leaves, in words; ``floor`` is an error that is allowed anywhere."""
    sizes = reference.abs()[torch.isfinite(reference)]
    if not sizes.numel() or not float(sizes.max()):
        return ""
    top = math.floor(math.log2(float(sizes.max())))
    count, mean, standard, _ = _strata(got, reference, top)
    _, _, _, eager_rms = _strata(eager, eager_reference, top)
    size = 2.0 ** (
        top - torch.arange(2 * _POWERS, device=got.device, dtype=torch.float64).div(2, rounding_mode="floor")
    )
    limits = torch.finfo(got.dtype)
    floor += limits.smallest_normal * limits.eps  # results below the normal numbers are rounded to multiples of this
    allowed = torch.maximum(_BIAS_FACTOR * eager_rms, limits.eps * size + floor)
    beyond = mean.abs() - _STANDARD_ERRORS * standard - allowed
    beyond = torch.where(count >= _STRATUM, beyond, -1.0)
    worst = int((beyond / size).argmax())
    if float(beyond[worst]) <= 0:
        return ""
    sign = "-" if worst % 2 else ""
    found = f"results of about {sign}{float(size[worst]):.2g} are off by {float(mean[worst]):.2g} in the mean"
    return (
        f"systematic error: {found}, allowed {float(allowed[worst]):.2g} (eager's error {float(eager_rms[worst]):.2g})"
    )


def _strata(got: Tensor, reference: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the results by power of two and sign of the reference: number, mean error, its standard error with rows as
    the unit, root-mean-square error."""
    wide = widen(got).detach()
    inside = torch.isfinite(wide) & torch.isfinite(reference) & (reference != 0)
    rows = max(1, got.numel() // got.shape[-1]) if got.dim() > 1 else got.numel()
    clusters = min(rows, _CLUSTERS)
    row = torch.arange(rows, device=got.device).mul(clusters).div(rows, rounding_mode="floor")
    cluster = row.view(-1, 1).expand(rows, got.numel() // rows).reshape(got.shape)[inside]
    reference, error = reference[inside], (wide - reference)[inside]
    power = (top - reference.abs().log2().floor()).clamp(0, _POWERS - 1).long()
    stratum, strata = 2 * power + (reference < 0), 2 * _POWERS
    count = torch.bincount(stratum, minlength=strata).double()
    some = count.clamp(min=1)
    sums = torch.bincount(cluster * strata + stratum, weights=error, minlength=clusters * strata).view(clusters, strata)
    rms = (torch.bincount(stratum, weights=error.square(), minlength=strata) / some).sqrt()
    return count, sums.sum(0) / some, sums.square().sum(0).sqrt() / some, rms


def not_repeated(a: Tensor, b: Tensor, scale: Scale, allowed: float | None = None) -> str:
    """How two results for the same inputs differ by more than rounding, in words; empty where they do not.

    Sums in an order that changes from call to call differ by roundings and are fine: ``allowed`` is the error that
    each of the two may have, the floor where None.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{tuple(a.shape)} {a.dtype}, then {tuple(b.shape)} {b.dtype}"
    if not (a.dtype.is_floating_point or a.dtype.is_complex):
        count = int((a != b).sum())
        return f"two calls on the same inputs differ at {count} of {a.numel()} places" if count else ""
    if not bool((_places(a) == _places(b)).all()):
        return "two calls on the same inputs have NaN or Inf at different places"
    _, largest, _, peak = _errors(a, widen(b).detach())
    bound = 2 * (_relative_floor(a.dtype, a.numel(), scale).largest * peak if allowed is None else allowed)
    return f"two calls on the same inputs differ by up to {largest:.3g}" if largest > bound else ""


def _errors(got: Tensor, reference: Tensor) -> tuple[float, float, float, float]:
    """Root-mean-square and largest error, and the same of the reference itself, over what is finite in both."""
    wide = widen(got)
    finite = torch.isfinite(wide) & torch.isfinite(reference)
    if not bool(finite.any()):
        return 0.0, 0.0, 0.0, 0.0
    # Zero where not finite, rather than selected: keeps memory at one copy and the count right below.
    count = int(finite.sum())
    reference = torch.where(finite, reference, 0)
    error = (torch.where(finite, wide, 0) - reference).abs()
    size = reference.abs()
    return (
        math.sqrt(float(error.square().sum()) / count),
        float(error.max()),
        math.sqrt(float(size.square().sum()) / count),
        float(size.max()),
    )
