"""SiLU, SwiGLU and GEGLU against float64, in Triton's interpreter."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from operator_cases import DTYPES, check

from fuselab import ops

SHAPES = [(4, 16), (3, 6), (2, 3, 34), (5, 2), (1, 258), (7, 4_100), (2, 2, 2, 6), (64,)]
PAIRS = [
    ("silu", {}),
    ("swiglu", {}),
    ("swiglu_packed", {}),
    ("geglu", {}),
    ("geglu", {"approximate": "tanh"}),
    ("geglu_packed", {}),
    ("geglu_packed", {"approximate": "tanh"}),
]
# Of input and incoming gradient, each at least once.
LAYOUTS = [
    ("offset", "transposed"), ("rows", "expanded"), ("columns", "rows"), ("transposed", "offset"), ("rows", "columns")
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("operator", "options"), PAIRS, ids=str)
def test_against_float64(operator, options, shape):
    """Every option and every shape, each in all dtypes but not together."""
    check(operator, shape, DTYPES[(PAIRS.index((operator, options)) + SHAPES.index(shape)) % 3], options)


@pytest.mark.parametrize(("layout", "grad_layout"), LAYOUTS)
@pytest.mark.parametrize("operator", ["silu", "swiglu", "swiglu_packed", "geglu_packed"])
def test_layouts(operator, layout, grad_layout):
    check(operator, (3, 2, 24), torch.float32, layout=layout, grad_layout=grad_layout)


@pytest.mark.parametrize("operator", ["swiglu", "geglu"])
def test_pair_of_two_dtypes(operator):
    check(operator, (3, 40), torch.bfloat16, other=torch.float32)


def test_no_axes():
    x = torch.tensor(0.5)
    torch.testing.assert_close(ops.silu(x), torch.nn.functional.silu(x))


@pytest.mark.parametrize("operator", ["silu", "swiglu", "geglu"])
def test_magnitudes(operator):
    check(operator, (4, 65), torch.float32, magnitude=10.0)
    check(operator, (4, 65), torch.float16, magnitude=100.0)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    pair=st.sampled_from(PAIRS),
    leading=st.lists(st.integers(1, 6), max_size=3),
    width=st.integers(1, 150),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**20),
)
def test_any_shape(pair, leading, width, dtype, seed):
    check(pair[0], (*leading, 2 * width), dtype, pair[1], seed=seed)
