"""The largest batch that fits into memory."""

import math
from collections.abc import Callable

from gsto_jax.plan.measure import DoesNotFit, Plan

_GUESSES = 6
"""After so many guesses by memory, halving: it may grow in any way."""


def largest(
    attempt: Callable[[int], Plan], full: DoesNotFit, units: int, empty: float, memory: float
) -> Plan | None:
    """The plan of the largest batch that fits, by few compilations.

    Memory grows about linearly with the batch, so what two batches need tells which to try next.

    Args:
      attempt: compiles a batch of so many units.
      full: what compiling `units` of them raised.
      units: a batch that does not fit.
      empty: bytes that a batch of nothing would take.
      memory: bytes that there are.

    Returns:
      The plan; None if not even one unit fits.
    """
    best, low, high = None, 0, units
    known = [(0, empty), (units, full.used)]  # how much so many units need, where that was said
    while high - low > 1:
        guess = _guess(known, memory) if len(known) < _GUESSES + 2 else None
        guess = (low + high) // 2 if guess is None else min(max(guess, low + 1), high - 1)
        try:
            best = attempt(guess)
        except DoesNotFit as error:
            high = guess
            known.append((guess, error.used))
        else:
            low = guess
            known.append((guess, best.peak))
    return best


def _guess(known: list[tuple[int, float | None]], memory: float) -> int | None:
    """How many units fill the memory, on the line through the last two that are known."""
    (one, used), (two, more) = known[-2:]
    if used is None or more is None or (more - used) * (two - one) <= 0:
        return None
    return math.floor(two + (memory - more) * (two - one) / (more - used))
