"""Recovering a dropout mask from an output, and refusing wrong masks without ever refusing a right one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselab.experiment import load_registry
from fuselab.experiments.dropout_mask import DROPPED, FAINT, KEPT, UNKNOWN, each_fault, faults, recover

EXPERIMENT = load_registry([])["softmax_dropout"]


def bernoulli(shape, p, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) >= p).to(torch.int8)


# Right masks


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (8, 64), (64, 256), (2, 3, 32, 128), (1, 4096), (4096, 1)])
def test_a_right_mask_is_never_refused(p, shape):
    for seed in range(25):
        assert faults(bernoulli(shape, p, seed), p) == ""


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 300)),
    p=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**31),
    known=st.floats(0.05, 1.0),
)
def test_a_right_mask_is_not_refused_where_some_of_it_is_unknown(shape, p, seed, known):
    keep = bernoulli(shape, p, seed)
    keep[bernoulli(shape, known, seed + 1) == 1] = UNKNOWN
    assert faults(keep, p) == ""


def test_ends_of_p_are_exact():
    ones = torch.ones(8, 16, dtype=torch.int8)
    assert faults(ones, 0.0) == ""
    assert faults(ones * 0, 1.0) == ""
    one_wrong = ones.clone()
    one_wrong[3, 4] = DROPPED
    assert faults(one_wrong, 0.0) == "1 of 128 elements are dropped at p=0"
    assert faults(1 - one_wrong, 1.0) == "1 of 128 elements are kept at p=1"


def test_nothing_known_is_nothing_wrong():
    assert faults(torch.full((8, 16), UNKNOWN, dtype=torch.int8), 0.1) == ""


# Wrong masks, each planted in a right one


def repeated_in_groups(mask):
    return mask[:, ::4].repeat_interleave(4, dim=1)


def repeated_along_the_row(mask):
    return mask[:, :4].repeat(1, mask.shape[1] // 4)


def tile_for_every_tile(mask):
    return mask[:, :64].repeat(1, mask.shape[1] // 64)


def same_for_all_rows(mask):
    return mask[:1].expand_as(mask)


def same_for_pairs_of_rows(mask):
    return mask[::2].repeat_interleave(2, dim=0)


def shifted_by_one_each_row(mask):
    """Counter is row + column, where row * width + column was meant."""
    flat = mask.flatten()
    return torch.stack([flat[row : row + mask.shape[1]] for row in range(mask.shape[0])])


def last_column_dropped(mask):
    mask = mask.clone()
    mask[:, -1] = DROPPED
    return mask


def last_column_kept(mask):
    mask = mask.clone()
    mask[:, -1] = KEPT
    return mask


def one_row_kept(mask):
    mask = mask.clone()
    mask[7] = KEPT
    return mask


def complement_in_pairs(mask):
    """Antithetic numbers: u and 1 - u side by side."""
    pairs = mask.view(mask.shape[0], -1, 2).clone()
    generator = torch.Generator().manual_seed(11)
    u = torch.rand(pairs.shape[:2], generator=generator)
    pairs[..., 0], pairs[..., 1] = u >= 0.1, u <= 0.9
    return pairs.view_as(mask)


PLANTED = [
    (repeated_in_groups, "elements 1 apart are kept together"),
    (repeated_along_the_row, "elements 4 apart are kept together"),
    (tile_for_every_tile, "elements 64 apart are kept together"),
    (same_for_all_rows, "elements 512 apart (1 row) are kept together"),
    (same_for_pairs_of_rows, "apart (1 row) are kept together"),
    (shifted_by_one_each_row, "elements 511 apart are kept together"),
    (last_column_dropped, "column 511 keeps 0 of 512"),
    (last_column_kept, "column 511 keeps 512 of 512"),
    (one_row_kept, "row 7 keeps 512 of 512"),
    (complement_in_pairs, "elements 1 apart avoid each other"),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("wrong", "says"), PLANTED, ids=[wrong.__name__ for wrong, _ in PLANTED])
def test_a_wrong_mask_is_refused_in_words(wrong, says, seed):
    right = bernoulli((512, 512), 0.1, seed)
    assert faults(right, 0.1) == ""
    planted = wrong(right).to(torch.int8)
    assert faults(planted, 0.1) != ""
    assert any(says in fault for fault in each_fault(planted, 0.1))


@pytest.mark.parametrize(
    ("rate", "shape"), [(0.15, (64, 256)), (0.05, (64, 256)), (0.102, (2048, 1024)), (0.2, (16, 64))]
)
def test_a_wrong_keep_rate_is_refused(rate, shape):
    said = faults(bernoulli(shape, rate, 0), 0.1)
    assert said.startswith("keep rate 0.")
    assert f"over {shape[0] * shape[1]} elements, not 0.9: " in said


@pytest.mark.parametrize("wrong", [repeated_in_groups, same_for_all_rows])
def test_small_shapes_are_enough_for_the_usual_faults(wrong):
    assert faults(wrong(bernoulli((64, 256), 0.1, 3)), 0.1) != ""


# Recovering


def test_zeros_say_nothing_where_the_dtype_underflows():
    probabilities = torch.tensor([[0.5, 0.25, 1e-8, 1e-8, 0.0]], dtype=torch.float64)
    output = torch.tensor([[0.5, 0.0, 0.0, 6e-8, 0.0]], dtype=torch.float16)
    assert recover(output, probabilities).tolist() == [[KEPT, DROPPED, UNKNOWN, FAINT, UNKNOWN]]


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f64"])
@pytest.mark.parametrize("options", [{}, {"scale": "sqrt", "mask": "causal"}, {"mask": "padding", "p": 0.5}])
def test_the_mask_of_a_right_implementation_is_recovered_and_passes(dtype, options):
    workload = EXPERIMENT.workload((2, 4, 64, 256), dtype, 0, options)
    p, scale = workload.options["p"], 0.125 if options.get("scale") else 1.0
    for seed in range(3):
        inputs = EXPERIMENT.make_inputs(workload, "cpu")
        x, *mask = inputs.args
        drawn = bernoulli(x.shape, p, seed)
        scores = x.detach().float() * scale
        if mask:
            scores = scores.masked_fill(~mask[0], float("-inf")) if mask[0].dtype == torch.bool else scores + mask[0]
        probabilities = torch.softmax(scores, -1)
        output = (probabilities * drawn / (1 - p)).to(x.dtype)
        witness = EXPERIMENT.witness(workload, inputs, output)
        assert EXPERIMENT.check_witness(workload, witness) == ""
        known = (witness["keep"] == KEPT) | (witness["keep"] == DROPPED)
        assert torch.equal(witness["keep"][known], drawn[known])
        assert int(known.sum()) >= 0.9 * int((probabilities > 1e-6).sum())


@pytest.mark.parametrize("width", [16, 32768])
def test_wide_rows_in_float16_lose_no_elements_of_an_even_softmax(width):
    """1 / 32768 is a subnormal of float16: the mask has to stay readable there."""
    workload = EXPERIMENT.workload((16, width), "f16")
    inputs = EXPERIMENT.make_inputs(workload, "cpu")
    output = EXPERIMENT.variant("eager").build(workload)(*inputs.args)
    keep = EXPERIMENT.witness(workload, inputs, output)["keep"]
    assert float(((keep == KEPT) | (keep == DROPPED)).float().mean()) > 0.98
    assert EXPERIMENT.check_witness(workload, {"keep": keep}) == ""


def test_the_reference_shows_a_backward_that_draws_another_mask():
    workload = EXPERIMENT.workload((64, 256), "f32")
    inputs = EXPERIMENT.make_inputs(workload, "cpu")
    x = inputs.args[0]
    forward_mask, backward_mask = bernoulli(x.shape, 0.1, 0), bernoulli(x.shape, 0.1, 1)
    probabilities = torch.softmax(x.detach().double(), -1)
    output = probabilities * forward_mask / 0.9
    wide = x.detach().double().requires_grad_()
    witness = EXPERIMENT.witness(workload, inputs, output.float())
    reference = EXPERIMENT.reference(workload)(wide, **witness)
    assert float((reference.detach() - output).abs().max()) < 1e-15
    start = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad(reference, wide, start)

    def gradient(mask):
        kept = start * mask / 0.9
        return probabilities * (kept - (kept * probabilities).sum(-1, keepdim=True))

    assert float((gradient(forward_mask) - expected).abs().max()) < 1e-15
    assert float((gradient(backward_mask) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_the_mask_that_eager_draws_passes(seed):
    workload = EXPERIMENT.workload((128, 512), "bf16", seed)
    inputs = EXPERIMENT.make_inputs(workload, "cpu")
    torch.manual_seed(seed)
    output = EXPERIMENT.variant("eager").build(workload)(*inputs.args)
    assert EXPERIMENT.check_witness(workload, EXPERIMENT.witness(workload, inputs, output)) == ""
