"""Bound and replayed launches on a GPU: the same numbers as the ordinary way, and stepping aside for who watches."""

import functools
import sys

import pytest
import torch
import triton

from fuselab import ops

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

WEIGHT = {"device": "cuda", "dtype": torch.bfloat16}

CALLS = {
    "silu": ops.silu,
    "swiglu": lambda x: ops.swiglu(x, 2 * x),
    "swiglu packed": ops.swiglu,
    "geglu": lambda x: ops.geglu(x, 2 * x),
    "geglu tanh": lambda x: ops.geglu(x, approximate="tanh"),
    "rms_norm": lambda x: ops.rms_norm(x, torch.linspace(0.5, 1.5, x.shape[-1], **WEIGHT)),
    "add_rms_norm": lambda x: ops.add_rms_norm(x, 2 * x, torch.linspace(0.5, 1.5, x.shape[-1], **WEIGHT))[0],
    "layer_norm_gelu": lambda x: ops.layer_norm_gelu(x, torch.linspace(0.5, 1.5, x.shape[-1], **WEIGHT), None),
    "softmax_dropout": lambda x: ops.softmax_dropout(x, 0.0),
}


def normal(*shape):
    return torch.randn(*shape, device="cuda").bfloat16()


def ordinary(call, x, hook):
    """The same call while somebody watches: through Triton's own launch, seen by the hook."""
    hooks = triton.knobs.runtime.launch_enter_hook
    hooks.add(hook)
    try:
        return call(x)
    finally:
        hooks.remove(hook)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(16, 4096), (1, 4096), (3, 4098), (7, 256), (5, 30)], ids=str)
def test_the_same_numbers_and_nothing_unseen(name, shape):
    call, seen = CALLS[name], []
    for round_ in range(3):
        x = normal(*shape)
        bound = call(x)
        before = len(seen)
        wanted = ordinary(call, x, lambda metadata: seen.append(metadata.get()["name"]))
        assert len(seen) == before + 1, round_
        assert torch.equal(bound, wanted)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_agree(name):
    call, seen = CALLS[name], []
    for _ in range(3):
        x = normal(16, 4096).requires_grad_()
        y = call(x)
        dy = torch.randn_like(y)
        (dx,) = torch.autograd.grad(y, x, dy)
        (wanted,) = torch.autograd.grad(ordinary(call, x, seen.append), x, dy)
        assert torch.equal(dx, wanted)


@pytest.mark.parametrize("shape", [(16, 4096), (1, 4096), (300, 512)], ids=str)
@pytest.mark.parametrize("norm", ["rms_norm", "add_rms_norm"])
def test_replayed_gradients_agree(norm, shape):
    """Of the weight, too: one launch for few rows, two for many; and seen by whoever watches."""
    weight = torch.randn(shape[-1], **WEIGHT).requires_grad_()
    for _ in range(3):
        x, seen = normal(*shape).requires_grad_(), []
        y = ops.rms_norm(x, weight) if norm == "rms_norm" else ops.add_rms_norm(x, 2 * x, weight)[0]
        dy = torch.randn_like(y)
        found = torch.autograd.grad(y, (x, weight), dy, retain_graph=True)

        differentiate = functools.partial(torch.autograd.grad, y, (x, weight))
        wanted = ordinary(differentiate, dy, lambda metadata, seen=seen: seen.append(metadata.get()["name"]))
        assert len([name for name in seen if "rms_norm" in name or "column_sums" in name]) == 1 + (shape[0] > 256)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert any(sys.modules["fuselab.ops.rms_norm"]._BACKWARD_REPLAYS.values())


@pytest.mark.parametrize("name", CALLS)
def test_misaligned_and_strided_after_a_bound_call(name):
    """The form is the same, the address is not what the kernel was compiled for."""
    call = CALLS[name]
    call(normal(16, 4096))
    aligned = normal(16, 4096)
    storage = torch.empty(16 * 4096 + 1, device="cuda", dtype=torch.bfloat16)
    misaligned = storage[1:].view(16, 4096)
    misaligned.copy_(aligned)
    strided = normal(16, 8192)[:, :4096]
    strided.copy_(aligned)
    torch.testing.assert_close(call(misaligned), call(aligned))
    torch.testing.assert_close(call(strided), call(aligned))


@pytest.mark.parametrize("count", [2**20 + 1, 8191 * 4097])
def test_an_odd_number_of_elements(count):
    x = normal(count)
    torch.testing.assert_close(ops.silu(x), torch.nn.functional.silu(x))
    torch.testing.assert_close(ops.swiglu(x, x), (torch.nn.functional.silu(x.float()) * x.float()).bfloat16())


def test_on_another_stream_and_in_a_graph():
    x = normal(16, 4096)
    ops.silu(x)
    wanted = torch.nn.functional.silu(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        y = ops.silu(x)
        z = ops.rms_norm(y, None)
    side.synchronize()
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(z, ops.rms_norm(wanted, None))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.silu(x)
    x.copy_(normal(16, 4096))
    graph.replay()
    torch.testing.assert_close(y, torch.nn.functional.silu(x))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one():
    for index in (0, 1, 1, 0, 1):
        x = torch.randn(16, 4096, device=f"cuda:{index}").bfloat16()
        torch.testing.assert_close(ops.silu(x), torch.nn.functional.silu(x))
        torch.testing.assert_close(
            ops.rms_norm(x, None, casting="none"), torch.nn.functional.rms_norm(x, (4096,), eps=1e-6)
        )


def test_something_is_bound_at_all():
    """Otherwise all of the above compares the ordinary way with itself."""
    x = normal(16, 4096)
    for _ in range(2):
        ops.silu(x)
        ops.rms_norm(x, None)
    assert any(key[0] is torch.bfloat16 for key in sys.modules["fuselab.ops.silu"]._FORWARD)
    assert any(sys.modules["fuselab.ops.rms_norm"]._REPLAYS.values())
