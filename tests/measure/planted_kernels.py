"""Triton kernels with a fault each, as they are got wrong: a mask that ends early, a counter that four share."""

from __future__ import annotations

import planted
import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm_kernel(
    x, weight, y, columns, eps,
    BLOCK: tl.constexpr, SUMMED: tl.constexpr, WRITTEN: tl.constexpr, CENTRED: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One row a program; ``SUMMED`` and ``WRITTEN`` columns fewer are summed and written."""
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    values = tl.load(x + row * columns + offsets, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        values = tl.where(inside, values - tl.sum(values, 0) / columns, 0.0)
    summed = tl.where(offsets < columns - SUMMED, values, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(summed * summed, 0) / columns + eps)
    result = values * rstd * tl.load(weight + offsets, mask=inside, other=0.0).to(tl.float32) * SCALE
    tl.store(y + row * columns + offsets, result.to(y.dtype.element_ty), mask=offsets < columns - WRITTEN)


def launch_rms_norm(x, weight, eps=planted.EPS, summed=0, written=0, centred=False, scale=1.0):
    y = torch.empty_like(x)
    columns = x.shape[-1]
    _rms_norm_kernel[(x.numel() // columns,)](
        x, weight, y, columns, eps,
        BLOCK=triton.next_power_of_2(columns), SUMMED=summed, WRITTEN=written, CENTRED=centred, SCALE=scale,
    )  # fmt: skip
    return y


class RMSNorm(torch.autograd.Function):
    """Forward by the kernel, backward by torch in float32, which is right."""

    @staticmethod
    def forward(ctx, x, weight, faults):
        ctx.save_for_backward(x, weight)
        return launch_rms_norm(x, weight, **faults)

    @staticmethod
    def backward(ctx, g):
        x, weight, g = (t.float() for t in (*ctx.saved_tensors, g))
        rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + planted.EPS)
        scaled = g * weight
        grad_x = rstd * (scaled - x * rstd.square() * (scaled * x).mean(-1, keepdim=True))
        dtype = ctx.saved_tensors[0].dtype
        return grad_x.to(dtype), (g * x * rstd).reshape(-1, x.shape[-1]).sum(0).to(dtype), None


def rms_norm(**faults):
    return lambda x, weight: RMSNorm.apply(x, weight, faults)


@triton.jit
def _dropout_kernel(x, y, elements, p, seed, BLOCK: tl.constexpr, SHARED: tl.constexpr):
    """``SHARED`` neighbours have one random number."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < elements
    keep = tl.rand(seed, (offsets // SHARED).to(tl.int32)) >= p
    values = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + offsets, tl.where(keep, values / (1 - p), 0.0).to(y.dtype.element_ty), mask=inside)


def launch_dropout(x, seed, shared):
    y = torch.empty_like(x)
    _dropout_kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), planted.P, seed, BLOCK=1024, SHARED=shared)
    return y


class Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shared, backward_seed):
        seed = int(torch.randint(2**30, ()))
        ctx.shared, ctx.seed = shared, seed + backward_seed
        return launch_dropout(x.contiguous(), seed, shared)

    @staticmethod
    def backward(ctx, g):
        return launch_dropout(g.contiguous(), ctx.seed, ctx.shared), None, None


def softmax_dropout(shared=1, backward_seed=0):
    return lambda x: Dropout.apply(torch.softmax(x, -1), shared, backward_seed)


def on_a_side_stream():
    """The kernel is launched on a stream of its own, which nobody waits for."""
    streams = []

    def call(x, weight):
        if not streams:
            streams.append(torch.cuda.Stream())
        streams[0].wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(streams[0]):
            for _ in range(20):
                y = RMSNorm.apply(x, weight, {})
            return y

    return call


def replaying_a_graph():
    """A captured graph is replayed, and its input is never copied in."""
    state = {}

    def call(x, weight):
        if not state:
            state["x"], state["weight"] = x.detach().clone(), weight.detach().clone()
            launch_rms_norm(state["x"], state["weight"])  # compiles
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                state["y"] = launch_rms_norm(state["x"], state["weight"])
            state["graph"] = graph
        state["graph"].replay()
        return RMSNorm.apply(x, weight, {}) * 0 + state["y"]

    return call


def cached():
    kept = []

    def call(x, weight):
        y = RMSNorm.apply(x, weight, {})
        kept.append(y.detach())
        return y * 0 + kept[0]

    return call


def changing_its_input(x, weight):
    y = RMSNorm.apply(x, weight, {})
    with torch.no_grad():
        x[-1, -1] += 1.0
    return y


FORWARD, BACKWARD = planted.Direction
RMS, DROPOUT = planted.RMS_NORM, planted.SOFTMAX_DROPOUT
WRONG = {
    "zeros": (RMS, lambda: rms_norm(scale=0.0), FORWARD, "all zeros"),
    "x0.95": (RMS, lambda: rms_norm(scale=0.95), FORWARD, "error"),
    "LayerNorm for RMSNorm": (RMS, lambda: rms_norm(centred=True), FORWARD, "error"),
    "dropped eps": (RMS, lambda: rms_norm(eps=0.0), FORWARD, "error"),
    "N-1 elements": (RMS, lambda: rms_norm(summed=1), FORWARD, "error"),
    "unwritten last column": (RMS, lambda: rms_norm(written=1), FORWARD, "output"),
    "wrong backward mask": (DROPOUT, lambda: softmax_dropout(backward_seed=1), BACKWARD, "error"),
    "mask repeated every 4 elements": (DROPOUT, lambda: softmax_dropout(shared=4), FORWARD, "repeats"),
    "mutated input": (RMS, lambda: changing_its_input, FORWARD, "changes its input x"),
    "result cached between calls": (RMS, cached, FORWARD, "cached between calls"),
}
"""By the name in the list of what has to be rejected: experiment, implementation, direction, words of the reason."""

WRONG_ON_A_GPU = {
    "work on a side stream": (RMS, on_a_side_stream, FORWARD, ""),
    "replayed output": (RMS, replaying_a_graph, FORWARD, "cached between calls"),
}
RIGHT = {"rms_norm": (RMS, rms_norm), "softmax_dropout": (DROPOUT, softmax_dropout)}
