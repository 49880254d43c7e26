"""A compiled graph holds for any number of rows: traced without a GPU, run with the launches left out."""

import sys

import pytest
import torch
import triton
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional
from triton.backends.compiler import GPUTarget

from fuselab import ops
from fuselab.ops.launch import INTERPRETED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="a kernel for the interpreter is opaque to the compiler"),
]

PROGRAMS = 3
"""Programs of a persistent kernel on a CPU."""

ROWS = {"layer_norm_gelu": 4, "rms_norm": 2, "add_rms_norm": 2}
"""Rows of 512 columns that a program of the backward has at a time."""


class Target:
    """In the place of Triton's driver: what torch asks it to find out which arguments a kernel writes to."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class WithoutLaunches(torch.fx.Interpreter):
    """Runs a graph, with copies in the place of what its kernels would fill."""

    def __init__(self, graph, launched):
        super().__init__(graph)
        self.launched = launched

    def call_function(self, target, args, kwargs):
        if target is not triton_kernel_wrapper_functional:
            return super().call_function(target, args, kwargs)
        kernel = kernel_side_table.get_kernel(kwargs["kernel_idx"])
        self.launched.append((getattr(kernel, "fn", kernel).__name__, kwargs["grid"][0]))
        return {name: kwargs["kwargs"][name].clone() for name in kwargs["tensors_to_clone"]}


@pytest.fixture
def launched(monkeypatch):
    """The kernels and grids that graphs of ``compiled`` have launched."""
    monkeypatch.setattr(sys.modules["fuselab.ops.inputs"], "_without_kernels", lambda _: False)
    torch._dynamo.reset()
    monkeypatch.setattr(triton.runtime.driver, "_active", Target())
    yield []
    torch._dynamo.reset()


def compiled(function, launched):
    def compiler(graph, _):
        return make_boxed_func(lambda *args: WithoutLaunches(graph, launched).run(*args))

    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler, partition_fn=min_cut_rematerialization_partition)
    return torch.compile(function, fullgraph=True, backend=backend, dynamic=True)


WEIGHTED = {
    "layer_norm_gelu": lambda x, weight: ops.layer_norm_gelu(x * 2, weight, weight),
    "rms_norm": lambda x, weight: ops.rms_norm(x * 2, weight),
    "add_rms_norm": lambda x, weight: sum(ops.add_rms_norm(x * 2, x, weight)),
}
OTHERS = {
    "softmax_dropout": lambda x, weight: ops.softmax_dropout(x * 2, 0.1),
    "softmax_dropout with a mask": lambda x, weight: ops.softmax_dropout(x, 0.1, mask=weight),
    "silu": lambda x, weight: ops.silu(x * 2),
    "swiglu": lambda x, weight: ops.swiglu(x * 2, x),
    "packed geglu": lambda x, weight: ops.geglu(x * 2),
}


def run(function, rows, width):
    weight = torch.ones(width, requires_grad=True)
    function(torch.randn(rows, width, requires_grad=True), weight).sum().backward()


@pytest.mark.parametrize(
    ("operator", "width"),
    [(name, 512) for name in WEIGHTED | OTHERS] + [("layer_norm_gelu", 20_000), ("rms_norm", 20_000)],
)
def test_one_graph_for_any_number_of_rows(operator, width, launched):
    """From more rows than one program has, below and above what fills the device."""
    function = compiled((WEIGHTED | OTHERS)[operator], launched)
    run(function, 7, width)
    with torch.compiler.set_stance("fail_on_recompile"):
        for rows in (5, 9, 10, 400, 1000):
            run(function, rows, width)
            if operator in WEIGHTED and width == 512:
                grids = [grid for name, grid in launched if name.endswith("_backward_kernel")]
                assert grids[-1] == (min(-(-rows // ROWS[operator]), PROGRAMS), 1, 1)
    names = [name for name, _ in launched]
    assert len(set(names)) >= 2
    assert names == names[: len(names) // 6] * 6


@pytest.mark.parametrize("operator", ["layer_norm_gelu", "rms_norm"])
def test_rows_of_one_program_are_a_graph_of_their_own(operator, launched):
    """As a size of 1 is to torch in any dimension: the partial sums of one program are a tensor of one row.

    So there are two graphs at most, one below and one above, whichever comes first.
    """
    function = compiled(WEIGHTED[operator], launched)
    most = ROWS[operator]
    run(function, 9, 512)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="fail_on_recompile"):
        run(function, most, 512)
    run(function, most, 512)
    with torch.compiler.set_stance("fail_on_recompile"):
        for rows in (2, most, most + 1, 1000):
            run(function, rows, 512)


def test_mask_made_while_tracing(launched):
    """Its size and that of x are two symbols, equal to one another."""
    width = 24
    function = compiled(lambda x: ops.softmax_dropout(x, 0.1, mask=torch.ones(width)), launched)
    function(torch.randn(3, 24))
    assert [name for name, _ in launched] == ["_softmax_dropout_forward_kernel"]
