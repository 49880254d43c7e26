"""The package without a kernel being run: imports, references, the answer to CPU tensors, tiles."""

import doctest
import importlib
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from triton.runtime.jit import JITFunction

from fuselab import ops
from fuselab.ops.launch import row_tile
from fuselab.ops.philox import dropout_arguments

MODULES = [
    "add_rms_norm",
    "autograd",
    "bound",
    "column_sums",
    "flat",
    "gate",
    "geglu",
    "gelu",
    "inputs",
    "internals",
    "launch",
    "layer_norm_gelu",
    "layer_norm_gelu_backward",
    "layer_norm_gelu_backward_launch",
    "layer_norm_gelu_forward",
    "layer_norm_gelu_launch",
    "layer_norm_gelu_packed",
    "layer_norm_gelu_packed_backward",
    "packed_rows",
    "philox",
    "replay",
    "rms_norm",
    "rms_norm_few_rows",
    "rms_norm_kernels",
    "rms_norm_launch",
    "score_mask",
]
MODULES += [
    "silu",
    "softmax_dropout",
    "softmax_dropout_kernels",
    "softmax_dropout_packed",
    "philox_key",
    "patch",
    "patched_forwards",
    "recognition",
]


def helpers(kernel, found):
    """Every function that a kernel calls, by name; fails on two of one name."""
    for name in kernel.fn.__code__.co_names:
        called = kernel.fn.__globals__.get(name)
        if isinstance(called, JITFunction) and called is not found.get(name):
            assert name not in found, f"{kernel.fn.__name__} calls two functions named {name}"
            found[name] = called
            helpers(called, found)
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if "kernels" in name or name == "column_sums"])
def test_no_two_functions_of_a_kernel_have_one_name(module):
    """Inductor writes a kernel and all that it calls into one module."""
    jitted = [f for f in vars(importlib.import_module(f"fuselab.ops.{module}")).values() if isinstance(f, JITFunction)]
    assert jitted
    assert sum(len(helpers(kernel, {})) for kernel in jitted) or module == "column_sums"


def modules_after(statement):
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_package_does_not_import_the_operators():
    assert not {"fuselab.ops", "torch", "triton"} & modules_after("import fuselab")


@pytest.mark.slow
def test_operators_import_nothing_else_of_the_package():
    ours = {m for m in modules_after("import fuselab.ops") if m.split(".")[0] == "fuselab"}
    assert ours == {"fuselab", "fuselab.ops", *(f"fuselab.ops.{m}" for m in MODULES)}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    # From sys.modules: the package exports functions under the names of some of its modules.
    importlib.import_module("fuselab.ops")
    failed, _ = doctest.testmod(sys.modules[f"fuselab.ops.{name}"])
    assert failed == 0


def test_everything_exported_exists():
    assert all(hasattr(ops, name) for name in ops.__all__)
    assert {n.removesuffix("_reference") for n in ops.__all__ if n.endswith("_reference")} == {
        n for n in ops.__all__ if n.islower() and not n.endswith("_reference") and n != "patch"
    }


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_references_are_torch_s_operators():
    x, weight, bias = double(3, 8), double(8), double(8)
    close = torch.testing.assert_close
    for approximate in ("none", "tanh"):
        wanted = F.gelu(F.layer_norm(x, (8,), weight, bias, 1e-3), approximate=approximate)
        close(ops.layer_norm_gelu_reference(x, weight, bias, 1e-3, approximate), wanted)
        close(ops.geglu_reference(x, double(3, 8), approximate), F.gelu(x, approximate=approximate) * double(3, 8))
        close(ops.geglu_reference(x, approximate=approximate), F.gelu(x[:, :4], approximate=approximate) * x[:, 4:])
    close(ops.rms_norm_reference(x, weight, 1e-3, "none"), F.rms_norm(x, (8,), weight, 1e-3))
    close(ops.rms_norm_reference(x, weight, 1e-3, "llama"), F.rms_norm(x, (8,), weight, 1e-3))
    close(ops.rms_norm_reference(x, weight, 1e-3, "gemma"), F.rms_norm(x, (8,), 1 + weight, 1e-3))
    y, total = ops.add_rms_norm_reference(x, weight.expand(3, 8), weight, 1e-3)
    close(total, x + weight)
    close(y, F.rms_norm(x + weight, (8,), weight, 1e-3))
    close(ops.silu_reference(x), F.silu(x))
    close(ops.swiglu_reference(x, double(3, 8)), F.silu(x) * double(3, 8))
    close(ops.swiglu_reference(x), F.silu(x[:, :4]) * x[:, 4:])
    mask = double(8) > -1
    for kind in (mask, double(8)):
        q = torch.full((1, 8), 0.5, dtype=torch.float64)
        attention = F.scaled_dot_product_attention(
            q[:, :1], q.t(), torch.eye(8, dtype=torch.float64), kind[None], scale=0.3
        )
        close(ops.softmax_dropout_reference(0.5 * q, 0.0, scale=0.3, mask=kind), attention)
    keep = double(3, 8) > 0
    close(ops.softmax_dropout_reference(x, 0.25, keep, dim=0), F.softmax(x, 0) * keep / 0.75)
    assert not ops.softmax_dropout_reference(x, 1.0, keep).any()


def test_references_round_where_the_models_do():
    """Llama rounds the normalised row before it multiplies; Gemma and torch multiply first."""
    x, weight = double(4, 64).bfloat16(), double(64).bfloat16()
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(ops.rms_norm_reference(x, weight, casting="llama"), weight * h.to(torch.bfloat16))
    assert torch.equal(ops.rms_norm_reference(x, weight, casting="gemma"), (h * (1 + weight.float())).bfloat16())
    assert torch.equal(ops.rms_norm_reference(x, weight, casting="none"), (h * weight.float()).bfloat16())
    assert ops.rms_norm_reference(x, weight.float(), casting="llama").dtype == torch.float32
    assert ops.rms_norm_reference(x, weight.float(), casting="none").dtype == torch.bfloat16


def test_references_can_be_differentiated_twice():
    x, weight = double(2, 4).requires_grad_(), double(4).requires_grad_()
    assert torch.autograd.gradgradcheck(ops.rms_norm_reference, (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: ops.layer_norm_gelu_reference(x, w, w), (x, weight))
    assert torch.autograd.gradgradcheck(ops.swiglu_reference, (x,))
    assert torch.autograd.gradgradcheck(lambda x: ops.softmax_dropout_reference(x, 0.5, x > 0), (x,))


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 255, 1024, 8191, 8192, 8193, 16384, 16385, 262_144, 1_000_003])
def test_tiles(width):
    tile = row_tile(width, widest=16384, looped=4096)
    assert tile.BLOCK_N & (tile.BLOCK_N - 1) == 0
    assert tile.BLOCK_N >= 16
    assert (width <= tile.BLOCK_N) == (width <= 16384)
    assert tile.BLOCK_M * tile.BLOCK_N <= 16384
    assert tile.num_warps in (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("p", "threshold"), [(0.0, 0), (0.5, 2**30), (0.25, 2**29), (1 - 1e-12, 2**31 - 1), (1.0, 2**31 - 1)]
)
def test_dropout_threshold_fits_32_bits(p, threshold):
    assert dropout_arguments(p)[0] == threshold
    assert dropout_arguments(p)[1] == (0.0 if p == 1 else pytest.approx(1 / (1 - p)))
