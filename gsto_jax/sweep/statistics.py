"""Computes intervals and paired tests of a few repeated runs, and what such tests may miss.

Takes scores, or their paired differences, as draws from a normal distribution. Needs SciPy, from
the `train` extra.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

_ROUNDING = 1e-12
"""Relative spread of a sample that is rounding error alone, for which SciPy's tests are NaN."""


@dataclass(frozen=True)
class Summary:
    """Mean of a sample and its t interval; without enough values NaN.

    Attributes:
      count: number of values.
      mean: of the values.
      deviation: sample standard deviation.
      low: lower end of the interval.
      high: upper end of the interval.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A row against another, by paired differences.

    Attributes:
      summary: of the differences.
      p: p value of the paired t-test, two-sided; NaN for fewer than two pairs.
      detectable: smallest true difference that such a test detects with the requested power; NaN
        for fewer than two pairs.
    """

    summary: Summary
    p: float
    detectable: float


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Returns mean, standard deviation and t interval of the mean."""
    sample = np.asarray(values, np.float64)
    mean = float(sample.mean()) if len(sample) else math.nan
    if len(sample) < 2:
        return Summary(len(sample), mean, math.nan, math.nan, math.nan)
    low = high = mean
    if _varies(sample):
        interval = stats.ttest_1samp(sample, 0.0).confidence_interval(confidence)
        low, high = float(interval.low), float(interval.high)
    return Summary(len(sample), mean, float(sample.std(ddof=1)), low, high)


def compare(
    values: Sequence[float], reference: Sequence[float], level: float = 0.05, power: float = 0.8
) -> Difference:
    """Compares values with those of a reference, pair by pair.

    Args:
      values: one of each pair.
      reference: its other half, in the same order.
      level: of the two-sided test; the interval is that of `1 - level`.
      power: with which a true difference of `Difference.detectable` is detected.

    Raises:
      ValueError: values and reference differ in length.
    """
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    summary = summarize(differences, 1 - level)
    if summary.count < 2:
        return Difference(summary, math.nan, math.nan)
    p = 0.0 if summary.mean else 1.0
    if _varies(np.asarray(differences)):
        p = float(stats.ttest_rel(values, reference).pvalue)
    return Difference(summary, p, detectable(summary.deviation, summary.count, level, power))


def _varies(sample: np.ndarray) -> bool:
    return bool(np.ptp(sample) > _ROUNDING * np.abs(sample).max())


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values after Holm's correction, which SciPy lacks; NaN stays and does not count.

    Rejecting what is at most the level then errs anywhere with at most that probability.
    """
    order = sorted((p, n) for n, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[n] = largest
    return corrected


def detectable(deviation: float, count: int, level: float = 0.05, power: float = 0.8) -> float:
    """Returns the smallest true difference that a two-sided paired t-test detects.

    By the noncentral t distribution: with few pairs the normal one promises too much.

    Args:
      deviation: standard deviation of the differences.
      count: number of pairs, two or more.
      level: of the test.
      power: probability of detection, above the level.
    """
    freedom = count - 1
    critical = stats.t.ppf(1 - level / 2, freedom)

    def lacks(shift: float) -> float:
        # The far tail by symmetry: SciPy's `cdf` loses it far from a large noncentrality.
        near, far = stats.nct.sf(critical, freedom, shift), stats.nct.sf(critical, freedom, -shift)
        return float(near + (0.0 if math.isnan(far) else far)) - power

    high = 1.0
    while lacks(high) < 0:
        high *= 2
    return float(optimize.brentq(lacks, 0.0, high, xtol=1e-10)) * deviation / math.sqrt(count)
