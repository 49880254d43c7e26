"""LayerNorm + GELU and the RMSNorms against float64, in Triton's interpreter."""

import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from operator_cases import DTYPES, PACKED, check, replaced

from fuselab import ops
from fuselab.ops.launch import recorded
from fuselab.ops.layer_norm_gelu import _BACKWARD_KERNELS
from fuselab.ops.layer_norm_gelu_backward_launch import backward, is_packed

SHAPES = [(4, 16), (3, 7), (2, 3, 33), (6, 1), (1, 257), (31, 127), (2, 129), (64,), (2, 2, 2, 5)]
WIDE = [(2, 20_011), (1, 16_385), (2, 8_193), (1, 8_192)]
OPTIONS = {
    "layer_norm_gelu": [{}, {"approximate": "tanh", "eps": 1e-3}],
    "rms_norm": [{}, {"casting": "gemma", "eps": 1e-3}, {"casting": "none"}],
    "add_rms_norm": [{}, {"casting": "gemma"}, {"casting": "none", "eps": 1e-3}],
}
PAIRS = [(operator, options) for operator, many in OPTIONS.items() for options in many]
# Of input and incoming gradient, each at least once.
LAYOUTS = [
    ("offset", "transposed"), ("rows", "expanded"), ("columns", "rows"), ("transposed", "offset"), ("rows", "columns")
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("operator", "options"), PAIRS, ids=str)
def test_against_float64(operator, options, shape):
    """Every option and every shape, each in all dtypes but not together."""
    check(operator, shape, DTYPES[(PAIRS.index((operator, options)) + SHAPES.index(shape)) % 3], options)


@pytest.mark.parametrize("shape", WIDE, ids=str)
@pytest.mark.parametrize("operator", OPTIONS)
def test_rows_wider_than_a_block(operator, shape):
    check(operator, shape, torch.float32)
    if shape == WIDE[0]:
        check(operator, shape, torch.bfloat16, OPTIONS[operator][-1])


@pytest.mark.parametrize(
    ("width", "dtype", "other", "options"),
    [
        (2_056, torch.bfloat16, None, {}),
        (4_096, torch.float16, None, {"approximate": "tanh", "eps": 1e-3}),
        (9_000, torch.bfloat16, torch.float32, {}),
        (32_768, torch.float16, torch.float32, {}),
        (2_060, torch.bfloat16, None, {}),
    ],
)
def test_rows_that_layer_norm_gelu_keeps_packed(width, dtype, other, options):
    """Wide ones of 16-bit numbers, in parts: one empty, rows apart; those that end within a word are not."""
    for shape, more in (((3, width), {"layout": "rows", "grad_layout": "rows"}), ((1, width), {"magnitude": 1e-4})):
        check("layer_norm_gelu", shape, dtype, options, other=other, **more)


@pytest.fixture(params=PACKED.values(), ids=PACKED)
def packed(request):
    with replaced(**request.param):
        yield


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("affine", [(True, False), (False, True), (False, False)])
def test_packed_rows_without_weight_or_bias(affine):
    x = (torch.randn(3, 3_000, generator=torch.Generator().manual_seed(0)) + 1).half()
    weight, bias = (torch.linspace(-1, 2, 3_000).half() if given else None for given in affine)
    expected = ops.layer_norm_gelu_reference(x.double(), weight, bias)
    torch.testing.assert_close(ops.layer_norm_gelu(x, weight, bias).double(), expected, rtol=2**-10, atol=1e-6)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("ratio", [30.0, 250.0])
@pytest.mark.parametrize("width", [4_096, 5_000])
def test_packed_rows_far_from_zero(width, ratio):
    """A mean of many standard deviations: nothing cancels but what torch's own mean in float32 rounds away."""
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(1)) + ratio
    x = x.half()
    expected = ops.layer_norm_gelu_reference(x.double(), None, None)
    torch.testing.assert_close(ops.layer_norm_gelu(x, None, None).double(), expected, rtol=2**-10, atol=ratio * 3e-7)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("far", [1e-3, 1.0, 6e4])
def test_packed_rows_whose_first_numbers_are_far_from_the_others(far):
    """Deviations are taken from them: however far they are, the others' variance is not lost in the differences."""
    x = torch.randn(2, 4_096, generator=torch.Generator().manual_seed(3)) * 1e-2
    x[:, ::8] = far
    x[1, 8:] = x[1, 8:].roll(3)
    x = x.half()
    expected = ops.layer_norm_gelu_reference(x.double(), None, None)
    torch.testing.assert_close(ops.layer_norm_gelu(x, None, None).double(), expected, rtol=2**-10, atol=1e-6)


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("number", [0.0, 1.0, 3.14, 1000.5])
def test_packed_rows_of_one_number(number):
    """No variance: what eager makes of eps alone, and no root of something negative."""
    x = torch.full((2, 3_000), number).half()
    expected = ops.layer_norm_gelu_reference(x, None, None)
    torch.testing.assert_close(ops.layer_norm_gelu(x, None, None), expected, rtol=0, atol=abs(number) * 1e-4)


@pytest.mark.usefixtures("packed")
def test_not_a_number_in_packed_rows():
    """What is infinite or NaN in one row makes all of that row NaN and nothing else, as in eager."""
    x = torch.randn(4, 2_056, generator=torch.Generator().manual_seed(2)).bfloat16()
    x[0, 5], x[1, -1], x[2, 2_050] = float("inf"), float("nan"), -float("inf")
    y = ops.layer_norm_gelu(x, None, None)
    assert torch.equal(y.isnan(), ops.layer_norm_gelu_reference(x, None, None).isnan())
    assert y[:3].isnan().all()
    assert y[3].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("operator", "options"), PAIRS, ids=str)
def test_half_input_with_float32_weights(operator, options, dtype):
    check(operator, (5, 48), dtype, options, other=torch.float32)


@pytest.mark.parametrize(("layout", "grad_layout"), LAYOUTS)
@pytest.mark.parametrize("operator", OPTIONS)
def test_layouts(operator, layout, grad_layout):
    check(operator, (3, 2, 24), torch.float32, layout=layout, grad_layout=grad_layout)
    if (layout, grad_layout) == LAYOUTS[1]:
        check(operator, (2, 8_200), torch.bfloat16, layout=layout, grad_layout=grad_layout)


@pytest.mark.parametrize("magnitude", [1e-4, 1e3])
@pytest.mark.parametrize(("operator", "options"), PAIRS, ids=str)
def test_magnitudes(operator, options, magnitude):
    check(operator, (4, 65), torch.float32, options, magnitude=magnitude)


@pytest.mark.parametrize("options", OPTIONS["layer_norm_gelu"], ids=str)
@pytest.mark.parametrize("width", [65, 256, 9000])
def test_rows_far_from_zero(width, options):
    """What is left of a row without its mean keeps its digits."""
    check("layer_norm_gelu", (4, width), torch.float32, options, mean=300.0)


@pytest.mark.parametrize(
    "shape",
    [(5, 136), (5, 256), (9, 264), (7, 512), (3, 1_000), (4, 1_024), (7, 2_056), (4, 8_184)],
    ids=str,
)
def test_rows_that_the_backward_keeps_packed(shape):
    dtype, other = (torch.float16, torch.bfloat16) if shape[0] % 2 else (torch.bfloat16, torch.float16)
    assert is_packed(torch.empty(shape, dtype=dtype), shape[-1])
    erf, tanh = OPTIONS["layer_norm_gelu"]
    check("layer_norm_gelu", shape, dtype, erf, layout="rows", grad_layout="columns")
    check("layer_norm_gelu", shape, other, tanh, other=torch.float32, grad_layout="expanded")


@pytest.mark.parametrize(
    ("width", "dtype"),
    [(128, torch.bfloat16), (260, torch.bfloat16), (8_200, torch.bfloat16), (256, torch.float32)],
)
def test_rows_that_it_does_not(width, dtype):
    assert not is_packed(torch.empty(1, width, dtype=dtype), width)


@pytest.mark.parametrize(("room", "stages"), [(0, 1), (16, 1), (64, 3), (99, 4), (200, 4)])
def test_rows_are_copied_ahead_as_far_as_there_is_room(monkeypatch, room, stages):
    """Of 8192 columns a row and its gradient are 32 KiB."""
    launching = sys.modules["fuselab.ops.layer_norm_gelu_backward_launch"]
    monkeypatch.setattr(launching, "shared_memory", lambda _: room * 1024)
    x, ones = torch.randn(2, 8_192, dtype=torch.bfloat16), torch.ones(8_192)
    with recorded() as made:
        backward(_BACKWARD_KERNELS, x, ones, ones, torch.zeros(2), torch.ones(2), x, "none", True)
    assert made.launches[0].meta["STAGES"] == stages


@pytest.mark.parametrize("width", [24, 264, 8_000, 8_200])
@pytest.mark.parametrize("infinite", ["weight", "bias"])
def test_infinite_weights_make_what_torch_makes_of_them(width, infinite):
    """All of a row's gradient is NaN, and so is what that column sums."""
    x = torch.randn(3, width, dtype=torch.bfloat16, requires_grad=True)
    vectors = {name: torch.ones(width, dtype=torch.bfloat16, requires_grad=True) for name in ("weight", "bias")}
    with torch.no_grad():
        vectors[infinite][7] = torch.inf
    inputs = x, vectors["weight"], vectors["bias"]
    found = torch.autograd.grad(ops.layer_norm_gelu(*inputs).sum(), inputs)
    wanted = torch.autograd.grad(ops.layer_norm_gelu_reference(*inputs).sum(), inputs)
    for ours, torchs in zip(found, wanted, strict=True):
        assert torch.equal(ours.isnan(), torchs.isnan())


@pytest.mark.parametrize(("rows", "width", "launches"), [(4, 300, 1), (5, 300, 2), (1, 9_000, 2), (9, 9_000, 3)])
def test_one_program_writes_the_gradients_itself(rows, width, launches):
    """Only the partial sums of several are added up by a kernel more."""
    x, ones = torch.randn(rows, width), torch.ones(width)
    with recorded() as made:
        backward(_BACKWARD_KERNELS, x, ones, ones, torch.zeros(rows), torch.ones(rows), x, "none", True)
    assert len(made.launches) == launches


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    operator=st.sampled_from(list(OPTIONS)),
    leading=st.lists(st.integers(1, 6), max_size=3),
    width=st.integers(2, 300),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_any_shape(operator, leading, width, dtype, seed):
    check(operator, (*leading, width), dtype, seed=seed)
