"""A served model: policies, fallbacks, counters, comparisons, threads. Compiled by Dynamo with its eager backend."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import types
import weakref

import pytest
import torch

from fuselab.deploy import served
from fuselab.deploy.served import COUNTERS, CompiledModel, UndeclaredCallError
from fuselab.errors import ArgumentSpecError, SetupError, UnknownNameError, UsageError

pytestmark = pytest.mark.slow


def double(x, scale=2.0):
    return x * scale


def counted(model, **expected):
    assert model.counters == dict.fromkeys(COUNTERS, 0) | expected


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fuselab.deploy"]


@pytest.fixture(autouse=True)
def dynamo_alone(monkeypatch):
    """Dynamo with the eager backend: everything that serving does, and no C++ compiler."""
    torch._dynamo.reset()
    calls = []

    def compiled(model, compilation):
        calls.append(compilation)
        return torch.compile(model, backend="eager", dynamic=compilation.dynamic)

    monkeypatch.setattr(served, "compiled", compiled)
    return calls


def test_a_declared_call_is_warm_before_the_first_request():
    model = CompiledModel(double, [(torch.ones(3),), (torch.ones(4),)])
    assert torch.equal(model(torch.arange(3.0)), torch.arange(3.0) * 2)
    assert torch.equal(model(torch.arange(4.0)), torch.arange(4.0) * 2)
    counted(model, calls=2)


def test_without_warming_up_the_first_call_is_cold():
    model = CompiledModel(double, [(torch.ones(3),)], warm_up=False)
    for _ in range(3):
        model(torch.ones(3))
    counted(model, calls=3, cold_calls=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(torch.ones(4)),
        lambda m: m(torch.ones(3, dtype=torch.float64)),
        lambda m: m(torch.ones(6)[::2]),
        lambda m: m(torch.ones(3), 3.0),
        lambda m: m(torch.ones(3), scale=3.0),
        lambda m: m([torch.ones(3)]),
    ],
)
def test_what_was_not_declared_is_refused_and_says_what_was(call):
    model = CompiledModel(double, [(torch.ones(3),)])
    with pytest.raises(UndeclaredCallError, match=r"double was called on .*which was not declared") as caught:
        call(model)
    assert caught.value.hint == "declared: float32[3]"
    counted(model, calls=1, undeclared=1)


def test_what_was_not_declared_goes_to_eager_where_that_is_the_policy():
    model = CompiledModel(double, [(torch.ones(3),)], undeclared="eager")
    assert torch.equal(model(torch.ones(4)), torch.full((4,), 2.0))
    counted(model, calls=1, undeclared=1)


def test_position_and_name_are_one_call_and_texts_declare():
    model = CompiledModel(double, [["x=f32[2,3]", "scale=3.0"]])
    for answer in (
        model(torch.ones(2, 3), 3.0),
        model(x=torch.ones(2, 3), scale=3.0),
        model(torch.ones(2, 3), scale=3.0),
    ):
        assert torch.equal(answer, torch.full((2, 3), 3.0))
    counted(model, calls=3)
    with pytest.raises(ArgumentSpecError, match="no parameter 'y'"):
        CompiledModel(double, [["x=f32[2,3]", "y=f32[2]"]])


def test_more_shapes_than_dynamos_limit_stay_warm():
    sizes = range(1, 20)
    model = CompiledModel(double, [(torch.ones(n),) for n in sizes])
    for n in sizes:
        model(torch.ones(n))
    counted(model, calls=len(sizes))


def test_inference_needs_no_gradient_and_takes_tensors_that_want_one():
    model = CompiledModel(double, [(torch.ones(3),)])
    answer = model(torch.ones(3, requires_grad=True))
    assert not answer.requires_grad
    counted(model, calls=1)


def test_training_keeps_gradients_and_warms_the_backward():
    module = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    torch.manual_seed(3)
    model = CompiledModel(module, [(torch.randn(5, 4),)], training=True)
    after_warm_up = torch.randn(1)
    torch.manual_seed(3)
    torch.randn(5, 4)
    assert torch.equal(torch.randn(1), after_warm_up), "a warm-up draws from a generator of its own"
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items()), "a warm-up is no training step"
    model(torch.randn(5, 4)).sum().backward()
    assert module[0].weight.grad is not None
    counted(model, calls=1)


def test_a_module_in_train_mode_is_not_served():
    with pytest.raises(UsageError, match="train mode"):
        CompiledModel(torch.nn.Linear(2, 2), [(torch.ones(1, 2),)])


@pytest.fixture
def broken(monkeypatch):
    """A backend that fails for vectors of four."""
    failing = [4]

    def backend(graph, inputs):
        if any(isinstance(t, torch.Tensor) and t.numel() in failing for t in inputs):
            raise RuntimeError("the backend is out of order\nand says it in two lines")
        return graph.forward

    monkeypatch.setattr(
        served, "compiled", lambda model, compilation: torch.compile(model, backend=backend, dynamic=False)
    )
    return failing


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_compiler_failure_falls_back_with_one_line_and_a_counter(broken, caplog, warm_up):
    with caplog.at_level(logging.WARNING, "fuselab.deploy"):
        model = CompiledModel(double, [(torch.ones(4),), (torch.ones(3),)], warm_up=warm_up)
        for _ in range(3):
            assert torch.equal(model(torch.ones(4)), torch.full((4,), 2.0))
        assert torch.equal(model(torch.ones(3)), torch.full((3,), 2.0))
    (line,) = said(caplog)
    assert line.startswith("double: compiling for float32[4] failed; eager answers: BackendCompilerFailed")
    assert "\n" not in line
    counted(model, calls=4, fallbacks=3, cold_calls=0 if warm_up else 1)
    assert list(model.failures) == ["float32[4]"]


def test_the_models_own_error_is_the_callers():
    def picky(x):
        if x.shape[0] == 3:
            raise ValueError("three is not for me")
        return x + 1

    model = CompiledModel(picky, [(torch.ones(3),)], warm_up=False, undeclared="eager")
    with pytest.raises(Exception, match="three is not for me"):
        model(torch.ones(3))


def test_what_fails_in_eager_too_is_not_counted_as_a_fallback():
    def wrong(x):
        return x @ torch.ones(7, 7)

    model = CompiledModel(wrong, [(torch.ones(3),)], warm_up=False)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        model(torch.ones(3))
    assert model.counters["fallbacks"] == 0


def test_a_recompile_is_counted():
    state = types.SimpleNamespace(scale=2.0)

    def scaled(x):
        return x * state.scale

    model = CompiledModel(scaled, [(torch.ones(3),)])
    model(torch.ones(3))
    state.scale = 5.0
    assert torch.equal(model(torch.ones(3)), torch.full((3,), 5.0))
    counts = model.counters
    assert (counts["cold_calls"], counts["recompiles"]) == (1, 1)


def wrong_backend(graph, inputs):
    return lambda *args: tuple(t * 1.05 for t in graph.forward(*args))


def test_live_calls_are_compared_by_eagers_own_error(monkeypatch, caplog):
    model = CompiledModel(double, [(torch.ones(64),)], compare=1.0)
    for _ in range(4):
        model(torch.randn(64))
    counted(model, calls=4, compared=4)
    torch._dynamo.reset()
    monkeypatch.setattr(served, "compiled", lambda m, _: torch.compile(m, backend=wrong_backend, dynamic=False))
    with caplog.at_level(logging.WARNING, "fuselab.deploy"):
        wrong = CompiledModel(double, [(torch.ones(64),)], compare=1.0)
        x = torch.randn(64)
        assert torch.equal(wrong(x), x * 2 * 1.05)
        wrong(x)
    counted(wrong, calls=2, compared=2, mismatches=2)
    (line,) = said(caplog)
    assert line.startswith("double differs from eager on float32[64]: output: root-mean-square error")


def test_zeros_do_not_pass_for_an_answer(monkeypatch):
    backend = lambda graph, _: lambda *args: tuple(torch.zeros_like(t) for t in graph.forward(*args))  # noqa: E731
    monkeypatch.setattr(served, "compiled", lambda m, _: torch.compile(m, backend=backend, dynamic=False))
    model = CompiledModel(double, [(torch.ones(64, dtype=torch.bfloat16),)], compare=1.0)
    model(torch.randn(64, dtype=torch.bfloat16) * 1e-3)
    assert model.counters["mismatches"] == 1


def test_a_module_that_cannot_be_copied_is_compared_with_eager_alone():
    class Locked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x):
            return x * 2

    model = CompiledModel(Locked().eval(), [(torch.ones(64),)], compare=1.0)
    x = torch.randn(64)
    assert torch.equal(model(x), x * 2)
    counted(model, calls=1, compared=1)


def test_a_call_that_cannot_be_compared_has_its_answer(monkeypatch, caplog):
    def out_of_memory(*_arguments, **_settings):
        raise torch.OutOfMemoryError("no room for float64")

    model = CompiledModel(double, [(torch.ones(64),)], compare=1.0)
    monkeypatch.setattr(served, "judge", out_of_memory)
    x = torch.randn(64)
    with caplog.at_level(logging.WARNING, "fuselab.deploy"):
        for _ in range(2):
            assert torch.equal(model(x), x * 2)
    counted(model, calls=2)
    (line,) = said(caplog)
    assert "could not be compared" in line
    assert "no room for float64" in line


def test_a_mismatch_can_send_the_call_to_eager(monkeypatch):
    monkeypatch.setattr(served, "compiled", lambda m, _: torch.compile(m, backend=wrong_backend, dynamic=False))
    model = CompiledModel(double, [(torch.ones(64),)], compare=1.0, on_mismatch="eager")
    x = torch.randn(64)
    for _ in range(3):
        assert torch.equal(model(x), x * 2)
    counted(model, calls=3, compared=1, mismatches=1, fallbacks=2)
    assert "differed from eager" in model.failures["float32[64]"]


def test_a_share_is_a_share():
    model = CompiledModel(double, [(torch.ones(8),)], compare=0.25, seed=1)
    for _ in range(400):
        model(torch.ones(8))
    assert 60 <= model.counters["compared"] <= 140


def test_an_input_changed_in_place_is_compared_as_it_was():
    def in_place(x):
        return x.mul_(2.0)

    model = CompiledModel(in_place, [(torch.ones(16),)], compare=1.0)
    x = torch.ones(16)
    assert torch.equal(model(x), torch.full((16,), 2.0))
    assert torch.equal(x, torch.full((16,), 2.0))
    counted(model, calls=1, compared=1)


def test_a_random_model_cannot_be_compared():
    with pytest.raises(UsageError, match="draws random numbers"):
        CompiledModel(torch.nn.functional.dropout, [(torch.ones(64),)], compare=0.1)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"undeclared": "compile"}, UnknownNameError, "unknown policy 'compile'"),
        ({"on_mismatch": "raise"}, UnknownNameError, "unknown reaction"),
        ({"compare": 1.5}, UsageError, "no share of calls"),
        ({"compare": float("nan")}, UsageError, "no share of calls"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, error, text):
    with pytest.raises(error, match=text):
        CompiledModel(double, [(torch.ones(3),)], **settings)
    with pytest.raises(UsageError, match="no call of double was declared"):
        CompiledModel(double, [])


def test_many_threads_at_once():
    model = CompiledModel(double, [(torch.ones(n),) for n in (3, 4, 5)], warm_up=False, compare=0.5)
    wrong = []

    def work(n: int) -> None:
        for i in range(30):
            answer = model(torch.full((n,), float(i)))
            if not torch.equal(answer, torch.full((n,), 2.0 * i)):
                wrong.append((n, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in (3, 4, 5) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    counts = model.counters
    assert (counts["calls"], counts["mismatches"], counts["fallbacks"]) == (270, 0, 0)
    assert counts["compared"] > 0
    assert counts["cold_calls"] >= 3


def test_calls_that_wait_for_one_compilation_are_cold_and_no_recompiles():
    def deep(x):
        for n in range(40):
            x = torch.sin(x) + n
        return x

    model = CompiledModel(deep, [(torch.ones(3),)], warm_up=False)
    together = threading.Barrier(6)

    def work() -> None:
        together.wait()
        model(torch.ones(3))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = model.counters
    assert (counts["calls"], counts["recompiles"]) == (6, 0)
    assert counts["cold_calls"] >= 1


# Metrics


class FakeFamily:
    def __init__(self, name, documentation, labels):
        self.name, self.documentation, self.labels, self.samples = name, documentation, labels, []

    def add_metric(self, labels, value):
        self.samples.append((tuple(labels), value))


class FakeRegistry:
    def __init__(self):
        self.collectors = []

    def register(self, collector):
        self.collectors.append(collector)


def test_counters_are_exposed_when_they_are_asked_for(monkeypatch):
    registry = FakeRegistry()
    package = types.ModuleType("prometheus_client")
    package.REGISTRY = registry
    core = types.ModuleType("prometheus_client.core")
    core.CounterMetricFamily = FakeFamily
    monkeypatch.setitem(sys.modules, "prometheus_client", package)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", core)
    model = CompiledModel(double, [(torch.ones(3),)], name="doubler")
    model.expose()
    model(torch.ones(3))
    (collector,) = registry.collectors
    families = {f.name: f for f in collector.collect()}
    assert set(families) == {f"fuselab_{name}" for name in COUNTERS}
    assert families["fuselab_calls"].samples == [(("doubler",), 1)]


def test_with_the_real_client():
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    model = CompiledModel(double, [(torch.ones(3),)])
    model.expose(registry)
    model(torch.ones(3))
    text = client.generate_latest(registry).decode()
    assert 'fuselab_calls_total{model="double"} 1.0' in text
    assert 'fuselab_fallbacks_total{model="double"} 0.0' in text


def test_several_models_share_a_registry_and_none_is_kept_alive():
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry(auto_describe=True)  # as the default one
    one, two, again = (CompiledModel(double, [(torch.ones(3),)], name=name) for name in ("one", "two", "two"))
    assert one.expose(registry) is two.expose(registry) is again.expose(registry)
    for model in (one, two, two, again):
        model(torch.ones(3))
    text = client.generate_latest(registry).decode()
    assert 'fuselab_calls_total{model="one"} 1.0' in text
    assert 'fuselab_calls_total{model="two"} 3.0' in text
    alive = weakref.ref(one)
    del one, model
    gc.collect()
    assert alive() is None
    assert 'model="one"' not in client.generate_latest(registry).decode()


def test_without_the_client_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    model = CompiledModel(double, [(torch.ones(3),)], warm_up=False)
    with pytest.raises(SetupError, match="prometheus-client is not installed") as caught:
        model.expose()
    assert "pip install" in caught.value.hint
