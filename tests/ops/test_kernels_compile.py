"""Every kernel compiles for GPUs that are not here: a compiler in the place of the operators' launches."""

import itertools
import re
import sys

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fuselab import ops
from fuselab.offline.binaries import resources
from fuselab.ops.launch import INTERPRETED
from fuselab.ops.rms_norm_launch import backward_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETED, reason="kernels for the interpreter are not compiled"),
]

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.bool: "*i1",
}
MODULES = [
    sys.modules[f"fuselab.ops.{name}"]
    for name in (
        "layer_norm_gelu_launch",
        "layer_norm_gelu_backward_launch",
        "softmax_dropout",
        "rms_norm",
        "rms_norm_launch",
        "rms_norm_few_rows",
        "column_sums",
        "silu",
        "gate",
        "flat",
    )
]
HOPPER = GPUTarget("cuda", 90, 32)


class Compiler:
    """Stands in for ``fuselab.ops.launch.launch``: compiles the kernel for a target instead of launching it.

    ``floats`` is the type of Python floats: fp32 where Triton launches, fp64 where Inductor does.
    """

    def __init__(self, target, wide_integers=False, floats="fp32"):
        self.target = target
        self.wide_integers = wide_integers
        self.floats = floats
        self.with_floats = set()
        self.compiled = {}

    def __call__(self, kernel, grid, device, *args, **meta):
        assert all(size >= 1 for size in grid)
        options = {name: meta.pop(name) for name in ("num_warps", "maxnreg") if name in meta}
        given = dict(zip(kernel.arg_names, args, strict=False)) | meta
        assert set(given) == set(kernel.arg_names)
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(kernel.params):
            value = given[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name] = "constexpr"
                constants[parameter.name] = value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = POINTERS[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            elif isinstance(value, float):
                signature[parameter.name] = self.floats
                self.with_floats.add(kernel.__name__)
            else:
                # As Triton specialises integers: 1 is a constant, and a multiple of 16 is known to be one.
                wide = self.wide_integers and (parameter.name in ("M", "count") or "stride" in parameter.name)
                signature[parameter.name] = "i64" if wide else "i32"
                if not parameter.do_not_specialize and value == 1:
                    signature[parameter.name] = "constexpr"
                    constants[parameter.name] = 1
                elif not parameter.do_not_specialize and value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        compiled = triton.compile(source, target=self.target, options=options)
        self.compiled.setdefault(kernel.__name__, []).append(compiled)


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A function from a target to a ``Compiler`` that the operators launch with, on CPU tensors."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys.modules["fuselab.ops.inputs"], "_without_kernels", lambda _: False)

    def install(target, **options):
        stand_in = Compiler(target, **options)
        for module in MODULES:
            for name in ("launch", "launch_ordinarily"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, stand_in)
        return stand_in

    return install


def run_every_kernel(width, dtype, rows=3):
    """Forward and backward of every operator; the numbers are those of uninitialised memory."""
    x = torch.randn(rows, width, requires_grad=True).to(dtype)
    many = torch.zeros(513, width, requires_grad=True).to(dtype)
    packed = torch.randn(rows, 2 * width, requires_grad=True).to(dtype)
    weight, bias = torch.ones(width, requires_grad=True), torch.zeros(width, dtype=dtype, requires_grad=True)
    outputs = [
        ops.layer_norm_gelu(many, weight, bias),
        *ops.add_rms_norm(x, x, weight),
        *ops.add_rms_norm(many, many, weight),
        ops.softmax_dropout(x, 0.1, mask=torch.ones(width, dtype=torch.bool)),
        ops.silu(many),
        ops.swiglu(many, many),
        ops.geglu(packed),
    ]
    torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])


def run_every_option(width, dtype):
    """The options that ``run_every_kernel`` leaves out."""
    x = torch.randn(3, width, requires_grad=True).to(dtype)
    weight = torch.ones(width, requires_grad=True)
    outputs = [
        ops.layer_norm_gelu(x, None, None, approximate="tanh"),
        ops.rms_norm(x, weight, casting="gemma"),
        ops.rms_norm(x, None, casting="none"),
        ops.softmax_dropout(x, 0.0, scale=0.5),
        ops.softmax_dropout(x, 0.1, mask=torch.ones(width, dtype=dtype)),
        ops.swiglu(x),
        ops.geglu(x, x, approximate="tanh"),
    ]
    torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])


ALL_KERNELS = {
    "_layer_norm_gelu_forward_kernel",
    "_layer_norm_gelu_backward_kernel",
    "_layer_norm_gelu_sums_kernel",
    "_rms_norm_forward_kernel",
    "_rms_norm_backward_kernel",
    "_rms_norm_backward_few_rows_kernel",
    "column_sums_kernel",
    "_softmax_dropout_forward_kernel",
    "_softmax_dropout_backward_kernel",
    "_silu_forward_kernel",
    "_silu_backward_kernel",
    "_swiglu_forward_kernel",
    "_swiglu_backward_kernel",
    "_geglu_forward_kernel",
    "_geglu_backward_kernel",
}
PACKED_BACKWARD = "_layer_norm_gelu_packed_backward_kernel"
WIDE_KERNELS = {
    "_layer_norm_gelu_forward_loop_kernel",
    "_layer_norm_gelu_backward_rows_kernel",
    "_layer_norm_gelu_backward_columns_kernel",
    "_rms_norm_backward_rows_kernel",
    "_rms_norm_backward_columns_kernel",
}


def check_code(made):
    for name, kernels in made.compiled.items():
        for kernel in kernels:
            assert f".entry {name}" in kernel.asm["ptx"]
            assert "atom." not in kernel.asm["ptx"], f"{name} uses atomics"
            assert kernel.metadata.shared <= 227 * 1024, name


@pytest.mark.parametrize(
    ("width", "dtype", "rows"),
    [(300, torch.float16, 3), (4096, torch.bfloat16, 64), (1, torch.float32, 1)],
)
def test_hopper(compiler, width, dtype, rows):
    made = compiler(HOPPER)
    run_every_kernel(width, dtype, rows)
    packed = {"_layer_norm_gelu_packed_kernel", PACKED_BACKWARD}
    others = {"_layer_norm_gelu_forward_kernel", "_layer_norm_gelu_backward_kernel"}
    assert set(made.compiled) == (ALL_KERNELS - others | packed if width == 4096 else ALL_KERNELS)
    check_code(made)
    if width == 4096:
        for name in ("_rms_norm_forward_kernel", "_silu_forward_kernel", "_swiglu_backward_kernel", *packed):
            # 16 bytes a thread and access: four 32-bit registers.
            lines = made.compiled[name][0].asm["ptx"].splitlines()
            for access in ("ld.global", "st.global"):
                assert any(access in line and ".v4.b32" in line for line in lines), (name, access)


def test_a_weight_stays_in_half_precision(compiler):
    """Where a row and its weight in float32 do not fit in a thread's registers: unpacked at each use, by assembly."""
    for dtype, packed in ((torch.bfloat16, True), (torch.float32, False)):
        made = compiler(HOPPER)
        x = torch.zeros(257, 16384, dtype=torch.bfloat16, requires_grad=True)
        y = ops.rms_norm(x, torch.ones(16384, dtype=dtype, requires_grad=True), casting="none")
        torch.autograd.backward(y, torch.ones_like(y))
        (kernel,) = made.compiled["_rms_norm_backward_kernel"]
        assert ("begin inline asm\n\t{ shl.b32" in kernel.asm["ptx"]) == packed
        check_code(made)


@pytest.mark.parametrize("width", [2048, 16384])
def test_gelu_unpacks_by_assembly(compiler, monkeypatch, width):
    for name in ("layer_norm_gelu_launch", "layer_norm_gelu_backward_launch"):
        monkeypatch.setattr(sys.modules[f"fuselab.ops.{name}"], "takes_assembly", lambda _: True)
    made = compiler(HOPPER)
    x = torch.zeros(257, width, dtype=torch.bfloat16, requires_grad=True)
    y = ops.layer_norm_gelu(x, torch.ones(width, dtype=torch.bfloat16), None)
    torch.autograd.backward(y, torch.ones_like(y))
    unpacking = {
        name for name, (kernel,) in made.compiled.items() if "begin inline asm\n\t{ shl.b32" in kernel.asm["ptx"]
    }
    assert unpacking == {"_layer_norm_gelu_backward_rows_kernel" if width > 8192 else "_layer_norm_gelu_forward_kernel"}
    check_code(made)


def test_hopper_with_every_option(compiler):
    made = compiler(HOPPER)
    run_every_option(512, torch.bfloat16)
    assert len(made.compiled["_softmax_dropout_forward_kernel"]) == 2


def computes_in_float64(ptx):
    """Whether there is more in float64 than the conversion of an argument."""
    return re.findall(r"^\s*(?:@\S+\s+)?(?!cvt\.rn\.f32\.f64|ld\.param)[a-z][\w.]*\.f64\b.*", ptx, re.MULTILINE)


def test_float64_is_noticed():
    """The instructions that the kernels' float64 arguments once led to, and those that remain."""
    assert computes_in_float64("\tmul.f64 \t%fd1, %fd2, %fd3;\n")
    assert computes_in_float64("\t@%p1 fma.rn.f64 \t%fd1, %fd2, %fd3, %fd4;\n")
    assert computes_in_float64("\tcvt.f64.f32 \t%fd1, %f1;\n\tcvt.rn.f16.f64 %h1, %fd1;\n")
    assert not computes_in_float64("\tld.param.f64 \t%fd1, [p];\n\tcvt.rn.f32.f64 \t%f1, %fd1;\n")


@pytest.mark.parametrize("width", [256, 20_000])
def test_hopper_with_arguments_as_inductor_types_them(compiler, width):
    """64-bit sizes and floats: a Python float is fp64, which is to be converted and not computed with."""
    made = compiler(HOPPER, wide_integers=True, floats="fp64")
    run_every_kernel(width, torch.float32)
    one_block = {"_layer_norm_gelu_forward_kernel", "_layer_norm_gelu_backward_kernel", "_rms_norm_backward_kernel"}
    one_block.add("_rms_norm_backward_few_rows_kernel")
    assert set(made.compiled) == (ALL_KERNELS if width <= 8192 else ALL_KERNELS - one_block | WIDE_KERNELS)
    assert made.with_floats == {
        "_layer_norm_gelu_forward_kernel" if width <= 16384 else "_layer_norm_gelu_forward_loop_kernel",
        "_rms_norm_forward_kernel",
        "_softmax_dropout_forward_kernel",
        "_softmax_dropout_backward_kernel",
    }
    for name, kernels in made.compiled.items():
        for kernel in kernels:
            assert ("cvt.rn.f32.f64" in kernel.asm["ptx"]) == (name in made.with_floats), name
            assert not computes_in_float64(kernel.asm["ptx"]), name
    check_code(made)


@pytest.mark.parametrize(
    "target", [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 100, 32)], ids=lambda t: f"sm_{t.arch}"
)
def test_other_generations(compiler, target):
    made = compiler(target)
    run_every_kernel(1000, torch.bfloat16)
    assert set(made.compiled) == ALL_KERNELS - {"_layer_norm_gelu_backward_kernel"} | {PACKED_BACKWARD}
    text = [kernel.asm["ptx"] for kernel in itertools.chain(*made.compiled.values())]
    assert {t.split(".target sm_")[1].split()[0].rstrip(",").rstrip("a") for t in text} == {str(target.arch)}


@pytest.mark.parametrize(
    "target",
    [HOPPER, GPUTarget("cuda", 80, 32), GPUTarget("cuda", 100, 32), GPUTarget("hip", "gfx942", 64)],
    ids=lambda t: str(t.arch),
)
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("width", "dtype"), [(16384, torch.bfloat16), (9008, torch.float16)], ids=str)
def test_packed_rows(compiler, target, width, dtype):
    """Rows that are kept as they were read."""
    made = compiler(target)
    x = torch.zeros(5, width, dtype=dtype, requires_grad=True)
    y = ops.softmax_dropout(x, 0.1)
    torch.autograd.backward(y, torch.ones_like(y))
    many = torch.zeros(257, width, dtype=dtype)
    ops.layer_norm_gelu(many, torch.ones(width), torch.zeros(width, dtype=dtype))
    assert set(made.compiled) == {
        "_layer_norm_gelu_packed_kernel",
        "_softmax_dropout_forward_kernel",
        "_softmax_dropout_backward_kernel",
    }
    limit = 64 * 1024 if target.backend == "hip" else 99 * 1024
    assert all(kernel.metadata.shared <= limit for kernel in itertools.chain(*made.compiled.values()))


def backward_of_layer_norm_gelu(width, dtype, approximate="none"):
    kernels = sys.modules["fuselab.ops.layer_norm_gelu"]._BACKWARD_KERNELS
    x, weight = torch.zeros(513, width, dtype=dtype), torch.zeros(width, dtype=dtype)
    moments = torch.zeros(513), torch.zeros(513)
    sys.modules["fuselab.ops.layer_norm_gelu_backward_launch"].backward(
        kernels, x, weight, weight, *moments, x, approximate, True
    )


def check_fits(kernel, name, programs):
    """As many programs as are started fit on a Hopper's multiprocessor, with their registers and shared memory."""
    taken = resources(kernel.asm["cubin"], name)
    assert programs * kernel.metadata.num_warps * 32 * (-(-taken.registers // 8) * 8) <= 65_536
    assert programs * (kernel.metadata.shared + 1024) <= 228 * 1024
    return taken


@pytest.mark.parametrize("width", [256, 512, 1024, 2048, 4096, 8192])
def test_a_packed_row_and_its_sums_stay_in_registers(compiler, width):
    """The compiler is not told how many: nor is it where a launch is traced."""
    for dtype, approximate in ((torch.bfloat16, "none"), (torch.bfloat16, "tanh"), (torch.float16, "none")):
        made = compiler(HOPPER)
        backward_of_layer_norm_gelu(width, dtype, approximate)
        (kernel,) = made.compiled[PACKED_BACKWARD]
        programs = sys.modules["fuselab.ops.layer_norm_gelu_backward_launch"]._PACKED[width].programs
        assert check_fits(kernel, PACKED_BACKWARD, programs).local_bytes == 0


@pytest.mark.parametrize("width", [256, 512, 1024, 2048, 4096, 8192, 16384])
def test_programs_of_the_norms_backward_fit(compiler, monkeypatch, width):
    """In the forms that take most: a weight that is Gemma's, and three streams of float32."""
    monkeypatch.setattr(sys.modules["fuselab.ops.launch"], "takes_registers", lambda *_: True)
    for dtype, adds in ((torch.bfloat16, False), (torch.float16, False), (torch.float32, True)):
        made = compiler(HOPPER)
        x = torch.zeros(600, width, dtype=dtype, requires_grad=True)
        weight = torch.ones(width, dtype=dtype, requires_grad=True)
        outputs = ops.add_rms_norm(x, x, weight) if adds else (ops.rms_norm(x, weight, casting="gemma"),)
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
        (kernel,) = made.compiled["_rms_norm_backward_kernel"]
        plan = backward_plan(width, x.element_size() * (3 if adds else 2), adds, x.device)
        check_fits(kernel, "_rms_norm_backward_kernel", plan.per_multiprocessor)


@pytest.mark.parametrize(("width", "backward"), [(3000, True), (3000, False), (1000, True), (4096, True)])
def test_packed_rows_are_read_16_bytes_at_a_time(compiler, width, backward):
    """Of widths that 8 divides and 16 does not too."""
    made = compiler(HOPPER)
    if backward:
        backward_of_layer_norm_gelu(width, torch.bfloat16)
    else:
        ops.layer_norm_gelu(torch.zeros(2049, width, dtype=torch.bfloat16), None, None)
    ((kernel,),) = (found for name, found in made.compiled.items() if "packed" in name)
    ptx = kernel.asm["ptx"]
    assert not re.search(r"ld\.global\S*\.[bu]16", ptx)
    copied = re.search(r"cp\.async\.cg\.shared\.global .*0x10", ptx)
    assert copied if backward else re.search(r"ld\.global\S*\.v4\.b32", ptx)


@pytest.mark.parametrize(
    "target",
    [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 100, 32), GPUTarget("hip", "gfx942", 64)],
    ids=lambda t: str(t.arch),
)
@pytest.mark.parametrize(("width", "dtype"), [(8192, torch.bfloat16), (3000, torch.float16), (264, torch.bfloat16)])
def test_packed_rows_of_a_backward_elsewhere(compiler, monkeypatch, target, width, dtype):
    made = compiler(target)
    if target.backend == "hip":
        launching = sys.modules["fuselab.ops.layer_norm_gelu_backward_launch"]
        monkeypatch.setattr(launching, "shared_memory", lambda _: 0)
    backward_of_layer_norm_gelu(width, dtype)
    assert set(made.compiled) == {PACKED_BACKWARD, "_layer_norm_gelu_sums_kernel"}
    limit = 64 * 1024 if target.backend == "hip" else 99 * 1024
    assert all(kernel.metadata.shared <= limit for kernel in itertools.chain(*made.compiled.values()))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [9001, 20_002])
def test_rows_that_end_within_a_word_compile_in_seconds(compiler, width):
    """Packed, LLVM took more than a minute over each."""
    made = compiler(HOPPER)
    x = torch.zeros(5, width, dtype=torch.bfloat16, requires_grad=True)
    y = ops.softmax_dropout(x, 0.1)
    torch.autograd.backward(y, torch.ones_like(y))
    ops.layer_norm_gelu(torch.zeros(257, width, dtype=torch.bfloat16), None, None)
    check_code(made)
