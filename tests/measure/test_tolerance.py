"""What is added up over rows: an honest float32 sum passes in any order, and how small a wrong one is still seen."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fuselab.measure.tolerance import Scale, compare, not_repeated

pytestmark = pytest.mark.usefixtures("one_thread")

U = 2.0**-24
COLUMNS = 1024
ROWS = (256, 4096, 16384)


class Sums:
    """Weight gradients of ``columns`` columns over ``rows`` rows of random terms, added up in several ways."""

    def __init__(self, rows: int, columns: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.rows, self.columns = rows, columns
        self.exact = torch.zeros(columns, dtype=torch.float64)
        self.one_after_the_other = torch.zeros(columns)
        self.by_runs_of_64 = torch.zeros(columns)
        self.all_bf16 = torch.zeros(columns, dtype=torch.bfloat16)
        self.bf16_partial_sums = torch.zeros(columns)
        run = torch.zeros(columns)
        for row in range(rows):
            gradient, normalised = torch.randn(2, columns, generator=generator)
            term = gradient * normalised
            self.exact += term.double()
            self.one_after_the_other += term
            self.all_bf16 += term.bfloat16()
            run += term
            if row % 64 == 63:
                self.by_runs_of_64 += run
                self.bf16_partial_sums += run.bfloat16().float()
                run = torch.zeros(columns)
        self.last = term

    def check(self, got, dtype=torch.float32, among=slice(None)):
        exact = self.exact[among]
        scale = Scale(self.rows * exact.numel(), exact.numel(), sixteen_bit=dtype is torch.bfloat16)
        eager = self.by_runs_of_64[among].to(dtype)
        return compare("grad weight", got[among].to(dtype), eager, exact, scale)


@pytest.fixture(scope="module", params=ROWS)
def sums(request):
    return Sums(request.param, COLUMNS)


def test_the_model_of_one_accumulator_holds(sums):
    """0.30 sqrt(R) roundings of the result's root-mean-square; Inductor's C++ over 4096 rows: 19.2, the model 19.2."""
    error = (sums.one_after_the_other.double() - sums.exact).square().mean().sqrt()
    roundings = float(error / sums.exact.square().mean().sqrt()) / U
    assert roundings == pytest.approx(0.30 * math.sqrt(sums.rows), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["one_after_the_other", "by_runs_of_64"])
def test_an_honest_sum_passes(sums, order, dtype):
    found = sums.check(getattr(sums, order), dtype)
    assert found.correct, found.reason


def test_one_accumulator_is_what_the_floor_is_for(sums):
    if sums.rows < 4096:
        pytest.skip("below that it is within twice eager's error, or close to it")
    found = sums.check(sums.one_after_the_other)
    assert found.rms_error > 2 * found.eager_rms_error


@pytest.mark.parametrize("columns", [4, 8, 16, 64])
def test_an_honest_sum_of_few_columns_passes(sums, columns):
    for start in range(0, COLUMNS, columns):
        found = sums.check(sums.one_after_the_other, among=slice(start, start + columns))
        assert found.correct, (start, found.reason)


WRONG = {
    "zeros": lambda s: s.exact * 0,
    "x0.95": lambda s: s.exact * 0.95,
    "x1.05": lambda s: s.exact * 1.05,
    "one row left out": lambda s: s.exact - s.last.double(),
    "one row twice": lambda s: s.exact + s.last.double(),
    "one column left out": lambda s: s.exact.index_fill(0, s.exact.abs().argsort()[s.columns // 2], 0.0),
    "columns off by one": lambda s: s.exact.roll(1),
    "added up in bf16": lambda s: s.all_bf16.double(),
}
WRONG_IN_F32 = {
    "partial sums rounded to bf16": lambda s: s.bf16_partial_sums.double(),
    "rounded to bf16 at the end": lambda s: s.exact.bfloat16().double(),
    "rounded to f16 at the end": lambda s: s.exact.half().double(),
    "all off by 3 parts in a million": lambda s: s.exact * (1 + 3e-6 * math.sqrt(max(s.rows / 4096, 1))),
    "one column off by 10 parts in a million of the largest": lambda s: (
        s.exact
        + torch.zeros_like(s.exact).index_fill(0, torch.tensor(7), 1e-5 * math.sqrt(max(s.rows / 4096, 1)))
        * s.exact.abs().max()
    ),
}


@pytest.mark.parametrize("name", [*WRONG, *WRONG_IN_F32])
def test_a_wrong_weight_gradient_is_seen_in_float32(sums, name):
    got = {**WRONG, **WRONG_IN_F32}[name](sums)
    found = sums.check(got)
    assert not found.correct, (found.rms_error, found.allowed_rms_error, found.max_error, found.allowed_max_error)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_weight_gradient_is_seen_in_bf16(sums, name):
    found = sums.check(WRONG[name](sums), torch.bfloat16)
    assert not found.correct, (found.rms_error, found.allowed_rms_error, found.max_error, found.allowed_max_error)


def test_what_is_too_small_to_be_seen():
    """The other side of the figures: a relative error of one part in a million over 4096 rows passes."""
    sums = Sums(4096, COLUMNS)
    assert sums.check(sums.exact * (1 + 1e-6)).correct


def test_two_orders_of_summing_count_as_repeated_and_two_results_do_not(sums):
    scale = Scale(sums.rows * COLUMNS, COLUMNS, sixteen_bit=False)
    assert not not_repeated(sums.one_after_the_other, sums.by_runs_of_64, scale)
    other = (sums.exact - sums.last.double()).float()
    assert "differ by up to" in not_repeated(sums.one_after_the_other, other, scale)


def biased(by, rows=512, **options):
    """16-bit results of about 1 and, in 32 columns of 256, of about 1/256; these are off by 5% times ``by(row)``."""
    exact = torch.rand((rows, 256), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1.0
    off = torch.zeros_like(exact)
    exact[:, :32] /= 256
    off[:, :32] = 0.05 * by(torch.arange(rows, dtype=torch.float64)).view(-1, 1)
    scale = Scale(exact.numel(), 256, sixteen_bit=True)
    return compare("output", (exact * (1 + off)).bfloat16(), exact.bfloat16(), exact, scale, **options)


def test_an_error_of_small_results_is_seen_in_the_mean_of_many_rows():
    """All of these are within the bounds of single results: 5% of 1/256 is 0.02% of 1."""
    assert biased(lambda row: 0 * row).correct
    wrong = biased(lambda row: 1 + 0 * row)
    assert wrong.reason.startswith("systematic error: results of about 0.0039 are off by 0.00029 in the mean"), wrong
    half = biased(lambda row: 0.1 + 0 * row)
    assert half.correct, half.reason  # one rounding
    alternating = biased(lambda row: torch.where(row % 2 == 0, 1.0, -1.0))
    assert alternating.correct, alternating.reason
    few = biased(lambda row: 1 + 0 * row, rows=8)
    assert few.correct, few.reason  # what a row has in common is one error, and eight are too few to tell


def test_what_rounds_to_16_bits_between_operators_may_be_off_in_the_mean_and_no_more():
    assert biased(lambda row: 1 + 0 * row, rounds_between=True).correct
    found = biased(lambda row: 200 + 0 * row, rounds_between=True)
    assert "root-mean-square error" in found.reason


def gradient_of(function, x, of_output):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, of_output)[0]


def test_the_operators_of_silu_by_hand_cancel_where_its_slope_is_zero():
    """The slope at -1.28125 is -6e-4 and made of two terms of 0.22; sigmoid(x) is rounded the same way every time."""
    generator = torch.Generator().manual_seed(0)
    x, of_output = torch.randn(2, 512, 256, generator=generator).bfloat16()
    x[:, :64] = -1.28125
    exact = gradient_of(F.silu, x.double(), of_output.double())
    by_hand = gradient_of(lambda x: x * torch.sigmoid(x), x, of_output)
    there = x == -1.28125
    error, size = (by_hand.double() - exact)[there], exact[there].abs().mean()
    assert float(size) == pytest.approx(6.06e-4 * float(of_output[there].double().abs().mean()), rel=0.01)
    assert float(error.abs().mean() / size) == pytest.approx(1.0, abs=0.1)
    assert float((error * exact[there].sign()).mean() / size) == pytest.approx(-0.17, abs=0.03)

    scale = Scale(x.numel(), 256, sixteen_bit=True)
    fused = gradient_of(F.silu, x, of_output)
    assert compare("grad x", fused, fused, exact, scale).correct
    assert compare("grad x", by_hand, fused, exact, scale).reason.startswith("systematic error: results of about")
    found = compare("grad x", by_hand, fused, exact, scale, rounds_between=True)
    assert found.correct, found.reason


def normalised_and_weighed(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


@pytest.mark.slow
def test_the_compiled_weight_gradient_has_the_errors_of_one_accumulator():
    """Adding up in the order of the generated C++ reproduces its errors column by column."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 4096, 256, generator=generator)
    x.requires_grad_()
    weight = torch.ones(256, requires_grad=True)
    compiled = torch.compile(normalised_and_weighed, dynamic=False)
    (got,) = torch.autograd.grad(compiled(x, weight), weight, gradient)
    wide = torch.autograd.grad(
        normalised_and_weighed(x.detach().double(), (w := weight.detach().double().requires_grad_())),
        w,
        gradient.double(),
    )[0]
    normalised = x.detach() * torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + 1e-6)
    total = torch.zeros(256)
    for row in range(4096):  # a fused multiply-add rounds once
        total = (total.double() + gradient[row].double() * normalised[row].double()).float()
    errors = torch.stack([total.double() - wide, got.double() - wide])
    assert float(torch.corrcoef(errors)[0, 1]) > 0.8
    assert float(errors[1].square().mean().sqrt() / wide.square().mean().sqrt()) / U == pytest.approx(19.2, rel=0.2)
