"""Against scipy where it has the same; simulated series where nobody has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselab.measure import distributions as d
from fuselab.measure import statistics as s

finite = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(st.floats(-60, 60), st.integers(1, 400))
def test_student_agrees_with_scipy(t, degrees):
    assert d.student_cdf(t, degrees) == pytest.approx(scipy.stats.t.cdf(t, degrees), rel=1e-9, abs=1e-13)
    assert d.student_two_sided(t, degrees) == pytest.approx(2 * scipy.stats.t.sf(abs(t), degrees), rel=1e-8)


@given(st.floats(1e-7, 0.999), st.integers(1, 400))
def test_student_quantile_agrees_with_scipy(alpha, degrees):
    assert d.student_quantile(alpha, degrees) == pytest.approx(scipy.stats.t.isf(alpha / 2, degrees), rel=1e-8)


@given(st.floats(0.05, 300), st.floats(0.05, 300), st.floats(0, 1))
def test_incomplete_beta_agrees_with_scipy(a, b, x):
    assert d.incomplete_beta(a, b, x) == pytest.approx(scipy.special.betainc(a, b, x), rel=1e-7, abs=1e-12)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.01, 0.99))
def test_binomial_agrees_with_scipy(k, n, p):
    assert d.binomial_cdf(k, n, p) == pytest.approx(scipy.stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_student_quantile_refuses_what_is_no_probability(alpha):
    with pytest.raises(ValueError, match="within"):
        d.student_quantile(alpha, 5)


@given(st.lists(st.floats(0, 1), max_size=40))
def test_benjamini_hochberg_agrees_with_scipy(p):
    expected = scipy.stats.false_discovery_control(p) if p else []
    assert s.benjamini_hochberg(p) == pytest.approx(expected)


@given(st.lists(finite, min_size=6, max_size=60, unique=True), st.sampled_from([0.8, 0.9, 0.95]))
def test_median_interval_agrees_with_scipy(values, confidence):
    """scipy inverts the sign test, too: ``quantile_test``'s interval has the same order statistics."""
    mine = s.median_interval(values, confidence)
    ordered = sorted(values)
    assert mine.low <= s.median(values) <= mine.high
    assert mine.confidence >= confidence
    rank = ordered.index(mine.low)
    assert ordered[len(values) - 1 - rank] == mine.high
    # One more value left out at each end would be too few.
    narrower = 1 - 2 * scipy.stats.binom.cdf(rank + 1, len(values), 0.5)
    assert narrower < confidence or rank + 1 >= (len(values) + 1) // 2
    theirs = scipy.stats.quantile_test(values, q=0, p=0.5).confidence_interval(confidence)
    assert mine.low <= theirs.low or math.isnan(theirs.low)
    assert mine.high >= theirs.high or math.isnan(theirs.high)


def test_median_interval_of_few_values_says_what_it_has():
    interval = s.median_interval([3.0, 1.0, 2.0])
    assert (interval.low, interval.high, interval.confidence) == (1.0, 3.0, pytest.approx(0.75))
    assert s.median_interval([5.0]).confidence == 0.0


@pytest.mark.parametrize("function", [s.median, s.median_interval])
def test_no_values_are_refused(function):
    with pytest.raises(ValueError, match="no values"):
        function([])


@given(st.lists(finite, min_size=5, max_size=80))
def test_trimmed_mean_agrees_with_scipy(values):
    centre, error, degrees = s.trimmed_estimates(values)
    assert centre == pytest.approx(scipy.stats.trim_mean(values, s.TRIM), abs=1e-9)
    cut = int(s.TRIM * len(values))
    assert degrees == len(values) - 2 * cut - 1
    winsorised = np.asarray(scipy.stats.mstats.winsorize(np.array(values), limits=(s.TRIM, s.TRIM)))
    yuen = math.sqrt(np.square(winsorised - winsorised.mean()).sum() / ((degrees + 1) * degrees))
    assert error >= yuen * (1 - 1e-9)  # larger where the series is autocorrelated


@given(st.lists(finite, min_size=11, max_size=30))
def test_p_value_and_interval_agree(values):
    estimate = s.trimmed_estimate(values)
    low, high = estimate.interval(0.05)
    if estimate.error > 1e-9 and abs(estimate.p_value - 0.05) > 1e-6:
        assert (estimate.p_value < 0.05) == (low > 0 or high < 0)


@given(st.lists(finite, min_size=4, max_size=30))
def test_swapping_the_two_turns_the_estimate_around(values):
    forth, back = s.trimmed_estimate(values), s.trimmed_estimate([-v for v in values])
    assert forth.centre == pytest.approx(-back.centre, abs=1e-9)
    assert forth.error == pytest.approx(back.error, abs=1e-9)


def test_p_value_without_spread():
    assert s.trimmed_estimate([0.0] * 8).p_value == 1.0
    assert s.trimmed_estimate([0.1] * 8).p_value == 0.0


def test_two_bad_rounds_of_eleven_change_nothing_much():
    calm = np.array([0.1, 0.11, 0.09, 0.1, 0.12, 0.1, 0.09, 0.11, 0.1, 0.1, 0.1])
    spoilt = calm.copy()
    spoilt[[2, 7]] = 3.0, -4.0
    assert s.trimmed_estimate(spoilt).centre == pytest.approx(s.trimmed_estimate(calm).centre, abs=0.01)
    assert s.trimmed_estimate(spoilt).p_value < 1e-3


def test_fewer_than_four_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 4 rounds"):
        s.trimmed_estimate([1.0, 2.0, 3.0])


def test_log_ratios_pair_by_round():
    ratios = s.paired_log_ratios({0: 2.0, 1: 4.0, 3: 8.0}, {3: 2.0, 1: 4.0, 2: 1.0})
    assert ratios == pytest.approx([0.0, math.log(4)])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_log_ratios_name_a_duration_that_is_none(bad):
    with pytest.raises(ValueError, match="round 1 has the duration"):
        s.paired_log_ratios({0: 1.0, 1: bad}, {0: 1.0, 1: 1.0})


def test_orders_are_drawn_anew_from_the_seed():
    names = ["a", "b", "c", "d"]
    orders = [tuple(s.draw_order(names, 3, r)) for r in range(400)]
    assert orders == [tuple(s.draw_order(names, 3, r)) for r in range(400)]
    assert orders != [tuple(s.draw_order(names, 4, r)) for r in range(400)]
    assert len(set(orders)) == 24
    assert all(sorted(order) == names for order in orders)
    firsts = [sum(order[0] == name for order in orders) for name in names]
    assert scipy.stats.chisquare(firsts).pvalue > 1e-3
    assert s.draw_order(names, -1, 0) == s.draw_order(names, 2**64 - 1, 0)


# Simulations: thousands of comparisons at once, fixed seeds. Two variants are timed in 2n slots, two a round.


def _autocorrelated(generator, shape, r):
    noise = generator.standard_normal(shape)
    series = np.empty(shape)
    series[..., 0] = noise[..., 0]
    for t in range(1, shape[-1]):
        series[..., t] = r * series[..., t - 1] + math.sqrt(1 - r * r) * noise[..., t]
    return series


def _slots(kind, generator, shape):
    match kind:
        case "normal":
            return 0.01 * generator.standard_normal(shape)
        case "AR(1) 0.9":
            return 0.01 * _autocorrelated(generator, shape, 0.9)
        case "drift":
            return 0.003 * generator.standard_normal(shape) + np.linspace(0, 0.05, shape[-1])
        case "t(2)":
            return 0.01 * generator.standard_t(2, shape)
        case "Cauchy":
            return 0.003 * generator.standard_cauchy(shape)
        case "log-normal":
            return 0.01 * generator.lognormal(0, 1, shape)
        case "spikes":
            return 0.003 * generator.standard_normal(shape) + (generator.random(shape) < 0.08) * generator.exponential(
                0.3, shape
            )
    raise ValueError(kind)


KINDS = ("normal", "AR(1) 0.9", "drift", "t(2)", "Cauchy", "log-normal", "spikes")


def _paired(kind, n, comparisons=4000, seed=0):
    """Log-ratios [comparisons, n] of two equally fast variants, in an order drawn anew in each round."""
    generator = np.random.default_rng([seed, n, KINDS.index(kind)])
    slots = _slots(kind, generator, (comparisons, 2 * n))
    sign = np.where(generator.random((comparisons, n)) < 0.5, 1.0, -1.0)
    return sign * (slots[:, 0::2] - slots[:, 1::2])


def _different(log_ratios, alpha=0.05):
    centre, error, degrees = s.trimmed_estimates(log_ratios)
    return float((np.abs(centre) > d.student_quantile(alpha, degrees) * error).mean())


@pytest.mark.parametrize("n", [11, 19, 33, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_equally_fast_variants_are_called_different_in_about_5_per_cent(kind, n):
    share = _different(_paired(kind, n))
    # Simulation error at 4000: 0.35%. Heavy tails make such a test cautious, never bold. As coverage: 93% and more.
    assert {"Cauchy": 0.015, "log-normal": 0.025}.get(kind, 0.029) <= share <= 0.065


def test_samples_taken_one_after_the_other_would_be_called_different_far_too_often():
    """Why rounds are: the same noise, all samples of one variant first, then all of the other."""
    generator = np.random.default_rng(1)
    for kind in ("AR(1) 0.9", "drift"):
        slots = _slots(kind, generator, (1000, 60))
        pvalues = scipy.stats.mannwhitneyu(slots[:, :30], slots[:, 30:], axis=1).pvalue
        assert (pvalues < 0.05).mean() > 0.4


def test_noise_of_one_variants_own_that_lasts_is_allowed_for():
    """AR(1) 0.5 in each variant, 100 rounds: without the correction 24% would be called different."""
    generator = np.random.default_rng(2)
    own = _autocorrelated(generator, (2, 4000, 100), 0.5)
    assert 0.03 <= _different(own[0] - own[1]) <= 0.085


@pytest.mark.parametrize(("difference", "least"), [(0.02, 0.95), (0.01, 0.80)])
def test_a_true_difference_is_found(difference, least):
    """At 1% of noise a sample and 40 rounds, as a GPU's cells of 20 us have, and with one sample in 12 disturbed."""
    for kind in ("normal", "spikes"):
        assert _different(_paired(kind, 40) + math.log1p(difference)) >= least


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(-0.5, 0.5))
def test_estimate_moves_with_the_truth(seed, shift):
    noise = 0.01 * np.random.default_rng(seed).standard_normal(21)
    assert s.trimmed_estimate(noise + shift).centre == pytest.approx(
        s.trimmed_estimate(noise).centre + shift, abs=1e-12
    )
