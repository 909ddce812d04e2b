"""What a few repeated runs can tell: intervals, paired differences, and what these may miss.

All of it takes scores, or their paired differences, as draws from a normal distribution. Needs
SciPy, from the `train` extra.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats


@dataclass(frozen=True)
class Summary:
    """Mean of a sample, and how sure it is.

    Attributes:
      count: how many values.
      mean: of them; NaN without any.
      deviation: their standard deviation, with `count - 1` below; NaN for fewer than two.
      low: lower end of the t interval of the mean; NaN for fewer than two.
      high: its upper end.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A row against another, by the differences of pairs.

    Attributes:
      summary: of the differences.
      p: of the paired t-test, two-sided; NaN for fewer than two pairs.
      detectable: the smallest true difference that a test like this would have found with the
        given power; NaN for fewer than two pairs.
    """

    summary: Summary
    p: float
    detectable: float


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, standard deviation and t interval of the mean."""
    sample = np.asarray(values, np.float64)
    count = len(sample)
    mean = float(sample.mean()) if count else math.nan
    if count < 2:
        return Summary(count, mean, math.nan, math.nan, math.nan)
    deviation = float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return Summary(count, mean, deviation, mean - half, mean + half)


def compare(
    values: Sequence[float], reference: Sequence[float], level: float = 0.05, power: float = 0.8
) -> Difference:
    """Values less those of a reference, pair by pair.

    Args:
      values: one for each pair.
      reference: its other half, in the same order.
      level: of the two-sided test; the interval is that of `1 - level`.
      power: with which `Difference.detectable` would have been found.

    Raises:
      ValueError: the two are not of one length.
    """
    pairs = zip(values, reference, strict=True)
    found = summarize([value - other for value, other in pairs], 1 - level)
    count, deviation = found.count, found.deviation
    if count < 2:
        return Difference(found, math.nan, math.nan)
    # Without any spread the statistic is 0 / 0, or infinite.
    error = deviation / math.sqrt(count)
    t = abs(found.mean) / error if error else (math.inf if found.mean else 0.0)
    p = float(2 * stats.t.sf(t, count - 1))
    return Difference(found, p, detectable(deviation, count, level, power))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p values for how many there are; NaN stays and does not count.

    Rejecting what is at most the level then errs anywhere with at most that probability.
    """
    order = sorted((p, n) for n, p in enumerate(values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(values), 0.0
    for rank, (p, n) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[n] = largest
    return corrected


def power_of(effect: float, count: int, level: float = 0.05) -> float:
    """The probability that a paired t-test, two-sided, finds a difference.

    Args:
      effect: the true difference over the standard deviation of the differences.
      count: of pairs, two or more.
      level: of the test.
    """
    return _power(abs(effect) * math.sqrt(count), count - 1, level)


def detectable(deviation: float, count: int, level: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a paired t-test, two-sided, finds with so much power.

    By the noncentral t distribution: with few pairs the normal one would promise too much.

    Args:
      deviation: standard deviation of the differences.
      count: of pairs, two or more.
      level: of the test.
      power: above the level.
    """
    freedom = count - 1

    def lacks(shift: float) -> float:
        return _power(shift, freedom, level) - power

    high = 1.0
    while lacks(high) < 0:
        high *= 2
    return float(optimize.brentq(lacks, 0.0, high, xtol=1e-10)) * deviation / math.sqrt(count)


def _power(shift: float, freedom: int, level: float) -> float:
    """Power of a two-sided t-test whose statistic has this noncentrality."""
    critical = stats.t.ppf(1 - level / 2, freedom)
    # The far tail by symmetry: SciPy's `cdf` loses it far from a large noncentrality.
    near, far = stats.nct.sf(critical, freedom, shift), stats.nct.sf(critical, freedom, -shift)
    return float(near + (0.0 if math.isnan(far) else far))
