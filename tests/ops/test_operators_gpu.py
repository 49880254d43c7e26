"""The kernels on a GPU: the same cases as in the interpreter and those that only a GPU can show."""

import contextlib
import fcntl
import gc
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from operator_cases import DTYPES, OPERATORS, PACKED, check, check_softmax_dropout, gate, make_inputs, replaced
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from fuselab import ops

pytestmark = pytest.mark.gpu

OPTIONS = {
    "layer_norm_gelu": [{}, {"approximate": "tanh", "eps": 1e-3}],
    "rms_norm": [{}, {"casting": "gemma", "eps": 1e-3}, {"casting": "none"}],
    "add_rms_norm": [{}, {"casting": "gemma"}, {"casting": "none"}],
    "silu": [{}],
    "swiglu": [{}],
    "swiglu_packed": [{}],
    "geglu": [{}, {"approximate": "tanh"}],
    "geglu_packed": [{}, {"approximate": "tanh"}],
}
PAIRS = [(operator, options) for operator, many in OPTIONS.items() for options in many]
SHAPES = [
    (4, 16), (3, 6), (2, 3, 34), (6, 2), (1, 258), (31, 126), (64,), (2, 2, 2, 10), (700, 62), (4096, 96), (1, 1024),
    (513, 1022), (300, 1026), (64, 4096), (37, 8190), (37, 8192), (19, 8194), (9, 16384), (9, 16386), (5, 32768),
    (3, 65538), (2, 262144), (1, 300002),
]  # fmt: skip
LAYOUTS = ["offset", "rows", "columns", "transposed"]
NAMES = [*OPERATORS, "softmax_dropout"]


def call(operator, inputs):
    if operator == "softmax_dropout":
        return ops.softmax_dropout(inputs["x"], 0.25, scale=0.5)
    result = OPERATORS[operator].ours(**inputs)
    return result[0] if isinstance(result, tuple) else result


def inputs_of(operator, shape=(96, 1000), dtype=torch.bfloat16, requires_grad=True):
    if operator == "softmax_dropout":
        inputs = {"x": torch.randn(shape).to(dtype).cuda()}
    else:
        inputs = make_inputs(operator, shape, dtype, device="cuda")
    return {k: v.requires_grad_(requires_grad) for k, v in inputs.items()}


def gradients(y, inputs, **options):
    torch.manual_seed(11)
    return torch.autograd.grad(y, list(inputs.values()), torch.randn_like(y), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("operator", "options"), PAIRS, ids=str)
def test_against_float64(operator, options, shape, dtype):
    check(operator, shape, dtype, options, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2049, 512), (1025, 1030)], ids=str)
@pytest.mark.parametrize(("operator", "options"), [p for p in PAIRS if "norm" not in p[0]], ids=str)
def test_many_elements_against_float64(operator, options, shape, dtype):
    """More than are few: a thread of the flat kernels has twice as many."""
    check(operator, shape, dtype, options, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.75])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 1), (3, 257)], ids=str)
def test_softmax_dropout_against_float64(shape, p, dtype):
    # Narrower inputs where a row is long, so that no probability is lost to float16.
    check_softmax_dropout(shape, dtype, p, device="cuda")


@pytest.mark.parametrize("operator", ["layer_norm_gelu", "rms_norm", "add_rms_norm"])
@pytest.mark.parametrize("shape", [(100, 1), (64, 4096), (3, 20_011)], ids=str)
def test_odd_widths_and_float32_weights(operator, shape):
    check(operator, shape, torch.float32, device="cuda")
    if shape[-1] > 1:
        check(operator, shape, torch.bfloat16, other=torch.float32, device="cuda")
        check(operator, shape, torch.float16, other=torch.float32, device="cuda")


@pytest.mark.parametrize("width", [65, 256, 4096, 20_011])
def test_rows_far_from_zero(width):
    check("layer_norm_gelu", (64, width), torch.float32, mean=300.0, device="cuda")


@pytest.mark.parametrize("grad_layout", [*LAYOUTS, "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", NAMES)
def test_layouts(operator, layout, grad_layout):
    for shape in ((5, 3, 200), (3, 8200)):
        if operator == "softmax_dropout":
            check_softmax_dropout(shape, torch.bfloat16, layout=layout, grad_layout=grad_layout, device="cuda")
        else:
            check(operator, shape, torch.bfloat16, layout=layout, grad_layout=grad_layout, device="cuda")


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 50, 80), (50, 80), (2, 1, 1, 80), (2, 1, 50, 80), (2, 3, 50, 1)], ids=str)
def test_masks(shape, dtype):
    mask = torch.randn(shape, device="cuda")
    mask = (
        (mask > -2).logical_or(torch.arange(shape[-1], device="cuda") == 0) if dtype == torch.bool else mask.to(dtype)
    )
    check_softmax_dropout((2, 3, 50, 80), torch.float32, scale=0.5, mask=mask, device="cuda")


@pytest.mark.parametrize("dim", [0, 1])
def test_other_axes(dim):
    check_softmax_dropout((40, 50, 60), torch.bfloat16, dim=dim, device="cuda")


@pytest.mark.parametrize("operator", NAMES)
def test_100_repeats_agree_to_the_bit(operator):
    inputs = inputs_of(operator, (1000, 1000))

    def once():
        torch.manual_seed(3)
        y = call(operator, inputs)
        return (y, *gradients(y, inputs))

    wanted = once()
    for _ in range(99):
        assert all(torch.equal(a, b) for a, b in zip(once(), wanted, strict=True))


@pytest.mark.parametrize("operator", ["layer_norm_gelu", "rms_norm"])
def test_wide_rows_agree_to_the_bit(operator):
    inputs = inputs_of(operator, (200, 20_000))
    runs = [gradients(call(operator, inputs), inputs) for _ in range(10)]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@pytest.fixture
def most_of_the_memory():
    """Room for 45 GB, waited for where tests in other processes have it now."""
    needed = 45 * 2**30
    if torch.cuda.get_device_properties(0).total_memory < needed:
        pytest.skip("needs 45 GB of GPU memory")
    deadline = time.monotonic() + 300
    with (Path(tempfile.gettempdir()) / "fuselab-tests-gpu-memory").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one such test at a time
        gc.collect()
        torch.cuda.empty_cache()
        while torch.cuda.mem_get_info()[0] < needed and time.monotonic() < deadline:
            time.sleep(1)
        yield
        torch.cuda.empty_cache()


@pytest.mark.usefixtures("most_of_the_memory")
@pytest.mark.parametrize("width", [64, 4096, 40_960])
@pytest.mark.parametrize(
    "operator", ["layer_norm_gelu", "rms_norm", "softmax_dropout", "silu", "swiglu", "swiglu_packed"]
)
def test_more_than_2_to_the_31_elements(operator, width):
    """The last rows, beyond 2^31 elements, against the same rows computed alone."""
    rows = 2**31 // width + 50
    last = 40
    x = torch.empty(rows, width, dtype=torch.bfloat16, device="cuda").normal_()
    parameter = torch.randn(width, device="cuda").bfloat16()
    keep = None

    def run(x):
        if operator == "layer_norm_gelu":
            return ops.layer_norm_gelu(x, parameter, parameter)
        if operator == "rms_norm":
            return ops.rms_norm(x, parameter)
        if operator == "softmax_dropout":
            return ops.softmax_dropout(x, 0.5)
        return ops.swiglu(x) if operator == "swiglu_packed" else ops.silu(x) if operator == "silu" else ops.swiglu(x, x)

    torch.manual_seed(0)
    x.requires_grad_()
    y = run(x)
    dy = torch.empty_like(y).normal_()
    (dx,) = torch.autograd.grad(y, x, dy)
    tail = x[-last:].detach().clone().requires_grad_()
    if operator == "softmax_dropout":
        keep = y[-last:] != 0
        assert 0.4 < keep.double().mean() < 0.6
        assert not torch.equal(keep[:20], keep[20:])
        wanted = F.softmax(tail.float(), -1) * keep * 2
        (dwanted,) = torch.autograd.grad(wanted, tail, dy[-last:].float())
        torch.testing.assert_close(y[-last:].float(), wanted, rtol=0.02, atol=1e-6)
        torch.testing.assert_close(dx[-last:], dwanted, rtol=0.05, atol=0.02 * float(dwanted.abs().max()))
    else:
        # The same kernel: of few rows another one makes them, and other roundings.
        packed = operator == "layer_norm_gelu" and width == 4096
        with replaced(**PACKED["packed, more a thread"]) if packed else contextlib.nullcontext():
            wanted = run(tail)
            (dwanted,) = torch.autograd.grad(wanted, tail, dy[-last:])
        assert torch.equal(y[-last:], wanted)
        assert torch.equal(dx[-last:], dwanted)


@pytest.mark.parametrize("operator", NAMES)
def test_opcheck(operator):
    inputs = inputs_of(operator, (24, 300), torch.float32)
    values = list(inputs.values())
    seed = torch.tensor([5], device="cuda")
    operators = torch.ops.fuselab
    target, arguments = {
        "layer_norm_gelu": (operators.layer_norm_gelu, (*values, 1e-5, "none")),
        "rms_norm": (operators.rms_norm, (values[0], None, values[-1], 1e-6, "llama")),
        "add_rms_norm": (operators.rms_norm, (*values, 1e-6, "none")),
        "silu": (operators.silu, tuple(values)),
        "swiglu": (operators.swiglu, tuple(values)),
        "swiglu_packed": (operators.swiglu, (*values, None)),
        "geglu": (operators.geglu, (*values, "none")),
        "geglu_packed": (operators.geglu, (*values, None, "tanh")),
        "softmax_dropout": (operators.softmax_dropout, (*values, seed, None, 0.1, 0.5)),
    }[operator]
    results = opcheck(target.default, arguments)
    assert set(results.values()) == {"SUCCESS"}
    assert len(results) == 4


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("width", [1000, 20_000])
@pytest.mark.parametrize("operator", NAMES)
def test_compile_fullgraph(operator, width, dynamic):
    """Between operators of torch, whole; forward and backward as without the compiler."""

    def model(**inputs):
        name = next(iter(inputs))
        inputs = inputs | {name: inputs[name] * 2}
        if operator == "softmax_dropout":
            return ops.softmax_dropout(inputs["x"], 0.0, scale=0.5).float() + 1
        return call(operator, inputs).float() + 1

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    inputs = inputs_of(operator, (96, width))
    eager = model(**inputs)
    y = compiled(**inputs)
    torch.testing.assert_close(y, eager, rtol=1e-2, atol=1e-3)
    for a, b in zip(gradients(y, inputs), gradients(eager, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))


def test_compiled_dropout():
    """The backward's mask is the forward's, the generator drives it, and the rate is right."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: ops.softmax_dropout(x, 0.25), fullgraph=True)
    x = torch.randn(512, 1000, device="cuda", requires_grad=True)
    torch.manual_seed(1)
    y = compiled(x)
    keep = y != 0
    assert abs(float(keep.double().mean()) - 0.75) < 0.005
    dy = torch.randn_like(y)
    wanted = F.softmax(x, -1) * keep / 0.75
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-8)
    dx, dwanted = (torch.autograd.grad(v, x, dy)[0] for v in (y, wanted))
    torch.testing.assert_close(dx, dwanted, rtol=1e-4, atol=1e-7)
    assert not torch.equal(compiled(x) != 0, keep)
    torch.manual_seed(1)
    assert torch.equal(compiled(x) != 0, keep)


def test_dynamic_rows_compile_once():
    """From more rows than one program has; fewer are a graph of their own, see ``test_dynamic_rows``."""
    torch._dynamo.reset()
    weight = torch.ones(512, device="cuda", requires_grad=True)
    compiled = torch.compile(lambda x: ops.rms_norm(x * 2, weight), fullgraph=True, dynamic=True)
    for rows in (1000, 2000, 1537, 5000, 5):
        x = torch.randn(rows, 512, device="cuda", requires_grad=True)
        with torch.compiler.set_stance("default" if rows == 1000 else "fail_on_recompile"):
            y = compiled(x)
        wanted = F.rms_norm(x * 2, (512,), weight, 1e-6)
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
        dy = torch.randn_like(y)
        for a, b in zip(*(torch.autograd.grad(v, (x, weight), dy) for v in (y, wanted)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_fake_tensors():
    with FakeTensorMode():
        x, weight = torch.empty(8, 300, device="cuda"), torch.empty(300, device="cuda")
        for y in (
            ops.rms_norm(x, weight),
            ops.layer_norm_gelu(x, weight, weight),
            ops.softmax_dropout(x, 0.5),
            ops.silu(x),
        ):
            assert y.shape == x.shape
            assert y.device.type == "cuda"


@pytest.mark.parametrize("operator", NAMES)
def test_cuda_graph(operator):
    inputs = inputs_of(operator)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            y = call(operator, inputs)
            torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(operator, inputs)
        found = torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))
    for _ in range(2):
        first = next(iter(inputs.values()))
        first.data.copy_(torch.randn_like(first))
        graph.replay()
        if operator == "softmax_dropout":
            continue
        eager = call(operator, inputs)
        assert torch.equal(y, eager)
        wanted = torch.autograd.grad(eager, list(inputs.values()), torch.ones_like(eager))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_cuda_graph_drops_anew_with_each_replay():
    x = torch.randn(256, 1000, device="cuda", requires_grad=True)
    dy = torch.randn(256, 1000, device="cuda")
    ops.softmax_dropout(x, 0.5).sum().backward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ops.softmax_dropout(x, 0.5)
        (dx,) = torch.autograd.grad(y, x, dy)
    masks = []
    for _ in range(3):
        graph.replay()
        keep = y != 0
        wanted = F.softmax(x, -1) * keep * 2
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(dx, torch.autograd.grad(wanted, x, dy)[0], rtol=1e-4, atol=1e-7)
        masks.append(keep)
    assert 0.49 < float((masks[0] == masks[1]).double().mean()) < 0.51
    assert not torch.equal(masks[1], masks[2])


def test_the_same_mask_in_every_dtype_layout_and_tile():
    """Dropped by row and column alone: 20,000 columns are looped over, in blocks of another size than 16,000 have."""
    masks = []
    for dtype in DTYPES:
        torch.manual_seed(4)
        masks.append(ops.softmax_dropout(torch.zeros(8, 16_000, dtype=dtype, device="cuda"), 0.5) != 0)
    torch.manual_seed(4)
    masks.append((ops.softmax_dropout(torch.zeros(8, 20_000, device="cuda"), 0.5) != 0)[:, :16_000])
    assert all(torch.equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_replays_the_mask(reentrant):
    x = torch.randn(64, 1000, device="cuda", requires_grad=True)
    dy = torch.randn(64, 1000, device="cuda")
    torch.manual_seed(9)
    wanted = torch.autograd.grad(ops.softmax_dropout(x, 0.5), x, dy)[0]
    torch.manual_seed(9)
    y = checkpoint(lambda x: ops.softmax_dropout(x, 0.5), x, use_reentrant=reentrant)
    torch.rand(10, device="cuda")
    y.backward(dy)
    assert torch.equal(x.grad, wanted)


def test_manual_seed():
    x = torch.zeros(64, 64, device="cuda")
    torch.manual_seed(1)
    first, second = (ops.softmax_dropout(x, 0.5) != 0 for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(ops.softmax_dropout(x, 0.5) != 0, first)
    assert not torch.equal(first, second)


def test_no_kernel_draws_the_seed(monkeypatch):
    """Of an eager call: the generator's state is read on the host, and advances by what torch's own least would."""
    torch.manual_seed(3)
    x = torch.zeros(64, 1000, device="cuda", requires_grad=True)
    masks = [ops.softmax_dropout(x, 0.5) != 0]  # what is launched first of a form is not replayed
    offset = torch.cuda.default_generators[0].get_offset()
    assert offset == 4
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", None)
        for _ in range(40):
            y = ops.softmax_dropout(x, 0.5)
            masks.append(y != 0)
        with torch.no_grad():
            masks += [ops.softmax_dropout(x, 0.5) != 0 for _ in range(3)]
    assert torch.cuda.default_generators[0].get_offset() == 4 * len(masks)
    assert len({tuple(mask[0].tolist()) for mask in masks}) == len(masks)
    torch.manual_seed(3)
    assert all(torch.equal(ops.softmax_dropout(x, 0.5) != 0, mask) for mask in masks)


def test_the_backward_drops_what_its_forward_did():
    """Of calls that are interleaved, whose keys are numbers on the host, of every class that Triton has for them."""
    x = torch.randn(32, 500, device="cuda", requires_grad=True)
    dy = torch.randn(32, 500, device="cuda")
    ys = [ops.softmax_dropout(x, 0.5) for _ in range(70)]
    for y in reversed(ys):
        wanted = F.softmax(x, -1) * (y != 0) * 2
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(*(torch.autograd.grad(v, x, dy)[0] for v in (y, wanted)), rtol=1e-4, atol=1e-7)


def test_the_generator_state_is_all_there_is():
    """Saved and restored, forked, moved on by torch's own operators, and by calls before, between and after replays."""
    x = torch.zeros(64, 64, device="cuda")

    def mask():
        return ops.softmax_dropout(x, 0.5) != 0

    torch.manual_seed(1)
    before = torch.cuda.get_rng_state()
    first = mask()
    with torch.random.fork_rng(devices=[0]):
        second = mask()
    assert torch.equal(mask(), second)
    torch.cuda.set_rng_state(before)
    assert torch.equal(mask(), first)
    torch.cuda.set_rng_state(before)
    torch.rand(10, device="cuda")
    third = mask()
    assert not torch.equal(third, first)
    torch.cuda.set_rng_state(before)
    mask()
    after = torch.rand(10, device="cuda")
    torch.cuda.set_rng_state(before)
    assert not torch.equal(torch.rand(10, device="cuda"), after)
    # The kernel that was compiled by the calls above serves the graph too: nothing can be compiled in there.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.softmax_dropout(x, 0.5)

    def some():
        torch.manual_seed(1)
        yield mask()
        for _ in range(2):
            graph.replay()
            yield captured != 0
            yield mask()

    masks, again = list(some()), list(some())
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_generator_of_another_device_drives_it():
    x = torch.zeros(64, 64, device="cuda:1", requires_grad=True)
    for device in (0, 1):
        with torch.cuda.device(device):
            torch.manual_seed(1)
            y = ops.softmax_dropout(x, 0.5)
            y.sum().backward()
            torch.manual_seed(1)
            assert torch.equal(ops.softmax_dropout(x, 0.5), y)
            assert not torch.equal(ops.softmax_dropout(x, 0.5), y)
    assert torch.cuda.default_generators[0].get_offset() == 0


@pytest.mark.parametrize("operator", NAMES)
def test_autocast(operator):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = inputs_of(operator, dtype=dtype)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = call(operator, inputs)
        assert y.dtype == dtype
        assert all(g.dtype == v.dtype for g, v in zip(gradients(y, inputs), inputs.values(), strict=True))


def test_two_devices_are_refused():
    x = torch.randn(4, 8, device="cuda")
    with pytest.raises(ValueError, match=r"weight is on cpu but x is on cuda:0; move it with weight.to\('cuda:0'\)"):
        ops.rms_norm(x, torch.ones(8))
    with pytest.raises(ValueError, match="mask is on cpu but x is on cuda:0"):
        ops.softmax_dropout(x, mask=torch.ones(8))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("operator", NAMES)
def test_another_current_device(operator):
    inputs = inputs_of(operator, dtype=torch.float32)
    there = {k: v.detach().to("cuda:1").requires_grad_() for k, v in inputs.items()}
    assert torch.cuda.current_device() == 0
    y = call(operator, there)
    found = torch.autograd.grad(y.sum(), list(there.values()))
    assert y.device.index == 1
    assert torch.cuda.current_device() == 0
    if operator != "softmax_dropout":
        here = call(operator, inputs)
        assert torch.equal(y.cpu(), here.cpu())
        wanted = torch.autograd.grad(here.sum(), list(inputs.values()))
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, wanted, strict=True))


def test_not_a_number_where_eager_has_it():
    for value in (float("inf"), float("-inf"), float("nan")):
        for operator, op in OPERATORS.items():
            inputs = make_inputs(operator, (3, 8), torch.float32, device="cuda")
            next(iter(inputs.values()))[1, 2] = value
            ours, eager = op.ours(**inputs), op.eager(**inputs)
            ours, eager = (r[0] if isinstance(r, tuple) else r for r in (ours, eager))
            assert torch.equal(ours.isnan(), eager.isnan()), (operator, value)
            assert torch.equal(ours.isinf(), eager.isinf()), (operator, value)
    for width in (6, 20_000):
        x = torch.zeros(5, width, device="cuda")
        x[0] = -float("inf")
        x[1, 0] = float("inf")
        x[2, 1] = float("nan")
        x[3, : width - 1] = -float("inf")
        assert torch.equal(ops.softmax_dropout(x, 0.5).isnan(), F.softmax(x, -1).isnan())


def test_erf_is_as_exact_as_torch_s():
    """The whole range where GELU bends, in float32."""
    x = torch.linspace(-12, 12, 1 << 20, device="cuda").view(1024, 1024)
    one = torch.ones_like(x)
    for approximate in ("none", "tanh"):
        leaf, leaf64, leaf_eager = (v.clone().requires_grad_() for v in (x, x.double(), x))
        y, y64 = ops.geglu(leaf, one, approximate), F.gelu(leaf64, approximate=approximate)
        y_eager = F.gelu(leaf_eager, approximate=approximate)
        gate(f"gelu {approximate}", y, y64, y_eager)
        found = [torch.autograd.grad(v.sum(), u)[0] for v, u in ((y, leaf), (y64, leaf64), (y_eager, leaf_eager))]
        gate(f"gelu {approximate} derivative", *found)
