"""What a user's function must not do, each as its cell says it: the status, the cause and the way out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import fuselab
from fuselab.experiment import Inputs
from fuselab.experiments.user import experiment_of_callable
from fuselab.measure import verdicts
from fuselab.measure.group import Arm, time_group
from fuselab.measure.verdicts import settle
from fuselab.records import Comparison, Direction, Measurement, Status, Verdict, Workload
from fuselab.worker.check import check
from fuselab.worker.messages import CheckRequest, ExperimentReference

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD, BACKWARD = Direction
LEARNING = "x=f32[64,96]:requires_grad"
PLAIN = "x=f32[64,96]"
CACHED = ("cached between calls", "compute it from the inputs in every call")
CHANGES = ("the forward changes its input x", "work on a copy (.clone())")
RANDOM = ("not deterministic", "take what is random as an argument")
NOTHING = "return the tensors that are to be compared and timed"


def random():
    return lambda x: F.dropout(x, 0.5)


def counting():
    counter = itertools.count()
    return lambda x: F.silu(x) * (1 + 1e-3 * next(counter))


def changing():
    def call(x):
        y = x * 2
        with torch.no_grad():
            x.mul_(2)
        return y

    return call


def changing_in_place():
    return lambda x: x.mul_(2) + 0


def keeping(keep=lambda y: y, give=lambda y: y):
    """Computes once, keeps ``keep`` of it, and gives ``give`` of that ever after."""
    kept = []

    def call(x):
        if not kept:
            kept.append(keep(F.silu(x)))
        return give(kept[0])

    return call


def keeping_by_shape():
    kept = {}

    def call(x):
        if x.shape not in kept:
            kept[x.shape] = F.silu(x).detach()
        return kept[x.shape]

    return call


@dataclass(frozen=True)
class Bad:
    name: str
    build: Callable[[], Callable[..., object]]
    cause: str
    way_out: str
    argument: str = LEARNING


def returning(value):
    return lambda: value


BAD = [
    Bad("is random", random, *RANDOM),
    Bad("is random, without gradients", random, *RANDOM, PLAIN),
    Bad("counts its calls", counting, *RANDOM),
    Bad("returns nothing", returning(lambda x: None), "returns nothing", NOTHING),
    Bad("returns a number", returning(lambda x: float(x.sum())), "returns a float without a tensor in it", NOTHING),
    Bad("returns a string", returning(lambda x: "y"), "returns a str without a tensor in it", NOTHING),
    Bad("returns an empty list", returning(lambda x: []), "returns a list without a tensor in it", NOTHING),
    Bad("returns its input", returning(lambda x: x), "returns views of its inputs alone (x)", "return something"),
    Bad("returns a view", returning(lambda x: x.t()), "returns views of its inputs alone (x)", "return something"),
    Bad("returns views", returning(lambda x: x.chunk(2, -1)), "returns views of its inputs", "return something"),
    Bad("changes its input", changing, *CHANGES),
    Bad("changes its input, without gradients", changing_in_place, *CHANGES, PLAIN),
    Bad("caches its result", keeping, *CACHED),
    Bad("caches its result, without gradients", keeping, *CACHED, PLAIN),
    Bad("caches a detached result", lambda: keeping(torch.Tensor.detach), *CACHED),
    Bad("hands out copies", lambda: keeping(torch.Tensor.detach, torch.Tensor.clone), *CACHED),
    Bad("caches by shape", keeping_by_shape, *CACHED, PLAIN),
]  # fmt: skip


def checked(function, argument, tmp_path, device="cpu"):
    experiment = experiment_of_callable(function, [argument])
    request = CheckRequest(
        experiment=ExperimentReference(name=experiment.name),
        workload=experiment.workloads("quick", device)[0],
        variant="eager",
        baseline="eager",
        device_type=device,
        directions=list(Direction),
        staging=str(tmp_path / "staging"),
        caches=str(tmp_path / "caches"),
    )
    return check(request, experiment=experiment)


@pytest.mark.parametrize("bad", BAD, ids=lambda b: b.name)
def test_a_bad_function_is_wrong_and_says_why_and_the_way_out(bad, tmp_path):
    found = checked(bad.build(), bad.argument, tmp_path)
    assert found.status is Status.WRONG
    forward = found.correctness[FORWARD]
    assert not forward.correct
    assert bad.cause in forward.reason
    assert bad.way_out in forward.reason
    if bad.argument == LEARNING:
        assert bad.cause in found.correctness[BACKWARD].reason


def ordinary(x):
    return F.silu(x)


FINE = {
    "ordinary": (ordinary, LEARNING),
    "a view beside something computed": (lambda x: (x.t(), F.silu(x)), LEARNING),
    "an index, the same for all inputs": (lambda x: x.argmax(-1).clamp(max=0), PLAIN),
    "an index of inputs that could be differentiated": (lambda x: x.argmax(-1).clamp(max=0) * 0, LEARNING),
    "no elements": (lambda x: F.silu(x[:, :0]), LEARNING),
    "positions alone": (lambda x: torch.arange(x.shape[-1], dtype=x.dtype).cos(), PLAIN),
}


@pytest.mark.parametrize("name", FINE)
def test_what_looks_like_it_and_is_not_passes(name, tmp_path):
    function, argument = FINE[name]
    found = checked(function, argument, tmp_path)
    assert found.correctness[FORWARD].correct, found.correctness[FORWARD].reason


def test_an_error_of_the_users_own_is_the_cells(tmp_path):
    """In place on a leaf that requires a gradient: autograd refuses and says so itself."""
    found = checked(changing_in_place(), LEARNING, tmp_path)
    assert found.status is Status.ERROR
    assert "in-place operation" in found.reason


def inputs(index):
    generator = torch.Generator().manual_seed(index)
    return Inputs((torch.randn(64, 96, generator=generator),), names=("x",))


def timed(**functions):
    arms = [Arm(name, function, inputs) for name, function in functions.items()]
    return time_group(
        arms, workload=Workload(shape=(64, 96)), direction=FORWARD, device_type="cpu", baseline=arms[0].name,
        traffic=None, seed=0, budget_s=0.1, min_rounds=5, max_rounds=5,
    )  # fmt: skip


def test_what_allocates_more_with_each_call_is_named():
    kept = []

    def hoarding(x):
        kept.append(torch.empty(1000))
        return F.silu(x)

    found = timed(eager=F.silu, hoarding=hoarding)
    (warning,) = [w for w in found["hoarding"].warnings if "allocates" in w]
    assert "4000 bytes of it are never given back" in warning
    assert "let go of what it keeps between calls" in warning
    assert not any("allocates" in w for w in found["eager"].warnings)


def test_what_is_faster_than_the_clock_can_see_is_named():
    constant = torch.ones(3)
    for name, found in timed(eager=ordinary, idle=lambda x: constant).items():
        warnings = [w for w in found.warnings if w.startswith(verdicts.TOO_FAST)]
        assert bool(warnings) is (found.median_ns < 400), name  # on a busy machine even nothing takes long
        assert all("give it more to do" in w and w.startswith(verdicts.WITHHOLDING) for w in warnings)


@pytest.mark.parametrize(("clock", "duration_ns", "named"), [
    ("cuda_graph", 40.0, True), ("cuda_graph", 1200.0, False), ("cpu_monotonic", 60.0, True),
    ("cpu_monotonic", 700.0, False), ("cuda_events", 40.0, False),
])  # fmt: skip
def test_the_shortest_call_depends_on_the_clock(clock, duration_ns, named):
    from fuselab.measure.evaluation import Evaluation
    from fuselab.records import Clock, Sample

    samples = [Sample(round=r, position=0, duration_ns=duration_ns + 0.1 * r) for r in range(8)]
    clocked = {"eager": {Clock(clock): samples}}
    warnings = Evaluation(["eager"], "eager").timings(clocked, None, None, "")["eager"].warnings
    assert any(w.startswith(verdicts.TOO_FAST) for w in warnings) is named


def test_the_status_reaches_the_run(tmp_path):
    """From end to end: what is wrong is not timed, what is doubtful is timed and says so."""
    (caching,) = fuselab.run(
        keeping(), args=[PLAIN], variants=["eager"], direction="forward", device="cpu", isolate=False, out=tmp_path
    )
    (measurement,) = caching.measurements
    assert measurement.status is Status.WRONG
    assert CACHED[0] in measurement.reason
    assert measurement.samples == []
    (idle,) = fuselab.run(
        lambda x: x.new_zeros(0), args=[PLAIN], variants=["eager"], direction="forward", device="cpu", isolate=False,
        out=tmp_path, budget_s=0.05,
    )  # fmt: skip
    (measurement,) = idle.measurements
    assert measurement.status is Status.OK
    assert measurement.samples


def test_a_doubtful_figure_is_withheld():
    cells = [
        Measurement(
            experiment="e", variant=name, workload=Workload(shape=(64, 96)), direction=FORWARD, status=Status.OK,
            comparison=Comparison(baseline="eager", verdict=verdict, speedup=20.0, p_value=1e-9), warnings=warnings,
        )
        for name, verdict, warnings in (
            ("eager", Verdict.BASELINE, []),
            ("idle", Verdict.FASTER, [f"{verdicts.TOO_FAST}: a call takes less"]),
            ("quick", Verdict.FASTER, []),
        )
    ]  # fmt: skip
    settled = {m.variant: m.comparison for m in settle(cells)}
    assert settled["idle"].verdict is Verdict.WITHHELD
    assert settled["idle"].speedup is None
    assert settled["quick"].verdict is Verdict.FASTER


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def elsewhere(*, joined):
    """Works on a stream of its own; the current one waits for it or does not."""
    streams = []

    def call(x):
        if not streams:
            streams.append(torch.cuda.Stream())
        here = torch.cuda.current_stream()
        streams[0].wait_stream(here)
        with torch.cuda.stream(streams[0]):
            y = x
            for _ in range(20):
                y = y + 0
            y = F.silu(y)
        if joined:
            here.wait_stream(streams[0])
            y.record_stream(here)
        return y

    return call


@pytest.mark.parametrize("argument", ["x=f32[4096,2048]:requires_grad", "x=f32[4096,2048]"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_work_on_another_stream_is_wrong_unless_it_is_waited_for(argument, device, tmp_path):
    found = checked(elsewhere(joined=False), argument, tmp_path, device)
    assert found.status is Status.WRONG
    assert "works on another stream" in found.reason
    assert "torch.cuda.current_stream().wait_stream" in found.reason
    waiting = checked(elsewhere(joined=True), argument, tmp_path, device).correctness[FORWARD]
    assert waiting.correct, waiting.reason


@pytest.mark.parametrize("bad", BAD, ids=lambda b: b.name)
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_a_bad_function_is_wrong_on_a_gpu_too(bad, device, tmp_path):
    found = checked(bad.build(), bad.argument, tmp_path, device)
    assert found.status is Status.WRONG
    assert bad.cause in found.correctness[FORWARD].reason
