"""Bound launches without a GPU: Triton's own launcher object around a C function that only notes its arguments."""

import types

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.nvidia.driver import CudaLauncher

from fuselab import ops
from fuselab.ops import bound, internals
from fuselab.ops.launch import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="kernels for the interpreter are not launched")

CUDA = torch.device("cuda", 0)
STREAM = 77


@triton.jit
def kernel(x_ptr, y_ptr, count, stride, NAME: tl.constexpr, BLOCK: tl.constexpr):
    tl.store(y_ptr + count + stride, tl.load(x_ptr))


class Pointer(torch.Tensor):
    """A tensor that says it is elsewhere in memory."""

    @staticmethod
    def at(address):
        pointer = torch.zeros(4).as_subclass(Pointer)
        pointer.address = address
        return pointer

    def data_ptr(self):
        return self.address


def compiled_kernel(calls, scratch=0):
    """What ``kernel[grid]`` returns on a GPU, with Triton's launcher for it; its C function appends to ``calls``."""
    launcher = object.__new__(CudaLauncher)
    sizes = {"global_scratch_size": scratch, "profile_scratch_size": 0}
    launcher.__dict__.update(
        **sizes, global_scratch_align=1, profile_scratch_align=1, num_ctas=1, launch_cooperative_grid=False,
        launch_pdl=False, arg_annotations="annotations", kernel_signature=b"signature", gsan_enabled=False,
        launch=lambda *args: calls.append(args),
    )  # fmt: skip
    return types.SimpleNamespace(
        run=launcher, function=123_456, packed_metadata=(4, 1, 0), metadata=types.SimpleNamespace(**sizes)
    )


@pytest.fixture
def gpu(monkeypatch):
    """One CUDA device, as far as binding asks."""
    monkeypatch.setattr(internals, "current_raw_stream", lambda index: STREAM + index)
    monkeypatch.setattr(internals, "current_device", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton.runtime.driver, "_active", types.SimpleNamespace(), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def bind(calls, count=48, stride=4096, alignment=0):
    pointers = Pointer.at(4096 + alignment), Pointer.at(8192)
    meta = {"NAME": "tanh", "BLOCK": 1024, "num_warps": 4}
    return bound.bind(compiled_kernel(calls), kernel, CUDA, *pointers, [count], stride, **meta)


def test_starts_the_kernel_as_triton_does(gpu):
    """The same call of the C function as the launcher makes for ``kernel[grid]``."""
    bound_calls, ordinary = [], []
    assert bind(bound_calls)(5, 1600, 3200, 64)
    compiled = compiled_kernel(ordinary)
    arguments = (1600, 3200, 64, 4096, "tanh", 1024)
    compiled.run(5, 1, 1, STREAM, compiled.function, compiled.packed_metadata, None, None, None, *arguments)
    assert bound_calls == ordinary


@pytest.mark.parametrize(
    ("count", "pointers", "given", "launched"),
    [
        (48, (1600, 3200), 16, True),
        (48, (1600, 3200), 17, False),  # compiled for multiples of 16
        (48, (1600, 3200), 2**31 - 16, True),
        (48, (1600, 3200), 2**31, False),  # compiled for 32 bits
        (48, (1608, 3200), 48, False),  # compiled for 16-byte boundaries
        (48, (1600, 3201), 48, False),
        (47, (1600, 3200), 48, True),
        (47, (1600, 3200), 1, True),
        (47, (1600, 3200), 2**31 + 1, False),
        (1, (1600, 3200), 1, True),  # compiled for exactly this
        (1, (1600, 3200), 2, False),
    ],
)
def test_launches_what_the_kernel_was_compiled_for_only(gpu, count, pointers, given, launched):
    calls = []
    assert bind(calls, count)(7, *pointers, given) is launched
    assert len(calls) == launched


def test_steps_aside_for_whoever_watches(gpu, monkeypatch):
    calls = []
    repeat = bind(calls)
    runtime = triton.knobs.runtime

    def declined():
        before = len(calls)
        return not repeat(1, 16, 16, 16) and len(calls) == before

    assert not declined()
    for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        hook.add(print)
        assert declined()
        hook.remove(print)
        assert not declined()
    for name in ("launch_enter_hook", "launch_exit_hook"):
        with monkeypatch.context() as patch:
            patch.setattr(runtime, name, print)
            assert declined()
        assert not declined()
    with monkeypatch.context() as patch:
        patch.setattr(triton.runtime.jit.JITFunction, "run", lambda *_, **__: None)
        assert declined()
    assert not declined()
    kernel.pre_run_hooks.append(print)
    assert declined()
    kernel.pre_run_hooks.clear()
    assert not declined()


def test_other_device_is_current(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    calls, current = [], [0]
    monkeypatch.setattr(internals, "current_device", lambda: current[0])
    repeat = bind(calls)
    assert repeat(1, 16, 16, 16)
    current[0] = 1
    assert not repeat(1, 16, 16, 16)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "missing", ["stream", "hip", "watched", "scratch", "launch", "misaligned", "wide", "call", "kernel"]
)
def test_nothing_is_bound_where_something_is_different(gpu, monkeypatch, missing):
    """Another Triton, another platform: the ordinary way remains."""
    compiled, given = compiled_kernel([], scratch=8 if missing == "scratch" else 0), kernel
    pointers, count = (Pointer.at(4096), Pointer.at(8192 + 2 * (missing == "misaligned"))), 48
    if missing == "stream":
        monkeypatch.setattr(internals, "current_raw_stream", None)
    elif missing == "hip":
        monkeypatch.setattr(torch.version, "cuda", None)
    elif missing == "watched":
        monkeypatch.setattr(internals, "watched", lambda: None)
    elif missing == "launch":
        del compiled.run.launch
    elif missing == "wide":
        count = 2**31
    elif missing == "call":
        compiled.run = lambda *args: None
    elif missing == "kernel":
        given = object()
    assert bound.bind(compiled, given, CUDA, *pointers, [count], 4096, NAME="tanh", BLOCK=1024) is None


@pytest.mark.parametrize("order", ["other grid", "no arguments", "arguments among the head"])
def test_a_c_function_called_otherwise_is_not_called(gpu, order):
    class Launcher:
        launch = staticmethod(print)

        def __call__(self, x, y, z, stream, function, metadata, *rest):
            if order == "other grid":
                self.launch((x, y, z), stream, function, *rest)
            elif order == "no arguments":
                self.launch(x, y, z, stream, function)
            else:
                self.launch(x, y, z, stream, rest[-1], *rest)

    compiled = types.SimpleNamespace(run=Launcher(), function=1, packed_metadata=2, metadata=None)
    assert internals.c_launcher(compiled, 3) is None


def test_triton_can_be_watched_here():
    watched = internals.watched()
    assert watched is not None
    assert watched.run is vars(triton.runtime.jit.JITFunction)["run"]
    assert not watched.enter_calls
    assert not watched.leave_calls


def test_forms_are_forgotten_when_there_are_too_many(gpu, monkeypatch):
    monkeypatch.setattr(bound, "_MOST_FORMS", 3)
    table = bound.BoundLaunches()
    for form in range(10):
        arguments = Pointer.at(4096), Pointer.at(8192), [16], 4096
        table.bind(form, compiled_kernel([]), kernel, CUDA, *arguments, NAME="", BLOCK=1)
        assert form in table
        assert len(table) <= 3


def test_nothing_is_bound_on_a_cpu():
    table = bound.BoundLaunches()
    table.bind("form", None, kernel, torch.device("cpu"), torch.zeros(4), torch.zeros(4), [4], 4, NAME="", BLOCK=1)
    assert not table
    assert callable(ops.silu)


class Launches:
    """``kernel[grid]`` on a GPU: what Triton would compile is noted, and each launch of the C function."""

    def __init__(self, monkeypatch):
        self.ordinary, self.started = [], []
        monkeypatch.setattr(bound, "_STARTED", bound.BoundLaunches())

    def __call__(self, *args, grid=(3,), **meta):
        done = bound.start_again(kernel, grid, CUDA, args, meta)
        if done is not True:
            self.ordinary.append(args)
            if done:
                done(compiled_kernel(self.started))
        return done is True


@pytest.fixture
def launches(gpu, monkeypatch):
    monkeypatch.setattr(bound, "Tensor", Pointer)  # an ordinary tensor, for once
    return Launches(monkeypatch)


META = {"NAME": "tanh", "BLOCK": 1024, "num_warps": 4}


def test_the_second_launch_of_a_kind_is_bound(launches):
    x, y = Pointer.at(4096), Pointer.at(8192)
    assert not launches(x, y, 48, 512, **META)
    assert launches(x, y, 64, 1024, **META)
    assert launches(y, x, 48, 512, grid=(9,), **META)
    assert [call[:4] for call in launches.started] == [(3, 1, 1, STREAM), (9, 1, 1, STREAM)]
    flat = [call[-1] if isinstance(call[-1], tuple) else call[-6:] for call in launches.started]
    assert flat == [(4096, 8192, 64, 1024, "tanh", 1024), (8192, 4096, 48, 512, "tanh", 1024)]


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 47},
        {"count": 1},
        {"stride": 1},
        {"stride": 513},
        {"count": 2**31},
        {"count": -16},
        {"count": 48.0},
        {"count": True},
        {"dtype": torch.float16},
        {"offset": 8},
        {"NAME": "none"},
        {"BLOCK": 512},
        {"num_warps": 8},
        {"grid": (3, 2)},
    ],
    ids=str,
)
def test_whatever_triton_compiles_another_kernel_for_is_launched_ordinarily(launches, changed):
    def go(count=48, stride=512, dtype=torch.float32, offset=0, grid=(3,), **meta):
        x, y = Pointer.at(4096 + offset), Pointer.at(8192)
        x.data = x.data.to(dtype)
        return launches(x, y, count, stride, grid=grid, **{**META, **meta})

    assert not go()
    assert go()
    assert not go(**changed)
    assert go()  # and the first is still there


def test_a_constant_given_by_place_is_never_bound(launches):
    x, y = Pointer.at(4096), Pointer.at(8192)
    for _ in range(3):
        assert not launches(x, y, 48, 512, 7, BLOCK=1024)
    assert not launches.started
