"""The chain on real compilations: every node has its kernel, every line its nodes, user lines and instructions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from chain_subjects import EXAMPLES, EXPERIMENTS, SUBJECTS, train  # noqa: E402

from fuselab.capture import Capture, capture  # noqa: E402
from fuselab.capture.chain import Chain, coverage, read_chain  # noqa: E402
from fuselab.records import Direction  # noqa: E402

pytestmark = pytest.mark.slow

MAPPED = 0.95
"""Share of the lines that load, store or compute that have to have a user line, and an instruction."""
DIRECT = 0.5
"""Share of them that have to have an instruction of their own: constants, memory operands and FMAs fold the others."""

DISTINCTIVE = {
    r"\.exp\(\)|libdevice\.exp\(|tl_math\.exp\(": ("exp", "softmax", "sigmoid", "tanh", "gelu", "silu"),
    r"\.rsqrt\(\)|libdevice\.rsqrt\(": ("rsqrt",),
    r"\.erf\(\)|libdevice\.erf\(": ("erf",),
    r"\.tanh\(\)|libdevice\.tanh\(": ("tanh",),
    r"\.abs\(\)|tl_math\.abs\(": ("abs",),
}
"""What only one kind of operator can have been written as: lines and, for each, parts of the operator's name."""


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """Chains by subject, device and direction; each subject is compiled once."""
    known: dict[tuple[str, str], Capture] = {}

    def get(subject: str, device: str) -> dict[Direction, Chain]:
        if not (EXAMPLES / f"{subject}.py").is_file() and subject not in EXPERIMENTS:
            pytest.skip(f"examples/{subject}.py is not here")
        if (subject, device) not in known:
            into = tmp_path_factory.mktemp(subject)
            with capture(into, variant="compile", workload="w") as captured:
                train(subject, device)
            known[subject, device] = captured
        captured = known[subject, device]
        return {direction: captured.chain(direction) for direction in Direction}

    get.into = lambda subject, device: known[subject, device].into
    return get


def check_nodes(found: dict[Direction, Chain]) -> None:
    """Every node that was computed belongs to exactly one kernel or call; what was not computed is only looked at."""
    for chain in found.values():
        for graph in chain.graphs:
            ids = [kernel.kernel_id for kernel in graph.kernels]
            assert len(ids) == len(set(ids))
            claimed = Counter()
            for node in graph.nodes:
                if node.computes:
                    assert node.kernel in ids, f"{node.name} ({node.operator}) belongs to no kernel"
                    assert node.kernel not in node.also
                    assert set(node.also) <= set(ids)
                    claimed[node.name] += 1
                elif node.operator.startswith(("aten.", "prims.")):
                    assert is_view(node.operator), f"{node.name} ({node.operator}) is said not to be computed"
            assert set(claimed.values()) <= {1}
            for kernel in graph.kernels:
                for name in kernel.nodes:
                    node = graph.node(name)
                    assert node is None or kernel.kernel_id in (node.kernel, *node.also)


def is_view(operator: str) -> bool:
    namespace, name, overload = operator.split(".")
    schema = getattr(getattr(getattr(torch.ops, namespace), name), overload)._schema
    return any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def check_lines(found: dict[Direction, Chain]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for chain in found.values():
        for graph in chain.graphs:
            total.update(coverage(graph.kernels))
    assert total["lines"] > 0
    assert total["to_user"] >= MAPPED * total["lines"], total
    assert total["to_instruction"] >= MAPPED * total["lines"], total
    assert total["direct"] >= DIRECT * total["lines"], total
    return total


def check_both_ways(found: dict[Direction, Chain]) -> None:
    """What a line became says that it came from that line."""
    for chain in found.values():
        for graph in chain.graphs:
            for kernel in graph.kernels:
                lines = {line.line: line for line in kernel.lines}
                for line in kernel.lines:
                    for stage, reached in line.became.items():
                        assert reached
                        assert all(kernel.came_from[stage][at] for at in reached)
                for stage, table in kernel.came_from.items():
                    for at, sources in table.items():
                        for source in sources:
                            if source in lines:
                                assert at in lines[source].became[stage]


def check_operators(found: dict[Direction, Chain], into: Path) -> int:
    """Lines that can only have been written for one kind of operator name a node of that kind."""
    checked = 0
    for direction, chain in found.items():
        for graph in chain.graphs:
            operators = {node.name: node.operator for node in graph.nodes}
            for kernel in graph.kernels:
                if not kernel.lines:
                    continue
                folder = into / "kernels" / direction.value / kernel.kernel_id.rpartition("/")[2]
                if not folder.is_dir():  # in a run
                    folder = into / "kernels" / kernel.kernel_id
                text = next(p for p in folder.iterdir() if p.stem == "kernel").read_text().splitlines()
                for line in kernel.lines:
                    for pattern, parts in DISTINCTIVE.items():
                        if line.how == "written" and re.search(pattern, text[line.line - 1]):
                            checked += 1
                            names = [operators.get(node, "") for node in line.nodes]
                            assert any(part in name for part in parts for name in names), (text[line.line - 1], names)
    return checked


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_chain_on_a_cpu(chains, subject):
    found = chains(subject, "cpu")
    check_nodes(found)
    check_lines(found)
    check_both_ways(found)
    check_operators(found, chains.into(subject, "cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_chain_on_a_gpu(chains, subject):
    found = chains(subject, "cuda")
    check_nodes(found)
    check_lines(found)
    check_both_ways(found)
    check_operators(found, chains.into(subject, "cuda"))
    for chain in found.values():
        for graph in chain.graphs:
            for kernel in graph.kernels:
                if kernel.backend == "triton":
                    assert {"ttir", "ttgir", "llir", "ptx", "sass"} <= set(kernel.came_from), kernel.kernel_id


@pytest.mark.parametrize("subject", ["layer_norm_gelu", "softmax_dropout"])
def test_the_chain_for_a_described_gpu(subject, tmp_path, clean_environment):
    """Real Triton kernels, compiled down to SASS for an H200 that is not here."""
    pytest.importorskip("fuselab.offline")
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "fuselab", "inspect", subject, "--target", "h200", "--shape", "64x256"]
    command += ["--dtype", "f32", "--out", str(tmp_path), "--json"]
    subprocess.run(command, check=True, capture_output=True, timeout=280, env=clean_environment())
    found = {Direction(path.parent.name): read_chain(path) for path in tmp_path.rglob("chain.json")}
    assert set(found) == set(Direction)
    check_nodes(found)
    check_lines(found)
    check_both_ways(found)
    assert check_operators(found, next(tmp_path.glob("*/*/metadata.json")).parent) > 0
    for chain in found.values():
        for graph in chain.graphs:
            for kernel in graph.kernels:
                if kernel.backend == "triton":
                    assert {"ttir", "ttgir", "llir", "ptx", "sass"} <= set(kernel.came_from), kernel.kernel_id


def test_distinctive_lines_are_there_to_be_checked(chains):
    assert check_operators(chains("layer_norm_gelu", "cpu"), chains.into("layer_norm_gelu", "cpu")) >= 3


def test_user_lines_carry_their_text_and_fx_nodes_in_both_directions(chains):
    for direction, chain in chains("silu", "cpu").items():
        (graph,) = chain.graphs
        computed = [node for node in graph.nodes if node.computes]
        assert computed
        assert all("silu" in graph.sources[node.user] for node in computed), direction
        assert all(node.fx == ["silu"] for node in computed), direction
        assert {"aten.silu.default", "aten.silu_backward.default"} & {node.aten for node in computed}


def test_a_chain_survives_its_file(chains):
    for chain in chains("silu", "cpu").values():
        assert msgspec.json.decode(msgspec.json.encode(chain), type=Chain) == chain


def test_a_function_without_a_source_has_its_lines_by_number_and_no_text(tmp_path):
    """As typed at a prompt, or made by ``exec``: where it stands is known, what stands there is not."""
    namespace: dict = {}
    text = "import torch\n\ndef typed(x):\n    y = torch.tanh(x)\n    return y.exp() - 1\n"
    exec(compile(text, "<typed>", "exec"), namespace)
    torch.compiler.reset()
    with capture(tmp_path, variant="compile", workload="w") as captured:
        torch.compile(namespace["typed"], dynamic=False)(torch.randn(64, requires_grad=True)).sum().backward()
    found = {direction: captured.chain(direction) for direction in Direction}
    check_nodes(found)
    check_both_ways(found)
    for chain in found.values():
        (graph,) = chain.graphs
        users = {node.user for node in graph.nodes if node.computes}
        assert users <= {"<typed>:4", "<typed>:5"}
        assert users
        assert set(graph.sources.values()) <= {""}
        assert coverage(graph.kernels)["to_user"] == coverage(graph.kernels)["lines"] > 0
    assert {line for kernel in captured.kernels for line in kernel.source_lines} == {"<typed>:4", "<typed>:5"}
    assert captured.warnings == []
