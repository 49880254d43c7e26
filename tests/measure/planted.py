"""Implementations that are wrong on purpose, each in one way, and the small experiments that they belong to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fuselab.experiment import Experiment, Inputs, Variant, VariantKind
from fuselab.records import DTYPES, Direction, Traffic, Workload

EPS = 1e-6
P = 0.25


def experiment(name, eager, make_inputs, **kwargs):
    """An experiment of one variant whose reference is eager in float64 unless another is given."""
    reference = kwargs.pop("reference", eager)
    return Experiment(
        name=name,
        description=name,
        variants=(Variant("eager", "eager", VariantKind.EAGER, lambda w: eager),),
        make_inputs=make_inputs,
        reference=lambda w: reference,
        traffic=lambda w, d: Traffic(bytes_read=1, bytes_written=1),
        workloads=lambda preset, device: [workload()],
        **kwargs,
    )


def workload(shape=(48, 96), dtype="f32", seed=0):
    return Workload(shape=shape, dtype=dtype, seed=seed)


def rows(workload, device, *, weights=0):
    """x, then of its last axis a weight near 1 and a bias near 0, all requiring gradients."""
    g = torch.Generator(device=device).manual_seed(workload.seed)
    dtype = getattr(torch, DTYPES[workload.dtype])
    made = [torch.randn(workload.shape, generator=g, device=device)]
    made += [1 - i + 0.1 * torch.randn(workload.shape[-1], generator=g, device=device) for i in range(weights)]
    return Inputs(
        tuple(t.to(device=device, dtype=dtype).requires_grad_() for t in made),
        names=("x", "weight", "bias")[: weights + 1],
    )


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def layer_norm_gelu(x, weight, bias):
    return F.gelu(F.layer_norm(x, x.shape[-1:], weight, bias, EPS))


def softmax_dropout(x):
    return F.dropout(torch.softmax(x, -1), P, training=True)


def softmax_dropout_reference(x, mask):
    return torch.softmax(x, -1) * mask / (1 - P)


def mask_of(workload, inputs, outputs):
    return {"mask": outputs != 0}


def check_mask(workload, witness):
    """Keep rate, and agreement of neighbours at lags 1, 2, 4 and the row stride, within 5 standard errors."""
    keep = witness["mask"].reshape(-1).double()
    n = keep.numel()
    rate = float(keep.mean())
    allowed = 5 * math.sqrt(P * (1 - P) / n)
    if abs(rate - (1 - P)) > max(0.1, allowed):
        return f"keep rate {rate:.4f}"
    centred = keep - (1 - P)
    for lag in (1, 2, 4, witness["mask"].shape[-1]):
        if lag >= n:
            continue
        correlation = float((centred[lag:] * centred[:-lag]).mean()) / (P * (1 - P))
        if abs(correlation) > 5 / math.sqrt(n - lag):
            return f"the mask repeats: correlation {correlation:.3f} at lag {lag}"
    # After the lags: the rate of a mask that repeats strays further, and for that reason.
    return f"keep rate {rate:.4f}" if abs(rate - (1 - P)) > allowed else ""


RMS_NORM = experiment("rms_norm", rms_norm, lambda w, d: rows(w, d, weights=1))
LAYER_NORM_GELU = experiment("layer_norm_gelu", layer_norm_gelu, lambda w, d: rows(w, d, weights=2))
SILU = experiment("silu", F.silu, rows)
SOFTMAX_DROPOUT = experiment(
    "softmax_dropout",
    softmax_dropout,
    rows,
    reference=softmax_dropout_reference,
    witness=mask_of,
    check_witness=check_mask,
)


class WrongBackwardMask(torch.autograd.Function):
    """The backward draws a mask of its own."""

    @staticmethod
    def forward(ctx, y):
        ctx.p = P
        mask = torch.rand_like(y) >= P
        return y * mask / (1 - P)

    @staticmethod
    def backward(ctx, g):
        return g * (torch.rand_like(g) >= ctx.p) / (1 - ctx.p)


class ZeroGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.silu(x)

    @staticmethod
    def backward(ctx, g):
        return torch.zeros_like(g)


class OneWrongColumn(torch.autograd.Function):
    """The gradient of the last column is scaled by 1.01."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        grad = g * (s * (1 + x * (1 - s)))
        return torch.cat([grad[..., :-1], grad[..., -1:] * 1.01], -1)


class Unwritten(torch.autograd.Function):
    """The last column is left as it was allocated; the backward is right."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        y[..., :-1] = F.silu(x[..., :-1])
        return y

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s * (1 + x * (1 - s)))


def all_but_one(x, weight):
    """The mean square of N - 1 elements."""
    return x * torch.rsqrt(x[..., :-1].square().mean(-1, keepdim=True) + EPS) * weight


def divided_by_all_but_one(x, weight):
    n = x.shape[-1]
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) / (n - 1) + EPS) * weight


def mutating(x):
    y = F.silu(x)
    with torch.no_grad():
        x.mul_(1.0000001)
        x.add_(1e-6)
    return y


def cached():
    """Computes once and returns that ever after."""
    kept = []

    def call(x):
        if not kept:
            kept.append(F.silu(x))
        return F.silu(x) * 0 + kept[0].detach()

    return call


def cached_by_address():
    kept = {}

    def call(x):
        if x.data_ptr() not in kept:
            kept[x.data_ptr()] = (F.silu(x), x)  # x is kept alive, so that its address stays its own
        return F.silu(x) * 0 + kept[x.data_ptr()][0].detach()

    return call


def replayed():
    """Returns the result of the call before: a replay whose inputs were not copied in."""
    last = []

    def call(x):
        now = F.silu(x)
        last.append(now.detach())
        return now * 0 + last[max(0, len(last) - 2)]

    return call


def repeated_mask():
    """Every fourth element decides for four."""

    def call(x):
        y = torch.softmax(x, -1)
        mask = (torch.rand_like(y[..., ::4]) >= P).repeat_interleave(4, -1)
        return y * mask / (1 - P)

    return call


def same_mask_always():
    def call(x):
        y = torch.softmax(x, -1)
        g = torch.Generator(device=x.device).manual_seed(7)
        return y * (torch.rand(y.shape, generator=g, device=x.device) >= P) / (1 - P)

    return call


def side_stream():
    stream = []

    def call(x):
        if not stream:
            stream.append(torch.cuda.Stream())
        with torch.cuda.stream(stream[0]):
            return F.silu(x)

    return call


def side_stream_forked():
    """Waits for the current stream, but nobody waits for it."""
    stream = []

    def call(x):
        if not stream:
            stream.append(torch.cuda.Stream())
        stream[0].wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream[0]):
            y = x
            for _ in range(20):
                y = y + 0
            return F.silu(y)

    return call


@dataclass(frozen=True)
class Planted:
    name: str
    experiment: Experiment
    build: Callable[[], Callable[..., Tensor]]
    words: str
    """What the reason has to name."""
    direction: Direction = Direction.FORWARD
    gpu: bool = False


def _constant(function):
    return lambda: function


def _spoilt(value):
    return lambda: lambda x: F.silu(x).index_fill(0, torch.tensor(3, device=x.device), value)


def _random_number():
    counter = itertools.count()
    return lambda x: F.silu(x) * (1 + 1e-3 * next(counter))


B = Direction.BACKWARD
PLANTED = [
    Planted("zeros", SILU, _constant(lambda x: F.silu(x) * 0), "all zeros"),
    Planted("x0.95", SILU, _constant(lambda x: 0.95 * F.silu(x)), "error"),
    Planted("x0.95 of rms_norm", RMS_NORM, _constant(lambda x, w: 0.95 * rms_norm(x, w)), "error"),
    Planted("wrong activation", SILU, _constant(F.gelu), "error"),
    Planted(
        "layer_norm for rms_norm",
        RMS_NORM,
        _constant(lambda x, w: F.layer_norm(x, x.shape[-1:], w, None, EPS)),
        "error",
    ),
    Planted(
        "dropped eps",
        RMS_NORM,
        _constant(lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True)) * w),
        "error",
    ),
    Planted("N-1 elements", RMS_NORM, _constant(all_but_one), "error"),
    Planted("divided by N-1", RMS_NORM, _constant(divided_by_all_but_one), "error"),
    Planted("unwritten last column", SILU, _constant(Unwritten.apply), "output"),
    Planted(
        "tanh for erf",
        LAYER_NORM_GELU,
        _constant(lambda x, w, b: F.gelu(F.layer_norm(x, x.shape[-1:], w, b, EPS), approximate="tanh")),
        "error",
    ),
    Planted(
        "wrong backward mask",
        SOFTMAX_DROPOUT,
        _constant(lambda x: WrongBackwardMask.apply(torch.softmax(x, -1))),
        "error",
        B,
    ),
    Planted("mask repeated every 4", SOFTMAX_DROPOUT, repeated_mask, "repeats"),
    Planted("same mask in every call", SOFTMAX_DROPOUT, same_mask_always, "same randomness"),
    Planted("dropout forgotten", SOFTMAX_DROPOUT, _constant(lambda x: torch.softmax(x, -1)), "keep rate"),
    Planted(
        "not scaled up", SOFTMAX_DROPOUT, _constant(lambda x: F.dropout(torch.softmax(x, -1), P) * (1 - P)), "error"
    ),
    Planted("replayed output", SILU, replayed, "cached"),
    Planted("mutated input", SILU, _constant(mutating), "changes its input x"),
    Planted("result cached", SILU, cached, "cached between calls"),
    Planted("result cached by address", SILU, cached_by_address, "same addresses"),
    Planted("not deterministic", SILU, _random_number, "not deterministic"),
    Planted("returns nothing", SILU, _constant(lambda x: None), "returns nothing"),
    Planted("returns a number", SILU, _constant(lambda x: 1.0), "returns a float"),
    Planted("returns a list without tensors", SILU, _constant(lambda x: [1]), "returns a list"),
    Planted("returns its input", SILU, _constant(lambda x: x), "view of its input x"),
    Planted("returns a view", SILU, _constant(lambda x: x.view(-1).view(x.shape)), "view of its input x"),
    Planted("wrong dtype", SILU, _constant(lambda x: F.silu(x).double()), "dtype torch.float64"),
    Planted("wrong shape", SILU, _constant(lambda x: F.silu(x).reshape(-1)), "shape"),
    Planted("two outputs for one", SILU, _constant(lambda x: (F.silu(x), x + 1)), "returns output[0], output[1]"),
    Planted("NaN in one place", SILU, _spoilt(float("nan")), "NaN"),
    Planted("Inf in one place", SILU, _spoilt(float("inf")), "+Inf"),
    Planted("gradient cut", SILU, _constant(lambda x: F.silu(x.detach())), "no output", B),
    Planted("gradient of zeros", SILU, _constant(ZeroGradient.apply), "all zeros", B),
    Planted("one column's gradient", SILU, _constant(OneWrongColumn.apply), "error", B),
    Planted(
        "weight gradient missing", RMS_NORM, _constant(lambda x, w: rms_norm(x, w.detach())), "grad weight", B
    ),
    Planted("side stream", SILU, side_stream, "", gpu=True),
    Planted("side stream, forked and not joined", SILU, side_stream_forked, "", gpu=True),
]  # fmt: skip

HAVE_TO_BE_REJECTED = {
    "zeros": "zeros",
    "x0.95": "x0.95",
    "wrong activation": "wrong activation",
    "LayerNorm for RMSNorm": "layer_norm for rms_norm",
    "dropped eps": "dropped eps",
    "N-1 elements": "N-1 elements",
    "unwritten last column": "unwritten last column",
    "tanh for erf": "tanh for erf",
    "wrong backward mask": "wrong backward mask",
    "mask repeated every 4 elements": "mask repeated every 4",
    "replayed output": "replayed output",
    "mutated input": "mutated input",
    "work on a side stream": "side stream, forked and not joined",
    "result cached between calls": "result cached",
}
"""The list that the gate is held to, in its own words, and what is planted here for each."""


def planted_as(name):
    return next(p for p in PLANTED if p.name == HAVE_TO_BE_REJECTED[name])
