"""The parts that a timing is put together from: rotation, CPU clock, streaming, conditions, launches, memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fuselab.experiment import Inputs
from fuselab.measure import conditions, cuda_timer, launches, memory, rotation
from fuselab.measure.ceiling import cpu_streaming
from fuselab.measure.cell import Work
from fuselab.measure.cpu_timer import CpuCell, fixed_threads
from fuselab.measure.layout import copied, writable
from fuselab.records import Direction, Traffic

FORWARD, BACKWARD = Direction


def inputs(index, rows=16):
    generator = torch.Generator().manual_seed(index)
    return Inputs((torch.randn(rows, 32, generator=generator).requires_grad_(),), names=("x",))


def rotating(factory=inputs, touched=4096, cache=16384, memory_bytes=1 << 30):
    return rotation.Rotation(factory, touched_bytes=touched, cache=cache, memory_bytes=memory_bytes)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_enough_sets_make_cold(touched, cache):
    sets = rotation.sets_needed(touched, cache)
    assert (sets - 1) * touched > rotation.COLD_FACTOR * cache
    assert sets == 2 or (sets - 2) * touched <= rotation.COLD_FACTOR * cache


def test_rotation_goes_round_distinct_addresses_and_says_whether_it_is_cold():
    made = rotating()
    assert len(made) == 10
    assert made.cold
    addresses = {made.sets[i].args[0].data_ptr() for i in range(10)}
    assert len(addresses) == 10
    assert [i for i, _ in made.take(12)] == [*range(10), 0, 1]
    assert [i for i, _ in made.take(2)] == [2, 3]
    assert all(s.args[0].requires_grad and s.args[0].is_leaf for s in made.sets)
    assert not torch.equal(made.sets[0].args[0], made.sets[1].args[0])
    tight = rotating(memory_bytes=3 * 16 * 32 * 4)
    assert len(tight) == 3
    assert not tight.cold
    assert not rotating(cache=None).cold


def test_renewing_moves_a_set_and_keeps_its_values():
    made = rotating()
    before = [s.args[0] for s in made.sets]
    made.renew(np.random.default_rng(0))
    moved = [i for i, (a, s) in enumerate(zip(before, made.sets, strict=True)) if a is not s.args[0]]
    assert len(moved) == 1
    assert torch.equal(before[moved[0]], made.sets[moved[0]].args[0])
    assert before[moved[0]].data_ptr() != made.sets[moved[0]].args[0].data_ptr()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 6),
        torch.randn(4, 6).t(),
        torch.randn(4, 12)[:, ::2],
        torch.randn(1, 6).expand(4, 6),
        torch.randn(()),
        torch.randn(0, 3),
        torch.arange(5),
        torch.randn(3, 4, dtype=torch.bfloat16).requires_grad_(),
    ],
    ids=lambda t: f"{tuple(t.shape)} {t.stride()} {t.dtype}",
)
def test_copies_keep_values_and_strides(tensor):
    for offset in (0, 64, 192):
        made = copied(tensor, offset)
        assert torch.equal(made, tensor)
        assert made.stride() == tensor.stride()
        assert made.requires_grad == tensor.requires_grad
        assert made.is_leaf
        assert writable(made) == writable(tensor)
        if tensor.numel():
            assert made.data_ptr() != tensor.data_ptr()


def test_threads_are_fixed_and_put_back():
    before, collecting = torch.get_num_threads(), gc.isenabled()
    with fixed_threads(1) as threads:
        assert torch.get_num_threads() == threads.count == 1
        assert threads.cpus
        assert not gc.isenabled()
    assert (torch.get_num_threads(), gc.isenabled()) == (before, collecting)


@pytest.mark.parametrize("direction", Direction)
def test_cpu_samples_are_long_and_leave_their_output(direction):
    cell = CpuCell(Work(F.silu, rotating(), direction))
    duration, calls = cell.sample()
    assert calls == cell.calls > 10
    assert duration * calls > 2e5  # most of 2 ms, unless warming up was much slower than this
    while cell.timed_output() is None:  # set 0 has its turn
        cell.sample()
    made, (result,) = cell.timed_output()
    if direction is FORWARD:
        assert torch.equal(result, F.silu(made.args[0]))
    assert result.shape == made.args[0].shape
    assert made.args[0].grad is None
    assert cell.cold
    cell.close()
    assert cell.timed_output() is None


def test_a_backward_that_does_not_go_round_is_not_cold():
    made = rotating(touched=4096, cache=1 << 20)
    going = CpuCell(Work(F.silu, made, BACKWARD), sample_ns=1)
    assert going.cold
    assert going.calls == len(made)
    going.round_trip, going.calls = False, 1
    staying = CpuCell(Work(F.silu, made, BACKWARD), sample_ns=1, like=going)
    assert not staying.cold
    assert staying.calls == 1


def test_equally_fast_cells_have_equally_many_calls():
    def spin(x):
        until = time.perf_counter_ns() + 100_000
        while time.perf_counter_ns() < until:
            pass
        return x * 1

    first = CpuCell(Work(spin, rotating(), FORWARD))
    first.calls = 16
    assert CpuCell(Work(spin, rotating(), FORWARD), like=first).calls == 16
    first.calls = 1
    assert CpuCell(Work(spin, rotating(), FORWARD), like=first).calls > 8


@pytest.mark.parametrize(
    ("reads", "writes", "method"),
    [
        (1, 1, "torch.copy_, 1:1, 2 threads"),
        (2, 1, "torch.add into out, 2:1, 2 threads"),
        (5, 1, "torch.sum into out, 5:1, 2 threads"),
        (3, 2, "torch.add into out, torch.copy_, 3:2, 2 threads"),
        (0, 1, "torch.fill_, 0:1, 2 threads"),
        (1, 2, "torch.copy_, torch.fill_, 1:2, 2 threads"),
        (2, 0, "torch.sum, 2:0, 2 threads"),
        (0, 0, "torch.copy_, 1:1, 2 threads"),
    ],
)
def test_cpu_streaming_moves_the_mix(reads, writes, method):
    traffic = Traffic(bytes_read=64_000 * reads, bytes_written=64_000 * writes or 64_000, reads=reads, writes=writes)
    streaming = cpu_streaming(traffic, threads=2)
    assert streaming.method == method
    assert streaming.bytes_moved == pytest.approx(traffic.bytes_moved, rel=0.01)
    made = streaming.inputs_factory(0)
    streaming.implementation(*made.args)
    sizes = sum(t.numel() * 4 for t in made.args)
    assert sizes == streaming.bytes_moved
    sources, sinks = made.args[: len(made.args) - writes], made.args[len(made.args) - writes :]
    if reads and writes:
        total = sum(float(t.sum()) for t in sources)
        constant = sum(t.numel() for t in sinks if bool((t == 1).all()))
        assert sum(float(t.sum()) for t in sinks) - constant == pytest.approx(total, rel=1e-4)


INTERPRETED = """
import torch
from fuselab.measure.streaming import stream
for reads, writes in ((1, 1), (2, 1), (3, 2), (1, 0), (0, 1)):
    source = torch.randint(-100, 100, (max(reads, 1), 5008), dtype=torch.int32)
    sink = torch.zeros((max(writes, 1), 5008), dtype=torch.int32)
    stream(source, sink, 5000, reads, writes, 1024, 4)
    total = source[:reads, :5000].sum(0, dtype=torch.int32) + 1
    for i in range(writes):
        assert torch.equal(sink[i, :5000], total + i), (reads, writes)
        assert not sink[i, 5000:].any()
    if not writes:
        assert int(sink.sum()) == int(total.sum()) + 5 * 1024 - 5000  # what is masked off counts as 1
"""


@pytest.mark.slow
def test_gpu_streaming_kernel_moves_the_mix_in_the_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment, timeout=120)


def test_operators_are_counted_without_views_and_allocations():
    x = torch.randn(4, 8)

    def call():
        y = torch.empty_like(x)
        torch.add(x, 1, out=y)
        return y.view(-1)[::2].detach().reshape(4, 4).t() * 2

    assert launches.count_operators(call) == 2


@pytest.mark.slow
def test_compiled_code_is_told_from_eager():
    assert launches.is_compiled(torch.compile(F.silu))
    assert launches.is_compiled(torch.compile(torch.nn.SiLU()))
    assert not launches.is_compiled(F.silu)
    assert not launches.is_compiled(torch.nn.SiLU())


def test_saved_bytes_count_each_tensor_once_and_no_parameters():
    module = torch.nn.Linear(32, 32, bias=False)
    assert memory.saved_bytes(Work(module, rotating(), FORWARD)) == 16 * 32 * 4  # x; the weight is kept anyway
    square = Work(lambda x: x * x, rotating(), FORWARD)
    assert memory.saved_bytes(square) == 16 * 32 * 4
    chain = Work(lambda x: torch.sigmoid(x).tanh(), rotating(), FORWARD)
    assert memory.saved_bytes(chain) == 2 * 16 * 32 * 4


@pytest.mark.parametrize("direction", Direction)
def test_peak_counts_what_is_alive_at_once(direction):
    size = 16 * 32 * 4
    chain = Work(lambda x: torch.sigmoid(x).tanh(), rotating(), direction)
    # Forward: both results. Backward: the gradient between the two operators and the one of x.
    assert memory.peak_bytes(chain, None) == 2 * size
    assert memory.growth_bytes(chain) == 0


def test_reasons_and_throttling():
    assert conditions.reasons_of(0) == []
    assert conditions.reasons_of(0x1) == []
    assert conditions.reasons_of(0x1 | 0x8 | 0x40) == ["hw_slowdown", "hw_thermal_slowdown"]
    calm = conditions.Conditions(round=0, throttle_reasons=["applications_clocks_setting"])
    hot = conditions.Conditions(round=0, throttle_reasons=["applications_clocks_setting", "sw_power_cap"])
    assert not conditions.is_throttled(calm)
    assert conditions.is_throttled(hot)


def test_cpu_conditions_have_the_load():
    with conditions.Watch("cpu") as watch:
        recorded = watch.record(3)
    assert recorded.round == 3
    assert recorded.load_average >= 0
    assert recorded.sm_clock_mhz is None


class NVMLError(Exception):
    pass


QUERIES = (
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)


def fake_nvml(**answers):
    """A stand-in for pynvml: an answer that is an exception is raised."""

    def answering(name):
        def query(*_arguments):
            answer = answers.get(name, NVMLError("not supported"))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return query

    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM, module.NVML_TEMPERATURE_GPU = 1, 2, 0
    for name in QUERIES:
        setattr(module, name, answering(name))
    return module


def test_gpu_conditions_from_the_driver(monkeypatch):
    nvml = fake_nvml(
        nvmlInit=None,
        nvmlShutdown=None,
        nvmlDeviceGetClockInfo=1980,
        nvmlDeviceGetPowerUsage=512_300,
        nvmlDeviceGetComputeRunningProcesses=[types.SimpleNamespace(pid=-1), types.SimpleNamespace(pid=-2)],
        nvmlDeviceGetCurrentClocksThrottleReasons=0x4,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(conditions, "_handle", lambda module: "handle")
    with conditions.Watch("cuda") as watch:
        recorded = watch.record(0)
    assert watch.unavailable == ""
    assert recorded.sm_clock_mhz == recorded.memory_clock_mhz == 1980
    assert recorded.power_w == 512.3
    assert recorded.temperature_c is None  # the board does not say
    assert recorded.throttle_reasons == ["sw_power_cap"]
    assert recorded.foreign_processes == 1


@pytest.mark.parametrize("missing", ["module", "driver"])
def test_without_the_drivers_library_conditions_are_none(monkeypatch, missing):
    module = None if missing == "module" else fake_nvml(nvmlInit=NVMLError("driver not loaded"))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with conditions.Watch("cuda") as watch:
        recorded = watch.record(0)
    assert recorded == conditions.Conditions(round=0)
    assert ("pip install" if missing == "module" else "driver not loaded") in watch.unavailable


@pytest.mark.parametrize("collecting", [True, False])
def test_no_garbage_is_collected_during_a_capture(collecting):
    """What it frees on the device would invalidate the capture; afterwards collecting is as it was, errors or not."""
    seen = []

    def captured():
        with cuda_timer._capturing(Graph(), None, None):
            seen.append(("inside", gc.isenabled()))
            raise ValueError("inside")

    class Graph:
        def capture_begin(self, **_):
            seen.append(("begin", gc.isenabled()))

        def capture_end(self):
            seen.append(("end", gc.isenabled()))

    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(ValueError, match="inside"):
            captured()
        assert seen == [("begin", False), ("inside", False), ("end", False)]
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()
