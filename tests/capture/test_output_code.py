"""Reading Inductor's output modules: recorded ones against golden files, and the syntax that a recorded one lacks."""

from __future__ import annotations

import pytest

from fuselab.capture.output_code import parse_output_code, read_aot_id

RECORDED = [
    "layer_norm_gelu_forward.h200",
    "layer_norm_gelu_backward.h200",
    "matmul_softmax.h200",
    "sin_matmul.cpu",
]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_modules_read_as_before(name, recorded, golden):
    code = parse_output_code(recorded(name))
    golden(
        f"output_code.{name}",
        {
            "aot_id": code.aot_id,
            "kernels": [[k.name, k.backend, k.line, k.source_path, len(k.source)] for k in code.kernels],
            "launches": [[launch.key, launch.line, launch.extern] for launch in code.launches],
        },
    )


@pytest.mark.parametrize("name", RECORDED)
def test_every_launch_has_the_handle_that_the_provenance_knows_it_by(name, recorded):
    handles = [launch.handle for launch in parse_output_code(recorded(name)).launches]
    assert handles == list(range(1, len(handles) + 1))


def test_one_kernel_launched_twice_counts_two(recorded):
    code = parse_output_code(recorded("layer_norm_gelu_backward.h200"))
    assert [code.launches_of(kernel.name) for kernel in code.kernels] == [1, 1, 2]
    assert code.backward


def test_the_source_of_a_triton_kernel_is_a_module_with_its_decorators(recorded):
    for kernel in parse_output_code(recorded("matmul_softmax.h200")).kernels:
        compile(kernel.source, kernel.name, "exec")
        assert "@triton.jit" in kernel.source
        assert "@triton_heuristics" in kernel.source


def test_views_allocations_and_asserts_are_not_launches(recorded):
    names = {launch.name for launch in parse_output_code(recorded("matmul_softmax.h200")).launches}
    assert {n for n in names if not n.startswith("triton_")} == {"aten.randint.low_out", "extern_kernels.mm"}


PARTITIONED = """
k0 = async_compile.triton('k0', '''def k0(): pass''')
k1 = async_compile.cpp_pybinding(['float*'], r'''void kernel() {}''')
def partition_0(args):
    k0.run(args, stream=stream0)
class Runner:
    def call(self, args):
        self.partitions[0](args)
        k1(args)
        while more(args):
            k1(args)
runner = Runner(partitions=[partition_0])
call = runner.call
def benchmark_compiled_module(args):
    k0.run(args)
"""


def test_partitions_are_read_loops_are_not_counted_and_the_harness_is_left_out():
    code = parse_output_code(PARTITIONED)
    assert code.launches_of("k0") == 1
    assert code.launches_of("k1") is None
    assert [kernel.backend for kernel in code.kernels] == ["triton", "cpp"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "nul\\x00", "K" * 300, "k'; import os; '"])
def test_a_kernel_may_say_whatever_it_likes_in_its_source(name):
    text = f"k = async_compile.triton({name!r}, {name!r})\ndef call(args):\n    k.run(args)\n"
    code = parse_output_code(text)
    assert code.kernels[0].source == name
    assert code.launches_of("k") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# AOT ID: ['0_forward']\nimport x", "0_forward"),
        ('r"""tuning block\n"""\n# AOT ID: [\'12_backward\']\n', "12_backward"),
        ("import x", ""),
    ],
)
def test_aot_id(text, expected):
    assert read_aot_id(text) == expected


def test_a_module_that_is_not_python_raises():
    with pytest.raises(SyntaxError):
        parse_output_code("#include <torch/csrc/inductor/cpp_prefix.h>\nvoid call() {}")
