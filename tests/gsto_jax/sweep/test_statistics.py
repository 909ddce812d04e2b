"""Statistics against published examples and numerical integration."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from gsto_jax.sweep.statistics import compare, detectable, holm, summarize

# Student's sleep data: extra hours of ten patients with each of two drugs (Biometrika 6, 1908).
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_mean_and_interval():
    result = summarize([1, 2, 3, 4])
    assert (result.count, result.mean) == (4, 2.5)
    assert result.std == pytest.approx(math.sqrt(5 / 3))
    half = 3.182446305 * math.sqrt(5 / 3) / 2  # t of 3 degrees of freedom, from the tables
    assert (result.low, result.high) == pytest.approx((2.5 - half, 2.5 + half))


def test_one_value_has_no_interval():
    result = summarize([7.0])
    assert (result.count, result.mean) == (1, 7.0)
    assert all(map(math.isnan, (result.std, result.low, result.high)))
    assert math.isnan(summarize([]).mean)
    alone = compare([1.0], [2.0])
    assert alone.summary.mean == -1
    assert math.isnan(alone.p) and math.isnan(alone.detectable)


def test_paired_t_test_of_student():
    """R's `t.test(paired = TRUE)` prints t = -4.0621, p = 0.002833, -2.4598858 -0.7001142."""
    result = compare(FIRST, SECOND)
    assert result.summary.mean == pytest.approx(-1.58)
    assert result.p == pytest.approx(0.002833, abs=5e-7)
    interval = result.summary.low, result.summary.high
    assert interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.p == pytest.approx(stats.ttest_rel(FIRST, SECOND).pvalue)
    assert result.detectable == pytest.approx(detectable(result.summary.std, 10))


def test_differences_without_spread():
    assert compare([1, 2, 3], [1, 2, 3]).p == 1
    assert compare([2, 3, 4], [1, 2, 3]).p == 0
    with pytest.raises(ValueError):
        compare([1, 2, 3], [1, 2])


def test_holm():
    """R's `p.adjust(method = "holm")`."""
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.9]) == pytest.approx([1, 0.003, 1])
    corrected = holm([0.01, math.nan, 0.04])
    assert math.isnan(corrected[1])
    assert [corrected[0], corrected[2]] == pytest.approx([0.02, 0.04])
    assert holm([]) == []


def test_detectable_of_a_published_example():
    """G*Power's manual, difference between two dependent means: dz 0.421637, 50 pairs, 0.832114."""
    assert detectable(1, 50, power=0.832114) == pytest.approx(0.4216370, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 8, 16])
def test_detectable_has_the_requested_power(count):
    """By integrating over the variance that is estimated, without the noncentral t."""
    deviation, freedom = 1.7, count - 1
    shift = detectable(deviation, count) / deviation * math.sqrt(count)
    critical = stats.t.ppf(0.975, freedom)

    def result(chi2):
        bound = critical * math.sqrt(chi2 / freedom)
        tails = stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)
        return stats.chi2.pdf(chi2, freedom) * tails

    assert integrate.quad(result, 0, np.inf, limit=200)[0] == pytest.approx(0.8, abs=1e-6)


def test_few_pairs_have_less_power_than_normal_approximation():
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(3)
    assert detectable(1, 3) > 2 * normal
    assert detectable(1, 2000) == pytest.approx(normal * math.sqrt(3 / 2000), rel=1e-3)
