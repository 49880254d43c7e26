"""The whole way, in fresh processes: phases that add up, caches that hit and miss as they must, bad input by name.

No figure is compared with another process's: only with its own parts. Matrix products need no C++ compiler, which keeps
what can be tested with them at a few seconds a process.
"""

from __future__ import annotations

import json
import sys

import pytest

from fuselab import child
from fuselab.cli import main
from fuselab.errors import SetupError, UnknownNameError, UsageError
from fuselab.records import Status
from fuselab.startup import compile_cost, load_compile_cost
from fuselab.startup.measurement import Limits
from fuselab.startup.records import CacheName, Phase, Start
from fuselab.startup.shape_records import Strategy

USER = """
import os
import torch

def product(x, w):
    return x @ w

def scaled(x):
    return torch.nn.functional.gelu(x) * 2

def branches(x):
    if x.sum() > 0:
        return x + 1
    return x - 1

def raises(x):
    y = x * 2
    raise ValueError("no such thing")

SEEN = []

def storm(x):
    SEEN.append("a")
    return x @ x if len("".join(SEEN)) else x

def skipped(x):
    return torch.compiler.disable(lambda y: y + 1)(x)

def aborts(x):
    os.abort()

def exits(x):
    raise SystemExit(3)

def closes(x):
    os.closerange(3, 4096)
    import time
    time.sleep(600)

class Stack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False), torch.nn.Identity()) for _ in range(3)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

if "FUSELAB_TEST_PER_PROCESS" in os.environ:
    import torch._inductor.config

    torch._inductor.config.max_fusion_size = 64 + os.getpid() % 4096
"""
SHORT = Limits(steady_s=0.05, budget_s=60, deadline_s=280)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def user(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    return f"{tmp_path}/user.py"


def states(record):
    return {use.cache: use.state for use in record.caches}


def require_whole(record):
    """The phases and what is left add up to the whole exactly, and little is left."""
    assert record.status is Status.OK, record.reason
    parts = sum(p.duration_ns for p in record.phases) + record.unattributed_ns
    assert parts == record.first_result_ns
    assert record.unattributed_share < 0.05, record.phases
    assert record.first_call_ns < record.first_result_ns
    assert record.steady_ns > 0
    assert record.memory.process_bytes > 50 << 20
    return {p.phase for p in record.phases}


def test_cold_misses_warm_hits_and_a_package_starts_without_the_compiler(user, tmp_path):
    cost = compile_cost(
        f"{user}:scaled", args=["x=f32[16,64]"], starts=["eager", "warm", "aoti"], repeats=1, device="cpu",
        out=tmp_path / "runs", limits=SHORT,
    )  # fmt: skip
    cold, *others = cost.starts
    by_start = {record.start: record for record in others}
    assert (cold.start, cold.round) == (Start.COLD, -1)
    compiler = {Phase.DYNAMO, Phase.AOT_AUTOGRAD, Phase.LOWERING, Phase.CODEGEN, Phase.COMPILATION, Phase.FIRST_LAUNCH}
    assert compiler <= require_whole(cold)
    assert states(cold)[CacheName.FX_GRAPH] == states(cold)[CacheName.AOT_AUTOGRAD] == "miss"
    assert states(cold)[CacheName.CPP] == "miss"
    assert cold.compilations == 1
    warm = by_start[Start.WARM]
    assert not {Phase.LOWERING, Phase.CODEGEN} & require_whole(warm)
    assert states(warm)[CacheName.FX_GRAPH] == states(warm)[CacheName.AOT_AUTOGRAD] == "hit"
    assert states(warm)[CacheName.CPP] == "hit"
    assert not {Phase.DYNAMO, Phase.AOT_AUTOGRAD, Phase.CODEGEN} & require_whole(by_start[Start.AOTI])
    assert Phase.LOAD in require_whole(by_start[Start.AOTI])
    assert require_whole(by_start[Start.EAGER]) == {
        Phase.INTERPRETER, Phase.IMPORT, Phase.CONSTRUCTION, Phase.FIRST_LAUNCH
    }  # fmt: skip
    (package,) = cost.preparations
    assert package.status is Status.OK
    assert package.size_bytes > 1000
    assert {b.start for b in cost.break_even} == {Start.WARM, Start.AOTI}
    assert load_compile_cost(cost.path) == cost
    assert not list((tmp_path / "runs").rglob("*.so"))


def test_a_process_that_closes_its_pipe_and_lives_on_is_ended(user, tmp_path, monkeypatch):
    monkeypatch.setattr(child, "ENDS_WITHIN_S", 1.0)
    cost = compile_cost(
        f"{user}:closes", args=["x=f32[4,4]"], starts=["eager"], repeats=1, device="cpu", out=tmp_path / "runs",
        limits=SHORT,
    )  # fmt: skip
    (start,) = cost.starts
    assert (start.status, start.reason) == (
        Status.TIMED_OUT, "the process closed its pipe and did not end (it was at: first call)"
    )  # fmt: skip


def test_artifacts_hit_from_empty_caches_and_the_command_prints_it_all(user, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = main([
        "compile-cost", f"{user}:product", "--arg", "x=f32[32,32]", "--arg", "w=f32[32,32]", "--device", "cpu",
        "--start", "eager", "--start", "artifacts", "--repeats", "2", "--steady", "0.05", "--seed", "7", "--json",
    ])  # fmt: skip
    captured = capfd.readouterr()
    assert code == 0, captured.err
    document = json.loads(captured.out)
    assert document["seed"] == 7
    measured = [s for s in document["starts"] if s["round"] >= 0]
    assert sorted((s["round"], s["position"]) for s in measured) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for start in document["starts"]:
        assert sum(p["duration_ns"] for p in start["phases"]) + start["unattributed_ns"] == start["first_result_ns"]
        assert start["unattributed_share"] < 0.05
    filled = [s for s in measured if s["start"] == "artifacts"]
    assert [s["cache_states"]["fx_graph"] for s in filled] == ["hit", "hit"]
    assert [s["cache_states"]["aot_autograd"] for s in filled] == ["hit", "hit"]
    (calls,) = [b for b in document["break_even"] if b["unit"] == "calls"]
    assert calls["start"] == "artifacts"
    assert calls["never"] is not None
    (directory,) = (tmp_path / "runs" / "compile-cost").iterdir()
    assert {p.name for p in directory.iterdir()} >= {"starts.jsonl", "waterfall.svg", "break-even.svg"}


def test_a_miss_of_a_filled_cache_names_the_component_that_changed(user, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSELAB_TEST_PER_PROCESS", "1")
    cost = compile_cost(
        f"{user}:product", args=["x=f32[32,32]", "w=f32[32,32]"], starts=["warm"], repeats=1, device="cpu",
        out=tmp_path / "runs", limits=SHORT,
    )  # fmt: skip
    warm = cost.measured(Start.WARM)[0]
    graph = [lookup for lookup in warm.lookups if lookup.cache is CacheName.FX_GRAPH]
    assert [lookup.state for lookup in graph] == ["miss"]
    assert [c.component for c in graph[0].changed] == ["inductor_config[max_fusion_size]"]
    assert graph[0].changed[0].before != graph[0].changed[0].after
    autograd = [lookup for lookup in warm.lookups if lookup.cache is CacheName.AOT_AUTOGRAD]
    assert autograd[0].state == "miss"
    assert any("max_fusion_size" in c.component or "inductor_config" in c.component for c in autograd[0].changed)


def test_repeated_blocks_are_compiled_once_and_training_has_no_package(user, tmp_path):
    cost = compile_cost(
        f"{user}:Stack", args=["x=f32[4,16]:requires_grad"], scopes=["regional"], starts=["warm", "aoti"],
        calls="training", repeats=1, device="cpu", out=tmp_path / "runs", limits=SHORT,
    )  # fmt: skip
    cold = cost.starts[0]
    require_whole(cold)
    assert cold.compilations == 1  # three blocks, one graph
    assert cost.measured(Start.WARM)[0].cache(CacheName.AOT_AUTOGRAD).state == "hit"
    assert cost.preparations == []  # a package is of the whole


def test_a_function_that_does_not_export_says_why_and_where(user, tmp_path):
    cost = compile_cost(
        f"{user}:branches", args=["x=f32[8,8]"], starts=["aoti"], repeats=1, device="cpu", out=tmp_path, limits=SHORT
    )
    (failed,) = cost.preparations
    assert failed.status is Status.ERROR
    assert "data-dependent" in failed.reason
    line = next(n for n, text in enumerate(USER.splitlines(), 1) if "x.sum()" in text)
    assert failed.place == f"{user}:{line}"
    assert cost.starts == []


def test_a_function_that_recompiles_at_every_call_is_stopped_and_said(user, tmp_path):
    cost = compile_cost(
        f"{user}:storm", args=["x=f32[8,8]"], starts=["cold"], repeats=1, device="cpu", out=tmp_path, limits=SHORT
    )
    (record,) = cost.starts
    assert record.status is Status.ERROR
    assert "compiled again at every call" in record.reason
    assert "recompile_limit" in record.reason
    assert len(record.recompilations) == 7
    assert "SEEN" in record.recompilations[0]
    assert record.steady_ns is None
    assert cost.break_even == []


def test_what_dynamo_skips_is_not_measured_as_compiled(user, tmp_path):
    cost = compile_cost(
        f"{user}:skipped", args=["x=f32[8,8]"], starts=["cold"], repeats=1, device="cpu", out=tmp_path, limits=SHORT
    )
    assert cost.starts[0].status is Status.ERROR
    assert "nothing was compiled" in cost.starts[0].reason
    assert cost.starts[0].steady_ns is None


@pytest.mark.parametrize(
    ("name", "status", "reason", "place"),
    [
        ("raises", Status.ERROR, "ValueError: no such thing", "raise ValueError"),
        ("aborts", Status.CRASHED, "SIGABRT", ""),
        ("exits", Status.EXITED, "sys.exit(3)", ""),
    ],
)
def test_what_the_users_code_does_to_its_process_is_one_starts_status(user, tmp_path, name, status, reason, place):
    cost = compile_cost(
        f"{user}:{name}", args=["x=f32[8,8]"], starts=["eager"], repeats=1, device="cpu", out=tmp_path, limits=SHORT
    )
    (record,) = cost.starts
    assert record.status is status
    assert reason in record.reason
    line = next(n for n, text in enumerate(USER.splitlines(), 1) if place in text) if place else 0
    assert record.place == (f"{user}:{line}" if place else "")


def test_a_process_past_its_deadline_is_killed_and_says_where_it_was(user, tmp_path):
    cost = compile_cost(
        f"{user}:product", args=["x=f32[8,8]", "w=f32[8,8]"], starts=["eager"], repeats=1, device="cpu", out=tmp_path,
        limits=Limits(deadline_s=0.2),
    )  # fmt: skip
    assert cost.starts[0].status is Status.TIMED_OUT
    assert "no answer within" in cost.starts[0].reason


def test_a_stream_is_compiled_where_its_strategy_says(user, tmp_path):
    cost = compile_cost(
        f"{user}:product", args=["x=f32[8,32]", "w=f32[32,32]"], shapes="24x32,32x32,24x32,20x32", buckets="32,64",
        strategies=["eager", "static", "padding"], repeats=1, device="cpu", out=tmp_path, limits=SHORT,
    )  # fmt: skip
    found = {record.strategy: record for record in cost.stream.records}
    assert all(record.complete for record in found.values()), found
    assert [c.compilations for c in found[Strategy.EAGER].calls] == [0, 0, 0, 0]
    assert [c.compilations for c in found[Strategy.STATIC].calls] == [1, 1, 0, 1]
    assert [c.compilations for c in found[Strategy.PADDED].calls] == [1, 0, 0, 0]
    assert "size mismatch" in found[Strategy.STATIC].calls[1].reasons[0]
    for record in found.values():
        assert [c.correct for c in record.calls] == [True, True, None, True]
        assert all(c.compile_ns <= c.duration_ns for c in record.calls)
        assert all((c.compile_ns > 0) == (c.compilations > 0) for c in record.calls)
    assert cost.stream.cheapest in found
    assert len(cost.stream.totals) == 3


def test_padding_that_changes_the_result_cannot_be_the_cheapest(user, tmp_path):
    (tmp_path / "order.py").write_text("def order(x):\n    return __import__('torch').sort(x, dim=1).values\n")
    cost = compile_cost(
        f"{tmp_path}/order.py:order", args=["x=f32[8,24]"], shapes="8x24,8x28", buckets="32", strategies=["padding"],
        repeats=1, device="cpu", out=tmp_path / "runs", limits=SHORT,
    )  # fmt: skip
    assert [c.correct for c in cost.stream.records[0].calls] == [False, False]
    assert cost.stream.cheapest is None
    assert "not eager's" in cost.stream.totals[0].excluded


def test_a_stream_stops_at_its_budget(user, tmp_path):
    cost = compile_cost(
        f"{user}:product", args=["x=f32[8,32]", "w=f32[32,32]"], shapes="24x32,32x32*90000",
        strategies=["eager"], repeats=1, device="cpu", out=tmp_path, limits=Limits(budget_s=0.1, deadline_s=280),
    )  # fmt: skip
    (record,) = cost.stream.records
    assert "budget of 0 s" in record.stopped
    assert 0 < len(record.calls) < 90_000
    assert cost.stream.cheapest is None


def test_without_a_compiler_nothing_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(SetupError) as caught:
        compile_cost("rms_norm", device="cpu", out=tmp_path / "runs", repeats=1)
    assert "/nowhere/c++" in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"what": "rmsnorm"}, UsageError, "did you mean 'rms_norm'"),
        ({"modes": ["fast"]}, UnknownNameError, "reduce-overhead"),
        ({"starts": ["wram"]}, UnknownNameError, "did you mean 'warm'"),
        ({"scopes": ["local"]}, UnknownNameError, "regional"),
        ({"calls": "serving"}, UnknownNameError, "inference"),
        ({"shapes": "8x"}, UsageError, "8x"),
        ({"shapes": "8x8", "strategies": ["pad"]}, UnknownNameError, "padding"),
        ({"repeats": 0}, UsageError, "--repeats"),
        ({"args": ["x=f32[2]"]}, UsageError, "--shape"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_anything_starts(tmp_path, monkeypatch, words, error, said):
    import fuselab.startup.cost as cost_module

    monkeypatch.setattr(cost_module, "ask", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(error) as caught:
        compile_cost(**{"what": "rms_norm", "out": tmp_path / "runs", **words})
    assert said in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_parent_never_imports_torch(user, tmp_path):
    import subprocess

    code = (
        "import sys, fuselab\n"
        f"fuselab.compile_cost({user + ':product'!r}, args=['x=f32[8,8]', 'w=f32[8,8]'], starts=['eager'], repeats=1,\n"
        f"    device='cpu', out={str(tmp_path / 'runs')!r})._repr_html_()\n"
        "assert not {'torch', 'triton'} & set(sys.modules), 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
