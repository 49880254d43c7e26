"""From a compiled graph to kernels, files and cards: recorded graphs, with kernels compiled for an H200."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from fuselab.capture import internals
from fuselab.capture.files import Files
from fuselab.capture.internals import GraphSnapshot
from fuselab.capture.kernels import KernelBuilder, _Machine
from fuselab.capture.machine_code import parse_resource_usage
from fuselab.capture.output_code import parse_output_code
from fuselab.capture.provenance import GraphNode
from fuselab.capture.trace import CompiledGraph
from fuselab.capture.triton_cache import chosen_hashes, read_cache
from fuselab.records import Direction, Stage


def compiled_graph(tmp_path, text, nodes_of, nodes=(), direction=Direction.BACKWARD, number=0) -> CompiledGraph:
    path = tmp_path / "graphs" / direction.value / f"output_code.{number}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    snapshot = GraphSnapshot(direction is Direction.BACKWARD, False, tuple(nodes), (), ("cuda",))
    return CompiledGraph(direction, number, path, "", snapshot, None, nodes_of)


def builder(tmp_path, binaries=(), best=()) -> KernelBuilder:
    return KernelBuilder(Files(tmp_path, "compile", "w"), binaries, best, ())


@pytest.mark.slow
def test_triton_kernels_are_saved_with_every_stage_and_their_figures(hopper_caches, recorded, tmp_path):
    text = recorded("layer_norm_gelu_backward.h200")
    keys = [launch.key for launch in parse_output_code(text).launches]
    nodes = [GraphNode("erf", "aten.erf.default", 'File "m.py", line 3'), GraphNode("sum_1", "aten.sum.dim_IntList")]
    graph = compiled_graph(tmp_path, text, {key: ["sum_1", "erf"] for key in keys}, nodes)
    build = builder(tmp_path, read_cache([hopper_caches / "triton"]), chosen_hashes(hopper_caches / "inductor"))
    build.add(graph)

    assert build.warnings == []
    assert [kernel.launches for kernel in build.kernels] == [1, 1, 2]
    assert build.kernels[0].num_warps == 2
    for kernel in build.kernels:
        folder = (tmp_path / kernel.file_path).parent
        assert kernel.kernel_id == f"compile/w/backward/{folder.name}"
        assert kernel.stages == ["triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"]
        assert {p.name for p in folder.iterdir()} == {"kernel.py", "card.json", "repro.py", *kernel.stages[1:]}
        assert kernel.operations == ["aten.erf.default", "aten.sum.dim_IntList"]
        assert kernel.source_lines == ["m.py:3"]
        assert kernel.name in (folder / "ttir").read_text()
        assert f".text.{kernel.name}" in (folder / "sass").read_text()
        command = [internals.nvidia_tool("cuobjdump"), "-res-usage", folder / "cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        usage = parse_resource_usage(said)[kernel.name]
        card = json.loads((folder / "card.json").read_text())
        assert kernel.registers == usage.registers > 0
        assert card["resource_usage"]["shared_bytes"] == usage.shared_bytes
        assert card["name"] == kernel.name
        assert card["triton_metadata"]["target"]["arch"] == 90
    cards = [json.loads((tmp_path / k.file_path).with_name("card.json").read_text()) for k in build.kernels]
    assert [len(card["other_configurations"]) for card in cards] == [1, 0, 0]
    assert all(a.path and (tmp_path / a.path).stat().st_size == a.size_bytes for a in build.files.artifacts)


def test_a_kernel_that_is_not_in_the_cache_says_so_stage_by_stage(recorded, tmp_path):
    build = builder(tmp_path)
    build.add(compiled_graph(tmp_path, recorded("layer_norm_gelu_forward.h200"), {}))
    absent = [a for a in build.files.artifacts if a.path is None]
    assert [a.stage for a in absent] == [Stage.TTIR, Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.CUBIN, Stage.SASS]
    assert all(a.absent and a.kernel_id == build.kernels[0].kernel_id for a in absent)
    assert "names no graph node" in build.warnings[0]


def test_without_the_disassembler_sass_is_absent_and_the_rest_is_there(tmp_path, recorded, monkeypatch):
    folder = tmp_path / "cache" / "HASH"
    folder.mkdir(parents=True)
    code = parse_output_code(recorded("layer_norm_gelu_forward.h200"))
    name, path = code.kernels[0].name, code.kernels[0].source_path
    (folder / f"{name}.json").write_text(json.dumps({"hash": "h", "name": name, "num_warps": 4, "shared": 16}))
    (folder / f"{name}.ttir").write_text(f'#loc = loc("{path}":1:0)\n')
    (folder / f"{name}.cubin").write_bytes(b"\x7fELF")
    monkeypatch.setattr(internals, "nvidia_tool", lambda name: None)
    build = builder(tmp_path, read_cache([tmp_path / "cache"]))
    build.add(compiled_graph(tmp_path, recorded("layer_norm_gelu_forward.h200"), {}))
    reasons = {a.stage: a.absent for a in build.files.artifacts if a.path is None}
    assert reasons[Stage.SASS] == "this Triton ships no nvdisasm"
    assert set(reasons) == {Stage.TTGIR, Stage.LLIR, Stage.PTX, Stage.SASS}
    assert build.kernels[0].shared_bytes == 16


def test_extern_calls_are_kernels_too(recorded, tmp_path):
    nodes = [GraphNode("mm", "aten.mm.default"), GraphNode("sin", "aten.sin.default")]
    build = builder(tmp_path)
    graph = compiled_graph(
        tmp_path, recorded("sin_matmul.cpu"), {"extern_kernels.mm:2": ["mm"], "cpp_fused_sin_0:1": ["sin"]}, nodes
    )
    build.add(graph)
    assert [(k.name, k.backend, k.operations, k.launches) for k in build.kernels] == [
        ("cpp_fused_sin_0", "cpp", ["aten.sin.default"], 1),
        ("extern_kernels.mm", "extern", ["aten.mm.default"], 1),
    ]
    assert build.kernels[1].file_path == graph.output_path.relative_to(tmp_path).as_posix()
    assert (tmp_path / build.kernels[0].file_path).suffix == ".cpp"


@pytest.mark.parametrize("name", ["../../escape", "nul\x00", "K" * 300, "a/b"])
def test_a_hostile_name_is_hashed_on_disk_and_true_in_the_card(name, tmp_path):
    # Today a kernel is named by a Python variable, or dotted; this is for a compiler that does not keep to that.
    build = builder(tmp_path)
    text = "# AOT ID: ['0_forward']\nk = async_compile.triton('k', 'source')\ndef call(args):\n    k.run(args)\n"
    graph = compiled_graph(tmp_path, text, {"k": ["n"]}, [GraphNode("n", "aten.add.Tensor")])
    code = build._parsed(graph)
    hostile = type(code.kernels[0])(name, "triton", "source", 2)
    build._add_generated(
        graph, code, hostile, build._provenance(graph, code, "k", graph.snapshot.nodes), None, _Machine()
    )
    card = next(tmp_path.glob("kernels/backward/*/card.json"))
    assert json.loads(card.read_text())["name"] == name
    assert card.parent.name.startswith("kernel-")
    assert build.kernels[0].name == name


def test_two_graphs_with_kernels_of_one_name_keep_both(tmp_path):
    build = builder(tmp_path)
    for number, source in enumerate(["first", "second"]):
        text = f"k = async_compile.triton('k', {source!r})\ndef call(args):\n    k.run(args)\n"
        build.add(compiled_graph(tmp_path, text, {"k": ["n"]}, [GraphNode("n", "aten.add.Tensor")], number=number))
    assert [(tmp_path / k.file_path).read_text() for k in build.kernels] == ["first", "second"]
    assert len({k.kernel_id for k in build.kernels}) == 2


def test_a_wrapper_that_is_not_python_is_a_warning(tmp_path):
    build = builder(tmp_path)
    build.add(compiled_graph(tmp_path, "#include <x>\nvoid call() {}\n", {}))
    assert build.kernels == []
    assert "could not be read for kernels" in build.warnings[0]


def test_triton_ships_the_tools_that_sass_needs():
    pytest.importorskip("triton")
    assert internals.nvidia_tool("nvdisasm") is not None
    assert internals.nvidia_tool("no-such-tool") is None
    assert shutil.which(str(internals.nvidia_tool("cuobjdump")))
