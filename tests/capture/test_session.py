"""The context manager on real compilations on a CPU: what it saves, what it says, what it puts back."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from fuselab.capture import Capture, cache_environment, capture, internals  # noqa: E402
from fuselab.records import Direction, Stage  # noqa: E402

pytestmark = pytest.mark.slow

HERE = Path(__file__)


def layer_norm_gelu(x, weight, bias):
    normalised = torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias)
    return torch.nn.functional.gelu(normalised)


LINES = [layer_norm_gelu.__code__.co_firstlineno + offset for offset in (1, 2)]


def train() -> None:
    """One forward and one backward, compiled."""
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((64, 256), (256,), (256,))]
    torch.compile(layer_norm_gelu, dynamic=False)(*inputs).sum().backward()


SET_BY_TORCH = {"_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "KMP_DUPLICATE_LIB_OK"}
"""Variables that torch sets for itself when it first compiles, captured or not."""


def state() -> dict[str, object]:
    """Everything that a capture touches, as it is now."""
    import torch._inductor.debug as debug
    from torch._inductor import config

    loggers = {}
    for logger in (internals.trace_logger(), internals.fusion_logger()):
        loggers[logger.name] = (list(logger.handlers), logger.level, logger.propagate, logger.disabled)
    names = ("trace.provenance_tracking_level", "cpp_cache_precompile_headers")
    entries = {n: (config._config[n].default, internals._override(config._config[n])) for n in names}
    import torch._inductor.codegen.common as common
    import torch._inductor.ir as ir
    import torch._inductor.loop_body as loop_body
    import torch._inductor.utils as utils
    from torch._inductor.output_code import CompiledFxGraph

    wrapped = {
        ir.Loops: "__post_init__",
        ir.ComputedBuffer: "get_store_function",
        loop_body.LightTracer: "create_node",
        utils.IndentedBuffer: "writeline",
        common.CSE: "generate",
        internals.triton_scheduling(): "define_kernel",
        CompiledFxGraph: "__call__",
    }
    return {
        "methods": [vars(owner).get(name) for owner, name in wrapped.items()],
        "environment": {k: v for k, v in os.environ.items() if k not in SET_BY_TORCH},
        "loggers": loggers,
        "settings": entries,
        "config": {n: getattr(config.trace if "." in n else config, n.rpartition(".")[2]) for n in names},
        "provenance": {n: repr(getattr(debug, n)) for n in internals._PROVENANCE_GLOBALS if hasattr(debug, n)},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("capture")


@pytest.fixture(scope="module")
def before_and_after() -> dict[str, dict[str, object]]:
    return {}


@pytest.fixture(scope="module")
def trained(place, before_and_after) -> Capture:
    """A forward and a backward captured into fresh caches that are kept."""
    torch.compiler.reset()
    before_and_after["before"] = state()
    with capture(place / "cold", variant="compile", workload="w", caches=place / "caches") as captured:
        train()
    before_and_after["after"] = state()
    return captured


def test_every_stage_is_present_or_absent_with_a_reason(trained):
    for artifact in trained.artifacts:
        assert bool(artifact.path) != bool(artifact.absent)
        if artifact.path:
            path = trained.into / artifact.path
            assert path.stat().st_size == artifact.size_bytes > 0
    present = {(a.direction, a.stage) for a in trained.artifacts if a.path}
    both = {Stage.POST_GRAD_GRAPH, Stage.FUSION, Stage.OUTPUT_CODE, Stage.PROVENANCE, Stage.CPP, Stage.ASSEMBLY}
    assert {s for d, s in present if d is Direction.BACKWARD} == both | {Stage.BACKWARD_GRAPH}
    assert {s for d, s in present if d is Direction.FORWARD} == both | {
        Stage.DYNAMO_GRAPH,
        Stage.JOINT_GRAPH,
        Stage.FORWARD_GRAPH,
    }
    reasons = {a.stage: a.absent for a in trained.artifacts if not a.path}
    assert reasons[Stage.INFERENCE_GRAPH].startswith("compiled for training")
    assert reasons[Stage.TTIR] == "CPU target: Inductor emits C++, not Triton"


def test_operators_nodes_and_lines_come_from_the_provenance_in_both_directions(trained):
    by_direction = {kernel.direction: kernel for kernel in trained.kernels}
    forward, backward = by_direction[Direction.FORWARD], by_direction[Direction.BACKWARD]
    assert forward.backend == "cpp"
    assert forward.launches == backward.launches == 1
    assert {"aten.var_mean.correction", "aten.rsqrt.default", "aten.erf.default"} <= set(forward.operations)
    assert {"aten.exp.default", "aten.sum.dim_IntList"} <= set(backward.operations)
    assert "rsqrt" in forward.nodes
    for kernel in (forward, backward):
        assert sorted(kernel.source_lines) == [f"{HERE}:{line}" for line in LINES]
        assert kernel.stages == ["cpp", "assembly"]
        assert 'extern "C"' in (trained.into / kernel.file_path).read_text()


def test_every_computed_node_belongs_to_a_kernel(trained):
    for kernel in trained.kernels:
        tables = json.loads((trained.into / f"graphs/{kernel.direction.value}/provenance.json").read_text())
        computed = {name for name, operator in tables["operator_of_node"].items() if operator}
        assert computed <= set(kernel.nodes)
        assert {tables["operator_of_node"][n] for n in kernel.nodes} - {""} == set(kernel.operations)


def test_the_card_is_the_record_and_more(trained):
    for kernel in trained.kernels:
        card = json.loads((trained.into / kernel.file_path).with_name("card.json").read_text())
        assert msgspec.convert({k: card[k] for k in msgspec.to_builtins(kernel)}, type(kernel)) == kernel
        code = (trained.into / card["output_code"]).read_text().splitlines()
        assert all(kernel.name in code[line - 1] for line in card["launched_at"])


def test_the_fusion_record_has_the_groups_and_their_nodes(trained):
    fusion = json.loads((trained.into / "graphs/forward/fusion.json").read_text())
    names = {node for group in fusion["groups"] for member in group["members"] for node in member["nodes"]}
    assert {"var_mean", "erf", "mul_4"} <= names


def test_no_warning_where_nothing_is_wrong(trained):
    assert trained.warnings == []
    assert trained.records["inductor_output_code"] == 2


def test_everything_is_put_back(trained, before_and_after):
    assert before_and_after["after"] == before_and_after["before"]


def test_a_second_capture_from_warm_caches_shows_the_same(trained, place):
    torch.compiler.reset()
    with capture(place / "warm", variant="compile", workload="w", caches=place / "caches") as captured:
        train()
    assert captured.records.get("fx_graph_cache_hit") == 2
    plain = [msgspec.structs.replace(k, created_at="") for k in captured.kernels]
    assert plain == [msgspec.structs.replace(k, created_at="") for k in trained.kernels]
    assert {(a.path, a.absent) for a in captured.artifacts} == {(a.path, a.absent) for a in trained.artifacts}
    assert captured.warnings == []


WARM_START = """
import runpy, sys
tests = runpy.run_path(sys.argv[1], run_name="tests")
tests["train"]()
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


def test_a_process_started_with_the_environment_hits_the_caches(trained, place, clean_environment):
    environment = clean_environment(**cache_environment(place / "caches"))
    command = [sys.executable, "-c", WARM_START, str(HERE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["2", "0"]


def test_what_was_compiled_before_is_said_to_be(trained, place):
    train()
    with capture(place / "again", variant="compile", workload="w") as captured:
        train()
    assert "already compiled" in captured.warnings[0]
    assert captured.kernels == []
    assert {a.absent for a in captured.artifacts} == {"no compilation happened while the capture was open"}


def breaking(x):
    y = torch.sin(x)
    print("between", end="")
    return torch.cos(y)


def specialised(x, factor):
    return (x * factor).relu()


def too_wide(x):
    return torch.mm(x, torch.ones(3, 3))


def test_breaks_recompiles_and_failures_are_named_with_their_lines(place, capsys):
    torch.compiler.reset()
    before = state()
    with capture(place / "interrupted", variant="compile", workload="w") as captured:
        temporary = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert temporary.is_dir()
        torch.compile(breaking)(torch.randn(8))
        compiled = torch.compile(specialised, dynamic=False)
        compiled(torch.randn(8), 2)
        compiled(torch.randn(8), 3)
        with pytest.raises(Exception, match="reduction dim"):
            torch.compile(too_wide, fullgraph=True)(torch.randn(4, 4))
    assert not temporary.exists()
    assert state() == before

    line = breaking.__code__.co_firstlineno + 2
    assert any(w.startswith(f"graph break at {HERE}:{line}: ") and "print" in w for w in captured.warnings)
    line = specialised.__code__.co_firstlineno
    assert any(re.search(rf"recompile of specialised at .*:{line} .*factor == 2", w) for w in captured.warnings)
    line = too_wide.__code__.co_firstlineno + 1
    failed = f"compilation of too_wide failed at {HERE}:{line} in Dynamo's tracing: "
    assert any(w.startswith(failed) for w in captured.warnings)

    codes = [a.path for a in captured.artifacts if a.stage is Stage.OUTPUT_CODE and a.path]
    assert codes == [f"graphs/forward/output_code{n}.py" for n in ("", ".1", ".2", ".3")]
    assert [k.operations for k in captured.kernels] == [
        ["aten.sin.default"],
        ["aten.cos.default"],
        ["aten.mul.Tensor", "aten.relu.default"],
        ["aten.mul.Tensor", "aten.relu.default"],
    ]
    assert len({k.kernel_id for k in captured.kernels}) == 4
    reasons = {a.stage: a.absent for a in captured.artifacts if a.direction is Direction.BACKWARD}
    assert reasons[Stage.BACKWARD_GRAPH] == "compiled for inference: no input requires a gradient"


def test_an_error_in_the_block_keeps_what_was_captured_and_puts_everything_back(place):
    namespace: dict = {}
    exec("import torch\ndef typed(x):\n    return torch.tanh(x)\n", namespace)  # a function without a source file
    before = state()

    def raise_in_the_block() -> Capture:
        nonlocal captured
        with capture(place / "raised", variant="v", workload="w") as captured:
            torch.compile(namespace["typed"])(torch.randn(8))
            raise KeyError("mine")

    captured = None
    with pytest.raises(KeyError, match="mine"):
        raise_in_the_block()
    assert state() == before
    assert [k.operations for k in captured.kernels] == [["aten.tanh.default"]]


def test_a_failure_inside_of_inductor_keeps_the_graphs_until_then(place, monkeypatch):
    from torch._inductor.graph import GraphLowering

    def broken(self):
        raise RuntimeError("code generation is broken")

    monkeypatch.setattr(GraphLowering, "codegen", broken)
    with capture(place / "broken", variant="v", workload="w") as captured, pytest.raises(Exception, match="is broken"):
        torch.compile(lambda x: torch.exp(x) + 1)(torch.randn(8))
    present = {a.stage for a in captured.artifacts if a.path}
    assert {Stage.DYNAMO_GRAPH, Stage.INFERENCE_GRAPH, Stage.POST_GRAD_GRAPH} <= present
    reasons = {a.stage: a.absent for a in captured.artifacts if a.direction is Direction.FORWARD and not a.path}
    assert reasons[Stage.OUTPUT_CODE] == "the compilation failed before this stage"
    assert any("in Inductor's code generation: " in w and "is broken" in w for w in captured.warnings)


def test_a_listener_of_the_users_hears_everything_and_stays(place):
    class Listener(logging.Handler):
        heard = 0

        def emit(self, record):
            Listener.heard += 1

    logger, listener = internals.trace_logger(), Listener()
    logger.addHandler(listener)
    try:
        with capture(place / "heard", variant="v", workload="w") as captured:
            torch.compile(lambda x: x.floor())(torch.randn(8))
        assert listener in logger.handlers
        assert Listener.heard == sum(captured.records.values()) > 0
    finally:
        logger.removeHandler(listener)


def test_a_backward_compiled_in_another_thread_has_its_provenance(place):
    """As autograd does on a GPU; since torch 2.12 a setting belongs to the thread that made it."""
    with capture(place / "threaded", variant="v", workload="w") as captured:
        loss = torch.compile(lambda x: torch.sin(x) * x, dynamic=False)(torch.randn(8, requires_grad=True)).sum()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
    assert "aten.cos.default" in {k.direction: k for k in captured.kernels}[Direction.BACKWARD].operations
    assert captured.warnings == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_every_triton_kernel_has_every_stage_in_both_directions(place):
    torch.compiler.reset()
    with capture(place / "gpu", variant="compile", workload="w", caches=place / "gpu caches") as captured:
        shapes = ((512, 1024), (1024,), (1024,))
        inputs = [torch.randn(*shape, device="cuda", requires_grad=True) for shape in shapes]
        torch.compile(layer_norm_gelu, dynamic=False)(*inputs).sum().backward()
        torch.cuda.synchronize()
    assert {kernel.direction for kernel in captured.kernels} == set(Direction)
    for kernel in captured.kernels:
        assert kernel.stages == ["triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"], kernel.kernel_id
        card = json.loads((captured.into / kernel.file_path).with_name("card.json").read_text())
        assert card["configuration_chosen_by"] in {"launcher", "autotuning record", "only configuration"}
        assert kernel.operations
        assert kernel.source_lines
        assert kernel.registers > 0
        assert kernel.num_warps > 0
        assert kernel.launches >= 1
    assert captured.warnings == []
