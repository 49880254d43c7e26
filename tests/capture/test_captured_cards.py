"""Kernel cards: of kernels compiled for an H200 on this machine, and of the four experiments' C++ kernels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fuselab.capture import internals
from fuselab.capture.files import Files
from fuselab.capture.graph_facts import graph_facts
from fuselab.capture.internals import GraphSnapshot
from fuselab.capture.kernels import KernelBuilder
from fuselab.capture.machine_code import parse_resource_usage
from fuselab.capture.output_code import parse_output_code
from fuselab.capture.trace import CompiledGraph
from fuselab.capture.triton_cache import chosen_hashes, read_cache
from fuselab.card.builder import CardBuilder
from fuselab.card.graph import TimedConfiguration
from fuselab.ir.instructions import parse_sass
from fuselab.records import Direction
from fuselab.report.card import card_lines
from fuselab.targets import find

ROWS, COLUMNS = 64, 256


def graph_of(tmp_path: Path, text: str) -> CompiledGraph:
    path = tmp_path / "graphs" / "backward" / "output_code.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    snapshot = GraphSnapshot(True, False, (), (), ("cpu",))
    return CompiledGraph(Direction.BACKWARD, 0, path, "", snapshot, None)


@pytest.fixture(scope="module")
def hopper_cards(hopper_caches, tmp_path_factory):
    """Folder and card of every kernel of the recorded backward graph, as if an H200 had launched them."""
    tmp_path = tmp_path_factory.mktemp("cards")
    text = (Path(__file__).parent / "recorded" / "layer_norm_gelu_backward.h200.txt").read_text()
    binaries = read_cache([hopper_caches / "triton"])
    build = KernelBuilder(Files(tmp_path, "compile", "w"), binaries, chosen_hashes(hopper_caches / "inductor"), ())
    build.target = find("h200")
    build.timings = {b.hash: TimedConfiguration(b.hash, 5.0 + i, {"XBLOCK": 1}) for i, b in enumerate(binaries)}
    graph = graph_of(tmp_path, text)
    build.add(graph)
    return [
        ((tmp_path / k.file_path).parent, json.loads((tmp_path / k.file_path).with_name("card.json").read_text()))
        for k in build.kernels
    ]


@pytest.mark.slow
def test_registers_spills_and_shared_memory_equal_cuobjdump(hopper_cards):
    for folder, card in hopper_cards:
        command = [internals.nvidia_tool("cuobjdump"), "-res-usage", folder / "cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        usage = parse_resource_usage(said)[card["name"]]
        assert card["registers"] == usage.registers > 0
        assert card["spills"] == usage.local_bytes
        assert card["resource_usage"]["shared_bytes"] == usage.shared_bytes
        # ptxas counts what is static; what Triton asks for at the launch stands beside it.
        assert card["shared_bytes"] == card["triton_metadata"]["shared"]


@pytest.mark.slow
def test_without_a_launch_the_grid_is_absent_and_what_needs_it_says_so(hopper_cards):
    _, card = hopper_cards[0]
    assert "block sizes are not known" in card["launch"]["grid"]["absent"]
    assert "grid is not known" in card["traffic"]["absent"]
    assert card["limiter"] == {"absent": "not known: grid"}
    assert card["instructions"]["accesses"]
    assert card["occupancy"]["device"] == "NVIDIA H200"
    assert card["repro"]["file"] == "repro.py"


@pytest.mark.slow
def test_with_the_launchers_configuration_every_section_is_there(hopper_cards, tmp_path):
    text = (Path(__file__).parent / "recorded" / "layer_norm_gelu_backward.h200.txt").read_text()
    builder = CardBuilder(graph_facts(graph_of(tmp_path, text), parse_output_code(text)), find("h200"))
    folder, card = hopper_cards[0]
    grid_by_hand = 512
    filled, repro = builder.fill({**card, "config": {"XBLOCK": 1}}, folder)
    assert filled["launch"]["grid"] == [grid_by_hand, 1, 1]
    # x, dy and, recomputed, what GELU's argument was: see the recorded module; mean and rstd, weight and bias once.
    large, rows, small = 4 * 512 * 1024, 4 * 512, 4 * 1024
    inputs = [a for a in filled["traffic"]["arguments"] if a["role"] == "input"]
    assert sorted(a["fewest_bytes"] for a in inputs) == sorted([large, large, rows, rows, small, small])
    assert filled["traffic"]["exact"]
    assert filled["limiter"]["predicted"] in ("memory", "latency", "launch")
    assert set(filled["limiter"]["times_us"]) == {"memory", "instructions", "latency", "launch"}
    static = parse_sass((folder / "sass").read_text())
    assert filled["instructions"]["accesses"] == dict(sorted(static.accesses.items()))
    each = filled["instructions"]["per_warp"] * grid_by_hand * card["num_warps"] * 32 / (512 * 1024)
    assert filled["instructions"]["an_element"] == pytest.approx(each)
    assert repro is not None
    compile(repro, "repro.py", "exec")
    lines = card_lines(filled)
    assert not [line for line in lines if "absent" in line and not line.startswith(("autotune", "split"))]


@pytest.mark.slow
def test_a_repro_is_compiled_as_the_kernel_was(hopper_cards, tmp_path):
    """Triton checks integer overflow where ``debug`` is on, unless told not to, as Inductor does: another kernel."""
    text = (Path(__file__).parent / "recorded" / "layer_norm_gelu_backward.h200.txt").read_text()
    builder = CardBuilder(graph_facts(graph_of(tmp_path, text), parse_output_code(text)), find("h200"))
    folder, card = hopper_cards[0]
    metadata = {**card["triton_metadata"], "debug": True, "sanitize_overflow": False}
    _, repro = builder.fill({**card, "config": {"XBLOCK": 1}, "triton_metadata": metadata}, folder)
    scope: dict = {"__name__": "loaded"}
    exec(compile(repro, "repro.py", "exec"), scope)
    options = scope["KERNEL"]["options"]
    assert options == {
        **{name: metadata[name] for name in ("num_warps", "num_stages", "num_ctas")},
        "debug": True,
        "sanitize_overflow": False,
    }


@pytest.mark.slow
def test_configurations_are_listed_with_their_times(hopper_cards):
    configurations = hopper_cards[0][1]["autotune"]["configurations"]
    assert len(configurations) == 2
    assert [c["chosen"] for c in configurations].count(True) == 1
    assert [c["time_us"] for c in configurations] == sorted(c["time_us"] for c in configurations)
    assert hopper_cards[1][1]["autotune"]["configurations"][0]["chosen"]


@pytest.mark.slow
def test_a_triton_repro_without_a_gpu_exits_with_two_and_says_why(hopper_cards, tmp_path):
    folder = tmp_path / "kernel"
    shutil.copytree(hopper_cards[0][0], folder)
    done = subprocess.run(
        [sys.executable, "repro.py"], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    if "passed" not in done.stdout:  # a machine with a GPU runs it
        assert done.returncode == 2
        assert "needs a GPU" in done.stderr


EXPERIMENTS = """
import sys
from pathlib import Path
import torch
from fuselab.capture import capture
from fuselab.experiment import load_registry
from fuselab.records import Direction
from fuselab.worker.check import build, run_once

into = Path(sys.argv[1])
options = {"layer_norm_gelu": {}, "softmax_dropout": {}, "rms_norm": {}, "silu": {"form": "swiglu"}}
for name, chosen in options.items():
    torch.compiler.reset()
    experiment = load_registry()[name]
    workload = experiment.workload((64, 256), "f32", options=chosen)
    inputs = experiment.make_inputs(workload, "cpu")
    with capture(into / name, variant="compile", workload="w", caches=into / "caches"):
        run_once(build(experiment, "compile", workload), inputs, [Direction.FORWARD, Direction.BACKWARD])
"""


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """The four experiments, compiled for this CPU and captured, forward and backward, in a process of their own."""
    into = tmp_path_factory.mktemp("experiments")
    done = subprocess.run(
        [sys.executable, "-c", EXPERIMENTS, str(into)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return into


def cards_of(into: Path, name: str, direction: str) -> list[dict]:
    found = sorted((into / name / "kernels" / direction).glob("*/card.json"))
    return [json.loads(path.read_text()) for path in found if (path.parent / "kernel.cpp").is_file()]


LARGE, ROW, COLUMN = 4 * ROWS * COLUMNS, 4 * ROWS, 4 * COLUMNS
FEWEST = {
    # x, weight, bias; y, mean, rstd.
    ("layer_norm_gelu", "forward"): 2 * LARGE + 2 * COLUMN + 2 * ROW,
    # the seed, x; the mask, maximum and sum of each row, y.
    ("softmax_dropout", "forward"): 8 + 2 * LARGE + ROWS * COLUMNS + 2 * ROW,
    # x, dy, mean, rstd, weight, bias; the gradient of GELU's argument, two sums a row in between, dx, dweight, dbias.
    ("layer_norm_gelu", "backward"): 4 * LARGE + 4 * COLUMN + 4 * ROW,
    # x, weight; rstd, y.
    ("rms_norm", "forward"): 2 * LARGE + COLUMN + ROW,
    # x, dy, rstd, weight; a sum a row in between, dx, dweight.
    ("rms_norm", "backward"): 3 * LARGE + 2 * COLUMN + 2 * ROW,
    # a, b; y.
    ("silu", "forward"): 3 * LARGE,
    # a, b, dy; da, db.
    ("silu", "backward"): 5 * LARGE,
    # x, the mask, dy, maximum and sum; the row's sum that is stored in between, dx.
    ("softmax_dropout", "backward"): 3 * LARGE + ROWS * COLUMNS + 3 * ROW,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "direction"), FEWEST)
def test_fewest_bytes_of_a_captured_kernel_equal_a_hand_count(experiments, name, direction):
    (card,) = cards_of(experiments, name, direction)
    assert card["traffic"]["exact"], card["traffic"]["reasons"]
    assert card["traffic"]["fewest_bytes"] == FEWEST[name, direction]
    assert card["traffic"]["elements"] == ROWS * COLUMNS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layer_norm_gelu", "softmax_dropout", "rms_norm", "silu"])
def test_repro_of_every_cpp_kernel_runs_and_its_operators_agree(experiments, name):
    scripts = sorted((experiments / name / "kernels").glob("*/*/repro.py"))
    assert {script.parent.parent.name for script in scripts} == {"forward", "backward"}
    assert len(scripts) == sum(len(cards_of(experiments, name, d)) for d in ("forward", "backward"))
    for script in scripts:
        done = subprocess.run(
            [sys.executable, "repro.py", "--json", "--repeats", "3"],
            cwd=script.parent,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(experiments / "caches" / "inductor")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        said = json.loads(done.stdout)
        assert said["check"]["passed"]
        assert said["check"]["compared"] >= 1, said["check"]["how"]
        assert said["time"]["samples"] == 3


@pytest.mark.slow
def test_a_wrong_kernel_fails_its_repro(experiments, tmp_path):
    (script,) = (experiments / "silu" / "kernels" / "forward").glob("*/repro.py")
    folder = tmp_path / "wrong"
    shutil.copytree(script.parent, folder)
    source = (folder / "kernel.cpp").read_text()
    assert ".store(out_ptr0" in source
    for change, words in (
        ("tmp1.store(out_ptr0", "differs from its operators"),
        ("if (false) tmp1.store(out_ptr0", "inf"),
    ):
        (folder / "kernel.cpp").write_text(re.sub(r"tmp\d+\.store\(out_ptr0", change, source))
        done = subprocess.run(
            [sys.executable, "repro.py", "--repeats", "0"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "FAILED" in done.stdout
        assert words in done.stdout


@pytest.mark.slow
def test_cpu_cards_have_vector_widths_or_the_reason(experiments):
    (card,) = cards_of(experiments, "silu", "forward")
    if "absent" in card["instructions"]:
        assert "assembly" in card["instructions"]["absent"]
    else:
        assert card["instructions"]["vector_share"] > 0.5
        assert set(card["instructions"]["widths"]) & {"512", "256", "128", "scalable"}
    assert card["limiter"] == {"absent": "the model is of described GPUs"}
    assert card["occupancy"] == {"absent": "not a GPU kernel"}
