"""The device lock, and the two hooks, which leave nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import time

import pytest

from fuselab.capture import internals
from fuselab.capture.autotuning import DeviceLock, exclusive_autotuning, mix_order_provenance


def hold(path, how, seconds, log, started):
    lock = DeviceLock(path)
    started.wait()
    with getattr(lock, how)():
        log.put((how, "in", time.monotonic()))
        time.sleep(seconds)
        log.put((how, "out", time.monotonic()))


@pytest.mark.slow
def test_alone_means_alone_and_is_not_starved(tmp_path):
    context = multiprocessing.get_context("spawn")
    log, started = context.Queue(), context.Event()
    holders = [("shared", 0.3), ("shared", 0.3), ("alone", 0.2), ("shared", 0.3)]
    processes = [
        context.Process(target=hold, args=(tmp_path / "device.lock", how, seconds, log, started))
        for how, seconds in holders
    ]
    for process in processes:
        process.start()
    started.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    events = sorted((log.get(timeout=5) for _ in range(2 * len(holders))), key=lambda event: event[2])
    inside: list[str] = []
    for how, what, _ in events:
        if what == "in":
            inside.append(how)
        else:
            inside.remove(how)
        assert inside in ([], ["alone"]) or "alone" not in inside
    assert ("alone", "in") in {(how, what) for how, what, _ in events}


def test_tuning_enters_the_lock_and_everything_is_put_back():
    autotuner = internals.autotuner()
    before = autotuner.autotune_to_one_config
    entered = []

    @contextlib.contextmanager
    def alone():
        entered.append("in")
        yield
        entered.append("out")

    with exclusive_autotuning(alone):
        assert autotuner.autotune_to_one_config is not before
        with pytest.raises(AttributeError):
            autotuner.autotune_to_one_config(object())
    assert entered == ["in"]
    assert autotuner.autotune_to_one_config is before


def test_the_provenance_hook_is_put_back_also_after_an_error():
    scheduling = internals.triton_scheduling()
    before = scheduling.define_kernel

    def fail():
        with mix_order_provenance():
            assert scheduling.define_kernel is not before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert scheduling.define_kernel is before


class Origin:
    def __init__(self, name):
        self.name = name


class Computed:
    def __init__(self, origins, traces):
        self.origins = [Origin(name) for name in origins]
        self.traces = traces

    def get_stack_traces(self):
        return self.traces


class Scheduled:
    def __init__(self, node):
        self.node = node


class Marker:
    """``EnableReduction`` and ``DisableReduction`` stand between the nodes and have none."""


@pytest.mark.parametrize("mix_order", [True, False])
def test_a_mix_order_reduction_is_entered_from_its_scheduler_nodes(mix_order, monkeypatch):
    import torch._inductor.debug as debug

    nodes, traces = {}, {}
    monkeypatch.setattr(debug, "_inductor_triton_kernel_to_post_grad_node_info", nodes)
    monkeypatch.setattr(debug, "_inductor_kernel_stack_trace", traces)
    scheduling = internals.triton_scheduling()
    monkeypatch.setattr(scheduling, "define_kernel", lambda self, source, schedule, kernel: "triton_per_fused_0")
    kernel = type("Kernel", (), {"mix_order_reduction": mix_order})()
    schedule = [Scheduled(Computed(["mul", "sum_1"], ["t1"])), Marker, Scheduled(Computed(["sum_1", "sum_2"], ["t2"]))]
    with mix_order_provenance():
        assert scheduling.define_kernel(None, "source", schedule, kernel) == "triton_per_fused_0"
    expected = {"triton_per_fused_0": ["mul", "sum_1", "sum_2"]} if mix_order else {}
    assert nodes == expected
    assert traces == ({"triton_per_fused_0": ["t1", "t2"]} if mix_order else {})
