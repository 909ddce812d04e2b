"""Scores of four persons, one of them NaN, in images with large ids."""

import math

from gsto_jax.pose.results import PersonScore


def persons():
    kinds = [(), ("sample",), ("sample", "gates"), ()]
    first = 12345678901234567  # which float64 cannot represent
    scores = [math.nan if n == 1 else 1 / (n + 3) for n in range(4)]
    return [
        PersonScore(str(n), first + n, n, scores[n], 0.1 * n, 1.0, png_kinds=kinds[n])
        for n in range(4)
    ]
