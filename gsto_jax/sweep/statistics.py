"""Confidence intervals, paired t-tests and their power, for a few repeated runs.

Assumes normally distributed scores and differences. Needs SciPy, from the `train` extra.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

_ROUNDING = 1e-12
"""Relative spread below which a sample counts as constant, since SciPy's tests return NaN."""


@dataclass(frozen=True)
class SampleSummary:
    """Mean of a sample and its t interval; NaN for too few values.

    Attributes:
      count: number of values.
      mean: mean of the values.
      std: sample standard deviation.
      low: lower end of the interval.
      high: upper end of the interval.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Paired comparison of a row with a reference.

    Attributes:
      summary: mean and interval of the differences.
      p: p-value of the paired t-test, two-sided; NaN for fewer than two pairs.
      detectable: smallest true difference that such a test detects with the requested power; NaN
        for fewer than two pairs.
    """

    summary: SampleSummary
    p: float
    detectable: float


def summarize(values: Sequence[float], confidence: float = 0.95) -> SampleSummary:
    """Returns mean, standard deviation and t interval of the mean."""
    sample = np.asarray(values, np.float64)
    mean = float(sample.mean()) if len(sample) else math.nan
    if len(sample) < 2:
        return SampleSummary(len(sample), mean, math.nan, math.nan, math.nan)
    low = high = mean
    if _varies(sample):
        interval = stats.ttest_1samp(sample, 0.0).confidence_interval(confidence)
        low, high = float(interval.low), float(interval.high)
    return SampleSummary(len(sample), mean, float(sample.std(ddof=1)), low, high)


def compare(
    values: Sequence[float], reference: Sequence[float], level: float = 0.05, power: float = 0.8
) -> PairedDifference:
    """Compares values with reference values, pair by pair.

    Args:
      values: scores.
      reference: scores of the reference, in the same order.
      level: significance level of the two-sided test; the interval has confidence
        `1 - level`.
      power: probability of detecting a true difference of `PairedDifference.detectable`.

    Raises:
      ValueError: values and reference differ in length.
    """
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    summary = summarize(differences, 1 - level)
    if summary.count < 2:
        return PairedDifference(summary, math.nan, math.nan)
    p = 0.0 if summary.mean else 1.0
    if _varies(np.asarray(differences)):
        p = float(stats.ttest_rel(values, reference).pvalue)
    return PairedDifference(summary, p, detectable(summary.std, summary.count, level, power))


def _varies(sample: np.ndarray) -> bool:
    return bool(np.ptp(sample) > _ROUNDING * np.abs(sample).max())


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values after Holm's correction, which SciPy lacks; NaN is ignored and stays."""
    order = sorted((p, n) for n, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[n] = largest
    return corrected


def detectable(std: float, count: int, level: float = 0.05, power: float = 0.8) -> float:
    """Returns the smallest true difference that a two-sided paired t-test detects.

    Uses the noncentral t distribution, since the normal approximation is too optimistic for few
    pairs.

    Args:
      std: standard deviation of the differences.
      count: number of pairs, two or more.
      level: significance level.
      power: probability of detection, above the level.
    """
    freedom = count - 1
    critical = stats.t.ppf(1 - level / 2, freedom)

    def missing_power(shift: float) -> float:
        # The far tail by symmetry, since SciPy's `cdf` is NaN far from a large noncentrality.
        near, far = stats.nct.sf(critical, freedom, shift), stats.nct.sf(critical, freedom, -shift)
        return float(near + (0.0 if math.isnan(far) else far)) - power

    high = 1.0
    while missing_power(high) < 0:
        high *= 2
    return float(optimize.brentq(missing_power, 0.0, high, xtol=1e-10)) * std / math.sqrt(count)
