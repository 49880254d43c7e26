"""The examples: each command that they show can be given, each runs, and each does to the compiler what it says."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

from fuselab.experiments.user import experiment_from

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
COMMAND = re.compile(r"^ *(fuselab \S.*)$", re.MULTILINE)

ONE_GRAPH = [
    ("swiglu_mlp", "Block"),
    ("llama_mlp", "LlamaMLP"),
    ("vit_block", "ViTBlock"),
    ("conv_block", "ConvNeXtBlock"),
]
"""Examples that compile as a whole."""


def commands():
    for file in FILES:
        for line in COMMAND.findall(file.read_text(encoding="utf-8").split('"""')[1]):
            yield pytest.param(file, line, id=f"{file.stem}: {line[:40]}")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_shows_how_it_is_run(file):
    assert COMMAND.search(file.read_text(encoding="utf-8").split('"""')[1])


@pytest.mark.parametrize(("file", "line"), list(commands()))
def test_the_commands_that_examples_show_name_what_is_there(file, line, monkeypatch):
    """The target and its arguments are held against the file's syntax; nothing is run."""
    monkeypatch.chdir(EXAMPLES.parent)
    words = shlex.split(line)
    target = next(word for word in words if word.startswith("examples/"))
    assert target.startswith(f"examples/{file.name}:")
    arguments = [after for word, after in itertools.pairwise(words) if word == "--arg"]
    experiment = experiment_from(target, arguments)
    assert experiment.target.endswith(target.rpartition("/")[2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), ONE_GRAPH)
def test_an_example_is_one_graph_with_gradients_for_all(name, target):
    """With backend "aot_eager", which traces forward and backward and generates no code."""
    import torch

    module = load(name)
    torch.manual_seed(0)
    net = getattr(module, target)(*module.get_init_inputs())
    inputs = module.get_inputs()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    output = compiled(*inputs)
    torch.testing.assert_close(output, net(*inputs))
    output.square().mean().backward()
    parameters = dict(net.named_parameters())
    assert parameters
    for parameter, tensor in [*parameters.items(), *((f"input {i}", x) for i, x in enumerate(inputs))]:
        assert tensor.grad is not None, parameter
        assert tensor.grad.abs().sum() > 0, parameter
    torch.compiler.reset()


def test_llamas_norm_is_torchs_norm():
    import torch

    module = load("llama_mlp")
    x, weight = torch.randn(4, 32), torch.rand(32)
    torch.testing.assert_close(module.rms_norm(x, weight), torch.nn.functional.rms_norm(x, (32,), weight, 1e-5))


@pytest.mark.slow
def test_three_graph_breaks():
    import torch

    module = load("graph_breaks")
    explanation = torch._dynamo.explain(module.normalised_step)(*module.get_inputs())
    assert (explanation.graph_break_count, explanation.graph_count) == (3, 4)
    torch.compiler.reset()


@pytest.mark.slow
def test_a_storm_compiles_up_to_the_limit():
    import torch
    from torch._dynamo.testing import CompileCounter

    module = load("recompile_storm")
    counter = CompileCounter()
    net = torch.compile(module.DecayedNorm(*module.get_init_inputs()), backend=counter)
    for _ in range(12):
        net(*module.get_inputs())
    assert counter.frame_count == torch._dynamo.config.recompile_limit
    torch.compiler.reset()
