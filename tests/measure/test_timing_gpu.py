"""Every path that needs a GPU, so that one run shows all problems at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fuselab.experiment import Inputs
from fuselab.measure import conditions, cuda_timer, rotation, verdicts
from fuselab.measure.ceiling import cuda_streaming
from fuselab.measure.cell import Work
from fuselab.measure.cuda_timer import CaptureError, GraphCell
from fuselab.measure.events_timer import EventsCell
from fuselab.measure.group import Arm, time_group
from fuselab.measure.launches import profile_device
from fuselab.measure.memory import peak_bytes, saved_bytes
from fuselab.measure.observation import profiled
from fuselab.records import Clock, Direction, Traffic, Verdict, Workload

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SHAPE = (4096, 4096)
W = Workload(shape=SHAPE, dtype="bf16")
BYTES = 4096 * 4096 * 2


def inputs(index, shape=SHAPE, dtype=torch.bfloat16):
    generator = torch.Generator(device="cuda").manual_seed(index)
    x = torch.randn(shape, generator=generator, device="cuda", dtype=dtype).requires_grad_()
    return Inputs((x,), names=("x",))


def small(index):
    return inputs(index, (64, 4096))


def rotating(factory=inputs, touched=2 * BYTES):
    return rotation.Rotation(
        factory,
        touched_bytes=touched,
        cache=rotation.cache_bytes("cuda"),
        memory_bytes=rotation.free_bytes("cuda") // 4,
    )


def run(arms, direction=Direction.FORWARD, reads=1, **kwargs):
    settings = {
        "traffic": Traffic(bytes_read=reads * BYTES, bytes_written=BYTES, reads=reads),
        "seed": 5,
        "budget_s": 1.0,
        "baseline": arms[0].name,
    } | kwargs
    return time_group(arms, workload=W, direction=direction, device_type="cuda", **settings)


def twice(x):
    return F.silu(F.silu(x))


def test_cache_and_memory_are_known():
    assert rotation.cache_bytes("cuda") > 1 << 20
    assert rotation.free_bytes("cuda") > 1 << 28


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("factory", [inputs, small])
def test_graph_replays_agree_with_events_on_large_calls(direction, factory, monkeypatch):
    # However busy the host is: each sample has a capture of its own.
    monkeypatch.setattr(cuda_timer, "_FRESH_S", 60.0)
    stream = torch.cuda.Stream()
    touched = rotation.tensor_bytes(factory(0)) * 2
    work = Work(F.silu, rotating(factory, touched), direction)
    cell = GraphCell(work, stream)
    assert cell.cold
    samples = [cell.sample() for _ in range(5)]
    assert all(duration * calls > 5e5 for duration, calls in samples)
    made, results = cell.timed_output()
    if direction is Direction.FORWARD:
        torch.testing.assert_close(results[0], F.silu(made.args[0]).detach())
    else:
        (expected,) = work.once(0)
        torch.testing.assert_close(results[0], expected)
    assert made.args[0].grad is None
    if factory is inputs:
        events = EventsCell(work, stream)
        durations = [events.sample()[0] for _ in range(5)]
        replayed = min(d for d, _ in samples)
        assert min(durations) > 0.7 * replayed
        # A backward of 26 us takes the host 60 us to dispatch: between events that is what one sees.
        if direction is Direction.FORWARD:
            assert min(durations) == pytest.approx(replayed, rel=0.3)
        assert 0 < events.host_ns < 1e6
        assert events.timed_output() is None or events.timed_output()[1][0].shape == SHAPE
    assert cell.fresh
    captured = cell.captured
    cell.sample()
    assert cell.captured is not captured
    before = min(d for d, _ in samples)
    cell.renew()
    assert min(cell.sample()[0] for _ in range(5)) == pytest.approx(before, rel=0.2)
    cell.close()


def test_dropout_is_captured_and_drawn_anew():
    cell = GraphCell(
        Work(lambda x: F.dropout(x, 0.5), rotating(small, 1 << 20), Direction.FORWARD), torch.cuda.Stream()
    )
    cell.sample()
    first = cell.timed_output()[1][0].clone()
    cell.sample()
    second = cell.timed_output()[1][0].clone()
    assert 0.45 < float((first == 0).float().mean()) < 0.55
    assert not torch.equal(first == 0, second == 0)
    cell.close()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * float(x.sum().item() * 0 + 2), "waits for the device"),
        (lambda x: F.silu(x.cpu()).cuda(), "waits for the device"),
        (lambda x: x[x > 0], "waits for the device"),
    ],
    ids=["item", "through the CPU", "mask indexing"],
)
def test_what_waits_for_the_device_is_not_captured(function, words):
    with pytest.raises(CaptureError, match=words):
        GraphCell(Work(function, rotating(small, 1 << 20), Direction.FORWARD), torch.cuda.Stream())
    # Nothing is left in a state of capture: random numbers and captures go on.
    assert F.dropout(torch.ones(1000, device="cuda"), 0.5).sum() > 0
    test_dropout_is_captured_and_drawn_anew()


def test_a_failing_capture_is_named_and_leaves_random_numbers_alone():
    streams = []

    def forked(x):
        streams.append(torch.cuda.Stream())
        streams[-1].wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(streams[-1]):
            return F.silu(x) + torch.rand_like(x)

    with pytest.raises(CaptureError):
        GraphCell(Work(forked, rotating(small, 1 << 20), Direction.FORWARD), torch.cuda.Stream())
    torch.cuda.synchronize()
    assert float(torch.rand(1000, device="cuda").mean()) > 0
    test_dropout_is_captured_and_drawn_anew()


def test_an_arm_that_cannot_be_captured_is_compared_by_events():
    found = run(
        [Arm("eager", F.silu, inputs), Arm("syncing", lambda x: F.silu(x) * float(x[0, 0].item() * 0 + 1), inputs)]
    )
    assert found["syncing"].clock is Clock.CUDA_EVENTS
    assert found["eager"].clock is Clock.CUDA_GRAPH
    assert any("waits for the device" in w for w in found["syncing"].warnings)
    assert found["syncing"].comparison.verdict is Verdict.SLOWER
    assert Clock.CUDA_EVENTS in found["eager"].other_clocks


def test_a_baseline_that_cannot_be_captured_moves_all_to_events():
    found = run(
        [Arm("eager", lambda x: F.silu(x) * float(x[0, 0].item() * 0 + 1), inputs), Arm("fast", F.silu, inputs)]
    )
    assert found["eager"].clock is found["fast"].clock is Clock.CUDA_EVENTS
    assert found["fast"].comparison.verdict is Verdict.FASTER
    assert Clock.CUDA_GRAPH in found["fast"].other_clocks


@pytest.mark.parametrize("direction", Direction)
def test_a_group(direction):
    compiled = torch.compile(twice, dynamic=False)
    found = run(
        [Arm("eager", twice, inputs), Arm("compile", compiled, inputs), Arm("same", twice, inputs)],
        direction,
        reads=1 if direction is Direction.FORWARD else 2,
    )
    assert found["compile"].comparison.verdict is Verdict.FASTER
    assert found["same"].comparison.verdict in (Verdict.EQUIVALENT, Verdict.UNRESOLVED)
    assert found["eager"].self_comparison.verdict in (Verdict.EQUIVALENT, Verdict.UNRESOLVED)
    assert found["eager"].control_comparison.verdict is Verdict.SLOWER
    if direction is Direction.BACKWARD:
        assert all(abs(t.parts.gap) < 0.2 for t in found.values()), [t.parts.gap for t in found.values()]
    for name, timing in found.items():
        assert timing.error is None, name
        assert timing.clock is Clock.CUDA_GRAPH
        assert timing.cold
        assert not any(w.startswith(verdicts.WITHHOLDING) for w in timing.warnings), timing.warnings
        assert not any("could not be timed" in w for w in timing.warnings), timing.warnings
        assert 0.2 < timing.ceiling.share < 1.02
        assert timing.ceiling.bytes_per_s > 1e11
        assert timing.peak_memory_bytes >= BYTES
        assert set(timing.other_clocks) == {Clock.CUDA_EVENTS, Clock.HOST, Clock.KERNEL, Clock.GAPS}
        assert timing.other_clocks[Clock.KERNEL][0].duration_ns == pytest.approx(timing.median_ns, rel=0.15)
    assert found["eager"].kernels_launched >= 2
    assert found["compile"].kernels_launched == 1
    if direction is Direction.FORWARD:
        assert found["eager"].saved_bytes == 2 * BYTES
        assert found["compile"].saved_bytes == BYTES
    assert len({id(t.conditions) for t in found.values()}) == 1


def test_small_cells_are_launch_bound():
    found = run([Arm("eager", twice, small)], traffic=Traffic(bytes_read=64 * 8192, bytes_written=64 * 8192))
    assert "launch-bound" in found["eager"].labels


def test_random_and_inplace_arms_are_timed():
    def dropout(x):
        return F.dropout(torch.softmax(x, -1), 0.1)

    compiled = torch.compile(dropout, dynamic=False)
    for direction in Direction:
        found = run(
            [Arm("eager", dropout, inputs, deterministic=False), Arm("compile", compiled, inputs, deterministic=False)],
            direction,
        )
        assert found["eager"].error is None
        assert found["compile"].error is None, repr(found["compile"].error)
        assert found["compile"].clock is Clock.CUDA_GRAPH, found["compile"].warnings


def test_an_arm_that_keeps_what_it_allocates_is_named():
    kept = []

    def hoarding(x):
        kept.append(x * 2)
        return F.silu(x)

    found = run([Arm("eager", F.silu, small), Arm("hoarding", hoarding, small)], traffic=None)
    assert any("allocates more with each call" in w for w in found["hoarding"].warnings), found["hoarding"].warnings
    assert not any("allocates more" in w for w in found["eager"].warnings)


def test_out_of_memory_drops_one_arm():
    def greedy(x):
        return F.silu(x) + torch.empty(1 << 45, dtype=torch.uint8, device="cuda")[0].to(x.dtype)

    found = run([Arm("eager", F.silu, inputs), Arm("greedy", greedy, inputs)])
    assert isinstance(found["greedy"].error, torch.cuda.OutOfMemoryError)
    assert found["eager"].error is None


@pytest.mark.parametrize(("reads", "writes"), [(1, 1), (2, 1), (3, 2), (1, 0), (0, 1), (5, 3)])
@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 1 << 27])
def test_streaming_moves_the_mix_and_is_fast(reads, writes, size):
    traffic = Traffic(bytes_read=size * reads, bytes_written=size * writes, reads=reads, writes=writes)
    streaming = cuda_streaming(traffic)
    made = streaming.inputs_factory(0)
    sinks = streaming.implementation(*made.args)
    torch.cuda.synchronize()
    if writes:
        sources = made.args[:reads]
        wanted = torch.stack(sources).sum(0, dtype=torch.int32) + 1 if reads else torch.ones_like(sinks[0])
        for i in range(writes):
            assert torch.equal(sinks[i], wanted + i)
    work = Work(streaming.implementation, rotating(streaming.inputs_factory, streaming.bytes_moved), Direction.FORWARD)
    duration, _ = GraphCell(work, torch.cuda.Stream()).sample()
    if size == 1 << 27:
        peak = torch.cuda.get_device_properties(0)
        assert streaming.bytes_moved / duration * 1e9 > 2e11, peak.name


def test_profiler_counts_kernels():
    x = torch.randn(1 << 22, device="cuda")
    profile = profile_device(lambda: [x.sin().cos() for _ in range(4)], 4)
    assert profile is not None
    assert profile.launches == 2
    assert 1e3 < profile.duration_ns < 1e7
    assert profile.streams == 1


@pytest.mark.parametrize("direction", Direction)
def test_memory_and_profile_of_one_call(direction):
    stream = torch.cuda.Stream()
    work = Work(F.silu, rotating(), direction)
    assert peak_bytes(work, stream) == BYTES
    assert profiled(work, stream).launches == 1
    assert saved_bytes(Work(twice, rotating(), direction)) == 2 * BYTES


def test_conditions_of_a_gpu():
    pynvml = pytest.importorskip("pynvml")
    assert pynvml
    with conditions.Watch("cuda") as watch:
        recorded = watch.record(0)
    if watch.unavailable:
        pytest.skip(watch.unavailable)
    assert recorded.sm_clock_mhz > 0
    assert recorded.memory_clock_mhz > 0
    assert recorded.load_average is None
