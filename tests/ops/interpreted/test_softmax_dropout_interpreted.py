"""Softmax + dropout against float64 given what was dropped, and what is dropped, in Triton's interpreter."""

import importlib

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from operator_cases import DTYPES, check_softmax_dropout

from fuselab import ops
from fuselab.experiments import dropout_mask

SHAPES = [(4, 16), (3, 7), (2, 3, 33), (6, 1), (1, 257), (31, 127), (2, 129), (64,), (2, 2, 2, 5)]
# Of input and incoming gradient, each at least once.
LAYOUTS = [
    ("offset", "transposed"), ("rows", "expanded"), ("columns", "rows"), ("transposed", "offset"), ("rows", "columns")
]  # fmt: skip
PROBABILITIES = [0.0, 0.1, 0.75]
INF = float("inf")


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(shape, p):
    """Every probability and every shape, each in all dtypes but not together."""
    check_softmax_dropout(shape, DTYPES[(PROBABILITIES.index(p) + SHAPES.index(shape)) % 3], p)


@pytest.mark.parametrize("shape", [(2, 20_011), (1, 16_385), (1, 16_384), (2, 5_000)], ids=str)
def test_rows_wider_than_a_block(shape):
    check_softmax_dropout(shape, torch.float32, 0.1)
    check_softmax_dropout(shape, torch.bfloat16, 0.0)


@pytest.mark.parametrize(("shape", "dim"), [((3, 5, 7), 0), ((3, 5, 7), 1), ((3, 5, 7), -2), ((9, 4), 0), ((5,), 0)])
def test_other_axes(shape, dim):
    check_softmax_dropout(shape, torch.float32, dim=dim)


@pytest.mark.parametrize(("layout", "grad_layout"), LAYOUTS)
def test_layouts(layout, grad_layout):
    check_softmax_dropout((3, 2, 24), torch.float32, layout=layout, grad_layout=grad_layout)


@pytest.mark.parametrize("scale", [0.0, 0.125, -2.0])
def test_scale(scale):
    check_softmax_dropout((3, 20), torch.float32, scale=scale)


MASKS = {
    "whole": (2, 3, 5, 8),
    "causal": (5, 8),
    "padding": (2, 1, 1, 8),
    "heads": (3, 1, 1),
    "queries": (2, 1, 5, 8),
    "column": (1,),
    "rows": (2, 3, 5, 1),
}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS)
def test_masks(shape, dtype):
    generator = torch.Generator().manual_seed(3)
    mask = torch.randn(shape, generator=generator)
    # A column that everything may attend to, so that no row is empty; empty rows have a test of their own.
    mask = (mask > 0) | (torch.arange(8) == 2)[-shape[-1] :] if dtype == torch.bool else mask.to(dtype)
    if shape[-1] == 1 and dtype == torch.bool:
        mask = torch.ones(shape, dtype=torch.bool)
    check_softmax_dropout((2, 3, 5, 8), torch.float32, scale=0.5, mask=mask)


def test_mask_of_five_axes_that_do_not_merge():
    mask = torch.randn(2, 1, 3, 1, 6)
    check_softmax_dropout((2, 3, 3, 4, 6), torch.float32, mask=mask)


def test_mask_in_another_layout_and_on_another_axis():
    mask = torch.randn(8, 5).t()
    check_softmax_dropout((2, 5, 8), torch.float32, mask=mask)
    check_softmax_dropout((2, 5, 8), torch.float32, mask=mask, dim=1)
    check_softmax_dropout((1, 16_400), torch.float32, mask=torch.randn(16_400))


@pytest.mark.parametrize("magnitude", [1e-3, 30.0, 1e4])
def test_magnitudes(magnitude):
    check_softmax_dropout((4, 65), torch.float32, magnitude=magnitude)


@pytest.mark.parametrize("width", [6, 20_000])
def test_not_a_number_where_eager_has_it(width):
    x = torch.zeros(6, width)
    x[0] = -INF
    x[1, 0] = INF
    x[2, 1] = float("nan")
    x[3, : width - 1] = -INF
    x[4, 3] = -INF
    torch.manual_seed(0)
    y = ops.softmax_dropout(x, 0.5)
    eager = torch.softmax(x, -1)
    assert torch.equal(y.isnan(), eager.isnan())
    assert float(y[3, -1]) in (0.0, 2.0)
    assert torch.equal(ops.softmax_dropout(x, 0.0)[3:], eager[3:])
    masked = ops.softmax_dropout(torch.zeros(2, 4), 0.0, mask=torch.tensor([[False], [True]]))
    assert masked[0].isnan().all()
    assert torch.equal(masked[1], torch.full((4,), 0.25))


@pytest.mark.parametrize("width", [24, 16_400])
def test_a_score_that_a_mask_drops_has_no_gradient(width):
    """Of a row of which nothing is kept either: the NaN end there, as with ``masked_fill``."""
    mask = torch.ones(3, width, dtype=torch.bool)
    mask[0] = mask[1, ::2] = False
    check_softmax_dropout((3, width), torch.float32, mask=mask)
    x = torch.randn(3, width, requires_grad=True)
    ops.softmax_dropout(x, 0.5, mask=mask)[1:].square().sum().backward()
    assert not x.grad[~mask].any()
    assert x.grad[mask].any()


@pytest.mark.parametrize(
    ("width", "dtype", "scale"), [(9_000, 1, None), (9_001, 1, None), (16_384, 2, -0.5), (16_000, 1, -2.0)]
)
def test_rows_that_are_packed(width, dtype, scale):
    """Wide ones of 16-bit numbers, in parts: one empty, rows apart; those that end within a word are not."""
    check_softmax_dropout((3, width), DTYPES[dtype], 0.1, scale=scale, layout="rows", grad_layout="rows")
    check_softmax_dropout((2, width), DTYPES[dtype], 0.0, scale=scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_not_a_number_in_packed_rows(dtype):
    x = torch.zeros(5, 9_000, dtype=dtype)
    x[0] = -INF
    x[1, 0] = INF
    x[2, -1] = float("nan")
    x[3, :-1] = -INF
    x[4, 1:] = torch.finfo(dtype).min
    x.requires_grad_()
    eager = torch.softmax(x, -1)
    for p in (0.0, 0.5):
        y = ops.softmax_dropout(x, p)
        assert torch.equal(y.isnan(), eager.isnan())
        dy = torch.ones_like(y)
        dy[4, 5] = INF
        (dx,), (wanted,) = (torch.autograd.grad(v, x, dy, retain_graph=True) for v in (y, eager))
        assert torch.equal(dx.isnan(), wanted.isnan())
    torch.testing.assert_close(ops.softmax_dropout(x, 0.0), eager, equal_nan=True)


@pytest.mark.parametrize("width", [6, 17_000])
def test_lowest_numbers_instead_of_infinities(width):
    """What models mask with: a row of nothing else is uniform, as in eager, and not NaN."""
    lowest = torch.finfo(torch.float32).min
    x = torch.zeros(3, width)
    x[0], x[1, 1:] = lowest, lowest
    mask = torch.zeros(3, width)
    mask[2] = lowest
    for scores, added in ((x, None), (torch.zeros(3, width), x), (x, mask)):
        wanted = torch.softmax(scores if added is None else scores + added, -1)
        torch.testing.assert_close(ops.softmax_dropout(scores, 0.0, mask=added), wanted, equal_nan=True)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    leading=st.lists(st.integers(1, 6), max_size=3),
    width=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    p=st.sampled_from([0.0, 0.2, 0.9]),
    seed=st.integers(0, 2**20),
)
def test_any_shape(leading, width, dtype, p, seed):
    check_softmax_dropout((*leading, width), dtype, p, seed=seed)


# What is dropped.


def kept(shape, p, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return (ops.softmax_dropout(torch.zeros(shape, dtype=dtype), p) != 0).numpy()


def philox(seed, c0, c1, rounds=7):
    """Philox4x32 in numpy, from the paper: four outputs for the counters (c0, c1, 0, 0)."""
    c0, c1 = (np.asarray(c, np.uint64) for c in np.broadcast_arrays(c0, c1))
    c2 = c3 = np.zeros_like(c0)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(rounds):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ k0,
            second & low,
            (first >> np.uint64(32)) ^ c3 ^ k1,
            first & low,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], -1)


def philox_keep(seed, shape, p):
    """What is kept, from the description in ``fuselab.ops.philox``: eight columns a call, each word and its halves."""
    calls = -(-shape[1] // 8)
    words = philox(seed, np.arange(calls)[None, :], np.arange(shape[0])[:, None]).astype(np.uint32)
    turned = (words << np.uint32(16)) | (words >> np.uint32(16))
    random = np.stack([words, turned], -1).reshape(shape[0], -1)[:, : shape[1]]
    return random >= np.uint32(2 * round(p * 2**31))


@pytest.mark.parametrize(
    ("rounds", "answer"),
    [(7, "5f6fb709 0d893f64 4f121f81 4f730a48"), (10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8")],
)
def test_known_answer_of_the_philox_above(rounds, answer):
    """Random123's kat_vectors: philox4x32, counter and key zero."""
    assert " ".join(f"{v:08x}" for v in philox(0, 0, 0, rounds)) == answer


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(5, 37), (2, 20_001)], ids=str)
def test_dropped_as_philox_says(shape, p):
    torch.manual_seed(7)
    seed = int(torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64)) % 2**64
    expected = philox_keep(seed, shape, p)
    for dtype in (torch.float32, torch.bfloat16):  # 4 and 8 neighbouring columns a thread
        assert np.array_equal(kept(shape, p, 7, dtype), expected)


@pytest.mark.parametrize("key", [(0, 0), (1, 2**31 - 1), (0x13572468, 16), (2**31 - 1, 2**31 - 1)])
def test_a_key_from_the_host(key, monkeypatch):
    """What an eager call on a GPU gives the kernels instead of a seed on the device, in both directions."""
    given = importlib.import_module("fuselab.ops.softmax_dropout")
    monkeypatch.setattr(given, "draw", lambda x, plain: (torch.zeros(1, dtype=torch.int64), key))
    x = torch.zeros(5, 37, requires_grad=True)
    y = ops.softmax_dropout(x, 0.5)
    expected = philox_keep(key[1] << 32 | key[0], (5, 37), 0.5)
    assert np.array_equal((y != 0).numpy(), expected)
    dy = torch.randn(5, 37)
    (dx,) = torch.autograd.grad(y, x, dy)
    wanted = torch.softmax(x, -1) * torch.from_numpy(expected) * 2
    torch.testing.assert_close(dx, torch.autograd.grad(wanted, x, dy)[0])
    with torch.no_grad():
        assert torch.equal(ops.softmax_dropout(x, 0.5), y)


def both_below(threshold, bits):
    """How many words of ``2 * bits`` bits lie below the threshold both as they are and with their halves exchanged."""
    high, low = divmod(threshold, 1 << bits)
    half = np.arange(1 << bits)
    # By the first half: below the threshold's, the second may be anything, so that only its own turn decides.
    count = high * high + np.count_nonzero((half < high) & (half < low))
    return int(count + np.count_nonzero((half < low) & ((half < high) | ((half == high) & (high < low)))))


@pytest.mark.parametrize("p", [0.001, 0.1, 1 / 3, 0.5, 0.9])
def test_the_two_decisions_of_a_word(p):
    """Counted over all 2^32 words: given that one of its elements is dropped, how likely the other is.

    No sample shows a difference so small: 2^-15 is one standard deviation over 2^30 p pairs.
    """
    small, word = round(p * 2**16), np.arange(2**16)
    assert both_below(small, 8) == np.count_nonzero((word < small) & ((word % 256 * 256 + word // 256) < small))
    threshold = 2 * round(p * 2**31)
    assert abs(both_below(threshold, 16) / threshold - p) < 2**-15


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_keep_rate_and_independence(p):
    keep = kept((256, 512), p).astype(np.float64)
    sigma = (p * (1 - p) / keep.size) ** 0.5
    assert abs(keep.mean() - (1 - p)) < 4.5 * sigma
    centred = keep - (1 - p)
    for lag in (1, 2, 3, 4, 5, 8, 16, 64):  # along a row, across the four outputs of a call and beyond
        correlation = (centred[:, lag:] * centred[:, :-lag]).mean() / (p * (1 - p))
        assert abs(correlation) < 4.5 / keep[:, lag:].size ** 0.5, lag
    for lag in (1, 2, 8, 128):  # from row to row
        correlation = (centred[lag:] * centred[:-lag]).mean() / (p * (1 - p))
        assert abs(correlation) < 4.5 / keep[lag:].size ** 0.5, lag
    for axis in (0, 1):
        spread = keep.mean(axis).std() / (p * (1 - p) / keep.shape[axis]) ** 0.5
        assert 0.9 < spread < 1.1


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_statistics_of_many_elements(p):
    """Rates of all, of rows and of columns; neighbours, rows; seeds that differ in one bit, as those of two calls may.

    From the function above, which computes 2^22 elements in the time that the interpreter takes for 2^17.
    """
    shape, seed = (2048, 2048), 0x0123456789ABCDEF
    keep = philox_keep(seed, shape, p)
    assert dropout_mask.faults(torch.from_numpy(keep).to(torch.int8), p) == ""
    centred = keep - (1 - p)
    for bit in (0, 1, 31, 32, 33, 63):
        other = philox_keep(seed ^ (1 << bit), shape, p) - (1 - p)
        assert abs((centred * other).mean() / (p * (1 - p))) < 4.5 / keep.size**0.5, bit


def test_calls_differ_and_the_seed_reproduces():
    torch.manual_seed(1)
    first, second = (ops.softmax_dropout(torch.zeros(64, 64), 0.5) != 0 for _ in range(2))
    assert 0.45 < (first == second).double().mean() < 0.55
    torch.manual_seed(1)
    assert torch.equal(ops.softmax_dropout(torch.zeros(64, 64), 0.5) != 0, first)
    torch.manual_seed(2)
    assert not torch.equal(ops.softmax_dropout(torch.zeros(64, 64), 0.5) != 0, first)
