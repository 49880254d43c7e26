"""What the chain is tested on: the four experiments and the examples, forward and backward."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from fuselab.experiment import load_registry

EXAMPLES = Path(__file__).parents[2] / "examples"

EXPERIMENTS = ("layer_norm_gelu", "rms_norm", "silu", "softmax_dropout")
MODULES = {
    "gpt2_block": "block",
    "llama_mlp": "LlamaMLP",
    "vit_block": "ViTBlock",
    "conv_block": "ConvNeXtBlock",
    "graph_breaks": "normalised_step",
    "recompile_storm": "DecayedNorm",
}
SUBJECTS = (*EXPERIMENTS, *MODULES)


def train(name: str, device: str) -> None:
    """One compiled forward and backward of a subject, twice for what is to be compiled again."""
    torch.compiler.reset()
    torch.manual_seed(0)
    function, args, kwargs = _experiment(name, device) if name in EXPERIMENTS else _example(name, device)
    compiled = torch.compile(function, dynamic=False)
    for _ in range(2 if name == "recompile_storm" else 1):
        outputs = compiled(*args, **kwargs)
        roots = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        if roots:
            torch.autograd.backward(roots, [torch.randn_like(root) for root in roots])
    if device == "cuda":
        torch.cuda.synchronize()


def _experiment(name: str, device: str) -> tuple[Any, Any, Any]:
    experiment = load_registry()[name]
    workload = experiment.workloads("smoke", device)[-1]
    inputs = experiment.make_inputs(workload, device)
    return experiment.variant("compile").build(workload), inputs.args, inputs.kwargs


def _example(name: str, device: str) -> tuple[Any, Any, Any]:
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = getattr(module, MODULES[name])
    if isinstance(target, type):
        target = target(*module.get_init_inputs())
    if isinstance(target, torch.nn.Module):
        target = target.to(device)

    def prepared(tensor: torch.Tensor) -> torch.Tensor:
        moved = tensor.detach().to(device)
        return moved.requires_grad_() if moved.is_floating_point() else moved

    return target, tree_map_only(torch.Tensor, prepared, module.get_inputs()), {}
