"""What cards are made from: launch arguments, grids, refusals, operators, limiters, scripts."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from fuselab.capture.card_fusion import PLAIN_WORDS, plain_words
from fuselab.capture.card_launch import ScalarArgument, TensorArgument, Unknown, read_launches
from fuselab.capture.card_limiter import LAUNCH_US, Facts, judge, predict
from fuselab.capture.card_operators import read_operators
from fuselab.capture.card_triton import argument_names, launch_grid, read_triton_source
from fuselab.capture.output_code import parse_output_code
from fuselab.capture.repro import ReproFacts, repro_script
from fuselab.ir.addresses import Dim, Index
from fuselab.ir.instructions import InstructionMix
from fuselab.ir.occupancy import occupancy
from fuselab.ir.traffic import Access, measure_traffic
from fuselab.targets import find

RECORDED = Path(__file__).parent / "recorded"

MODULE = """
k = async_compile.triton('k', '')
def call(self, args):
    arg0_1, s77, arg2_1 = args
    args.clear()
    assert_size_stride(arg0_1, (s77, 8), (8, 1))
    buf0 = empty_strided_cuda((s77, 8), (8, 1), torch.bfloat16)
    buf1 = reinterpret_tensor(buf0, (8, ), (1, ), 8)
    buf2 = buf0; del buf0  # reuse
    workspace_0 = empty_strided_cuda((64, ), (1, ), torch.float32)
    buf3 = workspace_0[0 * 32 : (0 + 1) * 32].view(4, 8).sum(dim=0)
    buf4 = torch.ops.custom.thing(arg2_1)
    k.run(arg0_1, buf1, buf2, buf3, buf4, s77 * 8, 0.5, None, stream=stream0)
def benchmark_compiled_module(times=10, repeat=10):
    from torch._dynamo.testing import rand_strided
    arg0_1 = rand_strided((5, 8), (8, 1), device='cuda:0', dtype=torch.float16)
    s77 = 5
    arg2_1 = rand_strided((3, ), (1, ), device='cuda:0', dtype=torch.float32)
"""


def test_launch_arguments_are_followed_through_sizes_views_and_reuse():
    (launch,) = read_launches(MODULE)
    x, view, reused, summed, custom, count, factor, nothing = launch.arguments
    assert x == TensorArgument("arg0_1", "arg0_1", (5, 8), (8, 1), "float16", 0, "cuda")
    assert (view.buffer, view.shape, view.offset) == ("buf0", (8,), 8)
    assert (reused.buffer, reused.name, reused.was) == ("buf0", "buf2", "buf0")
    assert (summed.buffer, summed.shape, summed.dtype) == ("buf3", (8,), "float32")
    assert custom == Unknown("buf4 is not known before it runs")
    assert (count, factor, nothing) == (ScalarArgument(40), ScalarArgument(0.5), ScalarArgument(None))
    assert not launch.known


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECORDED.glob("*.txt")) if "post_grad" not in path.stem])
def test_every_launch_of_the_recorded_modules_is_read(name):
    text = (RECORDED / f"{name}.txt").read_text()
    launches = read_launches(text)
    generated = [launch for launch in parse_output_code(text).launches if not launch.extern]
    assert [launch.kernel for launch in launches] == [launch.name for launch in generated]
    assert all(launch.known for launch in launches)


@pytest.mark.parametrize(
    ("meta", "config", "sizes", "expected"),
    [
        ({"grid_type": "Grid1D"}, {"XBLOCK": 128}, {"xnumel": 129}, (2, 1, 1)),
        ({"grid_type": "Grid2D"}, {"XBLOCK": 2, "YBLOCK": 4}, {"xnumel": 6, "ynumel": 9}, (3, 3, 1)),
        ({"grid_type": "Grid2DWithYZOverflow"}, {"YBLOCK": 1}, {"xnumel": 6, "ynumel": 70000}, (6, 35000, 2)),
        ({"grid_type": "MixOrderReductionGrid"}, {"RSPLIT_SIZE": 16}, {"xnumel": 100}, (7, 1, 1)),
        ({"grid_type": "CooperativeReductionGrid"}, {"RSPLIT": 8, "XBLOCK": 2}, {"xnumel": 5}, (8, 3, 1)),
        ({"grid_type": "FixedGrid", "fixed_grid": ["n // 2", "max(n, 3)", 1]}, {"A": 1}, {"n": 4}, (2, 4, 1)),
        (
            {
                "grid_type": "PrecomputedGrid",
                "precomputed_grids": [{"config": {"B": 2}, "python": ["-(n // -2)", "1", "1"]}],
            },
            {"B": 2},
            {"n": 7},
            (4, 1, 1),
        ),
        ({"grid_type": "Grid1D"}, {}, {"xnumel": 1}, "the block sizes are not known"),
        ({"grid_type": "NewGrid"}, {"XBLOCK": 1}, {"xnumel": 1}, "this kind of grid is not known here: NewGrid"),
        ({"grid_type": "Grid1D"}, {"XBLOCK": 1}, {}, "the grid (Grid1D) needs 'xnumel'"),
        (
            {"grid_type": "FixedGrid", "fixed_grid": ["__import__('os').getpid()", 1, 1]},
            {"A": 1},
            {},
            "the grid (FixedGrid)",
        ),
    ],
)
def test_grids(meta, config, sizes, expected):
    found = launch_grid(meta, config, sizes)
    assert found.startswith(expected) if isinstance(expected, str) else found == expected


@pytest.mark.slow
def test_grids_are_those_of_inductor_itself():
    heuristics = pytest.importorskip("torch._inductor.runtime.triton_heuristics")
    for meta, config, sizes in (
        ({"grid_type": "Grid1D"}, {"XBLOCK": 64}, {"xnumel": 1000}),
        ({"grid_type": "Grid2D"}, {"XBLOCK": 64, "YBLOCK": 8}, {"xnumel": 1000, "ynumel": 77}),
        ({"grid_type": "Grid2DWithYZOverflow"}, {"XBLOCK": 64, "YBLOCK": 1}, {"xnumel": 9, "ynumel": 200000}),
        ({"grid_type": "CooperativeReductionGrid"}, {"XBLOCK": 4, "RSPLIT": 16}, {"xnumel": 30}),
    ):
        theirs = heuristics.GridExpr.from_meta(meta, config).eval_slow(dict(sizes))
        assert launch_grid(meta, config, sizes) == tuple(theirs)


def test_triton_sources_tell_parameters_sizes_and_device():
    kernel = parse_output_code((RECORDED / "layer_norm_gelu_forward.h200.txt").read_text()).kernels[0]
    source = read_triton_source(kernel.source)
    assert source.function == kernel.name
    assert source.sizes == {"xnumel": 512, "r0_numel": 1024}
    assert (source.device["cc"], source.device["multi_processor_count"]) == (90, 132)
    assert source.inductor_meta["grid_type"] == "Grid1D"
    assert argument_names(source, 8)[-2:] == ("xnumel", "r0_numel")
    with pytest.raises(ValueError, match="no function"):
        read_triton_source("x = 1")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("no shared data", "nothing in common"),
        ("no shared data due to indexing mismatch", "in different orders"),
        ("numel/rnumel mismatch (reduce) (4, 8), (1, 1)", "both reduce"),
        ("numel/rnumel mismatch (non-reduce) (4, 8), (1, 1)", "different numbers of elements"),
        ("nodes numel incompatibility", "another number of elements"),
        ("node1 is extern but not a triton kernel", "call of a library"),
        ("Fusion will increase peak memory", "more memory alive"),
    ],
)
def test_refusals_in_plain_words(reason, words):
    assert words in plain_words(reason)


def test_no_reason_is_shadowed_by_one_before_it():
    for number, (start, words) in enumerate(PLAIN_WORDS):
        assert plain_words(start) == words, f"entry {number} is never reached"


GRAPH = """
class GraphModule(torch.nn.Module):
    def forward(self, x: "f32[4, 8][8, 1]cpu", seed: "i64[1][1]cpu"):
        amax: "f32[4, 1][1, 1]cpu" = torch.ops.aten.amax.default(x, [-1], True)
        sub: "f32[4, 8][8, 1]cpu" = torch.ops.aten.sub.Tensor(x, amax);  x = amax = None
        random: "f32[4, 8][8, 1]cpu" = torch.ops.prims.inductor_random.default([4, 8], seed, 'rand');  seed = None
        gt: "b8[4, 8][8, 1]cpu" = torch.ops.aten.gt.Scalar(random, 0.5);  random = None
        mul: "f32[4, 8][8, 1]cpu" = torch.ops.aten.mul.Tensor(gt, sub);  sub = None
        other: "f32[4, 8][8, 1]cpu" = torch.ops.aten.exp.default(elsewhere)
        return (mul, gt, amax)
"""


def test_operators_are_cut_out_and_what_was_drawn_is_given():
    found = read_operators(GRAPH, ["x", "seed"], ["amax", "gt", "mul"])
    assert found.outputs == ("amax", "mul")
    assert found.drawn == ("gt",)
    scope = {}
    exec(found.source, scope)
    torch = pytest.importorskip("torch")
    x = torch.arange(32.0).reshape(4, 8)
    mask = torch.rand(4, 8) > 0.5
    result = scope["operators"](torch, {"x": x}, {"gt": mask})
    assert torch.equal(result["mul"], mask * (x - 7 - torch.arange(4.0)[:, None] * 8))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (["x"], [], "does not say which graph nodes"),
        (["x", "seed"], ["mul"], "everything that it stores depends on random numbers"),
        (["x"], ["other"], "other is computed from elsewhere"),
    ],
)
def test_operators_that_cannot_be_cut_out_say_why(inputs, outputs, reason):
    found = read_operators(GRAPH, inputs, outputs)
    assert found.source == ""
    assert reason in found.reason


def test_a_graph_that_is_no_python_is_said():
    assert "could not be read" in read_operators("def f(:", ["x"], ["y"]).reason


def facts(programs: int, elements: int, *, instructions: int = 100, special: int = 0, warps: int = 4, rounds: int = 1):
    """A kernel that copies float32 on an H200, with so many instructions a warp."""
    program, lane = Dim("program", programs), Dim("lane", elements // programs)
    address = Index.of(program) * lane.extent + Index.of(lane)
    traffic = measure_traffic(
        [Access("x", "load", 4, (program, lane), address), Access("y", "store", 4, (program, lane), address)]
    )
    mix = InstructionMix(total=instructions, classes=Counter({"float": instructions - special, "special": special}))
    return Facts(find("h200"), traffic, mix, occupancy(find("h200"), 32, 0, warps, programs), programs, warps, rounds)


@pytest.mark.parametrize(
    ("kernel", "limiter"),
    [
        (facts(65536, 1 << 26), "memory"),
        (facts(65536, 1 << 26, instructions=2000), "instructions"),
        (facts(65536, 1 << 26, instructions=1000, special=300), "instructions"),
        (facts(8, 8192), "latency"),
        (facts(8, 8192, rounds=0), "launch"),
        (facts(8, 1 << 20, rounds=64), "latency"),
    ],
)
def test_predictions(kernel, limiter):
    found = predict(kernel)
    assert found.limiter == limiter
    assert found.summary()["measured"] is None
    if limiter != "launch":
        assert max(found.times_us, key=found.times_us.get) == limiter
    else:
        assert max(t for n, t in found.times_us.items() if n != "launch") < LAUNCH_US


def test_predicted_memory_time_is_bytes_over_bandwidth():
    found = predict(facts(65536, 1 << 26))
    assert found.times_us["memory"] == pytest.approx((2 * 4 << 26) / 4.8e12 / 0.9 * 1e6, rel=1e-3)


def test_special_functions_take_eight_times_a_float_instruction():
    # 16 a clock and multiprocessor against 128.
    plain, special = (
        predict(facts(65536, 1 << 26, instructions=4000, special=s)).times_us["instructions"] for s in (0, 4000)
    )
    assert special / plain == pytest.approx(8)


@pytest.mark.parametrize(
    ("figures", "measured"),
    [
        ((1.0, 0.75, 0.9, 0.9), "launch"),
        ((40.0, 0.75, 18.0, 35.0), "memory"),
        ((40.0, 0.75, 39.0, 77.0), "instructions"),
        ((40.0, 0.75, 39.0, 45.0), "latency"),
    ],
)
def test_measured_limiters(figures, measured):
    names = ("time_us", "empty_us", "cached_us", "cached_twice_us")
    judged = judge("memory", dict(zip(names, figures, strict=True)))
    assert judged["limiter"] == measured
    assert judged["verdict"] == ("confirmed" if measured == "memory" else "corrected")
    assert judge(None, dict(zip(names, figures, strict=True)))["verdict"] == "not predicted"


def repro_facts(**changes):
    (launch,) = read_launches(MODULE.replace("buf4, s77", "s77"))
    names = ("x", "view", "out", "sum", "n", "p", "none")
    return ReproFacts(
        **{
            "name": "k",
            "backend": "triton",
            "file": "kernel.py",
            "function": "k",
            "launch": launch,
            "names": names,
            "roles": {"out": "output"},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "name", ["a'b\"c", "'''; import os #", "x\ny", "\u202eevil\0", "../../etc/passwd", "}{[", "k" * 400]
)
def test_a_hostile_name_is_data_of_the_script(name):
    script = repro_script(repro_facts(name=name))
    scope = {"__name__": "loaded"}
    exec(compile(script, "repro.py", "exec"), scope)
    assert scope["KERNEL"]["name"] == name
    assert scope["KERNEL"]["buffers"]["buf0"] == {"dtype": "bfloat16", "elements": 40, "read": True}
    assert "fuselab" not in script


def test_an_unknown_argument_is_a_reason_not_a_script():
    (launch,) = read_launches(MODULE)
    with pytest.raises(ValueError, match="buf4 is not known before it runs"):
        repro_script(repro_facts(launch=launch))


def test_zeros_and_nans_do_not_pass_a_comparison():
    torch = pytest.importorskip("torch")
    from fuselab.capture.repro_script import TOLERANCE, _error

    expected = torch.randn(64, 64)
    assert _error(expected + 1e-6, expected) < TOLERANCE["float32"]
    assert _error(torch.zeros(64, 64), expected) > 10 * max(TOLERANCE.values())
    assert _error(torch.full((64, 64), math.nan), expected) == math.inf
    assert _error(torch.full((4,), math.nan), torch.full((4,), math.nan)) == math.inf
    assert _error(torch.zeros(4), torch.zeros(4)) == 0.0
    assert _error(torch.ones(4), torch.zeros(4)) == math.inf
