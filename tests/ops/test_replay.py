"""Replayed calls without a GPU: a launch that is noted instead of made, on CPU tensors."""

import sys
import types

import pytest
import torch
import triton
import triton.language as tl

from fuselab import ops
from fuselab.ops import internals
from fuselab.ops import launch as launches
from fuselab.ops.launch import INTERPRETED
from fuselab.ops.replay import Replays, form_of

pytestmark = pytest.mark.skipif(INTERPRETED, reason="kernels for the interpreter are not launched")


@triton.jit
def kernel(x_ptr, residual_ptr, weight_ptr, y_ptr, total_ptr, rstd_ptr, stride, M, eps, BLOCK: tl.constexpr):
    tl.store(y_ptr + M * stride, tl.load(x_ptr) + eps)


@pytest.fixture
def calls(monkeypatch):
    """Arguments of the C function that starts the kernel, launch after launch; empty for an ordinary launch."""
    noted = []

    class Launcher:
        launch = staticmethod(lambda *args: noted.append(args[6:]))

        def __call__(self, *args):
            x, y, z, stream, function, metadata, _, _, _, *rest = args
            self.launch(x, y, z, stream, function, metadata, *rest)

    def ordinarily(*_, **__):
        noted.append(())
        return types.SimpleNamespace(run=Launcher(), function=5, packed_metadata=(4,), metadata=None)

    monkeypatch.setattr(launches, "launch_ordinarily", ordinarily)
    monkeypatch.setattr(internals, "current_raw_stream", lambda index: 9)
    monkeypatch.setattr(internals, "current_device", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return noted


class Operator:
    """``x + residual`` normalised, as an operator's host part: outputs, rows, a launch."""

    def __init__(self, launches_made=1, copies=False, returns_rstd=True, grid=(7,)):
        self.table = Replays()
        self.options = launches_made, copies, returns_rstd, grid

    def __call__(self, x, residual, weight, eps=1e-6):
        launches_made, copies, returns_rstd, grid = self.options

        def ordinary():
            y, total = torch.empty_like(x), torch.empty(x.shape if residual is not None else 0)
            rstd = torch.empty(x.shape[:-1])
            x_MN = x.reshape(-1, x.shape[-1])
            w = weight.clone() if copies else weight
            pointers = x_MN, x_MN if residual is None else residual, x_MN if w is None else w, y, total, rstd
            for _ in range(launches_made):
                launches.launch(kernel, grid, x.device, *pointers, x_MN.stride(0), x_MN.shape[0], eps, BLOCK=64)
            return (y, total, rstd) if returns_rstd else (y, total)

        return self.table.run(ordinary, (x, residual, weight), eps)


def addresses(*tensors):
    return tuple(t.data_ptr() for t in tensors)


def test_the_second_call_is_replayed(calls):
    operator = Operator()
    shape = (2, 3, 32)
    x, residual, weight = torch.randn(shape), torch.randn(shape), torch.randn(32)
    first = operator(x, residual, weight)
    assert calls == [()]
    other = torch.randn(shape), torch.randn(shape), torch.nn.Parameter(torch.randn(32))
    again = operator(*other)
    assert calls[1] == (*addresses(*other, *again), 32, 6, 1e-6, 64)
    assert [(y.shape, y.dtype) for y in again] == [(y.shape, y.dtype) for y in first]
    assert not set(addresses(*again)) & set(addresses(*first, *other))


def test_what_is_left_out(calls):
    """The kernel is given something in the place of a tensor that is not there: x, or an output without elements."""
    operator = Operator()
    for _ in range(2):
        x = torch.randn(4, 32)
        y, total, rstd = operator(x, None, None)
    assert calls[1] == (*addresses(x, x, x, y), 0, rstd.data_ptr(), 32, 4, 1e-6, 64)
    assert total.shape == (0,)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, r, w: (x.bfloat16(), r, w),
        lambda x, r, w: (x[:3], r[:3], w),
        lambda x, r, w: (x.reshape(2, 2, 32), r.reshape(2, 2, 32), w),
        lambda x, r, w: (x, None, w),
        lambda x, r, w: (x, r, w.bfloat16()),
        lambda x, r, w: (x.t().contiguous().t(), r, w),
        lambda x, r, w: (x, r, w, 1e-5),
    ],
)
def test_another_form_is_another_call(calls, change):
    operator = Operator()
    inputs = torch.randn(4, 32), torch.randn(4, 32), torch.randn(32)
    operator(*inputs)
    operator(*change(*inputs))
    assert calls == [(), ()]


def two_launches(table, x, weight, declared=True, between=None):
    """A backward's host part: partial sums by one launch, their sums by another."""
    noted = between if between is not None else []

    def ordinary():
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        partial = launches.scratch((5, 32), x.device) if declared else torch.empty(5, 32)
        noted.append(partial)
        launches.launch(kernel, (5,), x.device, x, weight, x, dx, partial, x, 32, 4, 1.0, BLOCK=64)
        launches.launch(kernel, (2,), x.device, partial, partial, partial, dweight, x, x, 5, 32, 1.0, BLOCK=64)
        return dx, dweight

    return table.run(ordinary, (x, weight))


def test_several_launches_with_scratch_memory_between(calls):
    table, noted = Replays(), []
    first = torch.randn(4, 32), torch.randn(32)
    two_launches(table, *first, between=noted)
    assert calls == [(), ()]
    x, weight = torch.randn(4, 32), torch.randn(32)
    dx, dweight = two_launches(table, x, weight)
    partial = calls[2][4]
    assert calls[2] == (*addresses(x, weight, x, dx), partial, x.data_ptr(), 32, 4, 1.0, 64)
    assert calls[3] == (partial, partial, partial, *addresses(dweight, x, x), 5, 32, 1.0, 64)
    assert partial not in addresses(*first, noted[0], x, weight, dx, dweight)


def test_memory_between_launches_has_to_be_declared(calls):
    """Else it might be a copy of an input, made by torch, which a replay would not make."""
    table = Replays()
    for _ in range(3):
        two_launches(table, torch.randn(4, 32), torch.randn(32), declared=False)
    assert not any(calls)
    assert not any(table.values())


@pytest.mark.parametrize("why", ["alias", "misaligned", "strided", "copy", "scratch", "five", "none", "grid"])
def test_what_cannot_be_replayed_is_not(calls, why):
    operator = Operator(
        launches_made={"five": 5, "none": 0}.get(why, 1),
        copies=why == "copy",
        returns_rstd=why != "scratch",
        grid=(7, 2) if why == "grid" else (7,),
    )
    for _ in range(3):
        x, residual, weight = torch.randn(4, 32), torch.randn(4, 32), torch.randn(32)
        if why == "alias":
            residual = x
        elif why == "misaligned":
            x = torch.randn(4 * 32 + 1)[1:].view(4, 32)
        elif why == "strided":
            x = torch.randn(4, 64)[:, :32]
        operator(x, residual, weight)
    assert not any(calls)
    assert not any(operator.table.values())


def test_a_replay_that_is_declined_goes_the_ordinary_way(calls):
    operator = Operator()
    operator(torch.randn(4, 32), torch.randn(4, 32), torch.randn(32))
    misaligned = torch.randn(4 * 32 + 1)[1:].view(4, 32)
    y, _, _ = operator(misaligned, torch.randn(4, 32), torch.randn(32))
    assert calls == [(), ()]
    assert y.shape == (4, 32)
    operator(torch.randn(4, 32), torch.randn(4, 32), torch.randn(32))
    assert calls[2]


def test_one_tensor_in_the_place_of_several_outputs(calls):
    table = Replays()
    for _ in range(2):
        x = torch.randn(4, 32)

        def ordinary(x=x):
            y = torch.empty_like(x)
            launches.launch(kernel, (1,), x.device, x, x, x, y, y, y, 32, 4, 1.0, BLOCK=64)
            return y, y, y

        outputs = table.run(ordinary, (x,))
        assert outputs[0] is outputs[1] is outputs[2]
    assert calls[1] == (*addresses(x, x, x, *outputs), 32, 4, 1.0, 64)


def test_a_form_without_a_replay_is_not_recorded_again(calls, monkeypatch):
    operator = Operator(launches_made=5)
    inputs = torch.randn(4, 32), torch.randn(4, 32), torch.randn(32)
    operator(*inputs)
    monkeypatch.setattr(launches, "recorded", None)
    operator(*inputs)
    assert len(calls) == 10


def test_forms():
    class Odd(torch.Tensor):
        pass

    x = torch.randn(2, 3)
    assert form_of(x, None) == (x.shape, torch.float32, -1, True, None)
    assert form_of(torch.nn.Parameter(x)) == form_of(x)
    assert form_of(x.as_subclass(Odd)) is None
    assert form_of([1.0]) is None


@pytest.mark.parametrize(("rows", "launched"), [(3, 1), (300, 2)])
@pytest.mark.parametrize("operator", ["rms_norm", "add_rms_norm", "softmax_dropout"])
def test_backward_of_an_operator(calls, monkeypatch, operator, rows, launched):
    """The first call of a form goes the ordinary way, the second is started again, its gradients where they belong."""
    monkeypatch.setattr(sys.modules["fuselab.ops.inputs"], "_without_kernels", lambda _: False)
    for module in ("rms_norm", "softmax_dropout"):
        for name in ("_REPLAYS", "_BACKWARD_REPLAYS"):
            table = getattr(sys.modules[f"fuselab.ops.{module}"], name)
            monkeypatch.setattr(sys.modules[f"fuselab.ops.{module}"], name, Replays(*table.numbers))
    launched = 1 if operator == "softmax_dropout" else launched
    for turn in range(2):
        x = torch.randn(rows, 48, requires_grad=True)
        weight = torch.randn(48, requires_grad=True)
        if operator == "softmax_dropout":
            y, inputs = ops.softmax_dropout(x, 0.0), [x]
        elif operator == "rms_norm":
            y, inputs = ops.rms_norm(x, weight), [x, weight]
        else:
            y, inputs = ops.add_rms_norm(x, torch.randn(rows, 48), weight)[0], [x, weight]
        calls.clear()
        gradients = torch.autograd.grad(y, inputs, torch.randn_like(y))
        assert len(calls) == launched
        assert [g.shape for g in gradients] == [t.shape for t in inputs]
        if turn == 0:
            assert not any(calls)
        else:
            pointers = set().union(*calls)
            assert set(addresses(*gradients)) <= pointers
            assert operator == "add_rms_norm" or x.data_ptr() in pointers


@triton.jit(do_not_specialize=["key"])
def keyed_kernel(x_ptr, y_ptr, stride, key, scale, BLOCK: tl.constexpr):
    tl.store(y_ptr + key * stride, tl.load(x_ptr) * scale)


@pytest.mark.parametrize("first", [0, 1, 16, 7])
def test_a_number_that_is_another_one_each_time(calls, first):
    """It is passed on whatever it was at first, for the kernel does not have it compiled in."""
    table = Replays("key")

    def operator(x, key):
        def ordinary():
            y = torch.empty_like(x)
            launches.launch(keyed_kernel, (3,), x.device, x, y, 5, key, 0.5, BLOCK=8)
            return (y,)

        return table.run(ordinary, (x,), numbers=(key,))[0]

    x = torch.randn(4, 16)
    operator(x, first)
    for key in (0, 1, 16, 12_345, 2**31 - 1):
        y = operator(x, key)
        assert calls[-1] == (x.data_ptr(), y.data_ptr(), 5, key, 0.5, 8)
    operator(x, 2**31)
    assert calls[-1] == ()
